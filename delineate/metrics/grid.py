"""The grid that a prediction and its truth share: its shape, and the size of a voxel in mm."""

import math
from collections.abc import Sequence

import numpy as np


def check_grid(prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> tuple[float, ...]:
    """The size of a voxel along each axis in mm, of two maps (*S) of one shape with one to three dims.

    Raises:
        ValueError: for unequal shapes, other numbers of dims, and a spacing of wrong length or not positive.
    """
    if prediction.shape != truth.shape:
        raise ValueError(
            f"prediction: expected the shape of truth, {truth.shape}; got {prediction.shape}. Bring both to one grid."
        )
    if not 1 <= truth.ndim <= 3:
        raise ValueError(f"truth: expected one to three dims; got shape {truth.shape}. Pass one image at a time.")
    sizes = tuple(float(size) for size in spacing)
    if len(sizes) != truth.ndim or not all(math.isfinite(size) and size > 0 for size in sizes):
        raise ValueError(
            f"spacing: expected {truth.ndim} positive numbers, the size of a voxel along each axis; got {sizes}."
        )
    return sizes


def check_masks(**masks: np.ndarray) -> None:
    """Raises ValueError for a map that is not bool, under its name."""
    for name, mask in masks.items():
        if mask.dtype != bool:
            raise ValueError(
                f"{name}: expected a bool mask; got {mask.dtype}. Compare the labels with one class first."
            )


def diagonal(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """Diagonal of the image in mm, from outer corner to outer corner.

    >>> diagonal((30, 40), (1, 1))
    50.0
    """
    return math.hypot(*(length * size for length, size in zip(shape, spacing, strict=True)))


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box that holds all voxels of a mask (*S) bool; a box of no voxels if there are none."""
    box = []
    for axis in range(mask.ndim):
        (there,) = np.nonzero(mask.any(tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(there[0]), int(there[-1]) + 1) if there.size else slice(0, 0))
    return tuple(box)
