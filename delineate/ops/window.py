"""Means and variances in a small window around every voxel: a product of Gaussian taps, one axis after the other.

The variance is that of the window itself, sum_k w_k (x_k - mean)^2. It is added up axis by axis by the law of total
variance, from differences to the middle of the window, and never as a difference of large moments: in flat regions it
is 0 up to the rounding of the mean. Windows span only axes longer than one voxel, so a volume of depth 1 equals its
image. All functions work on any dims; gradients are written by hand.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

PADDINGS = ("reflect", "zeros")


def gaussian_taps(size: int, sigma: float) -> list[float]:
    """Weights exp(-k^2 / (2 sigma^2)) of an odd number of taps, of unit sum."""
    half = size // 2
    taps = [math.exp(-(k**2) / (2 * sigma**2)) for k in range(-half, half + 1)]
    return [tap / math.fsum(taps) for tap in taps]


def padded(values: Tensor, margins: list[tuple[int, int]], padding: str, outside: float = 0) -> Tensor:
    """Values with margins before and after each dim: mirrored without the edge, or `outside` with padding="zeros"."""
    if not any(before or after for before, after in margins):
        return values
    widths = [width for pair in reversed(margins) for width in pair]
    if padding == "zeros":
        return pad(values, widths, value=outside)
    return pad(values[None], widths, mode="reflect")[0]


def padded_backward(grad: Tensor, margins: list[tuple[int, int]], padding: str) -> Tensor:
    """Gradient to the values: what was mirrored gets that of its mirror image too."""
    for dim, (before, after) in enumerate(margins):
        size = grad.shape[dim] - before - after
        inner = grad.narrow(dim, before, size)
        if padding == "reflect" and (before or after):
            inner = inner.clone()
            inner.narrow(dim, 1, before).add_(grad.narrow(dim, 0, before).flip(dim))
            inner.narrow(dim, size - 1 - after, after).add_(grad.narrow(dim, before + size, after).flip(dim))
        grad = inner
    return grad


def moments(values: Tensor, taps: list[float], dims: list[int]) -> tuple[Tensor, Tensor]:
    """Mean and variance of the window around each voxel that has a whole one.

    Args:
        values: any shape; along each of `dims` it is len(taps) - 1 longer than the result.
    """
    mean, variance = values, None
    for dim in dims:
        mean, variance = _along(mean, variance, taps, dim)
    return mean, torch.zeros_like(mean) if variance is None else variance.clamp_min(0)


def _along(mean: Tensor, variance: Tensor | None, taps: list[float], dim: int) -> tuple[Tensor, Tensor]:
    """Join the windows along one more dim: the mean of variances and the variance of means.

    Of the differences of two voxels, before and after, to the middle, with bend = before + after and slope = before -
    after, the mean moves by w bend, and their squares add up to (bend^2 + slope^2) / 2.
    """
    half = len(taps) // 2
    size = mean.shape[dim] - 2 * half
    centre = mean.narrow(dim, half, size)
    total = torch.zeros_like(centre) if variance is None else smooth(variance, taps, dim)
    shift = None
    for k, tap in enumerate(taps[:half]):
        before, after = (mean.narrow(dim, place, size) - centre for place in (k, 2 * half - k))
        bend, slope = before + after, before.sub_(after)
        total.addcmul_(slope, slope, value=tap / 2).addcmul_(bend, bend, value=tap / 2)
        shift = bend.mul_(tap) if shift is None else shift.add_(bend, alpha=tap)
    if shift is None:
        return centre, total
    total.addcmul_(shift, shift, value=-1)
    return shift.add_(centre), total


def binary_moments(mask: Tensor, taps: list[float], dims: list[int]) -> tuple[Tensor, Tensor]:
    """The same for values of 0 and 1, whose variance follows from their mean."""
    mean, half = mask, len(taps) // 2
    for dim in dims:
        size = mean.shape[dim] - 2 * half
        centre = total = mean.narrow(dim, half, size)
        for k in range(half):
            pair = mean.narrow(dim, k, size) + mean.narrow(dim, 2 * half - k, size)
            total = torch.add(total, torch.add(pair, centre, alpha=-2), alpha=taps[k])
        mean = total
    return mean, torch.addcmul(mean, mean, mean, value=-1).clamp_min(0)


def smooth(values: Tensor, taps: list[float], dim: int) -> Tensor:
    """Weighted sum of the taps along a dim, where all of them are there."""
    half = len(taps) // 2
    size = values.shape[dim] - 2 * half
    total = values.narrow(dim, half, size) * taps[half]
    for k in range(half):
        pair = values.narrow(dim, k, size) + values.narrow(dim, 2 * half - k, size)
        total = torch.add(total, pair, alpha=taps[k])
    return total


def weighted_moments(values: Tensor, weight: Tensor, taps: list[float], dims: list[int]) -> tuple[Tensor, Tensor]:
    """The same over voxels of positive weight only, the taps renormalised; 0 where the window holds none.

    Differences are taken to one of these voxels, so that here too the variance is 0 in flat regions.
    """
    mean, variance = values, torch.zeros_like(values)
    for dim in dims:
        joint, mass, divisor = _joined(mean, weight, taps, dim)
        size, spread = mass.shape[dim], torch.zeros_like(mass)
        for k, tap in enumerate(taps):
            w, m, v = (t.narrow(dim, k, size) for t in (weight, mean, variance))
            spread = torch.add(spread, w * (v + (m - joint).square()), alpha=tap)
        mean, variance, weight = joint, spread / divisor, mass
    return mean, variance


def _joined(mean: Tensor, weight: Tensor, taps: list[float], dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and weight of the windows along one more dim, and the weight with 1 for 0."""
    mass = smooth(weight, taps, dim)
    divisor, size = torch.where(mass > 0, mass, 1), mass.shape[dim]
    parts = [(mean.narrow(dim, k, size), weight.narrow(dim, k, size)) for k in range(len(taps))]
    origin, shift = torch.zeros_like(mass), torch.zeros_like(mass)
    for m, w in parts:
        origin = torch.where(w > 0, m, origin)
    for (m, w), tap in zip(parts, taps, strict=True):
        shift = torch.add(shift, w * (m - origin), alpha=tap)
    return origin + shift / divisor, mass, divisor


def moments_backward(
    g_mean: Tensor, g_variance: Tensor, values: Tensor, weight: Tensor | None, taps: list[float], dims: list[int]
) -> Tensor:
    """Gradient to the values, given those to what `moments` or, with weights, `weighted_moments` finds.

    Of one axis, with the taps w: d mean / d m_k = w_k and d variance / d m_k = 2 w_k (m_k - mean).
    """
    steps, mean = [], values
    for dim in dims:
        if weight is None:
            joint, weights = _along(mean, None, taps, dim)[0], None
        else:
            joint, mass, divisor = _joined(mean, weight, taps, dim)
            weight, weights = mass, (weight, divisor)
        steps.append((dim, mean, weights, joint))
        mean = joint
    for dim, mean, weights, joint in reversed(steps):
        if weights is not None:
            g_mean, g_variance = g_mean / weights[1], g_variance / weights[1]
        size, to_mean, to_variance = joint.shape[dim], torch.zeros_like(mean), torch.zeros_like(mean)
        for k, tap in enumerate(taps):
            slope = torch.addcmul(g_mean, mean.narrow(dim, k, size) - joint, g_variance, value=2)
            w = tap if weights is None else weights[0].narrow(dim, k, size) * tap
            to_mean.narrow(dim, k, size).add_(slope * w)
            to_variance.narrow(dim, k, size).add_(g_variance * w)
        g_mean, g_variance = to_mean, to_variance
    return g_mean
