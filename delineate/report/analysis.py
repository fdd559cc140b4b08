"""Which losses of a comparison differ: scores with intervals, and every pair tested over the same cases and seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, pairwise

from delineate.evaluation import (
    CaseCounts,
    Difference,
    Measure,
    case_dice,
    class_iou,
    estimate,
    groups_of,
    holm,
    measure_of,
    miou,
    object_f1,
    paired,
    recall_of_sizes,
    size_bounds,
)

from .results import Comparison

SIGNIFICANT = 0.05
FEWEST_OBJECTS = 20
"""Of a class, for its recall by size to be shown."""
MOST_PANELS = 6
"""Classes whose recall by size is shown, those with the most objects."""


@dataclass(frozen=True)
class Pair:
    """Two losses on one measure.

    Args:
        first, second: the difference is that of the first minus that of the second.
        p: of the difference, after Holm's correction over the tests that are made together; None where unknown.
    """

    first: str
    second: str
    difference: Difference
    p: float | None

    @property
    def shown(self) -> bool:
        """Whether a difference between the losses, not between two trainings alone, is shown."""
        return self.difference.seeds > 1 and self.p is not None and self.p < SIGNIFICANT


@dataclass(frozen=True)
class SizeClass:
    """Objects of a class of low < size <= high, how many there are, and the share found by each loss."""

    low: float
    high: float
    objects: int
    recall: dict[str, Difference]


@dataclass(frozen=True)
class Analysis:
    """What the counts of the cases say.

    Args:
        measures: those of the whole, the one that decides first.
        scores: of each measure and class ("iou/NAME") by key, then of each loss.
        pairs: of each measure by key, every two losses; corrected over these pairs.
        class_pairs: IoU of each class but background, every two losses; corrected over all pairs and classes.
        sizes: of the classes with objects enough.
        unit: what is counted as a case, "case" or "group of cases".
    """

    measures: tuple[Measure, ...]
    scores: dict[str, dict[str, Difference]]
    pairs: dict[str, list[Pair]]
    class_pairs: dict[str, list[Pair]]
    sizes: dict[str, list[SizeClass]]
    unit: str = "case"

    @property
    def deciding(self) -> Measure:
        """The measure that the comparison was made for."""
        return self.measures[0]

    @property
    def ranked(self) -> list[str]:
        """Losses by the deciding measure, the highest first."""
        scores = self.scores[self.deciding.key]
        return sorted(scores, key=lambda loss: -scores[loss].mean)

    def pair(self, key: str, first: str, second: str) -> Pair | None:
        """Two losses on a measure or class, the difference as first minus second."""
        for pair in self.pairs.get(key, self.class_pairs.get(key, [])):
            if (pair.first, pair.second) == (first, second):
                return pair
            if (pair.second, pair.first) == (first, second):
                d = pair.difference
                return Pair(first, second, Difference(-d.mean, d.error, d.freedom, d.seeds, d.cases), pair.p)
        return None


Cases = dict[str, dict[int, list[CaseCounts]]]
"""By loss and seed."""
Groups = list[str] | None
"""What each case belongs to; None: they are independent."""


@lru_cache(maxsize=4)
def analyse(comparison: Comparison) -> Analysis | None:
    """The analysis of a comparison of losses; None of a single run, of few labels, and where no run holds its cases."""
    cases = {
        loss: {run.seed: run.cases for run in comparison.of(loss) if run.val and run.cases}
        for loss in comparison.losses
    }
    cases = {loss: of_seeds for loss, of_seeds in cases.items() if of_seeds}
    if comparison.single or comparison.few_labels or not cases:
        return None
    data, groups = comparison.data, _groups(comparison, cases)
    classes, scored, word = data.classes, data.scored, data.object_word
    deciding = measure_of(comparison.metric, classes, scored, word)
    labels = [classes.index(name) for name in scored]
    others = (miou(len(classes)), case_dice(labels), object_f1(scored, word))
    of_whole = (deciding, *(measure for measure in others if measure.key != deciding.key))
    of_classes = [class_iou(classes, name) for name in data.by_share]
    scores = {measure.key: _scores(measure, cases, groups) for measure in (*of_whole, *of_classes)}
    measures = tuple(measure for measure in of_whole if scores[measure.key])
    return Analysis(
        measures,
        scores,
        {measure.key: _tested([measure], cases, groups)[measure.key] for measure in measures},
        _tested([class_iou(classes, name) for name in data.by_share if name in scored], cases, groups),
        _sizes(cases, groups, scored, word),
        "group of cases" if groups else "case",
    )


def _groups(comparison: Comparison, cases: Cases) -> Groups:
    ids = [case.id for case in next(iter(next(iter(cases.values())).values()))]
    return groups_of(comparison.groups, ids) if comparison.groups else None


def _scores(measure: Measure, cases: Cases, groups: Groups) -> dict[str, Difference]:
    """Of each loss that has a score."""
    found = {loss: estimate(measure, list(of_seeds.values()), groups) for loss, of_seeds in cases.items()}
    return {loss: score for loss, score in found.items() if not math.isnan(score.mean)}


def _tested(measures: Sequence[Measure], cases: Cases, groups: Groups) -> dict[str, list[Pair]]:
    """Every two losses on every measure, corrected over all of these."""
    found = []
    for measure in measures:
        for first, second in combinations(cases, 2):
            seeds = [seed for seed in cases[first] if seed in cases[second]]
            runs = [[cases[loss][seed] for seed in seeds] for loss in (first, second)]
            if seeds and not math.isnan((difference := paired(measure, runs[0], runs[1], groups)).mean):
                found.append((measure.key, first, second, difference))
    ps = holm([difference.p for *_, difference in found])
    tested: dict[str, list[Pair]] = {measure.key: [] for measure in measures}
    for (key, first, second, difference), p in zip(found, ps, strict=True):
        tested[key].append(Pair(first, second, difference, p))
    return tested


def _sizes(cases: Cases, groups: Groups, scored: list[str], word: str) -> dict[str, list[SizeClass]]:
    """Recall by size of the classes with the most objects."""
    truth = next(iter(next(iter(cases.values())).values()))
    counts = {name: sum(len(case.objects[name].sizes) for case in truth if case.objects) for name in scored}
    chosen = [name for name in sorted(scored, key=lambda name: -counts[name]) if counts[name] >= FEWEST_OBJECTS]
    found = {}
    for name in (name for name in scored if name in chosen[:MOST_PANELS]):
        bounds = size_bounds(truth, name)
        found[name] = [
            _size_class(recall_of_sizes(name, low, high, word), cases, groups, low, high)
            for low, high in pairwise(bounds)
        ]
    return found


def _size_class(measure: Measure, cases: Cases, groups: Groups, low: float, high: float) -> SizeClass:
    truth = next(iter(next(iter(cases.values())).values()))
    return SizeClass(low, high, int(measure.table(truth).sum(0)[1]), _scores(measure, cases, groups))
