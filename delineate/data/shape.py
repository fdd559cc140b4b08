"""How thin a class is, and how much of it lies at a boundary."""

import numpy as np

from delineate.ops.thinning import thin


def skeleton_voxels(mask: np.ndarray) -> int:
    """Voxels of the exact skeleton of a mask (*S), bool."""
    return int(np.count_nonzero(thin(mask)))


def boundary_voxels(labels: np.ndarray, classes: int) -> np.ndarray:
    """Voxels of each class (C,) with a face to another class; other labels and the edge of the image are none.

    >>> boundary_voxels(np.array([[0, 0, 1], [0, 0, 255]]), 2)
    array([1, 1])
    """
    valid = (labels >= 0) & (labels < classes)
    found = np.zeros(labels.shape, dtype=bool)
    for axis in range(labels.ndim):
        before, after = (np.moveaxis(found, axis, 0)[part] for part in (slice(None, -1), slice(1, None)))
        pairs = [np.moveaxis(values, axis, 0) for values in (labels, valid)]
        differ = (pairs[0][:-1] != pairs[0][1:]) & pairs[1][:-1] & pairs[1][1:]
        before |= differ
        after |= differ
    return np.bincount(labels[found].astype(np.int64), minlength=classes)
