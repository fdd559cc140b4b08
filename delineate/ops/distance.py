"""Exact Euclidean distances from every voxel to the other side of a mask, squared.

A mask is a class of a label map, or a channel of a dense map above 0.5. With g its valid voxels,

    d(i) = distance from voxel i to the nearest valid voxel outside g, for i in g, and elsewhere to the nearest in g

so one map serves both sides: the signed distance is -d in g and +d outside. Ignored voxels are on neither side:
distances pass through them, and there the map is 0. A mask without another side (empty, or all valid voxels) has the
distance 1 everywhere, so that nothing derived from it is infinite. Squared distances are what the transform yields;
with unit or integer spacing they are exact in float32.

On the CPU the transform is that of the library edt, on as many threads as PyTorch has. On CUDA kernels go through the
axes in turn, see `delineate.ops.cuda.distance`. On other devices so do plain tensor operations: along each axis, the
smallest sum of what was found so far and the squared offset, by as many elementwise minima as the axis has offsets, for
all masks at once and without a look at the data from the host.
"""

from collections.abc import Sequence

import edt
import numpy as np
import torch
from torch import Tensor

from delineate.ops.cuda import on_cuda
from delineate.ops.transforms import batched


def read_masks(target: Tensor, channels: int, ignored: Tensor | None) -> Tensor:
    """What a label map or a dense map says of each channel, as masks (N, C, *S) bool without ignored voxels.

    Args:
        target: labels (N, *S) of any integer dtype or bool, with C = 1 of 0 and 1; or a float map (N, C, *S).
        ignored: (N, *S) bool, or None.
    """
    if target.is_floating_point():
        masks = target > 0.5
    else:
        names = torch.arange(channels, device=target.device) if channels > 1 else torch.ones(1, device=target.device)
        masks = target.long()[:, None] == names.long().view(1, -1, *[1] * (target.ndim - 1))
    return masks if ignored is None else masks & ~ignored[:, None]


@torch.library.custom_op("delineate::squared_distances", mutates_args=())
def squared_distances(target: Tensor, channels: int, ignored: Tensor | None, spacing: Tensor | None) -> Tensor:
    """Squared distance of each voxel to the other side, for each channel.

    Args:
        target, channels, ignored: see `read_masks`.
        spacing: size of a voxel along each axis, (N, dims) float64; None: 1.

    Returns:
        (N, C, *S) float32.
    """
    masks = read_masks(target, channels, ignored)
    if masks.device.type != "cpu":
        return _separable(masks, ignored, spacing).contiguous()
    found = torch.empty(masks.shape, dtype=torch.float32)
    sizes = _sizes(spacing, masks)
    for n, size in enumerate(sizes if masks.numel() else []):
        void = None if ignored is None else ignored[n].numpy()
        found[n] = torch.from_numpy(_of_masks(masks[n].numpy(), void, size))
    return found


@torch.library.custom_op("delineate::squared_label_distances", mutates_args=())
def squared_label_distances(labels: Tensor, ignored: Tensor | None, spacing: Tensor | None) -> Tensor:
    """Squared distance of each voxel to the nearest valid voxel of another label; 1 where there is none.

    Args:
        labels: (N, *S) of any integer dtype or bool. ignored, spacing: as above.

    Returns:
        (N, *S) float32, 0 at ignored voxels.
    """
    labels, sizes = labels.long(), _sizes(spacing, labels[:, None])
    if labels.device.type != "cpu" or (ignored is not None and ignored.any()):
        found = torch.zeros(labels.shape, dtype=torch.float32, device=labels.device)
        for label in labels.unique().tolist():  # one side after the other: distances must pass through ignored voxels
            on = labels == label
            on = on if ignored is None else on & ~ignored
            to_others = squared_distances(on.float()[:, None], 1, ignored, spacing)[:, 0]
            found = torch.where(on, to_others, found)
        return found.contiguous()
    if not labels.numel():
        return torch.empty(labels.shape, dtype=torch.float32)
    names: np.ndarray = (labels - labels.min() + 1).numpy().astype(np.uint32)
    return torch.stack(
        [torch.from_numpy(_finite(_edt(one, size))) for one, size in zip(list(names), sizes, strict=True)]
    )


def _sizes(spacing: Tensor | None, masks: Tensor) -> list[tuple[float, ...]]:
    """Size of a voxel along each axis, for each sample."""
    if spacing is None:
        return [(1.0,) * (masks.ndim - 2)] * len(masks)
    return [tuple(row) for row in spacing.tolist()]


def _of_masks(masks: np.ndarray, ignored: np.ndarray | None, size: Sequence[float]) -> np.ndarray:
    """Of the masks (C, *S) of one sample, without ignored voxels."""
    if ignored is None or not ignored.any():
        return _finite(_edt_of_each(masks.view(np.uint8) + np.uint8(1), size))
    inside, outside = (_edt_of_each(side.view(np.uint8), size) for side in (masks | ignored, ~masks))
    return np.where(ignored, 0, _finite(np.where(masks, inside, outside)))


def _edt_of_each(labels: np.ndarray, size: Sequence[float]) -> np.ndarray:
    """Of each of the maps (C, *S). Images are the slices of a volume, so far apart that none is near another."""
    if labels.ndim == 4:
        return np.stack([_edt(one, size) for one in labels])
    apart = 2 * sum(side * length for side, length in zip(labels.shape[1:], size, strict=True))
    found = _edt(labels, (apart, *size))
    return np.where(found < apart**2 / 2, found, np.float32(np.inf))


def _edt(labels: np.ndarray, size: Sequence[float]) -> np.ndarray:
    """Squared distance to the nearest voxel of another label; infinite where there is none. The label 0 has 0."""
    sizes, threads = size if labels.ndim > 1 else size[0], torch.get_num_threads()
    return edt.edtsq(np.ascontiguousarray(labels), anisotropy=sizes, parallel=threads)


def _finite(found: np.ndarray) -> np.ndarray:
    """The same with 1 in place of infinity: of a mask without another side, that is everywhere."""
    return np.where(np.isinf(found), np.float32(1), found)


def _separable(masks: Tensor, ignored: Tensor | None, spacing: Tensor | None) -> Tensor:
    """Of masks (N, C, *S) without ignored voxels, by plain tensor operations."""
    others = ~masks if ignored is None else ~(masks | ignored[:, None])
    to_masks, to_others = (_to_nearest(places, spacing) for places in (masks, others))
    found = torch.where(masks, to_others, to_masks)
    found = torch.where(found.isinf(), 1, found)
    return found if ignored is None else found.masked_fill(ignored[:, None], 0)


def _to_nearest(places: Tensor, spacing: Tensor | None) -> Tensor:
    """Squared distance to the nearest of the places (N, C, *S); infinite where there are none."""
    found = torch.full(places.shape, torch.inf, device=places.device).masked_fill_(places, 0)
    for dim in range(2, places.ndim):
        before, size = found.clone(), places.shape[dim]
        step = 1.0 if spacing is None else spacing[:, dim - 2].float().view(-1, *[1] * (places.ndim - 1))
        for offset in range(1, size):
            far = before + (step * offset) ** 2
            for at, of in ((0, offset), (offset, 0)):
                here = found.narrow(dim, at, size - offset)
                torch.minimum(here, far.narrow(dim, of, size - offset), out=here)
    return found


@squared_distances.register_fake
def _(target, channels, ignored, spacing):
    space = target.shape[2:] if target.is_floating_point() else target.shape[1:]
    return target.new_empty(target.shape[0], channels, *space, dtype=torch.float32)


@squared_label_distances.register_fake
def _(labels, ignored, spacing):
    return labels.new_empty(labels.shape, dtype=torch.float32)


squared_distances.register_vmap(batched(squared_distances))
squared_label_distances.register_vmap(batched(squared_label_distances))
on_cuda(squared_distances, "distance", "squared_distances")
on_cuda(squared_label_distances, "distance", "squared_label_distances")
