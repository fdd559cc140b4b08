"""The base of losses by instance: the mean of a loss over regions. See `delineate.losses.instance`."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from delineate.losses.components import Components, Sums
from delineate.losses.counts import Counts, PoolLoss, RatioLoss, ratio
from delineate.losses.distribution import CrossEntropyLoss, FocalLoss, PolyLoss
from delineate.losses.inputs import Inputs
from delineate.losses.loss import Loss, Sum, counted_classes
from delineate.losses.voxel import MeanCostLoss
from delineate.ops.components import CONNECTIVITIES
from delineate.ops.ranks import sum_over_ranks
from delineate.target import Geometry


class InstanceLoss(Loss):
    """A mean over connected components of another loss, or of a weighted sum of some.

    Args:
        inner: the loss that is taken of each component. It holds what is common to all losses: `mode`, `ignore_index`,
            `classes`, `class_weight`, `reduction`, and `pool`, `absent`, `smooth`.
        connectivity: what hangs together: "full" (8 neighbours in 2D, 26 in 3D), "edge" (8, 18) or "face" (4, 6).
        min_size: voxels of the smallest component that takes part.
    """

    takes_losses = True
    ALLOWED: tuple[type[Loss], ...] = (RatioLoss, CrossEntropyLoss, FocalLoss, PolyLoss)

    def __init__(self, inner: Loss, *, connectivity: str = "full", min_size: int = 1):
        name = type(self).__name__
        pairs = pairs_of(name, inner)
        alike = {key: agreed(name, [term for _, term in pairs], key) for key in ("mode", "ignore_index", "classes")}
        super().__init__(**alike, reduction=inner.reduction)
        for _, term in pairs:
            self._check(term)
        self.inner = inner
        self.connectivity = self._option("connectivity", connectivity, tuple(CONNECTIVITIES))
        self.min_size = self._integer("min_size", min_size, low=1)
        self._need(self.asked("components"))

    @abstractmethod
    def partitions(self, term: Loss, parts: Components) -> list[tuple[float, Tensor, Tensor]]:
        """Sums of the values of regions, and how many these are, by sample and class: shares and (N, C) tables."""

    def compute(self, inputs: Inputs) -> Tensor:
        channels = self.scored(inputs.shape[1], inputs.logits.device)
        pairs = pairs_of(type(self).__name__, self.inner)
        terms = [term for _, term in pairs]
        geometry, place = self.asked("components"), self.scored_channels(inputs.shape[1])
        parts = Components(inputs, geometry, self.mode, self.ignore_index, place, terms)
        return torch.stack([factor * self._value(term, parts, channels) for factor, term in pairs]).sum(0)

    def asked(self, kind: str, spacing: tuple[float, ...] | None = None) -> Geometry:
        """The components, or their cells, that this loss looks at."""
        everything = self.mode == "sigmoid" or 0 in (self.classes or ())
        return Geometry(f"all_{kind}" if everything else kind, spacing, self.connectivity, self.min_size)

    def scored_channels(self, channels: int) -> list[int]:
        """The classes whose components take part."""
        first = 0 if self.mode == "sigmoid" else 1
        return sorted(self.classes) if self.classes is not None else list(range(first, channels))

    def scored(self, channels: int, device: torch.device) -> Tensor:
        found = super().scored(channels, device)
        background = self.classes is None and self.mode == "softmax"
        return found & (torch.arange(channels, device=device) > 0) if background else found

    def expression(self) -> str:
        return with_inner(self.inner, super().expression())

    def of_sums(self, term: Loss, sums: Sums, alive: Tensor, divisor: Tensor | None = None) -> Tensor:
        """The value of each region, (N, K): a formula of counts, or costs over a divisor."""
        if isinstance(term, MeanCostLoss):
            normalize = getattr(term, "normalize", "count")
            below = sums["voxels" if normalize == "count" else "weight"] if divisor is None else divisor
            return ratio(sums["cost"], below)
        return term.class_loss(Counts(sums).where(alive))  # pyright: ignore[reportCallIssue]

    def _value(self, term: Loss, parts: Components, scored: Tensor) -> Tensor:
        weights = self._weights(term, scored)
        shares, number, counts = self.partitions(term, parts), parts.number, Counts.of(parts.found)
        pooled = getattr(term, "pool", "sample") == "batch"
        if pooled:
            tables = torch.stack([number, *(table for _, *pair in shares for table in pair)])
            number, *tables = sum_over_ranks(tables.sum(1, keepdim=True)).unbind()
            shares = [(share, *tables[2 * k : 2 * k + 2]) for k, (share, *_) in enumerate(shares)]
            counts = counts.pooled()
        present = number > 0
        counted = counted_classes(present, scored, getattr(term, "absent", "skip"))
        by_class = torch.stack([share * ratio(*pair) for share, *pair in shares]).sum(0)
        values = torch.where(present, by_class, counts.false_positive_rate)
        rows = ratio((values * weights * counted).sum(1), (weights * counted).sum(1))
        valid = parts.found.valid > 0
        if pooled:
            return self._of_batch(rows, valid, (counts.valid > 0).any())
        some = valid & (present & scored).any(1)
        return self.reduce(rows, torch.where(some.any(), some, valid) if self.reduction == "mean" else valid)

    def _of_batch(self, rows: Tensor, valid: Tensor, anything: Tensor) -> Tensor:
        if self.reduction == "mean":
            return torch.where(anything, rows[0], 0)
        return self.reduce(rows.expand(len(valid)), valid)

    def _weights(self, term: Loss, scored: Tensor) -> Tensor:
        """Weights of the mean over classes, (C,): those of a loss by voxel are factors of its costs."""
        weights = term.class_weights(len(scored), scored.device)
        return weights * scored if isinstance(term, PoolLoss) else scored.double()

    def _need(self, *needs: Geometry) -> None:
        self.needs = tuple(sorted({*self.inner.needs, *self.needs, "log_p", *needs}, key=repr))

    def _check(self, term: Loss) -> None:
        mixed = isinstance(term, RatioLoss) and isinstance(term, MeanCostLoss)
        if isinstance(term, self.ALLOWED) and not mixed and not getattr(term, "label_smoothing", 0):
            return
        names = ", ".join(cls.name() if cls is not RatioLoss else "Dice, Jaccard, Tversky" for cls in self.ALLOWED)
        raise ValueError(
            f"{type(self).__name__}: the loss inside must be a sum over voxels or a ratio of such ({names} and their "
            f"kin, without label_smoothing); got {term.expression()}. Add it beside, as in 2*Dice + Blob(Dice) + "
            f"{term.name()}."
        )


def pairs_of(name: str, inner: Loss) -> list[tuple[float, Loss]]:
    """Factors and terms of what is inside."""
    if not isinstance(inner, Loss):
        raise ValueError(f"{name}: expected a loss inside, as in {name}(DiceLoss()); got {type(inner).__name__}.")
    return inner.pairs() if isinstance(inner, Sum) else [(1.0, inner)]


def agreed(name: str, terms: Sequence[Loss], argument: str) -> Any:
    """The value of an argument that all terms have."""
    found = {getattr(term, argument, None) for term in terms}
    if len(found) > 1:
        raise ValueError(
            f"{name}: all terms inside must have the same `{argument}`; got {sorted(map(str, found))}. Construct them "
            "alike."
        )
    return found.pop()


def with_inner(inner: Loss, expression: str) -> str:
    """The expression of a loss without what is inside -> the same with it."""
    name, _, given = expression.removesuffix(")").partition("(")
    return f"{name}({', '.join([inner.expression(), *([given] if given else [])])})"
