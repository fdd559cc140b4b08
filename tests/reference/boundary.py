"""Losses by boundary: distances by brute force, then each formula as its paper prints it."""

import math
from itertools import product

import numpy as np

from reference.grids import (
    binary_cross_entropy,
    by_class,
    by_voxel,
    cross,
    diagonal,
    distance_to,
    distance_to_other,
    distances,
    entropy,
    grids,
    long_axes,
    ratio,
    scored_classes,
    shifted,
    steps_of,
)


def _mean_loss(cost, batch, common):
    """cost: (*S), of a sample and a class; its weighted mean over voxels."""
    return by_class(lambda s, c: ((s.w * cost(s, c)).sum(), s.w.sum()), lambda t: ratio(t[0], t[1]), *batch, **common)


def _scale(s, spacing, scale_free):
    return diagonal(s.valid.shape, spacing) if scale_free else 1.0


def signed_distance(s, c, spacing=None):
    d = distance_to_other(s, s.g[c], spacing)
    return np.where(s.g[c], -d, d)


def boundary_loss(logits, target, weight=None, *, inside="official", spacing=None, scale_free=False, **common):
    def cost(s, c):
        shape, g = s.valid.shape, s.g[c]
        phi = signed_distance(s, c, spacing)
        full = not (s.valid & ~g).any()
        if inside == "official" and not full:
            step = steps_of(shape, spacing)
            phi = phi + g * min((step[k] for k in long_axes(shape)), default=1.0)
        return phi / _scale(s, spacing, scale_free) * s.p[c]

    return _mean_loss(cost, (logits, target, weight), common)


def hausdorff_dt_loss(
    logits, target, weight=None, *, alpha=2.0, one_sided=False, spacing=None, scale_free=False, **common
):
    def cost(s, c):
        masks = [s.g[c]] if one_sided else [s.g[c], (s.p[c] > 0.5) & s.valid]
        scale = _scale(s, spacing, scale_free)
        far = sum((distance_to_other(s, mask, spacing) / scale) ** alpha for mask in masks)
        return (s.p[c] - s.y[c]) ** 2 * far

    return _mean_loss(cost, (logits, target, weight), common)


def hausdorff_erosion_loss(logits, target, weight=None, *, alpha=2.0, erosions=10, rescale=True, **common):
    def cost(s, c):
        b = np.where(s.valid, (s.p[c] - s.y[c]) ** 2, 0.0)
        steps = cross(b.shape)
        out = 0.0
        for k in range(1, erosions + 1):
            b = (b + sum(shifted(b, step, 0.0) for step in steps)) / (len(steps) + 1)
            b = np.where(s.valid, np.maximum(b - 0.5, 0.0), 0.0)
            low, high = b[s.valid].min(), b[s.valid].max()
            if rescale and high > low:
                b = np.where(s.valid, (b - low) / (high - low), 0.0)
            out = out + k**alpha * b
        return out

    return _mean_loss(cost, (logits, target, weight), common)


def hausdorff_conv_loss(logits, target, weight=None, *, alpha=2.0, radii=(3, 6, 9, 12, 15, 18), **common):
    def cost(s, c):
        shape = s.valid.shape
        axes = long_axes(shape)
        kept = [r for r in radii if all(r < shape[k] for k in axes)] or [min(radii)]
        everywhere = np.full(shape, True)
        apart = distances(everywhere, everywhere)
        p, y = s.p[c], s.y[c]
        p_c, y_c = np.where(s.valid, 1 - p, 0.0), np.where(s.valid, 1 - y, 0.0)
        out = 0.0
        for r in kept:
            reach = range(-math.floor(r), math.floor(r) + 1)
            size = sum(sum(d * d for d in step) <= r * r for step in product(reach, repeat=len(axes)))
            ball = (apart <= r + 1e-9) / size

            def f(x, ball=ball):
                return np.maximum((ball @ x.ravel()).reshape(shape) - 0.5, 0.0)

            invented, missed = (p - y) ** 2 * p, (p - y) ** 2 * y
            out = out + r**alpha * (f(y_c) * invented + f(y) * missed + f(p_c) * missed + f(p) * invented)
        return out

    return _mean_loss(cost, (logits, target, weight), common)


def weighted_hausdorff_loss(
    logits, target, weight=None, *, exponent=-1.0, max_points=1024, spacing=None, scale_free=False, **common
):
    def sums(s, c):
        scale = _scale(s, spacing, scale_free)
        far = diagonal(s.valid.shape, spacing) / scale
        p, g = s.p[c], s.g[c]
        first = (s.w * p * distance_to(s, g, spacing) / scale).sum(), (s.w * p).sum()
        if not g.any() or s.w.sum() == 0:
            return (*first, 0.0, 0.0)
        points = np.argwhere(g)
        if len(points) > max_points:
            points = points[[k * len(points) // max_points for k in range(max_points)]]
        chosen = np.full(g.shape, False)
        chosen[tuple(points.T)] = True
        d = distances(s.valid, chosen, spacing) / scale
        p_i, w_i = p[s.valid][:, None], s.w[s.valid][:, None]
        powers = (p_i * d + (1 - p_i) * far + 1e-6) ** exponent
        m = ((w_i * powers).sum(0) / w_i.sum()) ** (1 / exponent)
        return (*first, (s.w[chosen] * m).sum(), s.w[chosen].sum())

    def value(t):
        return t[0] / (t[1] + 1e-6) + ratio(t[2], t[3])

    return by_class(sums, value, logits, target, weight, **common)


def average_hausdorff_loss(
    logits, target, weight=None, *, combine="mean", balanced=False, spacing=None, scale_free=False, **common
):
    def sums(s, c):
        scale = _scale(s, spacing, scale_free)
        p, g = s.p[c], s.g[c]
        to_target = distance_to(s, g, spacing) / scale
        to_prediction = distance_to(s, (p > 0.5) & s.valid, spacing, diagonal(g.shape, spacing)) / scale
        return (
            (s.w * p * to_target).sum(),
            (s.w * (g if balanced else p)).sum(),
            (s.w * g * (1 - p) * to_prediction).sum(),
            (s.w * g).sum(),
        )

    def value(t):
        a, b = ratio(t[0], t[1]), ratio(t[2], t[3])
        return {"mean": (a + b) / 2, "max": max(a, b), "sum": a + b}[combine]

    return by_class(sums, value, logits, target, weight, **common)


def generalized_surface_loss(logits, target, weight=None, *, spacing=None, **common):
    def sums(s, c):
        d = signed_distance(s, c, spacing)
        return (s.w * (d * (1 - (s.y[c] + s.p[c]))) ** 2).sum(), (s.w * d**2).sum()

    return by_class(sums, lambda t: 1 - ratio(t[0], t[1]), logits, target, weight, **common)


def boundary_dou_loss(logits, target, weight=None, *, smooth=0.0, **common):
    def sums(s, c):
        p, y, g = s.p[c], s.y[c], s.g[c]
        inner = g.copy()
        for step in cross(g.shape):
            inner &= shifted(g, step, False)
        squares = (s.w * p * p).sum() + (s.w * y * y).sum()
        return (s.w * p * y).sum(), squares, (g & ~inner).sum(), g.sum()

    def value(t):
        common_part, squares, edge, area = t
        a = min(max(1 - 2 * edge / area, 0.0), 0.8) if area else 0.0
        return 1 - ((1 - a) * common_part + smooth) / (squares - (1 + a) * common_part + smooth)

    return by_class(sums, value, logits, target, weight, **common)


def _cross_entropy(s, mode, a, scored, everything):
    """What each voxel (each scored channel of each voxel) costs, and its part of the divisor: (1 or K, *S)."""
    if mode == "softmax":
        cost = sum(a[c] * entropy(s.y[c], s.log_p[c]) for c in scored)
        size = np.ones(s.valid.shape) if everything else sum(s.y[c] for c in scored)
        return (s.w * cost)[None], (s.valid * size)[None]
    cost = binary_cross_entropy(s)
    return np.array([s.w * a[c] * cost[c] for c in scored]), np.array([s.valid * 1.0 for _ in scored])


def _names(s, mode, scored):
    """The label of each voxel; in sigmoid mode its side, for each scored channel."""
    return s.y.argmax(0)[None] if mode == "softmax" else s.g[scored].astype(int)


def distance_penalized_ce_loss(
    logits, target, weight=None, *, spacing=None,
    mode="softmax", ignore_index=None, class_weight=None, classes=None, reduction="mean",
):  # fmt: skip
    def closeness(s, names):
        phi = np.zeros(names.shape)
        d = distance_to_other(s, names, spacing)
        present = np.unique(names[s.valid])
        for name in present if len(present) > 1 else ():
            here = s.valid & (names == name)
            low, high = d[here].min(), d[here].max()
            phi[here] = (high - d[here]) / (high - low) if high - low > 1e-9 * high else 1.0
        return phi

    def sums(s):
        a, scored = scored_classes(len(s.p), class_weight, classes)
        cost, size = _cross_entropy(s, mode, a, scored, classes is None)
        phi = np.array([closeness(s, names) for names in _names(s, mode, scored)])
        return ((1 + phi) * cost).sum(), size.sum()

    batch = grids(logits, target, weight, mode=mode, ignore_index=ignore_index)
    return by_voxel(sums, lambda t: ratio(t[0], t[1]), batch, reduction)


def shape_aware_loss(
    logits, target, weight=None, *, spacing=None, scale_free=False,
    mode="softmax", ignore_index=None, class_weight=None, classes=None, reduction="mean",
):  # fmt: skip
    def sums(s):
        a, scored = scored_classes(len(s.p), class_weight, classes)
        cost, size = _cross_entropy(s, mode, a, scored, classes is None)
        names = _names(s, mode, scored)
        named = s.z.argmax(0)[None] if mode == "softmax" else (s.z[scored] > 0).astype(int)
        far = np.array([distance_to_other(s, one, spacing) for one in names]) / _scale(s, spacing, scale_free)
        wrong = (named != names) & (size > 0)
        return cost.sum(), size.sum(), (far * cost)[wrong].sum(), wrong.sum()

    batch = grids(logits, target, weight, mode=mode, ignore_index=ignore_index)
    return by_voxel(sums, lambda t: ratio(t[0], t[1]) + ratio(t[2], t[3]), batch, reduction)
