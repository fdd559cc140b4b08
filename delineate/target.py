"""`Target`: labels, and the geometry that losses derive from them, each computed once and only if asked for.

What can be derived is named by `Geometry`: a loss lists in `needs` what it asks for, so that the workers of a data
loader can fill it in ahead (`delineate.data.Prepare`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from delineate.ops.components import cells, components
from delineate.ops.contour import contour_sizes
from delineate.ops.distance import squared_distances, squared_label_distances
from delineate.ops.skeleton import skeletons, tubes

Spacing = Sequence[float] | Sequence[Sequence[float]] | Tensor


class Geometry(NamedTuple):
    """What a loss asks a target for."""

    kind: str
    """One of `KINDS`."""
    spacing: tuple[float, ...] | None = None
    """Size of a voxel along each axis; None: that of the target."""
    connectivity: str = "full"
    """What hangs together, of components and their cells: "face", "edge" or "full"."""
    min_size: int = 1
    """Voxels of the smallest component that is looked at."""


class Target:
    """Labels and what is derived from them; losses take it in place of the labels.

    Args:
        labels: (N, *S) or (N, 1, *S) of any integer dtype or bool, or a dense float map (N, C, *S). The mask of a
            channel are the voxels of its label, or those of a dense map above 0.5.
        ignore_index: label of voxels that are on no side of anything; it must be that of the losses.
        spacing: size of a voxel along each axis, one list for all samples or one for each; None: 1.
        prepared: what was derived already; see `delineate.data.Prepare`.

    Nothing is computed before a loss asks for it, and then it is kept: for labels that do not change.

    Raises:
        ValueError: when `spacing` does not fit the labels, or what was prepared does not.

    >>> target = Target(torch.tensor([[[0, 0, 1, 1]]]), spacing=[1.0, 0.5])
    >>> target.find(Geometry("distances"), shape=(1, 2, 1, 4))[0, 1].tolist()
    [[1.0, 0.25, 0.25, 1.0]]
    """

    def __init__(
        self,
        labels: Tensor,
        *,
        ignore_index: int | None = None,
        spacing: Spacing | None = None,
        prepared: Mapping[Geometry, Tensor] | None = None,
    ):
        self.labels, self.ignore_index = labels, ignore_index
        self.spacing = None if spacing is None else torch.as_tensor(spacing, dtype=torch.float64, device="cpu")
        self._found: dict[Geometry, Tensor] = dict(prepared or {})

    def find(self, geometry: Geometry, shape: Sequence[int]) -> Tensor:
        """What `geometry` names, derived at the first call.

        Args:
            shape: (N, C, *S), that of the logits.
        """
        if geometry not in self._found:
            samples, channels, *space = shape
            dense = self.labels.is_floating_point()
            labels = self.labels.reshape(*(shape if dense else (samples, *space)))
            ignored = None if dense or self.ignore_index is None else labels.long() == self.ignore_index
            spacing = self.voxel_size(geometry.spacing, samples, len(space))
            components = self._components_of(geometry, shape)
            self._found[geometry] = _DERIVED[geometry.kind](labels, channels, ignored, spacing, geometry, components)
        found, expected = self._found[geometry], _shape(geometry.kind, shape, self.labels.is_floating_point())
        if tuple(found.shape) != expected:
            raise ValueError(
                f"Target: `prepared` {geometry.kind} must be {expected} to match logits {tuple(shape)}; got "
                f"{tuple(found.shape)}. Prepare them with the classes and the size of the logits."
            )
        return found

    def _components_of(self, geometry: Geometry, shape: Sequence[int]) -> Tensor | None:
        """The components that cells belong to: those of this target, given or derived, with their numbers."""
        kind = {"cells": "components", "all_cells": "all_components"}.get(geometry.kind)
        return None if kind is None else self.find(geometry._replace(kind=kind, spacing=None), shape)

    def found(self) -> dict[Geometry, Tensor]:
        """All that was derived so far."""
        return dict(self._found)

    def to(self, device: torch.device | str) -> "Target":
        """The same on another device, with all that was derived."""
        prepared = {geometry: found.to(device) for geometry, found in self._found.items()}
        return Target(self.labels.to(device), ignore_index=self.ignore_index, spacing=self.spacing, prepared=prepared)

    def voxel_size(self, given: tuple[float, ...] | None, samples: int, dims: int) -> Tensor | None:
        """Size of a voxel along each axis, (N, dims) float64: what a loss was given, or the target's; None: 1."""
        sizes = self.spacing
        if given is not None:
            asked = torch.tensor(given, dtype=torch.float64)
            if sizes is not None and not (sizes.shape[-1:] == asked.shape and bool((sizes == asked).all())):
                raise ValueError(
                    f"spacing: a loss was given {list(given)} and the Target {sizes.tolist()}. Give it to one of them."
                )
            sizes = asked
        if sizes is None:
            return None
        if sizes.shape not in ((dims,), (samples, dims)) or not bool(((sizes > 0) & sizes.isfinite()).all()):
            raise ValueError(
                f"spacing: expected the size of a voxel along each of {dims} axes, finite and above 0, for all or "
                f"for each of {samples} samples; got {sizes.tolist()}."
            )
        return sizes.expand(samples, dims).to(self.labels.device, non_blocking=True)  # so few that no wait is needed


def _shape(kind: str, shape: Sequence[int], dense: bool) -> tuple[int, ...]:
    """That of what is derived for logits of a shape; see `KINDS`."""
    samples, channels, *space = shape
    of_kind = {
        "label_distances": (samples, *space),
        "contour_sizes": (samples, 2, channels),
        "cells": (samples, max(channels - 1, 1), *space),
    }
    if not dense:
        of_kind |= dict.fromkeys(("components", "all_components"), (samples, *space))
    return of_kind.get(kind, (samples, channels, *space))


def _label_distances(labels: Tensor, ignored: Tensor | None, spacing: Tensor | None) -> Tensor:
    return squared_label_distances(labels.argmax(1) if labels.is_floating_point() else labels, ignored, spacing)


def _components(everything: bool) -> "Derive":
    return lambda labels, channels, ignored, spacing, asked, _: components(
        labels, channels, ignored, asked.connectivity, asked.min_size, everything
    )


def _cells(everything: bool) -> "Derive":
    return lambda labels, channels, ignored, spacing, asked, ids: cells(
        cast(Tensor, ids), labels, channels, ignored, spacing, everything
    )


Derive = Callable[[Tensor, int, Tensor | None, Tensor | None, Geometry, Tensor | None], Tensor]
"""Of labels, the number of channels, ignored voxels, the size of a voxel, what was asked for, and cells' components."""
_DERIVED: dict[str, Derive] = {
    "distances": lambda labels, channels, ignored, spacing, *_: squared_distances(labels, channels, ignored, spacing),
    "label_distances": lambda labels, channels, ignored, spacing, *_: _label_distances(labels, ignored, spacing),
    "contour_sizes": lambda labels, channels, ignored, *_: contour_sizes(labels, channels, ignored),
    "skeletons": lambda labels, channels, ignored, *_: skeletons(labels, channels, ignored),
    "tubes": lambda labels, channels, ignored, *_: tubes(labels, channels, ignored, True),
    "channel_tubes": lambda labels, channels, ignored, *_: tubes(labels, channels, ignored, False),
    "components": _components(False),
    "all_components": _components(True),
    "cells": _cells(False),
    "all_cells": _cells(True),
}
KINDS = tuple(_DERIVED)
"""What can be derived: squared distances of each voxel to the other side of the mask of each channel (N, C, *S), or to
the nearest voxel of another label (N, *S); voxels on the contour of each mask and in it (N, 2, C); morphological
skeletons of the masks (N, C, *S); the surroundings of the thinned foreground, or of each thinned mask (N, C, *S); the
number of each voxel's connected component, without label 0 or with it, (N, *S) of labels and (N, C, *S) of a dense map;
the number of the component in whose Voronoi cell a voxel lies, (N, C - 1, *S) without channel 0, (N, C, *S) with it."""
