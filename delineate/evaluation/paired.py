"""Whether two losses differ: paired over the same cases and the same seeds, with both as sources of chance.

The pseudovalues of a score (`Measure.pseudovalues`) of one loss minus those of another, seed by seed and case by case,
are a table d (S, n). Another training and other cases would both give other numbers, so the variance of the mean is
that of a crossed design with both factors random, as in studies of many readers and many cases:

    var = (MS_seed + max(MS_case - MS_rest, 0)) / (S n)      df = (S n var)^2 / (MS_seed^2 / (S - 1))

With one seed nothing is known of MS_seed: the interval then holds for these two trainings and other cases, not for the
two losses.

Reference: Dorfman, Berbaum, Metz, Invest Radiol 1992 (pseudovalues); Hillis, Stat Med 2007 (degrees of freedom).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from delineate.evaluation.counts import CaseCounts
from delineate.evaluation.measures import Measure

LEVEL = 0.95
POWER = 0.8

Runs = Sequence[Sequence[CaseCounts]]
"""Cases of each seed, the same ones in the same order."""


@dataclass(frozen=True)
class Difference:
    """A mean difference, or a mean, with what chance would make of it.

    Args:
        mean: over seeds, of the scores of whole splits.
        error: standard error of the mean, None where a single case and seed leave it unknown.
        freedom: degrees of freedom of the error.
        seeds, cases: how many there are; groups of cases count as cases.
    """

    mean: float
    error: float | None
    freedom: float
    seeds: int
    cases: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends of the 95 % t interval."""
        if self.error is None:
            return None
        half = float(stdtrit(self.freedom, (1 + LEVEL) / 2)) * self.error if self.error else 0.0
        return self.mean - half, self.mean + half

    @property
    def p(self) -> float | None:
        """Two-sided, of no difference; 1 where both are equal in everything."""
        if self.error is None:
            return None
        if self.error == 0:
            return float(self.mean == 0)
        return float(2 * stdtr(self.freedom, -abs(self.mean) / self.error))

    def detectable(self, tests: int = 1) -> float | None:
        """The true difference that would be shown four times in five, with as many seeds and cases, at 0.05 / tests."""
        if not self.error:
            return None
        tails = stdtrit(self.freedom, 1 - (1 - LEVEL) / 2 / tests) + stdtrit(self.freedom, POWER)
        return float(tails * self.error)


def paired(measure: Measure, first: Runs, second: Runs, groups: Sequence[str] | None = None) -> Difference:
    """The score of the first minus that of the second.

    Args:
        first, second: cases of each seed, the seeds in one order.
        groups: what each case belongs to, where they are not independent: groups then take the place of cases.

    Raises:
        ValueError: where seeds or cases are not the same.
    """
    if [[case.id for case in cases] for cases in first] != [[case.id for case in cases] for cases in second]:
        raise ValueError("first, second: expected the same cases for the same seeds; got others. Score them again.")
    scores = [measure.of(a) - measure.of(b) for a, b in zip(first, second, strict=True)]
    values = [[measure.pseudovalues(cases, groups) for cases in runs] for runs in (first, second)]
    apart = [a - b for a, b in zip(*values, strict=True)]
    return _difference(scores, np.stack(apart))


def estimate(measure: Measure, runs: Runs, groups: Sequence[str] | None = None) -> Difference:
    """The score of one loss, with the interval of other seeds and other cases; `groups` as in `paired`."""
    values = np.stack([measure.pseudovalues(cases, groups) for cases in runs])
    return _difference([measure.of(cases) for cases in runs], values)


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """p-values after Holm's correction for as many tests as there are values; None stays.

    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    order = sorted((p, place) for place, p in enumerate(ps) if p is not None)
    corrected, largest = list(ps), 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        corrected[place] = largest
    return corrected


def _difference(scores: Sequence[float], table: np.ndarray) -> Difference:
    seeds, cases = table.shape
    mean, known = float(np.mean(scores)), not np.isnan(table).any()
    if not known or (seeds == 1 and cases == 1):
        return Difference(mean, None, 1.0, seeds, cases)
    of_mean, freedom = variance(table)
    return Difference(mean, float(np.sqrt(of_mean)), freedom, seeds, cases)


def variance(table: np.ndarray) -> tuple[float, float]:
    """Of the mean over seeds and cases (S, n), and its degrees of freedom."""
    seeds, cases = table.shape
    if seeds == 1:
        return float(table.var(ddof=1) / cases), cases - 1.0
    of_seeds, of_cases = table.mean(1), table.mean(0)
    ms_seed = cases * of_seeds.var(ddof=1)
    if cases == 1:
        return float(ms_seed / seeds), seeds - 1.0
    rest = table - of_seeds[:, None] - of_cases[None] + table.mean()
    ms_case, ms_rest = seeds * of_cases.var(ddof=1), (rest**2).sum() / ((seeds - 1) * (cases - 1))
    total = ms_seed + max(ms_case - ms_rest, 0.0)
    freedom = total**2 / (ms_seed**2 / (seeds - 1)) if ms_seed else cases - 1.0
    return float(total / (seeds * cases)), float(min(max(freedom, 1.0), seeds * cases - 1.0))
