"""Samples that keep their shape, for formulae that ask where a voxel lies; distances by comparing all pairs."""

from dataclasses import dataclass
from itertools import product

import numpy as np

from reference.region import counts


@dataclass
class Grid:
    """z, p, y, g, log_p, log_q: (C, *S); valid, w: (*S). At ignored voxels p, y, g and w are 0."""

    z: np.ndarray
    p: np.ndarray
    y: np.ndarray
    g: np.ndarray
    log_p: np.ndarray
    log_q: np.ndarray
    valid: np.ndarray
    w: np.ndarray


def grids(logits, target, weight=None, *, mode="softmax", ignore_index=None):
    """Split a batch (N, C, *S) into samples; logits of ignored voxels are never looked at."""
    logits, target = np.asarray(logits, dtype=np.float64), np.asarray(target)
    channels, shape = logits.shape[1], logits.shape[2:]
    batch = []
    for n in range(len(logits)):
        valid, w = np.full(shape, True), np.ones(shape)
        if target.dtype.kind == "f":
            y = target[n].astype(np.float64)
        else:
            if ignore_index is not None:
                valid = target[n] != ignore_index
            names = [1] if channels == 1 else range(channels)
            y = np.array([(target[n] == name) & valid for name in names], dtype=np.float64)
        if weight is not None:
            w = np.asarray(weight[n], dtype=np.float64)
        z = np.where(valid, logits[n], 0.0)
        if mode == "softmax":
            whole = _log_sum_exp(z)
            log_p = z - whole
            log_q = np.array([_log_sum_exp(np.delete(z, c, 0)) for c in range(channels)]) - whole
        else:
            log_p, log_q = -np.logaddexp(0, -z), -np.logaddexp(0, z)
        p = np.where(valid, np.exp(log_p), 0.0)
        batch.append(Grid(z, p, y, (y > 0.5) & valid, log_p, log_q, valid, np.where(valid, w, 0.0)))
    return batch


def _log_sum_exp(z):
    peak = z.max(0)
    peak = np.where(np.isfinite(peak), peak, 0.0)
    with np.errstate(divide="ignore"):
        return peak + np.log(np.exp(z - peak).sum(0))


def entropy(share, log_p):
    """-share log p, which is 0 where the share is 0."""
    return -np.where(share > 0, share, 0.0) * np.where(share > 0, log_p, 0.0)


def binary_cross_entropy(s):
    """(C, *S)."""
    return entropy(s.y, s.log_p) + entropy(1 - s.y, s.log_q)


def ratio(above, below):
    return above / below if below else 0.0


def scored_classes(channels, class_weight, classes):
    a = np.ones(channels) if class_weight is None else np.asarray(class_weight, dtype=np.float64)
    return a, list(range(channels)) if classes is None else list(classes)


def by_class(
    sums, value, logits, target, weight=None, *, mode="softmax", ignore_index=None, class_weight=None, classes=None,
    reduction="mean", pool="sample", absent="skip",
):  # fmt: skip
    """sums(sample, class): numbers that pool="batch" adds up over samples; value: the loss of their totals."""
    batch = grids(logits, target, weight, mode=mode, ignore_index=ignore_index)
    a, scored = scored_classes(len(batch[0].p), class_weight, classes)

    def row(group):
        present = [c for c in scored if sum((s.w * s.y[c]).sum() for s in group) > 0]
        counted = present if absent == "skip" and present else scored
        values = {c: value(total(sums, group, c)) if c in present else _false_positive_rate(group, c) for c in counted}
        return ratio(sum(a[c] * values[c] for c in counted), sum(a[c] for c in counted))

    return by_group(row, batch, reduction, pool)


def total(sums, group, *which):
    return sum(np.array(sums(s, *which), dtype=np.float64) for s in group)


def _false_positive_rate(group, c):
    _, fp, _, tn = (sum(parts) for parts in zip(*(counts(s, c) for s in group), strict=True))
    return ratio(fp, fp + tn)


def by_group(row, batch, reduction="mean", pool="sample"):
    """row: the value of samples that are taken together. Ignored samples are 0 and left out of the mean."""
    alive = [s for s in batch if s.valid.any()]
    if pool == "batch" and alive:
        shared = row(alive)
        rows = np.array([shared if s.valid.any() else 0.0 for s in batch])
    else:
        rows = np.array([row([s]) if s.valid.any() else 0.0 for s in batch])
    if reduction == "none":
        return rows
    return rows.sum() if reduction == "sum" else rows.sum() / max(1, len(alive))


def by_voxel(sums, value, batch, reduction="mean"):
    """sums(sample): numbers that reduction="mean" adds up over samples; value: the loss of their totals."""
    return by_group(lambda group: value(total(sums, group)), batch, reduction, "batch" if reduction == "mean" else "")


def long_axes(shape):
    return [axis for axis, size in enumerate(shape) if size > 1]


def steps_of(shape, spacing):
    return np.ones(len(shape)) if spacing is None else np.asarray(spacing, dtype=np.float64)


def diagonal(shape, spacing=None):
    """1 for an image of one voxel."""
    step = steps_of(shape, spacing)
    return np.sqrt(sum((step[k] * shape[k]) ** 2 for k in long_axes(shape))) or 1.0


def distances(from_mask, to_mask, spacing=None):
    """A matrix: the voxels of one mask by those of another, both in raster order."""
    step = steps_of(from_mask.shape, spacing)
    one, other = np.argwhere(from_mask), np.argwhere(to_mask)
    squares = (((one[:, None, k] - other[None, :, k]) * step[k]) ** 2 for k in range(len(step)))
    return np.sqrt(sum(squares))


def distance_to(s, mask, spacing=None, empty=1.0):
    """From every valid voxel to the nearest voxel of the mask; `empty` if it has none. 0 at ignored voxels."""
    out = np.zeros(mask.shape)
    out[s.valid] = distances(s.valid, mask, spacing).min(1) if mask.any() else empty
    return out


def distance_to_other(s, names, spacing=None):
    """From every valid voxel to the nearest valid voxel of another name; 1 if all have one name."""
    out = np.where(s.valid, 1.0, 0.0)
    for name in np.unique(names[s.valid]):
        here, there = s.valid & (names == name), s.valid & (names != name)
        if there.any():
            out[here] = distances(here, there, spacing).min(1)
    return out


def cross(shape):
    """The steps to the face neighbours."""
    unit = np.eye(len(shape), dtype=int)
    return [sign * unit[axis] for axis in long_axes(shape) for sign in (-1, 1)]


def box(shape, reach=1):
    """The steps to all voxels of a box, 0 among them."""
    return list(product(*(range(-reach, reach + 1) if size > 1 else (0,) for size in shape)))


def shifted(x, step, outside):
    """x at the voxel one step further."""
    out = np.full(x.shape, outside, dtype=x.dtype)
    to = tuple(slice(max(0, -d), max(0, size - max(0, d))) for d, size in zip(step, x.shape, strict=True))
    of = tuple(slice(max(0, d), max(0, size - max(0, -d))) for d, size in zip(step, x.shape, strict=True))
    out[to] = x[of]
    return out
