"""Sums over each connected component and over the background it is judged against: what losses by instance are made of.

Letters as in `delineate.ops.segments`, and R scored channels. With labels, the sums of a component come from the one
pass over the logits, gathered at the voxels of components only. Cells, dense targets and predicted components need the
probability of every voxel, and sum it by region.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from delineate.losses.distribution import FocalLoss
from delineate.losses.inputs import Inputs, pick, placed, places
from delineate.losses.loss import Loss
from delineate.losses.voxel import MeanCostLoss
from delineate.ops.cost import Cost, packed, voxel_costs
from delineate.ops.segments import (
    COSTS,
    COUNT,
    LABEL,
    MISS_SQUARES,
    SQUARES,
    TP,
    VOXELS,
    component_sums,
    segment_sums,
    segments_of,
)
from delineate.target import Geometry

Sums = dict[str, Tensor]
"""Sums by component, (N, K) each: fields of `delineate.losses.counts.Counts`, or of a loss by voxel its "cost" and what
that may be divided by, "voxels" and "weight". What is left out is 0."""


class Components:
    """The components of one call, and sums over each.

    Args:
        inputs: what the loss was called with.
        geometry: names the components, see `delineate.target.KINDS`.
        mode, ignore_index: those of the terms.
        channels: the classes whose components take part, in order.
        terms: the losses that are taken of each component.
    """

    def __init__(
        self,
        inputs: Inputs,
        geometry: Geometry,
        mode: str,
        ignore_index: int | None,
        channels: Sequence[int],
        terms: Sequence[Loss],
    ):
        self.inputs, self.mode, self.ignore_index = inputs, mode, ignore_index
        self.channels, self.terms = list(channels), terms
        self.found = inputs.overlap(mode, ignore_index)
        ids = inputs.geometry(geometry, ignore_index)
        self.ids = ids.flatten(2) if inputs.dense else ids.flatten(1)
        self.segments = segments_of(self.ids)
        self._of_labels = None if inputs.dense else self._label_sums()
        self.label, weight = self._labels_and_weights()
        """The class of each component, (N, K) int64."""
        self.alive = (weight > 0) & self._scored()[self.label]
        """Whether it takes part, (N, K): components without weight do not."""
        self.number = self.by_class(torch.ones_like(weight))
        """Components that take part, by sample and class, (N, C) float64."""

    def by_class(self, values: Tensor) -> Tensor:
        """Sum what the components that take part have, (N, K) -> (N, C)."""
        table = values.new_zeros(len(values), self.inputs.shape[1])
        return table.scatter_add(1, self.label, torch.where(self.alive, values, 0))

    def of_class(self, table: Tensor) -> Tensor:
        """What each component's class has, (N, C) -> (N, K)."""
        return table.gather(1, self.label)

    def inside(self, term: Loss) -> Sums:
        """Sums over the components themselves."""
        if self._of_labels is None:
            return self.by_region(self._rows(term), self.own_ids())
        own = self._of_labels
        count, tp = own[:, COUNT], own[:, TP]
        if not isinstance(term, MeanCostLoss):
            sums = dict.fromkeys(("tp", "mass", "product"), tp) | dict.fromkeys(("count", "target_squares"), count)
            return sums | {"squares": own[:, SQUARES], "miss_squares": own[:, MISS_SQUARES]}
        factor = self._class_factors(term)[self.label]
        cost = own[:, COSTS + self._costs().index(term.cost)]
        return {"cost": self._shares(term)[0] * factor * cost, "voxels": own[:, VOXELS], "weight": factor * count}

    def background(self, term: Loss) -> Sums:
        """Sums over all that is not of a component's class, the same for every component of a class."""
        tables = self._dense_background(term) if self.inputs.dense else self._background(term)
        return {name: self.of_class(table) for name, table in tables.items()}

    def in_cells(self, term: Loss, geometry: Geometry) -> Sums:
        """Sums over the Voronoi cells of the components, themselves included."""
        cells = self.cells(geometry)
        if self.inputs.dense:
            return self.by_region(self._rows(term), cells)
        outside = self.by_region(self._rows(term, beside=True), cells.masked_fill(self.masks(), 0))
        return added(self.inside(term), outside)

    def in_regions(self, term: Loss, regions: Tensor, segments: int) -> Sums:
        """Sums over any regions, numbered voxel by voxel for each scored channel, (N, R, V)."""
        return self.by_region(self._rows(term), regions, segments)

    def facts(self, regions: Tensor, segments: int) -> Sums:
        """What any regions of the scored channels are, (N, R, V): their "channel" (added up over "voxels"), "weight",
        weight of the target ("count"), of the prediction ("mass"), and its square of which only one factor carries a
        gradient ("own")."""
        p = self.probabilities()
        w = torch.ones_like(p[:, :1]) if self.inputs.weight is None else self.inputs.weight[:, None].to(p.dtype)
        names = places(self.channels, p.device).to(p.dtype)[:, None]
        rows = {"channel": names.expand_as(p), "voxels": torch.ones_like(p), "weight": w, "count": w * self.target()}
        return self.by_region(rows | {"mass": w * p, "own": w * p * p.detach()}, regions, segments)

    def cells(self, geometry: Geometry) -> Tensor:
        """The Voronoi cells of the scored channels, (N, R, V)."""
        return self.of_foreground(self.inputs.geometry(geometry, self.ignore_index).flatten(2))

    def of_foreground(self, maps: Tensor) -> Tensor:
        """The scored channels of maps that may lack channel 0, (N, R, V)."""
        first = self.inputs.shape[1] - maps.shape[1]
        return pick(maps, [c - first for c in self.channels])

    def by_channel(self, values: Tensor) -> Tensor:
        """Values of the scored channels (N, R) in a table of all, (N, C)."""
        return placed(values, self.channels, self.inputs.shape[1])

    def by_region(self, rows: dict[str, Tensor], regions: Tensor, segments: int | None = None) -> Sums:
        """Sum values of each voxel, (N, R, V), or of fewer where values are the same, by the region they lie in."""
        wide = [values.expand(regions.shape) for values in rows.values()]
        stacked = torch.stack(wide, 1) if len(wide) > 1 else wide[0][:, None]
        table = segment_sums(stacked.flatten(2), regions.flatten(1), segments or self.segments)
        return dict(zip(rows, table[..., 1:].unbind(1), strict=True))

    def probabilities(self) -> Tensor:
        """Of the scored channels, (N, R, V)."""
        return pick(self.inputs.probabilities(self.mode, self.ignore_index).flatten(2), self.channels)

    def target(self) -> Tensor:
        """The target of the scored channels, (N, R, V)."""
        return pick(self.inputs.channels_on(), self.channels)

    def masks(self) -> Tensor:
        """The masks of the scored channels, (N, R, V) bool."""
        return self.target() > 0.5 if self.inputs.dense else self.target()

    def own_ids(self) -> Tensor:
        """The number of each voxel's component in every scored channel, (N, R, V); 0 for none."""
        if self.inputs.dense:
            return pick(self.ids, self.channels)
        return torch.where(self.masks(), self.ids[:, None], 0)

    def costs(self, term: Any) -> Tensor:
        """The cost of each voxel, without its weight: (N, 1, V) in softmax mode, else (N, R, V)."""
        y, (on, off) = self.inputs.channels_on(), self._shares(term)
        factors = self._class_factors(term)[:, None]
        if self.found.log_p is not None:
            costs = voxel_costs(self.found.log_p, list(term.cost))
            factors = factors.to(costs.dtype)
            if self.mode == "softmax":
                return costs if term.class_weight is None else costs * factors[self.inputs.labels(), 0][:, None]
            return pick(costs * torch.where(y, on, off).to(costs.dtype) * factors, self.channels)
        z = self.inputs.valid_logits(self.ignore_index)
        y, factors = y.to(z.dtype), factors.to(z.dtype)
        if self.mode == "softmax":
            return (_expected(y, voxel_costs(z.log_softmax(1), list(term.cost))) * factors).sum(1, keepdim=True)
        logs = [torch.nn.functional.logsigmoid(side) for side in (z, -z)]
        positive, negative = (voxel_costs(log_p, list(term.cost)) for log_p in logs)
        return pick((on * _expected(y, positive) + off * _expected(1 - y, negative)) * factors, self.channels)

    def divisor(self, term: MeanCostLoss) -> Tensor:
        """What a cost is divided by that is summed over the image with other components masked out, (N, K)."""
        if getattr(term, "normalize", "count") == "count":
            return self.found.valid[:, None].expand(self.label.shape)
        factors = self._class_factors(term)
        if self.mode == "softmax":
            return (self.found.count * factors).sum(1, keepdim=True).expand(self.label.shape)
        return self.of_class(self.found.total[:, None] * factors)

    def _rows(self, term: Loss, beside: bool = False) -> dict[str, Tensor]:
        """What the sums of a term are taken of, weighted by voxel: (N, R, V), or of fewer where values are the same.

        Args:
            beside: whether only voxels beside the target matter, where most fields are 0.
        """
        if isinstance(term, MeanCostLoss):
            costs = self.costs(term)
            rows = {"cost": costs, "weight": self._voxel_factors(term).to(costs.dtype)}
            return self._weighted(rows) | {"voxels": costs.new_ones(1, 1, 1)}
        p = self.probabilities()
        rows = _false_rows(p, self._squares()) if beside else _rows(p, self.target().to(p.dtype), self._squares())
        return self._weighted(rows)

    def _weighted(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Values of voxels times their weights."""
        w = self.inputs.weight
        return rows if w is None else {name: values * w[:, None].to(values.dtype) for name, values in rows.items()}

    def _background(self, term: Loss) -> Sums:
        """Of labels, from the tables of the pass: (N, C)."""
        found = self.found
        if not isinstance(term, MeanCostLoss):
            return {"mass": found.mass - found.tp, **dict.fromkeys(("squares", "false_squares"), found.false_squares)}
        on, off = found.costs.get(term.cost, (found.nll, found.nll_off))
        factors = self._class_factors(term)
        if self.mode == "sigmoid":
            return {"cost": self._shares(term)[1] * factors * off}
        of_labels = on * factors
        return {"cost": of_labels.sum(1, keepdim=True) - of_labels}

    def _dense_background(self, term: Loss) -> Sums:
        outside = ~self.masks()
        rows = self._rows(term).items()
        return {name: self.by_channel((values * outside).sum(2, dtype=torch.float64)) for name, values in rows}

    def _label_sums(self) -> Tensor:
        """Of labels, see `delineate.ops.segments.component_sums`: (N, rows, K)."""
        log_p, labels = self.found.log_p, self.inputs.target
        assert log_p is not None
        channel = log_p.squeeze(1) if log_p.shape[1] == 1 else log_p.gather(1, self.inputs.labels()[:, None])[:, 0]
        options = self.segments, self._squares(), packed(self._costs())
        return component_sums(channel, labels, self.ids, self.inputs.weight, *options)[..., 1:]

    def _labels_and_weights(self) -> tuple[Tensor, Tensor]:
        """Class and weight of each component, (N, K)."""
        if self._of_labels is not None:
            label = self._of_labels[:, LABEL].detach().long()
            single = self.inputs.shape[1] == 1  # label 1 is the one channel
            return torch.zeros_like(label) if single else label, self._of_labels[:, COUNT].detach()
        y = self.inputs.target
        names = torch.arange(y.shape[1], device=y.device, dtype=y.dtype)[:, None]
        w = torch.ones_like(y[:, 0]) if self.inputs.weight is None else self.inputs.weight.to(y.dtype)
        rows = {
            "label": names.expand_as(y),
            "voxels": torch.ones_like(y),
            "weight": w[:, None] * y,
        }
        sums = self.by_region(rows, self.ids)
        return (sums["label"] / sums["voxels"].clamp_min(1)).round().long(), sums["weight"]

    def _scored(self) -> Tensor:
        names = torch.arange(self.inputs.shape[1], device=self.ids.device)
        return (names[:, None] == places(self.channels, names.device)).any(1)

    def _costs(self) -> list[Cost]:
        return list(dict.fromkeys(term.cost for term in self.terms if isinstance(term, MeanCostLoss)))

    def _squares(self) -> bool:
        return any("squares" in term.needs for term in self.terms)

    def _class_factors(self, term: Loss) -> Tensor:
        """Factor of the costs of each class, (C,) float64; `classes` says whose components count, and drops no cost."""
        given = term.class_weight
        channels = self.inputs.shape[1]
        return torch.ones(channels, dtype=torch.float64, device=self.ids.device) if given is None else given.double()

    def _voxel_factors(self, term: MeanCostLoss) -> Tensor:
        """Factor of the cost of each voxel, whatever the cost: (N, 1, V), in sigmoid mode (1, R, 1), or one for all."""
        factors = self._class_factors(term)
        if self.mode == "sigmoid":
            return pick(factors[None, :, None], self.channels)
        if self.inputs.dense:
            return (self.inputs.target * factors[:, None]).sum(1, keepdim=True)
        return factors[:1, None, None] if term.class_weight is None else factors[self.inputs.labels()][:, None]

    def _shares(self, term: Loss) -> tuple[float, float]:
        """Factors of the costs of voxels that are on, and of those that are off."""
        return term.factors() if isinstance(term, FocalLoss) else (1.0, 1.0)


def added(one: Sums, other: Sums) -> Sums:
    """Fields of either, summed."""
    return {
        name: one[name] + other[name] if name in one and name in other else (one | other)[name] for name in one | other
    }


def _rows(p: Tensor, y: Tensor, squares: bool) -> dict[str, Tensor]:
    """What counts are sums of, for each voxel and channel, (N, R, V)."""
    rows = {"mass": p, "count": y, "tp": torch.minimum(p, y)}
    if squares:
        wrong = (y - p).square()
        rows |= {"squares": p.square(), "product": p * y, "target_squares": y.square()}
        rows |= {"miss_squares": wrong * y, "false_squares": wrong * (1 - y)}
    return rows


def _false_rows(p: Tensor, squares: bool) -> dict[str, Tensor]:
    """The same where y is 0: what is not 0 there."""
    return {"mass": p} | (dict.fromkeys(("squares", "false_squares"), p.square()) if squares else {})


def _expected(share: Tensor, costs: Tensor) -> Tensor:
    """share * costs; what has no share counts 0, even if it is infinite."""
    return share * torch.where(share > 0, costs, 0)
