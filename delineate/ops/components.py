"""Connected components of masks, and the Voronoi cells around them.

Letters: N samples, C channels, *S space, K components of a sample.

A component is a set of voxels of one label that hang together: through sides ("face": 4 neighbours in 2D, 6 in 3D),
through sides and edges ("edge": 8 and 18), or through corners too ("full": 8 and 26). cc3d and scipy disagree on the
default, so there is none here, and loss and metric take the same word. Components of one sample are numbered 1..K
over all its labels, in the order of their first voxel; 0 is no component.

The cell of a component are the voxels that are nearer to it than to any other of its label, by the distance between
the centres of voxels; ties go to either. One transform with indices finds the cells of a label.

Labelling is done by cc3d and cells by scipy, on the CPU and on threads of Python, sample by sample. Tensors of other
devices are copied there and back, for which the host waits: let the workers of a data loader derive them.
"""

from itertools import product

import cc3d
import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from delineate.ops.distance import read_masks
from delineate.ops.threads import in_threads

CONNECTIVITIES = {"face": (2, 4, 6), "edge": (2, 8, 18), "full": (2, 8, 26)}
"""Names, and the number of neighbours of a voxel in 1D, 2D and 3D."""
MOST = 2**16
"""Components of one sample, at most: more is noise, and not instances."""


def neighbours(connectivity: str, dims: int) -> int:
    """Number of neighbours of a voxel.

    >>> neighbours("full", dims=3), neighbours("face", dims=2)
    (26, 4)
    """
    if connectivity not in CONNECTIVITIES:
        raise ValueError(f"connectivity: expected one of {', '.join(CONNECTIVITIES)}; got {connectivity!r}.")
    return CONNECTIVITIES[connectivity][dims - 1]


def connected(labels: np.ndarray, connectivity: str) -> tuple[np.ndarray, int]:
    """Number the components of all labels but 0.

    Args:
        labels: (*S) bool or integer, one to three dims.
        connectivity: "face", "edge" or "full".

    Returns:
        The number of each voxel's component, (*S) int32, and how many there are.

    Raises:
        ValueError: for an unknown connectivity, and for more than `MOST` components.

    >>> connected(np.array([[1, 0, 2], [0, 1, 2]]), "full")
    (array([[1, 0, 2],
           [0, 1, 2]], dtype=int32), 2)
    """
    around = neighbours(connectivity, labels.ndim)
    grid = labels[None] if labels.ndim == 1 else labels
    grid = grid.view(np.uint8) if grid.dtype == bool else grid
    if grid.size == 0 or not grid.any():
        return np.zeros(labels.shape, np.int32), 0
    found, count = cc3d.connected_components(
        np.ascontiguousarray(grid), connectivity=max(around, 4), return_N=True, out_dtype=np.uint32
    )
    if count > MOST:
        raise ValueError(
            f"components: expected at most {MOST} connected components in one sample; got {count}. These labels are "
            "noise rather than instances: correct them, or remove small components first."
        )
    return np.asarray(found).astype(np.int32).reshape(labels.shape), int(count)
