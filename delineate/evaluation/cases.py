"""Cases scored one by one: a prediction and its truth in, the scores of each class out."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from delineate.data import DataError
from delineate.metrics import ClassScores, Conventions, case_scores

Progress = Callable[[int, int], object]
FLAGS = ("truth_empty", "prediction_empty")


@dataclass(frozen=True, eq=False)
class Case:
    """A prediction and its truth on one grid.

    Args:
        id: name of the case, unique within its set.
        prediction: labels, integer (*S) of two or three dims.
        truth: labels of the same shape.
        spacing: distance between neighbouring voxels along each axis, mm; of pictures also pixels.
        affine: from voxel indices to mm (4, 4), for pictures of a volume; None shows it as stored.
        file: of the truth, named where the case cannot be scored.
        image: reads the grey image (*S), for pictures; None where there is none.
    """

    id: str
    prediction: np.ndarray
    truth: np.ndarray
    spacing: tuple[float, ...]
    affine: np.ndarray | None
    file: Path
    image: Callable[[], np.ndarray] | None = None


@dataclass(frozen=True)
class ScoredCase:
    """The scores of a case by class name."""

    id: str
    scores: dict[str, ClassScores]


def score_case(
    case: Case, classes: Sequence[str], scored: Sequence[int], ignore_index: int | None, conventions: Conventions
) -> ScoredCase:
    """Score the classes of a case that are in `scored`.

    Raises:
        DataError: what `case_scores` refuses, such as too many components, with the case and the file of its truth.
    """
    try:
        scores = case_scores(
            case.prediction,
            case.truth,
            classes,
            spacing=case.spacing,
            ignore_index=ignore_index,
            conventions=conventions,
            foreground=scored,
        )
    except ValueError as error:
        raise DataError(f"case {case.id}, {case.file}: {error}") from None
    return ScoredCase(case.id, scores)


def case_rows(cases: Iterable[ScoredCase]) -> list[dict[str, Any]]:
    """One row per case and class, as `per_case.csv` holds them: flags, and all values with None for undefined."""
    return [
        {"case": case.id, "class": name}
        | {flag: int(getattr(scores, flag)) for flag in FLAGS}
        | {key: round(value, 6) if isinstance(value, float) else value for key, value in scores.values.items()}
        for case in cases
        for name, scores in case.scores.items()
    ]
