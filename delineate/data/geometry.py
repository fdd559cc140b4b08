"""`Prepare`: the geometry that a loss needs of its labels, derived sample by sample in the workers of a data loader.

What was derived moves with the image where that is exact, under flips. All other moves of the image, and padding,
leave it behind: it becomes an empty tensor, `collate` drops it, and the loss derives it from the labels as they are
then. So the loss is the same wherever `Prepare` stands among transforms of torchvision, and cheapest with it last.
Other transforms know nothing of it: they must come before.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import register_kernel

from delineate.target import Geometry, Target

_FLIPS = {"horizontal_flip": -1, "vertical_flip": -2}
_MOVES = (
    *("resize", "affine", "rotate", "pad", "crop", "perspective", "elastic", "center_crop", "resized_crop"),
    *_FLIPS,
)


class Derived(tv_tensors.TVTensor):
    """What was derived from the labels of one sample; whatever moves the image leaves it behind."""


class DerivedMap(Derived):
    """A map (..., *S) that flips move as they move the image: flipping and deriving commute."""


class DerivedSizes(Derived):
    """Numbers that flips do not change."""


_FORMS = {
    "distances": DerivedMap,
    "label_distances": DerivedMap,
    "skeletons": DerivedMap,
    "contour_sizes": DerivedSizes,
    **dict.fromkeys(("components", "all_components", "cells", "all_cells"), DerivedMap),
}
"""How what is derived moves; thinning, which goes by the parity of coordinates, does not commute with flips."""


def _leave_behind(derived: Derived, *args: Any, **kwargs: Any) -> Derived:
    return torch.empty(0).as_subclass(Derived)


def _flip(dim: int):
    def kernel(derived: Derived, *args: Any, **kwargs: Any) -> Derived:
        return derived.as_subclass(Tensor).flip(dim).as_subclass(type(derived))

    return kernel


def _keep(derived: Derived, *args: Any, **kwargs: Any) -> Derived:
    return derived


for _move in _MOVES:
    register_kernel(_move, Derived)(_leave_behind)
for _move, _dim in _FLIPS.items():
    register_kernel(_move, DerivedMap)(_flip(_dim))
    register_kernel(_move, DerivedSizes)(_keep)


class Prepare:
    """A transform that adds the geometry which a loss needs to a sample, as `geometry`.

    Its place is last among the transforms of training: see `delineate.data.geometry`. `collate` makes batches of it,
    and `target` gives the loss what it takes. The value of the loss is the same as without.

    Args:
        loss: the loss of training, or anything else with `needs`.
        classes: C, the number of channels of the logits.
        spacing: size of a voxel along each axis; None: 1, or what the loss was given.

    Shape: a sample with `mask`, labels (*S) of an integer dtype -> the same with `geometry`, a dict of `Geometry` to a
        tensor without the dim of the batch. Samples without a mask, and all samples of a loss that needs no geometry,
        are returned as they are.

    Raises:
        ValueError: when terms of the loss disagree on the ignored label, or labels are not below `classes`.

    >>> from delineate.losses import BoundaryLoss, DiceLoss
    >>> loss = DiceLoss() + BoundaryLoss()
    >>> prepare = Prepare(loss, classes=2)
    >>> sample = {"image": torch.rand(3, 1, 4), "mask": torch.tensor([[0, 0, 1, 1]])}
    >>> derived = prepare(sample)["geometry"]
    >>> [(geometry.kind, tuple(found.shape)) for geometry, found in derived.items()]
    [('distances', (2, 1, 4))]
    >>> batch = torch.utils.data.default_collate([prepare(sample)])
    >>> logits = torch.zeros(1, 2, 1, 4)
    >>> bool(loss(logits, prepare.target(batch)) == loss(logits, batch["mask"]))
    True
    """

    def __init__(self, loss: Any, classes: int, spacing: Sequence[float] | None = None):
        if not hasattr(loss, "needs"):
            raise ValueError(
                f"Prepare: `loss` must be a loss, which says in `needs` what it needs; got {type(loss).__name__}. Give "
                "the loss of training, such as DiceLoss() + BoundaryLoss()."
            )
        if type(classes) is not int or classes < 1:
            raise ValueError(
                f"Prepare: `classes` must be a whole number of at least 1; got {classes!r}. Give the number of "
                "channels of the logits."
            )
        self.needs = _geometry(loss)
        """What is derived."""
        self.ignore_index = _ignored_label(loss)
        self.classes = classes
        self.spacing = None if spacing is None else tuple(spacing)

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        if not self.needs or "mask" not in sample:
            return sample
        labels = sample["mask"].as_subclass(Tensor)
        self._check(labels, sample.get("id"))
        target = Target(labels[None], ignore_index=self.ignore_index, spacing=self.spacing)
        shape = (1, self.classes, *labels.shape)
        found = {need: target.find(need, shape)[0].as_subclass(_FORMS.get(need.kind, Derived)) for need in self.needs}
        return sample | {"geometry": found}

    def target(self, batch: Mapping[str, Any]) -> Tensor | Target:
        """What the loss takes for a batch: its `mask`, with all that the batch has of `geometry`."""
        if not self.needs:
            return batch["mask"]
        prepared = batch.get("geometry")
        return Target(batch["mask"], ignore_index=self.ignore_index, spacing=self.spacing, prepared=prepared)

    def _check(self, labels: Tensor, name: str | None) -> None:
        """Raise where labels are none of the channels."""
        place = "" if name is None else f" of {name}"
        if labels.is_floating_point():
            raise ValueError(
                f"Prepare: `mask`{place} must be labels (*S) of an integer dtype; got {labels.dtype} "
                f"{tuple(labels.shape)}. Leave Prepare out for dense maps: the loss derives the same."
            )
        labels, highest = labels.long(), max(self.classes, 2) - 1
        wrong = (labels < 0) | (labels > highest)
        wrong = wrong if self.ignore_index is None else wrong & (labels != self.ignore_index)
        if wrong.any():
            raise ValueError(
                f"Prepare: labels in `mask`{place} must be in 0..{highest} to match classes={self.classes}, or "
                f"ignore_index={self.ignore_index}; got {sorted(set(labels[wrong].tolist()))[:5]}. Give Prepare as "
                "many classes as the logits have channels, and the loss the ignore_index of the data."
            )


def stack_geometry(samples: Sequence[Mapping[str, Any]]) -> dict[Geometry, Tensor]:
    """What all samples have and no move left behind, in batches: plain tensors (N, ...)."""
    found = [sample.get("geometry", {}) for sample in samples]
    everywhere = [need for need in found[0] if all(one.get(need) is not None and one[need].numel() for one in found)]
    return {need: torch.stack([one[need].as_subclass(Tensor) for one in found]) for need in everywhere}


def _geometry(part: Any) -> tuple[Geometry, ...]:
    """The geometry among the needs of a loss or of another module, which may have none."""
    needs = getattr(part, "needs", ())
    return tuple(need for need in needs if isinstance(need, Geometry)) if isinstance(needs, Iterable) else ()


def _ignored_label(loss: Any) -> int | None:
    """That of the terms that need geometry."""
    parts = list(loss.modules()) if isinstance(loss, nn.Module) else [loss]
    asking = [part for part in parts if _geometry(part)]
    terms = [part for part in asking if not any(other is not part and _holds(part, other) for other in asking)]
    labels = {getattr(term, "ignore_index", None) for term in terms}
    if len(labels) > 1:
        raise ValueError(
            f"Prepare: all terms that need geometry must have the same `ignore_index`; got {sorted(labels, key=str)}. "
            "Construct them alike."
        )
    return labels.pop() if labels else None


def _holds(part: nn.Module, other: nn.Module) -> bool:
    return any(inner is other for inner in part.modules())
