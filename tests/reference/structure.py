"""Losses by structure: skeletons, local statistics and patches, each as its paper prints it."""

import numpy as np

from reference.grids import (
    binary_cross_entropy,
    box,
    by_class,
    by_group,
    by_voxel,
    cross,
    grids,
    long_axes,
    ratio,
    scored_classes,
    shifted,
    total,
)


def erode(x, valid):
    x = np.where(valid, x, np.inf)
    return np.where(valid, np.min([x, *(shifted(x, step, np.inf) for step in cross(x.shape))], axis=0), 0.0)


def dilate(x, valid):
    x = np.where(valid, x, -np.inf)
    return np.where(valid, np.max([shifted(x, step, -np.inf) for step in box(x.shape)], axis=0), 0.0)


def soft_skeleton(x, valid, iterations=None):
    """iterations=None: until nothing changes any more, and what then is left belongs to the skeleton."""

    def removed(x):
        return np.maximum(x - dilate(erode(x, valid), valid), 0.0)

    out, left = removed(x), iterations
    while left != 0:
        x, before = erode(x, valid), x
        if iterations is None and (x == before).all():
            return np.maximum(out, x)
        out = out + (1 - out) * removed(x)
        left = None if left is None else left - 1
    return out


def soft_cldice_loss(logits, target, weight=None, *, iterations=10, smooth=1.0, **common):
    def sums(s, c):
        g = s.g[c].astype(np.float64)
        of_p, of_g = soft_skeleton(s.p[c], s.valid, iterations), soft_skeleton(g, s.valid)
        return (s.w * of_p * g).sum(), (s.w * of_p).sum(), (s.w * of_g * s.p[c]).sum(), (s.w * of_g).sum()

    def value(t):
        precision, sensitivity = (ratio(t[k] + smooth, t[k + 1] + smooth) for k in (0, 2))
        return 1 - ratio(2 * precision * sensitivity, precision + sensitivity)

    return by_class(sums, value, logits, target, weight, **common)


def skeleton_recall_loss(
    logits, target, weight=None, *, tubes, smooth=1.0,
    mode="softmax", ignore_index=None, class_weight=None, classes=None, reduction="mean", pool="sample", absent="skip",
):  # fmt: skip
    """tubes: (N, C, *S), 1 on the widened skeletons. Absent classes cost nothing, whatever `absent` says."""
    batch = grids(logits, target, weight, mode=mode, ignore_index=ignore_index)
    a, scored = scored_classes(len(batch[0].p), class_weight, classes)
    tube = {id(s): np.asarray(tubes[n], dtype=np.float64) for n, s in enumerate(batch)}

    def sums(s, c):
        return (s.w * s.p[c] * tube[id(s)][c]).sum(), (s.w * tube[id(s)][c]).sum()

    def row(group):
        above = below = 0.0
        for c in scored:
            found, length = total(sums, group, c)
            if length > 0 and not (mode == "softmax" and c == 0):
                above += a[c] * (1 - (found + smooth) / (length + smooth))
                below += a[c]
        return ratio(above, below)

    return by_group(row, batch, reduction, pool)


def windows(x, size, padding, outside):
    """The values around each voxel: (taps, *S)."""
    reach, shape = size // 2, x.shape
    width = [(reach, reach) if length > 1 else (0, 0) for length in shape]
    x = np.pad(x, width, mode="reflect") if padding == "reflect" else np.pad(x, width, constant_values=outside)
    starts = [[before + d for (before, _), d in zip(width, step, strict=True)] for step in box(shape, reach)]
    return np.array([x[tuple(slice(k, k + n) for k, n in zip(start, shape, strict=True))] for start in starts])


def structure(x, valid, stabilizer, size, sigma, padding):
    """(x - mean + stabilizer) / (deviation + stabilizer), of the window around each voxel."""
    taps = np.array([np.exp(-sum(d * d for d in step) / (2 * sigma**2)) for step in box(x.shape, size // 2)])
    weights = taps.reshape(-1, *[1] * x.ndim) * windows(valid, size, padding, True)
    weights = weights / np.maximum(weights.sum(0), 1e-300)
    around = windows(x, size, padding, 0.0)
    mean = x + (weights * (around - x)).sum(0)
    deviation = np.sqrt((weights * (around - mean) ** 2).sum(0))
    return (x - mean + stabilizer) / (deviation + stabilizer)


def structural_similarity_loss(
    logits, target, weight=None, *, ce_weight=0.5, threshold=0.1, threshold_scope="sample", stabilizer=0.01,
    window_size=3, window_sigma=1.5, padding="reflect", ignored="drop",
    mode="sigmoid", ignore_index=None, class_weight=None, classes=None, reduction="mean",
):  # fmt: skip
    batch = grids(logits, target, weight, mode=mode, ignore_index=ignore_index)
    a, scored = scored_classes(len(batch[0].p), class_weight, classes)

    def difference(s, c):
        seen = s.valid if ignored == "drop" else np.full(s.valid.shape, True)
        one, other = (structure(x[c], seen, stabilizer, window_size, window_sigma, padding) for x in (s.y, s.p))
        return np.where(s.valid, np.abs(one - other), 0.0)

    e = {(id(s), c): difference(s, c) for s in batch for c in scored}
    largest = max(x.max() for x in e.values())

    def sums(s):
        cost = binary_cross_entropy(s)
        plain = chosen = kept = 0.0
        for c in scored:
            e_c = e[id(s), c]
            f = s.valid & (e_c > threshold * (largest if threshold_scope == "batch" else e_c.max()))
            plain += (s.w * a[c] * cost[c]).sum()
            chosen += (s.w * a[c] * e_c * cost[c])[f].sum()
            kept += f.sum()
        return plain, s.valid.sum() * len(scored), chosen, kept

    def value(t):
        return ce_weight * ratio(t[0], t[1]) + (1 - ce_weight) * ratio(t[2], t[3])

    return by_voxel(sums, value, batch, reduction)


def downsampled(x, factor, mode):
    """Along every axis. Pooling pads by half the factor; an average counts that padding as 0."""
    if factor == 1:
        return x
    for axis in range(x.ndim):
        line = np.moveaxis(x, axis, 0)
        if mode == "interpolate":
            length = len(line) // factor
            at = np.maximum((np.arange(length) + 0.5) * len(line) / length - 0.5, 0.0)
            low = np.floor(at).astype(int)
            high = np.minimum(low + 1, len(line) - 1)
            share = (at - low).reshape(-1, *[1] * (x.ndim - 1))
            line = (1 - share) * line[low] + share * line[high]
        else:
            half = factor // 2
            outside = 0.0 if mode == "average" else -np.inf
            line = np.pad(line, [(half, half)] + [(0, 0)] * (x.ndim - 1), constant_values=outside)
            pool = np.mean if mode == "average" else np.max
            starts = range(0, len(line) - factor + 1, factor)
            line = np.array([pool(line[k : k + factor], axis=0) for k in starts])
        x = np.moveaxis(line, 0, axis)
    return x


def patches(x, radius):
    """(radius ** D, positions), less the mean over positions."""
    found = np.lib.stride_tricks.sliding_window_view(x, (radius,) * x.ndim)
    rows = found.reshape(-1, radius**x.ndim).T
    return rows - rows.mean(1, keepdims=True)


def information(y, p, radius):
    """1 / (2 d) times the logarithm of the determinant of the covariance of y given p."""
    y, p = patches(y, radius), patches(p, radius)
    eye = 5e-4 * np.eye(len(y))
    m = y @ y.T - (y @ p.T) @ np.linalg.inv(p @ p.T + eye) @ (y @ p.T).T
    return np.log(np.diag(np.linalg.cholesky(m + eye)) + 1e-8).sum() / len(y)


def rmi_loss(
    logits, target, weight=None, *, radius=3, downsample=4, downsample_mode="average", ce_weight=0.5,
    mode="sigmoid", ignore_index=None, class_weight=None, classes=None, reduction="mean",
):  # fmt: skip
    batch = grids(logits, target, weight, mode=mode, ignore_index=ignore_index)
    a, scored = scored_classes(len(batch[0].p), class_weight, classes)

    def smaller(x):
        shape = [x.shape[k] for k in long_axes(x.shape)]
        return downsampled(x.reshape(shape), downsample, downsample_mode)

    def sums(s):
        cost = binary_cross_entropy(s)
        ce = sum(a[c] * (s.w * cost[c]).sum() for c in scored)
        bound = sum(a[c] * information(smaller(s.y[c]), smaller(s.p[c] + 1e-6), radius) for c in scored)
        return ce, s.valid.sum(), bound, 1

    def value(t):
        return ce_weight * t[0] / (t[1] + 1) + (1 - ce_weight) * t[2] / t[3]

    return by_voxel(sums, value, batch, reduction)
