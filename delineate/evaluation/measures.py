"""Scores of a split as functions of sums over its cases, so that cases can be left out or drawn again."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from delineate.evaluation.counts import CaseCounts

METRICS = ("miou", "dice", "f1")
"""What a comparison may be decided by: pooled mIoU, mean Dice by case, mean F1 by case of finding components."""
BINS = 4
"""Size classes of the true components: the quartiles of all."""


@dataclass(frozen=True)
class Measure:
    """A score of a split.

    Args:
        key: its name in result files.
        title: as reports show it.
        terms: what one case adds, (K,) float64.
        score: of sums of terms (..., K), from 0 to 1; NaN where it is undefined.
    """

    key: str
    title: str
    terms: Callable[[CaseCounts], np.ndarray]
    score: Callable[[np.ndarray], np.ndarray]

    def table(self, cases: Sequence[CaseCounts]) -> np.ndarray:
        """The terms of all cases, (n, K)."""
        return np.stack([np.asarray(self.terms(case), float) for case in cases])

    def of(self, cases: Sequence[CaseCounts]) -> float:
        """The score of these cases; NaN where it is undefined."""
        return float(self.score(self.table(cases).sum(0)))

    def pseudovalues(self, cases: Sequence[CaseCounts], groups: Sequence[str] | None = None) -> np.ndarray:
        """What each case stands for, (n,): n times the score of all minus n - 1 times that without it (jackknife).

        A case without which the score is undefined stands for the score of all. With a name for each case in `groups`,
        those of one name are left out together, and n is the number of groups.
        """
        table = self.table(cases)
        if groups is not None:
            table = np.stack([table[np.array(groups) == name].sum(0) for name in dict.fromkeys(groups)])
        whole, count = table.sum(0), len(table)
        score, without = self.score(whole), self.score(whole - table)
        return np.where(np.isnan(without), score, count * score - (count - 1) * without)


def groups_of(pattern: str, ids: Sequence[str]) -> list[str]:
    """What each case belongs to: the part of its name that a regular expression finds, or its first bracket.

    Raises:
        ValueError: for what is no regular expression, for a name without such a part, and for less than two groups.

    >>> groups_of("patient[0-9]+", ["patient1_slice1", "patient1_slice2", "patient2_slice1"])
    ['patient1', 'patient1', 'patient2']
    """
    try:
        found = [re.search(pattern, name) for name in ids]
    except re.error as error:
        raise ValueError(f"--groups {pattern}: expected a regular expression; {error}.") from None
    lone = next((name for name, match in zip(ids, found, strict=True) if match is None), None)
    if lone is not None:
        raise ValueError(f"--groups {pattern}: expected a part of every case's name; {lone} has none.")
    names = [match[1] if match.re.groups else match[0] for match in found if match]
    if len(set(names)) < 2:
        raise ValueError(f"--groups {pattern}: expected two groups of val cases or more; all belong to {names[0]}.")
    return names


def measure_of(metric: str, classes: Sequence[str], scored: Sequence[str], word: str) -> Measure:
    """The measure that a comparison is decided by.

    Args:
        metric: one of `METRICS`.
        scored: names of the classes that Dice and F1 are means over.
        word: what a component is called, "lesion" or "object".
    """
    if metric == "miou":
        return miou(len(classes))
    return case_dice([classes.index(name) for name in scored]) if metric == "dice" else object_f1(scored, word)


def miou(classes: int) -> Measure:
    """Mean IoU over the classes that occur, of one confusion matrix over all cases."""
    return Measure("miou", "mIoU", _voxels, lambda sums: _nanmean(_iou(sums, classes)))


def class_iou(classes: Sequence[str], name: str) -> Measure:
    """IoU of a class, of one confusion matrix over all cases."""
    place, count = list(classes).index(name), len(classes)
    return Measure(f"iou/{name}", f"IoU of {name}", _voxels, lambda sums: _iou(sums, count)[..., place])


def case_dice(labels: Sequence[int]) -> Measure:
    """Mean over the scored classes of the mean Dice over cases; 1 where truth and prediction are both empty."""
    places = list(labels)

    def terms(case: CaseCounts) -> np.ndarray:
        tp, both = np.array(case.tp)[places], (np.array(case.truth) + case.predicted)[places]
        return np.append(np.where(both > 0, 2 * tp / np.maximum(both, 1), 1.0), 1.0)

    return Measure("dice", "Dice by case", terms, lambda sums: _ratio(sums[..., :-1].mean(-1), sums[..., -1]))


def object_f1(names: Sequence[str], word: str) -> Measure:
    """Mean over the scored classes of the mean F1 over cases of finding components; 1 where there are none at all."""

    def terms(case: CaseCounts) -> np.ndarray:
        if case.objects is None:
            return np.full(len(names) + 1, np.nan)
        return np.append([_f1(case, name) for name in names], 1.0)

    return Measure("f1", f"{word} F1 by case", terms, lambda sums: _ratio(sums[..., :-1].mean(-1), sums[..., -1]))


def recall_of_sizes(name: str, low: float, high: float, word: str) -> Measure:
    """Share of the true components of a class of `low` < size <= `high` that are found, of all cases together."""

    def terms(case: CaseCounts) -> np.ndarray:
        if case.objects is None:
            return np.full(2, np.nan)
        sizes, found = np.array(case.objects[name].sizes), np.array(case.objects[name].found, bool)
        inside = (sizes > low) & (sizes <= high)
        return np.array([(inside & found).sum(), inside.sum()], float)

    title = f"{word}s of {name} found, size up to {high:g}"
    return Measure(f"recall/{name}/{high:g}", title, terms, lambda sums: _ratio(sums[..., 0], sums[..., 1]))


def size_bounds(cases: Sequence[CaseCounts], name: str) -> list[float]:
    """Ends of the size classes of a class: 0 and the quartiles of the sizes of its true components.

    Empty where there are fewer than two components a class; equal quartiles are one.
    """
    sizes = [size for case in cases if case.objects for size in case.objects[name].sizes]
    if len(sizes) < 2 * BINS:
        return []
    quartiles = np.quantile(sizes, np.arange(1, BINS + 1) / BINS, method="inverted_cdf")
    return [0.0, *np.unique(quartiles).tolist()]


def _voxels(case: CaseCounts) -> np.ndarray:
    return np.concatenate([case.tp, case.truth, case.predicted]).astype(float)


def _iou(sums: np.ndarray, classes: int) -> np.ndarray:
    """(..., 3 C) to (..., C)."""
    tp, truth, predicted = (sums[..., k * classes : (k + 1) * classes] for k in range(3))
    return _ratio(tp, truth + predicted - tp)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), np.nan)


def _nanmean(values: np.ndarray) -> np.ndarray:
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0).sum(-1), known.sum(-1))


def _f1(case: CaseCounts, name: str) -> float:
    assert case.objects is not None
    objects = case.objects[name]
    if not objects.sizes and not objects.predicted:
        return 1.0
    sensitivity = sum(objects.found) / len(objects.sizes) if objects.sizes else 0.0
    precision = objects.right / objects.predicted if objects.predicted else 0.0
    return 2 * sensitivity * precision / (sensitivity + precision) if sensitivity + precision else 0.0
