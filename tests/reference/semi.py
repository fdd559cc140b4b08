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


def softmax(z):
    """z (N, C, V) -> (N, C, V)."""
    p = np.exp(z - z.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def taught(logits, source, valid, select):
    """A stream: cross entropy of the labels that `select` keeps of the source; maps (N, C, V), valid (N, V)."""
    labels, keep = select(softmax(source) * valid[:, None])
    return pseudo_label_loss(logits, labels, keep, valid, "valid")


def mixed_maps(maps, partner, boxes):
    """The same of maps with channels, (N, C, *S)."""
    return np.stack([mixed(maps[:, c], partner, boxes) for c in range(maps.shape[1])], 1)


def flat(maps):
    """(N, C, *S) -> (N, C, V)."""
    return maps.reshape(*maps.shape[:2], -1)


def fixmatch(z, valid, partner, boxes, labelled):
    """Terms of 1/2 [supervised + pseudo(strong 0)]; z: logits (N, C, *S) by pass, boxes (N, K, 2, D)."""
    inside = mixed(valid, partner, boxes[:, 0]).reshape(len(valid), -1)
    source = flat(mixed_maps(z["weak"], partner, boxes[:, 0]))
    return {
        "supervised": 0.5 * labelled,
        "strong0": 0.5 * taught(flat(z["strong0"]), source, inside, lambda p: fixed_threshold(p, 0.95)),
    }


def unimatch(z, valid, partner, boxes, labelled):
    """Terms of 1/2 [supervised + 1/4 pseudo(strong 0) + 1/4 pseudo(strong 1) + 1/2 pseudo(weak, dropped)]."""
    terms = {"supervised": 0.5 * labelled}
    for k in range(2):
        inside = mixed(valid, partner, boxes[:, k]).reshape(len(valid), -1)
        source = flat(mixed_maps(z["weak"], partner, boxes[:, k]))
        value = taught(flat(z[f"strong{k}"]), source, inside, lambda p: fixed_threshold(p, 0.95))
        terms[f"strong{k}"] = 0.125 * value
    whole = valid.reshape(len(valid), -1)
    value = taught(flat(z["dropped0"]), flat(z["weak"]), whole, lambda p: fixed_threshold(p, 0.95))
    return terms | {"feature": 0.25 * value}


def dssn(z, valid, partner, boxes, labelled, agree_on, select=lambda p: class_max(p, 0.92, 0.96)):
    """Terms of 1/2 [supervised + 1/4 (four streams) + 1/100 (two agreements)]; `z` holds the teacher's too."""
    terms, whole, insides, boxed = {"supervised": 0.5 * labelled}, valid.reshape(len(valid), -1), [], []
    for k in range(2):
        insides.append(mixed(valid, partner, boxes[:, k]).reshape(len(valid), -1))
        source = flat(mixed_maps(z["teacher"], partner, boxes[:, k]))
        terms[f"strong{k}"] = 0.125 * taught(flat(z[f"strong{k}"]), source, insides[k], select)
        places = np.arange(len(valid)).reshape(-1, *[1] * (valid.ndim - 1)) + np.zeros(valid.shape)
        boxed.append(mixed(places, partner, boxes[:, k]).reshape(len(valid), -1))
    for k, name in enumerate(("feature_a", "feature_b")):
        terms[name] = 0.125 * taught(flat(z[f"dropped{k}"]), flat(z["weak"]), whole, select)
    same = (boxed[0] == boxed[1]) & insides[0] & insides[1]
    masks = (same, whole) if agree_on == "same_content" else (np.ones_like(whole), np.ones_like(whole))
    for name, first, second, mask in (
        ("agree/strong", "strong0", "strong1", masks[0]),
        ("agree/weak", "dropped0", "dropped1", masks[1]),
    ):
        terms[name] = 0.005 * agreement(flat(z[first]), flat(z[second]), mask, 1e-6)
    return terms


def mean_teacher(z, valid, labelled, share):
    """Terms of supervised + .1 exp(-5 (1 - share)^2) mean over valid voxels and classes of (p - p_teacher)^2."""
    total = count = 0.0
    p, q = softmax(flat(z["strong0"])), softmax(flat(z["teacher"]))
    for n, v in np.argwhere(valid.reshape(len(valid), -1)):
        total += np.mean((p[n, :, v] - q[n, :, v]) ** 2)
        count += 1
    return {"supervised": labelled, "strong0": 0.1 * math.exp(-5 * (1 - share) ** 2) * total / count}
