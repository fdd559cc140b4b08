"""A finished run scored on a split: by one confusion matrix over all cases, and case by case."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from delineate.data import DataError, Item, Source, nifti
from delineate.evaluation import (
    Case,
    Evaluation,
    Labelling,
    evaluate_cases,
    scored_of,
    write_evaluation,
)
from delineate.metrics import ConfusionMatrix, Conventions
from delineate.training.predictor import Predictor, Weights
from delineate.training.results import val_result

Progress = Callable[[int, int], object]


class _Tally:
    """Confusion matrices of all cases together and of each."""

    def __init__(self, source: Source):
        self.source, self.whole, self.rows = source, self._matrix(source), []

    def add(self, case: Case) -> None:
        single = self._matrix(self.source)
        single.update(*(torch.from_numpy(labels.astype(np.int64)) for labels in (case.prediction, case.truth)))
        self.whole.counts += single.counts
        scores = single.scores().to_dict(self.source.classes)
        row = {"id": case.id, "miou": scores["miou"], "pixel_accuracy": scores["pixel_accuracy"]}
        self.rows.append(row | {f"iou/{name}": value for name, value in scores["iou"].items()})

    @staticmethod
    def _matrix(source: Source) -> ConfusionMatrix:
        return ConfusionMatrix(len(source.classes), source.pad_label)


def evaluate_run(
    folder: Path,
    data: str | None,
    split: str,
    progress: Progress,
    conventions: Conventions = Conventions(),  # noqa: B008
    worst: int = 3,
    out: Path | None = None,
    weights: Weights = Weights(),  # noqa: B008
) -> tuple[dict[str, Any], Evaluation, Path]:
    """Score a run on a split, into `metrics.json`, `per_image.csv`, `per_case.csv` and `worst/`.

    Args:
        folder: the run.
        data: another data set with the same classes; None is the one of the run.
        split: which split to score.
        progress: called with the number of cases done and of all.
        conventions: of the scores by case.
        worst: cases of each class and ranking that are drawn.
        out: folder of these files; None is `evaluation-[DATA-]SPLIT[-best][-teacher]` in that of the run.
        weights: which weights of the run.

    Returns:
        The scores of the whole split as `metrics.json` holds them, those of the cases, and the folder of the files.

    Raises:
        ValueError: for what is no run, and for a split with images that have no mask.
    """
    predictor = Predictor(folder, data, weights)
    source = predictor.source
    items, tally = _masked(source, split), _Tally(source)
    labelling = Labelling(source.classes, scored_of(source), source.ignore_index)
    cases = _cases(predictor, items, tally)
    found = evaluate_cases(cases, len(items), labelling, source.dims, conventions, worst, progress)
    result = {"run": str(folder), "data": str(source.root), "split": split} | asdict(weights)
    result |= val_result(tally.whole.scores(), source, len(items))
    out = out or folder / "-".join(
        ["evaluation", *([source.root.resolve().name] if data else []), split + weights.suffix()]
    )
    write_evaluation(out, found, result, {"per_image.csv": tally.rows})
    return result, found, out


def _masked(source: Source, split: str) -> tuple[Item, ...]:
    """The items of a split, all of which have masks."""
    items = source.items(split)
    if bare := [item.id for item in items if item.mask is None]:
        raise DataError(
            f"{source.root}: expected masks in split '{split}' to score against; {len(bare)} of {len(items)} images "
            f"have none, {bare[0]} first. Use `delineate predict` for images without masks."
        )
    return items


def _cases(predictor: Predictor, items: tuple[Item, ...], tally: _Tally) -> Iterator[Case]:
    source = predictor.source
    for item in items:
        mask = item.mask or item.image
        affine = nifti.read_affine(mask) if source.dims == 3 else None
        truth = source.read_mask(item)
        case = Case(item.id, predictor.labels(item), truth, source.spacing(item), affine, mask, _image(source, item))
        tally.add(case)
        yield case


def _image(source: Source, item: Item) -> Callable[[], np.ndarray]:
    """Reads the image in grey: the mean of the colours, or the first channel of a volume."""
    return lambda: source.read_image(item).mean(-1) if source.dims == 2 else source.read_image(item)[0]
