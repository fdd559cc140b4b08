"""Semi-supervised parts, written down voxel by voxel: plain float64 arrays, loops, no tricks."""

import math

import numpy as np


def fixed_threshold(p, threshold):
    """p (N, C, V) -> labels and keep (N, V)."""
    return p.argmax(1), p.max(1) >= threshold


def class_max(p, floor, ratio):
    """As released: a threshold for each image and class; a voxel is kept where one class passes its own."""
    samples, channels, voxels = p.shape
    labels, keep = np.zeros((samples, voxels), int), np.zeros((samples, voxels), bool)
    for n in range(samples):
        threshold = [ratio * peak if peak > floor else peak for peak in p[n].max(1)]
        for v in range(voxels):
            passing = sum(p[n, c, v] > threshold[c] for c in range(channels))
            assert passing < 2
            labels[n, v], keep[n, v] = np.argmax(p[n, :, v]), passing == 1
    return labels, keep


def standardised(h, eps):
    """One voxel's logits (C,)."""
    return (h - h.mean()) / math.sqrt(h.var(ddof=1) + eps)


def agreement(a, b, w, eps):
    """a, b (N, C, V), w (N, V)."""
    total = weights = 0.0
    for n in range(a.shape[0]):
        for v in range(a.shape[2]):
            if w[n, v]:
                difference = standardised(a[n, :, v], eps) - standardised(b[n, :, v], eps)
                total += w[n, v] * np.mean(difference**2)
                weights += w[n, v]
    return total / weights if weights else 0.0


def agreement_gradient(a, b):
    """By a, at eps = 0 and with all voxels: -2 (C - 1) / C (v - r u) / |a - mean a| / M."""
    gradient = np.zeros_like(a)
    samples, channels, voxels = a.shape
    for n in range(samples):
        for i in range(voxels):
            u, v = (h[n, :, i] - h[n, :, i].mean() for h in (a, b))
            size = np.linalg.norm(u)
            u, v = u / size, v / np.linalg.norm(v)
            gradient[n, :, i] = -2 * (channels - 1) / channels * (v - (u @ v) * u) / size / (samples * voxels)
    return gradient


def pseudo_label_loss(logits, labels, keep, valid, norm):
    """logits (N, C, V), the others (N, V)."""
    total = count = 0.0
    for n, v in np.ndindex(labels.shape):
        if valid[n, v]:
            z = logits[n, :, v]
            peak = z.max()
            total += keep[n, v] * (peak + math.log(np.exp(z - peak).sum()) - z[labels[n, v]])
            count += 1.0 if norm == "valid" else float(keep[n, v])
    return total / count if count else 0.0


def mixed(maps, partner, boxes):
    """maps (N, *S), boxes (N, 2, D): voxels with low <= place < high come from the partner."""
    out = maps.copy()
    for n, place in ((n, place) for n in range(len(maps)) for place in np.ndindex(maps.shape[1:])):
        if all(low <= at < high for low, at, high in zip(boxes[n][0], place, boxes[n][1], strict=True)):
            out[(n, *place)] = maps[(partner[n], *place)]
    return out


def square_box(random, side, share, aspect):
    """(top, left, height, width) in a square image, redrawn until it fits."""
    area = random.uniform(*share) * side * side
    while True:
        ratio = random.uniform(*aspect)
        height, width = int(math.sqrt(area * ratio)), int(math.sqrt(area / ratio))
        top, left = random.integers(side), random.integers(side)
        if top + height <= side and left + width <= side:
            return top, left, height, width
