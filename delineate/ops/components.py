"""Connected components of masks, and the Voronoi cells around them.

Letters: N samples, C channels, *S space, K components of a sample.

A component is a set of voxels of one label that hang together: through sides ("face": 4 neighbours in 2D, 6 in 3D),
through sides and edges ("edge": 8 and 18), or through corners too ("full": 8 and 26). cc3d and scipy disagree on the
default, so there is none here, and loss and metric take the same word. Components of one sample are numbered 1..K
over all its labels or channels; 0 is no component.

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
from delineate.ops.transforms import batched

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


def connected(labels: np.ndarray, connectivity: str, most: int | None = MOST) -> tuple[np.ndarray, int]:
    """Number the components of all labels but 0.

    Args:
        labels: (*S) bool or integer, one to three dims.
        connectivity: "face", "edge" or "full".
        most: how many there may be; None: any number.

    Returns:
        The number of each voxel's component, (*S) int32, and how many there are.

    Raises:
        ValueError: for an unknown connectivity, and for more components than there may be.

    >>> connected(np.array([[1, 0, 2], [0, 1, 2]]), "full")
    (array([[1, 0, 2],
           [0, 1, 2]], dtype=int32), 2)
    """
    around = neighbours(connectivity, labels.ndim)
    grid = labels[None] if labels.ndim == 1 else labels
    grid = grid.view(np.uint8) if grid.dtype == bool else grid
    if grid.size == 0 or not grid.any():
        return np.zeros(labels.shape, np.int32), 0
    found, count = cc3d.connected_components(  # pyright: ignore[reportCallIssue]
        np.ascontiguousarray(grid),
        connectivity=max(around, 4),  # pyright: ignore[reportArgumentType]
        return_N=True,
        out_dtype=np.uint32,
    )
    check_number(count, most)
    return np.asarray(found).astype(np.int32).reshape(labels.shape), int(count)


def check_number(count: int, most: int | None = MOST) -> None:
    """Raise for more components than there may be."""
    if most is not None and count > most:
        raise ValueError(
            f"components: expected at most {most} connected components in one sample; got {count}. These labels are "
            "noise rather than instances: correct them, or leave out small components with min_size."
        )


@torch.library.custom_op("delineate::components", mutates_args=())
def components(
    target: Tensor,
    channels: int,
    ignored: Tensor | None,
    connectivity: str,
    min_size: int,
    everything: bool,
    largest: bool = False,
) -> Tensor:
    """Components of the foreground of each sample.

    Args:
        target: labels (N, *S) of any integer dtype or bool, with C = 1 of 0 and 1; or a float map (N, C, *S), whose
            masks are its values above 0.5.
        ignored: (N, *S) bool, or None: voxels of no component, which cut those they cross.
        connectivity: "face", "edge" or "full".
        min_size: components of fewer voxels are left out.
        everything: whether label 0, or channel 0 of several, is foreground too.
        largest: whether the `MOST` largest are taken where there are more, as in a noisy prediction; else they raise.

    Returns:
        The number of each voxel's component, int32: (N, *S) of labels, (N, C, *S) of a float map; 0 for none.

    Raises:
        ValueError: for more than `MOST` components in a sample.
    """
    found = torch.zeros(target.shape, dtype=torch.int32)
    grids, void = target.cpu(), None if ignored is None else ignored.cpu()

    def fill(n: int) -> None:
        inside = _foreground(grids[n], channels, None if void is None else void[n], everything)
        ids, count = _numbered(inside.numpy(), grids.is_floating_point(), connectivity)
        ids, count = _without_small(ids, count, min_size, MOST if largest else None)
        check_number(count)
        found[n] = torch.from_numpy(ids)

    in_threads(fill, range(len(found)))
    return found.to(target.device)


@torch.library.custom_op("delineate::cells", mutates_args=())
def cells(
    ids: Tensor, target: Tensor, channels: int, ignored: Tensor | None, spacing: Tensor | None, everything: bool
) -> Tensor:
    """Voronoi cells of the components of each foreground channel.

    Args:
        ids: number of each voxel's component, as `components` returns them for the target.
        spacing: size of a voxel along each axis, (N, dims) float64; None: 1.
        target, channels, ignored, everything: see `components`.

    Returns:
        The number of the channel's component in whose cell a voxel lies, (N, K, *S) int32, with K the channels of the
        foreground: without channel 0, unless it is foreground. 0 at ignored voxels, at the channel's voxels of
        components that are left out, and in a channel without components.
    """
    ids, masks = ids.cpu(), read_masks(target, channels, ignored).cpu()
    first = 0 if everything or channels == 1 else 1
    found = torch.zeros(masks[:, first:].shape, dtype=torch.int32)
    steps = None if spacing is None else spacing.tolist()

    def fill(place: tuple[int, int]) -> None:
        n, c = place
        mask = masks[n, first + c]
        numbers = torch.where(mask, ids[n, first + c] if ids.ndim == masks.ndim else ids[n], 0)
        left_out = mask & (numbers == 0)
        left_out = left_out if ignored is None else left_out | ignored[n].cpu()
        nearest = torch.from_numpy(_nearest(numbers.numpy(), None if steps is None else steps[n]))
        found[n, c] = nearest.masked_fill_(left_out, 0)

    in_threads(fill, list(product(range(found.shape[0]), range(found.shape[1]))))
    return found.to(target.device)


@components.register_fake
def _(target, channels, ignored, connectivity, min_size, everything, largest=False):
    return target.new_empty(target.shape, dtype=torch.int32)


@cells.register_fake
def _(ids, target, channels, ignored, spacing, everything):
    space = target.shape[2:] if target.is_floating_point() else target.shape[1:]
    kept = channels if everything or channels == 1 else channels - 1
    return target.new_empty((target.shape[0], kept, *space), dtype=torch.int32)


components.register_vmap(batched(components))
cells.register_vmap(batched(cells))


def _foreground(target: Tensor, channels: int, ignored: Tensor | None, everything: bool) -> Tensor:
    """One sample's labels (*S), from 1 on and 0 elsewhere; or the masks (C, *S) of its channels."""
    if target.is_floating_point():
        masks = target > 0.5
        if not everything and channels > 1:
            masks[0] = False
        return masks if ignored is None else masks & ~ignored
    labels = target.int() + 1 if everything and channels > 1 else target.int()
    return labels if ignored is None else labels.masked_fill(ignored, 0)


def _numbered(inside: np.ndarray, by_channel: bool, connectivity: str) -> tuple[np.ndarray, int]:
    """Components of labels (*S), or of masks (C, *S) each by itself, numbered through; and how many there are."""
    if not by_channel:
        return connected(inside, connectivity, most=None)
    found, last = np.zeros(inside.shape, np.int32), 0
    for numbers, mask in zip(found, inside, strict=True):
        ids, count = connected(mask, connectivity, most=None)
        numbers[mask] = ids[mask] + last
        last += count
    return found, last


def _without_small(ids: np.ndarray, count: int, min_size: int, most: int | None) -> tuple[np.ndarray, int]:
    """The components of at least so many voxels, and at most so many of them, numbered anew without gaps."""
    if not count or (min_size <= 1 and (most is None or count <= most)):
        return ids, count
    sizes = np.bincount(ids.ravel(), minlength=count + 1)
    sizes[0] = 0
    kept = sizes >= max(min_size, 1)
    if most is not None and kept.sum() > most:
        kept[np.argsort(-sizes, kind="stable")[most:]] = False
    return np.where(kept, np.cumsum(kept), 0).astype(np.int32)[ids], int(kept.sum())


def _nearest(ids: np.ndarray, spacing: list[float] | None) -> np.ndarray:
    """The number of the nearest component of every voxel."""
    inside = ids > 0
    numbers = ids[inside]
    if not numbers.size or numbers.min() == numbers.max():
        return np.full_like(ids, numbers[0] if numbers.size else 0)
    places = distance_transform_edt(~inside, spacing, return_distances=False, return_indices=True)
    return ids[tuple(np.asarray(places))]
