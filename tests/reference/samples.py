"""What all reference formulae start from: one sample as arrays of its valid voxels."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Sample:
    """p, y: (C, V) probabilities and target; log_p, log_q: logarithms of p and 1 - p; w: (V,) weights."""

    p: np.ndarray
    y: np.ndarray
    log_p: np.ndarray
    log_q: np.ndarray
    w: np.ndarray


def samples(logits, target, weight=None, *, mode="softmax", ignore_index=None):
    """Split a batch (N, C, *S) into samples; ignored voxels are deleted, labels become one-hot."""
    logits = np.asarray(logits, dtype=np.float64)
    target = np.asarray(target)
    channels = logits.shape[1]
    for n in range(len(logits)):
        z = logits[n].reshape(channels, -1)
        w = np.ones(z.shape[1]) if weight is None else np.asarray(weight[n], dtype=np.float64).ravel()
        if target.dtype.kind == "f":
            y = target[n].astype(np.float64).reshape(channels, -1)
        else:
            labels = target[n].ravel()
            keep = np.full(labels.shape, True) if ignore_index is None else labels != ignore_index
            z, w, labels = z[:, keep], w[keep], labels[keep]
            names = [1] if channels == 1 else range(channels)
            y = np.array([labels == name for name in names], dtype=np.float64)
        if mode == "softmax":
            peak = z.max(0, initial=-np.inf)
            log_p = z - peak - np.log(np.exp(z - peak).sum(0))
        else:
            log_p = -np.logaddexp(0, -z)
        log_q = -np.logaddexp(0, z)
        yield Sample(np.exp(log_p), y, log_p, log_q, w)
