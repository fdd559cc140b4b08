"""What losses by region have in common: soft counts by sample and class, absent classes, the mean over classes.

    tp = sum_i w min(p, y)     fp = sum_i w p - tp     fn = sum_i w y - tp     tn = sum_i w - tp - fp - fn

`min(p, y)` is p y for labels; for a dense target it is the form of Wang et al. (NeurIPS 2023, arXiv 2302.05666),
whose optimum is p = y. Sums run over the valid voxels of a sample, or of the batch with `pool="batch"`. Then the
batch is that of all ranks of a distributed run: k ranks give the value and, with gradients averaged over ranks, the
gradient of one process with all the samples. All ranks must then call the loss together.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Unpack

import torch
from torch import Tensor

from delineate.losses.inputs import Inputs, pick, placed
from delineate.losses.loss import ABSENT, Common, Loss, counted_classes
from delineate.ops.overlap import Overlap
from delineate.ops.ranks import sum_over_ranks

POOLS = ("sample", "batch")
PLAIN = ("tp", "mass", "count", "total", "valid")
SQUARES = ("product", "squares", "target_squares", "miss_squares", "false_squares")
OF_A_PERFECT_VOXEL = ("tp", "mass", "count", "total", "product", "squares", "target_squares")
"""Tables that a voxel of the class with p = 1 adds its weight to."""
_ROUNDING = 1e-12
"""A share of the weight below any voxel's, and above the rounding of float64 sums."""


class PoolCommon(Common, total=False):
    """Constructor arguments common to losses that pool voxels, beyond those of `Loss`."""

    pool: str
    absent: str


class RatioCommon(PoolCommon, total=False):
    """The same for formulae that are ratios of overlaps."""

    smooth: float


def once(derive: Callable[["Counts"], Any]) -> property:
    """A property that is derived when it is first asked for. (That of functools holds a lock, and is not traced.)"""

    def found(self: "Counts") -> Any:
        if derive not in self.derived:
            self.derived[derive] = derive(self)
        return self.derived[derive]

    return property(found, doc=derive.__doc__)


class Counts:
    """Soft counts of each row (a sample, or the pooled batch) and class: (R, C) float64.

    Args:
        tables: those below by name, all of one shape; the squares only where a formula needs them.
    """

    tp: Tensor
    mass: Tensor
    """Sum of the probabilities: tp + fp."""
    count: Tensor
    """Sum of the target: tp + fn."""
    total: Tensor
    """Sum of the voxel weights, the same for all classes."""
    valid: Tensor
    """Number of voxels that are not ignored, the same for all classes."""
    product: Tensor
    squares: Tensor
    target_squares: Tensor
    miss_squares: Tensor
    false_squares: Tensor

    def __init__(self, tables: Mapping[str, Tensor]):
        self.tables, self.derived = dict(tables), {}
        for name, table in tables.items():
            setattr(self, name, table)

    @classmethod
    def of(cls, found: Overlap, squares: bool = False) -> "Counts":
        tables = {name: getattr(found, name) for name in PLAIN + (SQUARES if squares else ())}
        return cls({name: t if t.ndim == 2 else t[:, None].expand_as(found.tp) for name, t in tables.items()})

    def pooled(self) -> "Counts":
        """One row: the sums over the samples of all ranks."""
        sums = sum_over_ranks(torch.stack([*self.tables.values()]).sum(1, keepdim=True))
        return Counts(dict(zip(self.tables, sums.unbind(), strict=True)))

    @once
    def present(self) -> Tensor:
        """Where a class has target voxels, (R, C) bool."""
        return self.count > 0

    @once
    def of_present(self) -> "Counts":
        """What formulas take: finite in them all where a class is absent, too."""
        return self.where(self.present)

    def where(self, present: Tensor) -> "Counts":
        """The same where present, and with a perfect voxel more elsewhere: finite in every formula."""
        absent = ~present
        more = {name: self.tables[name] + absent for name in OF_A_PERFECT_VOXEL if name in self.tables}
        return Counts(self.tables | more)

    @once
    def fp(self) -> Tensor:
        """False positives: probability outside the class."""
        return not_negative(self.mass - self.tp)

    @once
    def fn(self) -> Tensor:
        """Misses: target not covered by probability."""
        return not_negative(self.count - self.tp)

    @once
    def wrong(self) -> Tensor:
        """Both: fp + fn."""
        return not_negative(self.size - 2 * self.tp)

    @once
    def size(self) -> Tensor:
        """Of prediction and target together: 2 tp + fp + fn."""
        return self.mass + self.count

    @once
    def outside(self) -> Tensor:
        """Weight of the voxels outside the class, fp + tn; exactly 0 where only rounding tells the two sums apart."""
        outside = self.total - self.count
        return outside * (outside > _ROUNDING * self.total)

    @once
    def false_positive_rate(self) -> Tensor:
        """fp / (fp + tn): the mean probability over the voxels outside the class."""
        return ratio(self.fp, self.outside)

    @once
    def mean_probability(self) -> Tensor:
        """Over all voxels: the false-positive rate of a class that is absent."""
        return ratio(self.mass, self.total)


def not_negative(value: Tensor) -> Tensor:
    """What only rounding can make negative, at least 0; the gradient is that of the value all the same."""
    return value - value.detach().clamp_max(0)


def ratio(above: Tensor, below: Tensor) -> Tensor:
    """above / below, and `above` itself where `below`, at least 0, is 0."""
    return above / (below + (below == 0))


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

    def counts(self, inputs: Inputs) -> Counts:
        """Those of this call; terms that agree on mode, `ignore_index` and pool share them."""
        key = (self.mode, self.ignore_index, self.pool)
        if key not in inputs.counts:
            counts = Counts.of(inputs.overlap(self.mode, self.ignore_index), inputs.asked("squares"))
            inputs.counts[key] = counts if self.pool == "sample" else counts.pooled()
        return inputs.counts[key]

    def counted(self, present: Tensor) -> Tensor:
        """Which classes are present -> which enter the mean, (R, C) bool each."""
        return counted_classes(present, self.scored(present.shape[1], present.device), self.absent)

    def mean_over_classes(self, values: Tensor, counted: Tensor) -> Tensor:
        weights = counted
        if self.class_weight is not None:
            weights = self.class_weights(values.shape[1], values.device) * counted
        return ratio((values * weights).sum(1), weights.sum(1))

    def pool_rows(self, inputs: Inputs, rows: Tensor, voxels: Tensor) -> Tensor:
        """Reduce a value of each row, (R,).

        Args:
            voxels: how many of each row are not ignored, over all ranks where rows are pooled, (R, ...).
        """
        if self.pool == "batch" and self.reduction == "mean":
            return rows[0] * voxels.any()
        return self.reduce(rows.expand(inputs.shape[0]), inputs.samples(self.mode, self.ignore_index))


class RegionLoss(PoolLoss):
    """A loss of the counts by sample and class."""

    @abstractmethod
    def row_loss(self, counts: Counts, counted: Tensor) -> Tensor:
        """Counts, and which classes enter the mean, (R, C) -> the loss of each row, (R,)."""

    def region_value(self, inputs: Inputs) -> Tensor:
        counts = self.counts(inputs)
        rows = self.row_loss(counts, self.counted(counts.present))
        return self.pool_rows(inputs, rows, counts.valid)

    def compute(self, inputs: Inputs) -> Tensor:
        return self.region_value(inputs)


class ClassLoss(RegionLoss):
    """A weighted mean over classes of `class_loss(counts)`."""

    @abstractmethod
    def class_loss(self, counts: Counts) -> Tensor:
        """The formula, on counts of classes that are present: (R, C)."""

    def absent_loss(self, counts: Counts) -> Tensor:
        """What a class costs that is absent and counted, (R, C)."""
        return counts.mean_probability

    def row_loss(self, counts: Counts, counted: Tensor) -> Tensor:
        values = torch.where(counts.present, self.class_loss(counts.of_present), self.absent_loss(counts))
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
        values = torch.where(counts.present, self.class_loss(sums, counts.of_present), counts.mean_probability)
        return self.mean_over_classes(values, self.counted(counts.present))

    def compute(self, inputs: Inputs) -> Tensor:
        counts = self.counts(inputs)
        self.scored(inputs.shape[1], inputs.logits.device)  # raises for classes that are no channels
        sums = torch.stack([self.of_all(table.double(), inputs.shape[1]) for table in self.sums(inputs)])
        if self.pool == "batch":
            sums = sum_over_ranks(sums.sum(1, keepdim=True))
        return self.pool_rows(inputs, self.row_loss(list(sums), counts), counts.valid)

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
        return maps if self.classes is None else pick(maps, sorted(self.classes))

    def of_all(self, table: Tensor, channels: int) -> Tensor:
        """A table of the scored channels (N, K) as one of all, (N, C)."""
        return table if self.classes is None else placed(table, sorted(self.classes), channels)

    def map_sum(self, inputs: Inputs, values: Tensor) -> Tensor:
        """Weighted sum over the valid voxels of each sample and channel: (N, K, *S) -> (N, K)."""
        weight = inputs.valid_weight(self.ignore_index)
        values = values.flatten(2)
        return (values if weight is None else values * weight[:, None].to(values.dtype)).sum(2)
