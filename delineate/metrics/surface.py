"""Distances between the surfaces of two masks in mm, and what is reported of them.

The surface of a mask are its voxels with a face neighbour (4 in 2D, 6 in 3D) outside it; what lies outside the image
is outside the mask. Distances are exact, between the centres of voxels. From the surface of the prediction to that of
the truth there is one distance for each voxel, and another list for the way back: `surface_distances` measures both
once, and HD, NSD, ASSD and MASD are statistics of them.

Empty masks are penalised, never dropped: where both are empty, distances are 0 and NSD is 1; where one is, NSD is 0
and distances are the diagonal of the image, or infinite by choice.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import edt
import numpy as np
import torch
from scipy.ndimage import minimum_filter1d

from delineate.metrics.grid import bounding_box, check_grid, check_masks, diagonal

DEFINITIONS = ("max", "pooled")
"""How a percentile joins the two directions: the larger of both percentiles, or that of all distances together."""
EMPTY = ("diagonal", "inf")
"""What a distance is where one of the masks is empty."""
SLACK = 1e-6
"""Distances above a tolerance by this share of it still count as within: 3 voxels of 0.1 mm are within 0.3 mm."""


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances in mm between two surfaces; infinite where the other mask is empty."""

    to_truth: np.ndarray
    """Of each surface voxel of the prediction, (n,) float64."""
    to_prediction: np.ndarray
    """Of each surface voxel of the truth, (m,) float64."""
    diagonal: float
    """Diagonal of the image."""


def surface_distances(prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> SurfaceDistances:
    """Distances from each surface to the other.

    Args:
        prediction, truth: masks (*S) bool, one to three dims. Axes of length 1 count: squeeze a slice first.
        spacing: size of a voxel along each axis in mm.

    Raises:
        ValueError: for unequal shapes, masks that are not bool, and a spacing of wrong length or not positive.

    >>> truth, prediction = np.zeros((2, 9), bool)
    >>> truth[2:6], prediction[3:8] = True, True
    >>> found = surface_distances(prediction, truth, [0.5])
    >>> found.to_truth.tolist(), found.to_prediction.tolist()
    ([0.5, 1.0], [0.5, 1.0])
    """
    sizes = check_grid(prediction, truth, spacing)
    check_masks(prediction=prediction, truth=truth)
    box = bounding_box(prediction | truth)
    of_prediction, of_truth = surface(prediction[box]), surface(truth[box])
    return SurfaceDistances(
        _distances(of_prediction, of_truth, sizes),
        _distances(of_truth, of_prediction, sizes),
        diagonal(truth.shape, sizes),
    )


def surface(mask: np.ndarray) -> np.ndarray:
    """The voxels of a mask (*S) bool with a face neighbour outside it, (*S) bool.

    >>> surface(np.ones((3, 4), bool)).astype(int)
    array([[1, 1, 1, 1],
           [1, 0, 0, 1],
           [1, 1, 1, 1]])
    """
    inner = mask.copy()
    for axis in range(mask.ndim if mask.size else 0):
        along, all_along = np.moveaxis(inner, axis, 0), np.moveaxis(mask, axis, 0)
        along[1:] &= all_along[:-1]
        along[:-1] &= all_along[1:]
        along[0] = along[-1] = False
    return mask & ~inner


def _distances(of: np.ndarray, to: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Of each voxel of one surface to the nearest of the other."""
    if not of.any() or not to.any():
        return np.full(np.count_nonzero(of), np.inf)
    sizes = spacing if to.ndim > 1 else spacing[0]
    others = np.ascontiguousarray(~to).view(np.uint8)
    squared = edt.edtsq(others, anisotropy=sizes, black_border=False, parallel=torch.get_num_threads())
    return np.sqrt(squared[of].astype(np.float64))


def _of_empty(distances: SurfaceDistances, empty: str) -> float | None:
    """What a distance is where a mask is empty; None where none is."""
    if empty not in EMPTY:
        raise ValueError(f"empty: expected one of {', '.join(EMPTY)}; got {empty!r}.")
    there = distances.to_truth.size > 0, distances.to_prediction.size > 0
    if all(there):
        return None
    return 0.0 if not any(there) else distances.diagonal if empty == "diagonal" else math.inf


def hausdorff(
    distances: SurfaceDistances, percentile: float = 95, definition: str = "max", empty: str = "diagonal"
) -> float:
    """Percentile Hausdorff distance in mm: HD95 by default, HD at 100.

    Args:
        percentile: 0 to 100, interpolated linearly.
        definition: "max", the larger of the percentiles of both directions; or "pooled", the percentile of all
            distances together, which is smaller.
        empty: where one mask is empty, "diagonal" of the image or "inf".
    """
    if definition not in DEFINITIONS:
        raise ValueError(f"definition: expected one of {', '.join(DEFINITIONS)}; got {definition!r}.")
    if not 0 <= percentile <= 100:
        raise ValueError(f"percentile: expected 0 to 100; got {percentile}.")
    if (found := _of_empty(distances, empty)) is not None:
        return found
    both = distances.to_truth, distances.to_prediction
    lists = both if definition == "max" else (np.concatenate(both),)
    return max(float(np.percentile(one, percentile)) for one in lists)


def nsd(distances: SurfaceDistances, tolerance: float) -> float:
    """Normalised surface Dice: share of the voxels of both surfaces within `tolerance` mm of the other, 0 to 1."""
    if not tolerance >= 0:
        raise ValueError(f"tolerance: expected a distance in mm, at least 0; got {tolerance}.")
    both = np.concatenate([distances.to_truth, distances.to_prediction])
    return float((both <= tolerance * (1 + SLACK)).mean()) if both.size else 1.0


def assd(distances: SurfaceDistances, empty: str = "diagonal") -> float:
    """Average symmetric surface distance in mm: the mean of all distances of both directions."""
    if (found := _of_empty(distances, empty)) is not None:
        return found
    return float(np.concatenate([distances.to_truth, distances.to_prediction]).mean())


def masd(distances: SurfaceDistances, empty: str = "diagonal") -> float:
    """Mean average surface distance in mm: the mean of the means of both directions."""
    if (found := _of_empty(distances, empty)) is not None:
        return found
    return float(distances.to_truth.mean() + distances.to_prediction.mean()) / 2


def boundary_iou(prediction: np.ndarray, truth: np.ndarray, width: int) -> float:
    """IoU of the bands along the inner side of the boundaries (Cheng et al. 2021, arXiv 2103.16562), 0 to 1.

    The band of a mask are its voxels within `width` steps of a voxel outside it, a step going to any of the 8
    neighbours (26 in 3D), as in the authors' code: what `width` erosions by a square of 3 remove. What lies outside
    the image is outside the mask. Two empty masks score 1, one scores 0.

    Args:
        prediction, truth: masks (*S) bool.
        width: in pixels; see `band_width`.
    """
    if width < 1:
        raise ValueError(f"width: expected at least 1 pixel; got {width}.")
    check_grid(prediction, truth, [1] * truth.ndim)
    check_masks(prediction=prediction, truth=truth)
    box = bounding_box(prediction | truth)
    bands = [mask[box] & ~_eroded(mask[box], width) for mask in (prediction, truth)]
    union = np.count_nonzero(bands[0] | bands[1])
    return np.count_nonzero(bands[0] & bands[1]) / union if union else 1.0


def band_width(shape: Sequence[int], share: float = 0.02) -> int:
    """Width of the boundary band in pixels: this share of the diagonal of the image, rounded, at least 1.

    >>> band_width((300, 400)), band_width((20, 20))
    (10, 1)
    """
    return max(1, round(share * math.hypot(*shape)))


def _eroded(mask: np.ndarray, width: int) -> np.ndarray:
    eroded = mask.astype(np.uint8)
    for axis in range(mask.ndim if mask.size else 0):
        eroded = minimum_filter1d(eroded, 2 * width + 1, axis=axis, mode="constant", cval=0)
    return eroded.astype(bool)
