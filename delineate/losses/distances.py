"""What losses of distances have in common: the maps of one call, and their scale.

See `delineate.losses.boundary` for the conventions.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Unpack

import torch
from torch import Tensor

from delineate.losses.counts import MapLoss, PoolCommon
from delineate.losses.inputs import Inputs
from delineate.losses.loss import Loss
from delineate.ops.distance import squared_distances
from delineate.target import Geometry


def checked_spacing(loss: Loss, spacing: Sequence[float] | None) -> tuple[float, ...] | None:
    """The argument `spacing` of a loss."""
    if spacing is None:
        return None
    if not isinstance(spacing, Iterable) or isinstance(spacing, str) or not 1 <= len(tuple(spacing)) <= 3:
        raise ValueError(
            f"{type(loss).__name__}: `spacing` must be the size of a voxel along each axis; got {spacing!r}. Write "
            "spacing=[3.0, 1.0, 1.0]."
        )
    return tuple(float(loss._number("spacing", size, 0, above=True)) for size in spacing)


def map_kind(mode: str) -> str:
    """The distances that losses by voxel look at: to another label, or to the other side of each channel."""
    return "label_distances" if mode == "softmax" else "distances"


class Distances:
    """Distances of one call of a loss, of the type of its sums.

    Args:
        spacing: that of the loss; None: that of the target, or 1.
        scale_free: whether distances are divided by the diagonal.
        pick: takes from maps of all channels those that are wanted; None: all.
    """

    def __init__(
        self,
        inputs: Inputs,
        ignore_index: int | None,
        spacing: tuple[float, ...] | None,
        scale_free: bool,
        pick: Callable[[Tensor], Tensor] | None = None,
    ):
        self.inputs, self.ignore_index, self.spacing, self.pick = inputs, ignore_index, spacing, pick
        self.dtype = torch.float64 if inputs.logits.dtype == torch.float64 else torch.float32
        self.size = inputs.voxel_size(spacing, ignore_index)
        diagonal = self._diagonal()
        self.unit = 1 / diagonal if scale_free else None
        """By what distances are multiplied, (N,) float64; None: 1."""
        self.farthest = torch.ones_like(diagonal) if scale_free else diagonal
        """The diagonal of each image, (N,) float64."""

    def to_other_side(self, squared: bool = False) -> Tensor:
        """Distance of each voxel to the other side of the target's masks, (N, K, *S)."""
        found = self.inputs.geometry(Geometry("distances", self.spacing), self.ignore_index)
        return self._scaled(self.pick(found) if self.pick else found, squared)

    def to_other_label(self) -> Tensor:
        """Distance of each voxel to the nearest one of another label, (N, 1, *S)."""
        found = self.inputs.geometry(Geometry("label_distances", self.spacing), self.ignore_index)
        return self._scaled(found[:, None], False)

    def to_other_side_of(self, p: Tensor, squared: bool = False) -> Tensor:
        """The same as the first for the mask of a prediction, its valid voxels above 0.5."""
        ignored = self.inputs.ignored(self.ignore_index)
        return self._scaled(squared_distances(p.detach(), p.shape[1], ignored, self.size), squared)

    def shortest_side(self) -> Tensor:
        """Smallest size of a voxel along the axes longer than 1, as `by_sample` has it."""
        sizes = zip(self.inputs.shape[2:], self.voxel_sizes().unbind(1), strict=True)
        longer = [size for side, size in sizes if side > 1]
        if longer:
            return self.by_sample(torch.stack(longer).amin(0))
        return self.by_sample(torch.ones_like(self.farthest) if self.unit is None else self.unit)

    def voxel_sizes(self) -> Tensor:
        """Size of a voxel along each axis, (N, dims) float64, in units of the distances."""
        ones = self.farthest.new_ones(self.inputs.shape[0], len(self.inputs.shape) - 2)
        size = ones if self.size is None else self.size
        return size if self.unit is None else size * self.unit[:, None]

    def by_sample(self, values: Tensor) -> Tensor:
        """Values of samples (N,) beside maps (N, C, *S)."""
        return values.to(self.dtype).view(-1, *[1] * (len(self.inputs.shape) - 1))

    def _scaled(self, found: Tensor, squared: bool) -> Tensor:
        found = found.to(self.dtype)
        found = found if squared else found.sqrt()
        if self.unit is None:
            return found
        return found * self.by_sample(self.unit.square() if squared else self.unit)

    def _diagonal(self) -> Tensor:
        space, logits = self.inputs.shape[2:], self.inputs.logits
        size = logits.new_ones(len(logits), len(space), dtype=torch.float64) if self.size is None else self.size
        sides = [size_of * (side if side > 1 else 0) for side, size_of in zip(space, size.unbind(1), strict=True)]
        found = torch.stack(sides).square().sum(0).sqrt()
        return torch.where(found > 0, found, 1)


class DistanceLoss(MapLoss):
    """A mean over classes of sums against maps of distances.

    Args:
        spacing: size of a voxel along each axis, above 0; None: that of the `Target`, or 1.
        scale_free: whether distances are divided by the diagonal of the image.
        pool, absent: see `delineate.losses.counts`. common: see `Loss`.
    """

    def __init__(
        self, *, spacing: Sequence[float] | None = None, scale_free: bool = False, **common: Unpack[PoolCommon]
    ):
        super().__init__(**common)
        self.spacing = checked_spacing(self, spacing)
        self.scale_free = self._flag("scale_free", scale_free)
        self.needs = (Geometry("distances", self.spacing),)

    def distances(self, inputs: Inputs) -> Distances:
        return Distances(inputs, self.ignore_index, self.spacing, self.scale_free, self.of_scored)
