"""Losses by voxel: every voxel's cost is written down, then averaged."""

import math

import numpy as np

from reference.samples import samples


def voxel_loss(
    kind, logits, target, weight=None, *, mode="softmax", ignore_index=None, class_weight=None, classes=None,
    reduction="mean", normalize="count", k=0.1, gamma=2.0, alpha=None,
):  # fmt: skip
    """kind: "ce", "balanced", "topk" or "focal" -> a number, or one value a sample."""
    rows = []
    for s in samples(logits, target, weight, mode=mode, ignore_index=ignore_index):
        channels = len(s.p)
        a = np.ones(channels) if class_weight is None else np.asarray(class_weight, dtype=np.float64)
        scored = range(channels) if classes is None else classes
        rows.append(_terms(kind, s, mode, a, scored, classes is None, gamma, alpha))
    groups = [_join(rows)] if reduction == "mean" else rows
    values = np.array([_average(kind, group, normalize, k) for group in groups])
    return values[0] if reduction == "mean" else values.sum() if reduction == "sum" else values


def _terms(kind, s, mode, a, scored, everything, gamma, alpha):
    """Costs, their weights (those of "normalize") and the number of voxels they stand for, term by term."""
    costs, weights, sizes = [], [], []
    share = (s.y @ s.w) / s.w.sum() if s.w.sum() > 0 else np.zeros(len(s.y))
    full, empty = (
        (s.y[:, s.w > 0] == 1).all(1),
        (s.y[:, s.w > 0] == 0).all(1),
    )  # channels that are on, or off, everywhere
    single = full.any()
    for i in range(s.p.shape[1]):
        if mode == "softmax":
            named = sum(s.y[c, i] for c in scored)
            if not everything and named == 0:
                continue
            cost = 0.0
            for c in scored:
                if s.y[c, i] > 0:
                    factor = {"focal": (1 - s.p[c, i]) ** gamma, "balanced": 1.0 if single else 1 - share[c]}
                    cost += a[c] * s.y[c, i] * factor.get(kind, 1.0) * -s.log_p[c, i]
            costs.append(s.w[i] * cost)
            weights.append(s.w[i] * sum(a[c] * s.y[c, i] for c in scored))
            sizes.append(1.0 if everything else named)
            continue
        for c in scored:
            p, y = s.p[c, i], s.y[c, i]
            on, off = 1.0, 1.0
            if kind == "focal":
                on, off = (1 - p) ** gamma, p**gamma
                if alpha is not None:
                    on, off = alpha * on, (1 - alpha) * off
            if kind == "balanced" and not (full[c] or empty[c]):
                on, off = 1 - share[c], share[c]
            costs.append(s.w[i] * a[c] * (y * on * -s.log_p[c, i] + (1 - y) * off * -s.log_q[c, i]))
            weights.append(s.w[i] * a[c])
            sizes.append(1.0)
    return costs, weights, sizes


def _join(rows):
    return tuple([term for row in rows for term in row[part]] for part in range(3))


def _average(kind, group, normalize, k):
    costs, weights, sizes = group
    if not costs:
        return 0.0
    if kind == "topk":
        keep = max(1, math.floor(k * len(costs) + 1e-9))
        return float(np.mean(sorted(costs, reverse=True)[:keep]))
    divisor = sum(weights) if normalize == "weight" else sum(sizes)
    return sum(costs) / divisor if divisor else 0.0
