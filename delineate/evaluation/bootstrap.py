"""Intervals by resampling cases: of a mean, and of the mean difference of two methods on the same cases."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import wilcoxon

LEVEL = 0.95
FEW = 50
"""Below this number of cases the interval is bias-corrected and accelerated (BCa); from it on, percentiles."""
AT_ONCE = 2**22


@dataclass(frozen=True)
class PairedDifference:
    """Mean of a - b over the cases that have both, with its interval.

    Args:
        mean: positive where a is larger.
        interval: 95 % bootstrap interval over cases, None for fewer than two.
        p: two-sided p of the Wilcoxon signed-rank test; 1 where all differences are 0.
        n: cases that have both values.
    """

    mean: float
    interval: tuple[float, float] | None
    p: float
    n: int


def bootstrap_interval(values: Sequence[float | None], draws: int = 2000, seed: int = 0) -> tuple[float, float] | None:
    """The 95 % interval of the mean over cases, by resampling cases: BCa below 50 of them, percentiles from there on.

    Args:
        values: one value a case; cases without one (None) take no part.
        draws: resamples.
        seed: of the draws.

    Returns:
        The lower and the upper end; None for fewer than two values, and where one is infinite.

    >>> bootstrap_interval([0.25, 0.25, 0.25]), bootstrap_interval([0.5])
    ((0.25, 0.25), None)
    """
    known = np.array([value for value in values if value is not None], dtype=np.float64)
    if len(known) < 2 or not np.isfinite(known).all():
        return None
    if (known == known[0]).all():
        return float(known[0]), float(known[0])
    means = np.sort(_resampled_means(known, draws, seed))
    tail = (1 - LEVEL) / 2
    shares = np.array([tail, 1 - tail])
    if len(known) < FEW:
        shares = _bca_shares(known, means, shares)
    low, high = np.quantile(means, shares)
    return float(low), float(high)


def paired_difference(
    a: Sequence[float | None], b: Sequence[float | None], draws: int = 2000, seed: int = 0
) -> PairedDifference:
    """The mean of a - b over cases that have both values, its interval by resampling cases, and Wilcoxon's p.

    Raises:
        ValueError: for lists of two lengths, and where no case has both values.
    """
    if len(a) != len(b):
        raise ValueError(f"b: expected {len(a)} values, those of the cases of a; got {len(b)}. Pair the cases.")
    apart = np.array([x - y for x, y in zip(a, b, strict=True) if x is not None and y is not None])
    if not len(apart):
        raise ValueError("a, b: expected a case with both values; got none. Choose a metric that both have.")
    p = float(cast(Any, wilcoxon(apart)).pvalue) if apart.any() else 1.0
    return PairedDifference(float(apart.mean()), bootstrap_interval(apart.tolist(), draws, seed), p, len(apart))


def _resampled_means(values: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Means of `draws` samples of all cases with replacement, drawn in blocks of bounded memory."""
    generator, rows = np.random.default_rng(seed), max(1, AT_ONCE // len(values))
    blocks = (min(rows, draws - start) for start in range(0, draws, rows))
    return np.concatenate([values[generator.integers(len(values), size=(n, len(values)))].mean(1) for n in blocks])


def _bca_shares(values: np.ndarray, means: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The percentiles to read instead of `shares` (Efron 1987): shifted by the bias and the skewness of the mean."""
    below = ((means < values.mean()).mean() + (means <= values.mean()).mean()) / 2
    bias = ndtri(np.clip(below, 1 / len(means), 1 - 1 / len(means)))
    apart = values - values.mean()
    acceleration = (apart**3).sum() / (6 * (apart**2).sum() ** 1.5)
    moved = bias + ndtri(shares)
    return ndtr(bias + moved / (1 - acceleration * moved))
