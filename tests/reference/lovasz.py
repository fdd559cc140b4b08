"""Lovasz: the errors sorted, and after each the Jaccard loss of a prediction that is wrong in exactly these voxels."""

import numpy as np

from reference.region import OfEveryClass, region_loss


def lovasz_loss(logits, target, weight=None, *, mode="softmax", errors=None, **common):
    def formula():
        return OfEveryClass(hinge if (errors or "hinge") == "hinge" and mode == "sigmoid" else probability)

    return region_loss(formula, logits, target, weight, mode=mode, **common)


def probability(s, c):
    return extension(np.abs(s.y[c] - s.p[c]), s.y[c], s.w)


def hinge(s, c):
    z = s.log_p[c] - s.log_q[c]
    return extension(np.maximum(0, 1 - z * (2 * s.y[c] - 1)), s.y[c], s.w)


def extension(errors, y, w):
    """Sum over k of the k-th largest error times what the k-th voxel, if wrong too, adds to the Jaccard loss."""
    voxels = [i for i in range(len(errors)) if w[i] > 0]
    voxels.sort(key=lambda i: -errors[i])
    positives = sum(w[i] * y[i] for i in voxels)
    missed = invented = value = before = 0.0
    for i in voxels:
        missed += w[i] * y[i]
        invented += w[i] * (1 - y[i])
        jaccard = 1 - (positives - missed) / (positives + invented)
        value += errors[i] * (jaccard - before)
        before = jaccard
    return value
