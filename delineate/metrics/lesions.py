"""Lesions by their cells and by their sizes: CC-Dice, and the recall of small and of large ones."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.spatial import KDTree

from delineate.metrics.grid import bounding_box, check_grid
from delineate.metrics.instance import Instances
from delineate.metrics.surface import surface

FEW = 1 / 32
"""Share of the voxels up to which looking for the nearest one by one is faster than a transform of all."""


def cell_dice(instances: Instances, spacing: Sequence[float]) -> np.ndarray:
    """Dice in the Voronoi cell of each true component, (T,) float64.

    The cell of a component are the voxels nearer to it than to any other, in mm between the centres of voxels; ties go
    to either. Each predicted voxel lies in one cell (CC-Metrics, Jaus et al. 2025, arXiv 2410.18684).

    Raises:
        ValueError: for a spacing of wrong length or not positive.
    """
    sizes, true = check_grid(instances.predicted_ids, instances.true_ids, spacing), instances.true_sizes
    if not true.size:
        return np.zeros(0)
    box = bounding_box((instances.true_ids > 0) | (instances.predicted_ids > 0))
    ids, predicted = instances.true_ids[box], instances.predicted_ids[box] > 0
    inside = np.bincount(ids[predicted], minlength=true.size + 1)[1:]
    outside = np.bincount(_nearest(ids, predicted & (ids == 0), sizes), minlength=true.size + 1)[1:]
    return 2 * inside / (true + inside + outside)


def cc_dice(instances: Instances, spacing: Sequence[float]) -> float:
    """Mean of `cell_dice`, 0 to 1; without true components 1 if nothing is predicted, else 0."""
    cells = cell_dice(instances, spacing)
    return float(cells.mean()) if cells.size else float(not instances.predicted_sizes.size)


def _nearest(ids: np.ndarray, places: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Number of the component nearest to each of the places (*S) bool, all outside of components, (n,) int."""
    if np.count_nonzero(places) > FEW * ids.size:
        nearest = distance_transform_edt(ids == 0, sampling=spacing, return_distances=False, return_indices=True)
        return ids[tuple(np.asarray(nearest)[:, places])]
    shell = surface(ids > 0)
    _, at = KDTree(np.argwhere(shell) * spacing).query(np.argwhere(places) * spacing)
    return ids[shell][at]


@dataclass(frozen=True)
class SizeBin:
    """Lesions with low <= size <= high in mm^3 (mm^2 in 2D); a size on a bound is in the lower bin."""

    low: float
    high: float
    lesions: int
    found: int

    @property
    def recall(self) -> float | None:
        """Found of all; None where the bin is empty."""
        return self.found / self.lesions if self.lesions else None


def recall_by_size(
    cases: Iterable[Sequence[tuple[float, bool]]], bounds: Sequence[float] | None = None
) -> list[SizeBin]:
    """How many lesions are found by size, of the lesions of all cases together.

    Args:
        cases: of each case, the size and whether it was found, of each true lesion.
        bounds: increasing sizes between the bins; None: the quartiles of these lesions, interpolated linearly. Many
            lesions of one size can make quartiles equal: the bins between them are empty.

    Returns:
        The bins in order of size, from the smallest to the largest lesion; none without lesions.

    >>> found = recall_by_size([[(1, False), (2, True)], [(9, True), (5, True)]])
    >>> [(bin.high, bin.lesions, bin.recall) for bin in found]
    [(1.75, 1, 0.0), (3.5, 1, 1.0), (6.0, 1, 1.0), (9.0, 1, 1.0)]
    """
    lesions = [lesion for case in cases for lesion in case]
    if bounds is not None and any(low >= high for low, high in pairwise(bounds)):
        raise ValueError(f"bounds: expected increasing sizes in mm^3; got {tuple(bounds)}.")
    if not lesions:
        return []
    sizes, found = np.array([size for size, _ in lesions], float), np.array([found for _, found in lesions], bool)
    inner = np.quantile(sizes, [0.25, 0.5, 0.75]) if bounds is None else np.asarray(bounds, float)
    bins, count = np.searchsorted(inner, sizes, side="left"), inner.size + 1
    all_of, found_of = np.bincount(bins, minlength=count), np.bincount(bins[found], minlength=count)
    whole = np.concatenate([sizes, inner])
    edges = [whole.min().item(), *inner.tolist(), whole.max().item()]
    return [SizeBin(edges[k], edges[k + 1], int(all_of[k]), int(found_of[k])) for k in range(count)]
