"""What losses by region have in common: soft counts by sample and class, absent classes, the mean over classes.

    tp = sum_i w min(p, y)     fp = sum_i w p - tp     fn = sum_i w y - tp     tn = sum_i w - tp - fp - fn

`min(p, y)` is p y for labels; for a dense target it is the form of Wang et al. (NeurIPS 2023, arXiv 2302.05666),
whose optimum is p = y. Sums run over the valid voxels of a sample, or of the batch with `pool="batch"`. Then the
batch is that of all ranks of a distributed run: k ranks give the value and, with gradients averaged over ranks, the
gradient of one process with all the samples. All ranks must then call the loss together.
"""

from abc import abstractmethod
from typing import NamedTuple, Unpack

import torch
from torch import Tensor

from delineate.losses.inputs import Inputs
from delineate.losses.loss import ABSENT, Common, Loss, absent_classes
from delineate.ops.overlap import Overlap
from delineate.ops.ranks import sum_over_ranks

POOLS = ("sample", "batch")
_ROUNDING = 1e-12
"""A share of the weight below any voxel's, and above the rounding of float64 sums."""


class PoolCommon(Common, total=False):
    """Constructor arguments common to losses that pool voxels, beyond those of `Loss`."""

    pool: str
    absent: str


class RatioCommon(PoolCommon, total=False):
    """The same for formulae that are ratios of overlaps."""

    smooth: float


class Counts(NamedTuple):
    """Soft counts of each row (a sample, or the pooled batch) and class: (R, C) float64."""

    tp: Tensor
    mass: Tensor
    """Sum of the probabilities: tp + fp."""
    count: Tensor
    """Sum of the target: tp + fn."""
    product: Tensor
    squares: Tensor
    target_squares: Tensor
    miss_squares: Tensor
    false_squares: Tensor
    total: Tensor
    """Sum of the voxel weights, the same for all classes."""
    valid: Tensor
    """Number of voxels that are not ignored, the same for all classes."""

    @classmethod
    def of(cls, found: Overlap) -> "Counts":
        tables = {name: getattr(found, name) for name in cls._fields}
        return cls(**{name: t if t.ndim == 2 else t[:, None].expand_as(found.tp) for name, t in tables.items()})

    def pooled(self) -> "Counts":
        """One row: the sums over the samples of all ranks."""
        return Counts._make(sum_over_ranks(torch.stack(self).sum(1, keepdim=True)).unbind())

    @property
    def fp(self) -> Tensor:
        """False positives: probability outside the class."""
        return not_negative(self.mass - self.tp)

    @property
    def fn(self) -> Tensor:
        """Misses: target not covered by probability."""
        return not_negative(self.count - self.tp)

    @property
    def outside(self) -> Tensor:
        """Weight of the voxels outside the class, fp + tn; exactly 0 where only rounding tells the two sums apart."""
        outside = self.total - self.count
        return torch.where(outside > _ROUNDING * self.total, outside, 0)

    @property
    def false_positive_rate(self) -> Tensor:
        """fp / (fp + tn): the mean probability over the voxels outside the class."""
        return ratio(self.fp, self.outside)

    def where(self, present: Tensor) -> "Counts":
        """The same where present, and a perfect voxel elsewhere: finite in every formula, and without gradient."""
        return Counts._make([torch.where(present, table, 1.0) for table in self])


def not_negative(value: Tensor) -> Tensor:
    """What only rounding can make negative, at least 0; the gradient is that of the value all the same."""
    return value + (value.clamp_min(0) - value).detach()


def ratio(above: Tensor, below: Tensor) -> Tensor:
    """above / below, and `above` itself where `below` is 0."""
    return above / torch.where(below > 0, below, 1)


def power(base: Tensor, exponent: float) -> Tensor:
    """base ** exponent for base >= 0, with the gradient 0 at 0 also for exponents below 1."""
    zero = base <= 0
    return torch.where(zero, 0, torch.where(zero, 1, base).pow(exponent))


class PoolLoss(Loss):
    """A loss of all voxels of a sample or of the batch together, averaged over classes.

    Args:
        pool: "sample" applies the formula to each sample, "batch" to the voxels of the batch.
        absent: "skip" or "count": what an absent class costs, decided in `delineate.losses.loss`.
    """

    def __init__(self, *, pool: str = "sample", absent: str = "skip", **common: Unpack[Common]):
        super().__init__(**common)
        self.pool = self._option("pool", pool, POOLS)
        self.absent = self._option("absent", absent, ABSENT)

    def presence(self, count: Tensor) -> tuple[Tensor, Tensor]:
        """Target voxels (R, C) -> which classes are present, and which enter the mean: (R, C) bool each."""
        return absent_classes(count, self.scored(count.shape[1], count.device), self.absent)

    def mean_over_classes(self, values: Tensor, counted: Tensor) -> Tensor:
        weights = self.class_weights(values.shape[1], values.device) * counted
        return ratio((values * weights).sum(1), weights.sum(1))

    def pool_rows(self, rows: Tensor, valid: Tensor, anything: Tensor) -> Tensor:
        """Reduce a value of each row, (R,).

        Args:
            valid: samples that are not fully ignored, (N,).
            anything: whether the pooled batch is not fully ignored, on whichever rank.
        """
        if self.pool == "batch" and self.reduction == "mean":
            return torch.where(anything, rows[0], 0)
        return self.reduce(rows.expand(len(valid)), valid)


class RegionLoss(PoolLoss):
    """A loss of the counts by sample and class."""

    @abstractmethod
    def row_loss(self, counts: Counts, present: Tensor, counted: Tensor) -> Tensor:
        """Counts, and (R, C) which classes are present and which enter the mean -> the loss of each row, (R,)."""

    def region_value(self, found: Overlap) -> Tensor:
        counts = Counts.of(found)
        counts = counts if self.pool == "sample" else counts.pooled()
        rows = self.row_loss(counts, *self.presence(counts.count))
        return self.pool_rows(rows, found.valid > 0, (counts.valid > 0).any())

    def compute(self, inputs: Inputs) -> Tensor:
        return self.region_value(inputs.overlap(self.mode, self.ignore_index))


class ClassLoss(RegionLoss):
    """A weighted mean over classes of `class_loss(counts)`."""

    @abstractmethod
    def class_loss(self, counts: Counts) -> Tensor:
        """The formula, on counts of classes that are present: (R, C)."""

    def absent_loss(self, counts: Counts) -> Tensor:
        """What a class costs that is absent and counted, (R, C)."""
        return counts.false_positive_rate

    def row_loss(self, counts: Counts, present: Tensor, counted: Tensor) -> Tensor:
        values = torch.where(present, self.class_loss(counts.where(present)), self.absent_loss(counts))
        return self.mean_over_classes(values, counted)


class RatioLoss(ClassLoss):
    """A class loss that is a ratio of overlaps.

    Args:
        smooth: at least 0, added to numerator and denominator of each ratio; 0 by default, as absent classes need no
            help.
    """

    def __init__(self, *, smooth: float = 0.0, **common: Unpack[PoolCommon]):
        super().__init__(**common)
        self.smooth = self._number("smooth", smooth, 0)


class MapLoss(PoolLoss):
    """A weighted mean over classes of a formula whose sums are not those of the pass: against maps of the target."""

    @abstractmethod
    def sums(self, inputs: Inputs) -> list[Tensor]:
        """What the formula is made of besides the counts, by sample and scored class: (N, K) each."""

    @abstractmethod
    def class_loss(self, sums: list[Tensor], counts: Counts) -> Tensor:
        """The formula, (R, C); finite also where a class is absent."""

    def row_loss(self, sums: list[Tensor], counts: Counts) -> Tensor:
        """The loss of each row, (R,)."""
        present, counted = self.presence(counts.count)
        values = torch.where(present, self.class_loss(sums, counts.where(present)), counts.false_positive_rate)
        return self.mean_over_classes(values, counted)

    def compute(self, inputs: Inputs) -> Tensor:
        found = inputs.overlap(self.mode, self.ignore_index)
        self.scored(inputs.shape[1], inputs.logits.device)  # raises for classes that are no channels
        tables = [self.of_all(table.double(), inputs.shape[1]) for table in self.sums(inputs)]
        counts, sums = Counts.of(found), torch.stack(tables)
        if self.pool == "batch":
            counts, sums = counts.pooled(), sum_over_ranks(sums.sum(1, keepdim=True))
        return self.pool_rows(self.row_loss(list(sums), counts), found.valid > 0, (counts.valid > 0).any())

    def probabilities(self, inputs: Inputs) -> Tensor:
        """Of the scored channels, (N, K, *S)."""
        return self.of_scored(inputs.probabilities(self.mode, self.ignore_index))

    def target(self, inputs: Inputs, p: Tensor, hard: bool = False) -> Tensor:
        """The target of the scored channels as numbers like `p`; or its masks, without ignored voxels."""
        on = inputs.channels_on()
        if hard:
            valid = inputs.valid(self.ignore_index)
            on = on > 0.5 if inputs.dense else on if valid is None else on & valid[:, None]
        return self.of_scored(on.view(inputs.shape)).to(p.dtype)

    def of_scored(self, maps: Tensor) -> Tensor:
        """The scored channels of maps (N, C, *S), in their order: what is dear is computed for these only."""
        if self.classes is None:
            return maps
        scored = sorted(self.classes)
        run = scored == list(range(scored[0], scored[-1] + 1))
        return maps.narrow(1, scored[0], len(scored)) if run else maps[:, scored]

    def of_all(self, table: Tensor, channels: int) -> Tensor:
        """A table of the scored channels (N, K) as one of all, (N, C)."""
        if self.classes is None:
            return table
        places = torch.tensor(sorted(self.classes), device=table.device)
        return table.new_zeros(len(table), channels).index_copy(1, places, table)

    def map_sum(self, inputs: Inputs, values: Tensor) -> Tensor:
        """Weighted sum over the valid voxels of each sample and channel: (N, K, *S) -> (N, K)."""
        weight = inputs.valid_weight(self.ignore_index)
        values = values.flatten(2)
        return (values if weight is None else values * weight[:, None].to(values.dtype)).sum(2)
