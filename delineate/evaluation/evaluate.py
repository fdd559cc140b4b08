"""One evaluation of label maps: case by case, summarised, with pictures of the worst cases."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delineate.data import DataError
from delineate.evaluation.cases import Case, Progress, ScoredCase, score_case
from delineate.evaluation.labelling import Labelling, find_labelling
from delineate.evaluation.pairs import check_grids, find_pairs, picture_spacing, read_cases
from delineate.evaluation.pictures import Worst
from delineate.evaluation.summary import Summary, statistics_sentences, summarise
from delineate.metrics import Conventions


@dataclass(frozen=True)
class Evaluation:
    """What is known of a set of cases.

    Args:
        cases: the scores of each case.
        summary: of each class; see `summarise`.
        conventions: what the numbers mean, sentence by sentence.
        notes: what was decided by looking at the files, and the spacing of pictures.
        worst: the worst cases, to be drawn.
        dims: 2 for pictures, 3 for volumes.
    """

    cases: tuple[ScoredCase, ...]
    summary: dict[str, Summary]
    conventions: tuple[str, ...]
    notes: tuple[str, ...]
    worst: Worst
    dims: int

    def to_dict(self) -> dict[str, Any]:
        """Plain content for a result file."""
        return {
            "n": len(self.cases),
            "classes": self.summary,
            "conventions": list(self.conventions),
            "notes": list(self.notes),
        }


def evaluate_cases(
    cases: Iterable[Case],
    total: int,
    labelling: Labelling,
    dims: int,
    conventions: Conventions,
    worst: int,
    progress: Progress,
) -> Evaluation:
    """Score cases one after the other; no more than one is held, but for the pictures of the `worst` of each class."""
    scored, shown, notes = [], Worst(worst, conventions.hd_key), dict.fromkeys(labelling.notes)
    for case in cases:
        scored.append(
            score_case(case, labelling.classes, labelling.scored, labelling.ignore_index, conventions),
        )
        for label in labelling.scored:
            name = labelling.classes[label]
            shown.add(case, label, name, scored[-1].scores[name], labelling.ignore_index)
        notes |= dict.fromkeys([_spacing_note(case.spacing)] if dims == 2 else [])
        progress(len(scored), total)
    sentences = (_scored_sentence(labelling), *statistics_sentences(dims), *conventions.sentences(dims))
    return Evaluation(tuple(scored), summarise(scored), sentences, tuple(notes), shown, dims)


def evaluate_pairs(
    prediction: Path,
    truth: Path,
    classes: Sequence[str] | None,
    ignore_index: int | None,
    spacing: Sequence[float] | None,
    conventions: Conventions,
    worst: int,
    progress: Progress,
) -> Evaluation:
    """Score predicted label maps against the true ones of the same name, without a model.

    Args:
        prediction: folder of label maps, NIfTI volumes or pictures, or one of them.
        truth: the same of the true ones.
        classes: names of the labels 0, 1, ...; None looks for them, see `find_labelling`.
        ignore_index: value of true voxels that take no part.
        spacing: of pictures; see `picture_spacing`.
        conventions: definitions where the literature differs.
        worst: cases of each class and ranking to keep for pictures.
        progress: called with the number of cases done and of all.

    Raises:
        DataError: for what cannot be paired or read, in one line; nothing has been written then.
    """
    pairs = find_pairs(prediction, truth)
    dims = pairs[0].dims
    if dims == 3 and spacing is not None:
        raise DataError(
            f"--spacing: expected none for volumes, whose headers give it; got {list(spacing)}. Leave it out, or "
            "correct the headers."
        )
    steps = picture_spacing(spacing)
    check_grids(pairs)
    labelling = find_labelling(
        [pair.prediction for pair in pairs], [pair.truth for pair in pairs], classes, ignore_index
    )
    cases = read_cases(pairs, labelling, steps)
    return evaluate_cases(cases, len(pairs), labelling, dims, conventions, worst, progress)


def _spacing_note(spacing: Sequence[float]) -> str:
    if set(spacing) == {1}:
        return "spacing 1: read mm as pixels"
    return f"spacing {spacing[0]:g} x {spacing[1]:g}"


def _scored_sentence(labelling: Labelling) -> str:
    left = [name for label, name in enumerate(labelling.classes) if label not in labelling.scored]
    scored = ", ".join(labelling.classes[label] for label in labelling.scored)
    void = "" if labelling.ignore_index is None else f"; true label {labelling.ignore_index} is ignored"
    return f"Scored: {scored}" + (f"; not scored: {', '.join(left)}" if left else "") + void + "."
