"""How many voxels of each mask there are, and how many of these lie on its contour."""

import torch
from torch import Tensor

from delineate.ops.distance import read_masks


def contour_sizes(target: Tensor, channels: int, ignored: Tensor | None) -> Tensor:
    """Voxels on the contour of each mask and all its voxels, (N, 2, C) float64.

    On the contour: with a face neighbour (4 in 2D, 6 in 3D, along axes longer than 1) that is not of the mask, or
    ignored, or outside the image.

    Args:
        target, channels, ignored: see `delineate.ops.distance.read_masks`.
    """
    masks = read_masks(target, channels, ignored)
    inner = masks.clone()
    for dim in range(2, masks.ndim):
        size = masks.shape[dim]
        if size > 1:
            inner.narrow(dim, 1, size - 1).logical_and_(masks.narrow(dim, 0, size - 1))
            inner.narrow(dim, 0, size - 1).logical_and_(masks.narrow(dim, 1, size - 1))
            inner.select(dim, 0).zero_()
            inner.select(dim, size - 1).zero_()
    whole, within = (found.flatten(2).sum(2).double() for found in (masks, inner))
    return torch.stack([whole - within, whole], 1)
