"""Losses by region: formulae over true positives, false positives and misses of each class.

Counts are soft sums over the valid voxels of a sample, or of the batch with `pool="batch"`:

    tp = sum_i w min(p, y)     fp = sum_i w p - tp     fn = sum_i w y - tp

`min(p, y)` is p y for labels; for a dense target it is the form of Wang et al. (NeurIPS 2023, arXiv 2302.05666),
whose optimum is p = y. The class losses are averaged over the scored classes, then over samples. All take

    pool    "sample" applies the formula to each sample, "batch" to the counts of the batch (of one process so far)
    absent  "skip" or "count": what an absent class costs, decided in `delineate.losses.loss` and not here
    smooth  at least 0, added to numerator and denominator of each ratio; 0 by default, as absent classes need no help
"""

from abc import abstractmethod
from typing import NamedTuple, Unpack

import torch
from torch import Tensor

from delineate.losses.inputs import Inputs
from delineate.losses.loss import ABSENT, Common, Loss, absent_classes
from delineate.ops.overlap import Overlap

POOLS = ("sample", "batch")
WEIGHTINGS = ("square", "simple", "uniform")


class RegionCommon(Common, total=False):
    """Constructor arguments common to region losses, beyond those of `Loss`."""

    pool: str
    absent: str
    smooth: float


class Counts(NamedTuple):
    """Soft counts of each row (a sample, or the pooled batch) and class, (R, C) float64; `total` is (R, 1)."""

    tp: Tensor
    mass: Tensor
    """Sum of the probabilities: tp + fp."""
    count: Tensor
    """Sum of the target: tp + fn."""
    product: Tensor
    squares: Tensor
    target_squares: Tensor
    total: Tensor
    """Sum of the voxel weights."""

    @classmethod
    def of(cls, found: Overlap, pool: str) -> "Counts":
        total = found.total[:, None]
        tables = cls(found.tp, found.mass, found.count, found.product, found.squares, found.target_squares, total)
        return tables if pool == "sample" else cls._make([table.sum(0, keepdim=True) for table in tables])

    @property
    def fp(self) -> Tensor:
        """False positives: probability outside the class."""
        return _not_negative(self.mass - self.tp)

    @property
    def fn(self) -> Tensor:
        """Misses: target not covered by probability."""
        return _not_negative(self.count - self.tp)

    @property
    def false_positive_rate(self) -> Tensor:
        """fp / (fp + tn): the mean probability over the voxels outside the class."""
        outside = self.total - self.count
        return self.fp / torch.where(outside > 0, outside, 1)

    def where(self, present: Tensor) -> "Counts":
        """The same where present, and a perfect voxel elsewhere: finite in every formula, and without gradient."""
        return Counts._make([torch.where(present, table, 1.0) for table in self])


class _RegionLoss(Loss):
    """A loss of the counts by sample and class; its arguments are described at the top of this file."""

    def __init__(self, *, pool: str = "sample", absent: str = "skip", smooth: float = 0.0, **common: Unpack[Common]):
        super().__init__(**common)
        self.pool = self._option("pool", pool, POOLS)
        self.absent = self._option("absent", absent, ABSENT)
        self.smooth = self._number("smooth", smooth, 0)

    @abstractmethod
    def row_loss(self, counts: Counts, present: Tensor, counted: Tensor) -> Tensor:
        """Counts, and (R, C) which classes are present and which enter the mean -> the loss of each row, (R,)."""

    def mean_over_classes(self, values: Tensor, counted: Tensor) -> Tensor:
        weights = self.class_weights(values.shape[1], values.device) * counted
        total = weights.sum(1)
        return (values * weights).sum(1) / torch.where(total > 0, total, 1)

    def compute(self, inputs: Inputs) -> Tensor:
        found = inputs.overlap(self.mode, self.ignore_index)
        counts = Counts.of(found, self.pool)
        scored = self.scored(counts.count.shape[1], counts.count.device)
        rows = self.row_loss(counts, *absent_classes(counts.count, scored, self.absent))
        return self.reduce(rows.expand(len(found.valid)), found.valid > 0)


class _ClassLoss(_RegionLoss):
    """A weighted mean over classes of `class_loss(counts)`."""

    @abstractmethod
    def class_loss(self, counts: Counts) -> Tensor:
        """The formula, on counts of classes that are present: (R, C)."""

    def row_loss(self, counts: Counts, present: Tensor, counted: Tensor) -> Tensor:
        values = torch.where(present, self.class_loss(counts.where(present)), counts.false_positive_rate)
        return self.mean_over_classes(values, counted)


def _not_negative(value: Tensor) -> Tensor:
    """What only rounding can make negative, at least 0; the gradient is that of the value all the same."""
    return value + (value.clamp_min(0) - value).detach()


def _power(base: Tensor, exponent: float) -> Tensor:
    """base ** exponent for base >= 0, with the gradient 0 at 0 also for exponents below 1."""
    zero = base <= 0
    return torch.where(zero, 0, torch.where(zero, 1, base).pow(exponent))


class DiceLoss(_ClassLoss):
    """One minus the soft Dice coefficient: overlap against the mean of both sizes.

        plain:    1 - (2 tp + smooth) / (2 tp + fp + fn + smooth)               (denominator: sum p + sum y)
        squared:  1 - (2 sum p y + smooth) / (sum p^2 + sum y^2 + smooth)

    Args:
        squared: the form of V-Net. Both are called the original; they agree for p in {0, 1}.
        pool, absent, smooth: see `delineate.losses.region`; common: see `Loss`.

    Shape: see `Loss`.
    Range: [0, 1]; 0 at a perfect prediction.
    Absent classes: left out of the mean; an empty target counts its false positives.

    >>> logits = torch.tensor([[[20.0, -20.0, 20.0], [-20.0, 20.0, -20.0]]])        # predicts 0 1 0
    >>> round(DiceLoss(classes=[1])(logits, torch.tensor([[0, 1, 1]])).item(), 4)   # 1 - 2 / 3
    0.3333

    Notes: per sample by default, as in the papers; `pool="batch"` is nnU-Net's batch Dice. Background is scored unless
    `classes` leaves it out. Blind to how many objects there are: many small ones weigh less than one large. Its
    gradient vanishes on voxels that are wrong with confidence, so it is rarely used without a loss by voxel.
    Reference: Milletari et al., V-Net, 3DV 2016 (squared); Drozdzal et al. 2016 and Sudre et al. 2017 (plain).
    """

    def __init__(self, *, squared: bool = False, **common: Unpack[RegionCommon]):
        super().__init__(**common)
        self.squared = self.squares = self._flag("squared", squared)

    def class_loss(self, counts: Counts) -> Tensor:
        if self.squared:
            size = counts.squares + counts.target_squares
            return _not_negative(size - 2 * counts.product) / (size + self.smooth)
        wrong = counts.fp + counts.fn
        return wrong / (2 * counts.tp + wrong + self.smooth)


class JaccardLoss(_ClassLoss):
    """One minus the soft Jaccard index (intersection over union).

        1 - (tp + smooth) / (tp + fp + fn + smooth)

    Args: pool, absent, smooth: see `delineate.losses.region`; the others: see `Loss`.
    Shape: see `Loss`.
    Range: [0, 1]; 0 at a perfect prediction.
    Absent classes: left out of the mean; an empty target counts its false positives.

    >>> logits = torch.tensor([[[20.0, -20.0, 20.0], [-20.0, 20.0, -20.0]]])        # predicts 0 1 0
    >>> JaccardLoss(classes=[1])(logits, torch.tensor([[0, 1, 1]])).item()
    0.5

    Notes: ranks predictions of one class as Dice does; across classes it is harder on poor overlap.
    Reference: Rahman and Wang, Optimizing intersection-over-union in deep neural networks, ISVC 2016.
    """

    def __init__(self, **common: Unpack[RegionCommon]):
        super().__init__(**common)

    def class_loss(self, counts: Counts) -> Tensor:
        wrong = counts.fp + counts.fn
        return wrong / (counts.tp + wrong + self.smooth)


def _tversky(counts: Counts, fp_weight: float, fn_weight: float, smooth: float) -> Tensor:
    """1 - (tp + smooth) / (tp + fp_weight fp + fn_weight fn + smooth)."""
    wrong = fp_weight * counts.fp + fn_weight * counts.fn
    size = counts.tp + wrong + smooth
    return wrong / torch.where(size > 0, size, 1)


class TverskyLoss(_ClassLoss):
    """One minus the Tversky index: Dice with separate prices for false positives and misses.

        1 - (tp + smooth) / (tp + fp_weight fp + fn_weight fn + smooth)

    Args:
        fp_weight, fn_weight: the prices, at least 0, not both 0 (alpha and beta of the paper). (.5, .5) is Dice,
            (1, 1) is Jaccard.
        pool, absent, smooth: see `delineate.losses.region`; common: see `Loss`.

    Shape: see `Loss`.
    Range: [0, 1]; 0 at a perfect prediction.
    Absent classes: left out of the mean; an empty target counts its false positives.

    >>> logits = torch.tensor([[[20.0, -20.0, 20.0], [-20.0, 20.0, -20.0]]])        # one hit, one miss
    >>> round(TverskyLoss(classes=[1])(logits, torch.tensor([[0, 1, 1]])).item(), 4)          # .7 / 1.7
    0.4118

    Notes: alpha prices false positives in Salehi, MONAI and smp, and misses in Abraham and in Jadon's code: hence no
    letters here. Prefer `fn_weight` > `fp_weight` where a miss costs more; precision falls for it.
    Reference: Salehi et al., Tversky loss function for image segmentation using 3D fully convolutional deep networks,
    MLMI 2017, arXiv 1706.05721.
    """

    def __init__(self, *, fp_weight: float = 0.3, fn_weight: float = 0.7, **common: Unpack[RegionCommon]):
        super().__init__(**common)
        self.fp_weight, self.fn_weight = _prices(self, fp_weight, fn_weight)

    def class_loss(self, counts: Counts) -> Tensor:
        return _tversky(counts, self.fp_weight, self.fn_weight, self.smooth)


class FocalTverskyLoss(_ClassLoss):
    """A power of the Tversky loss of each class, which keeps classes that are nearly right from fading out.

        mean over classes of (1 - TI)^exponent,    TI = (tp + smooth) / (tp + fp_weight fp + fn_weight fn + smooth)

    Args:
        fp_weight, fn_weight: see `TverskyLoss`.
        exponent: above 0; below 1 lifts small losses, above 1 suppresses them. .75 is the paper's 1 / gamma at its
            best gamma, 4 / 3.
        pool, absent, smooth: see `delineate.losses.region`; common: see `Loss`.

    Shape: see `Loss`.
    Range: [0, 1]; 0 at a perfect prediction, with the gradient 0 there.
    Absent classes: left out of the mean; an empty target counts its false positives.

    >>> logits = torch.tensor([[[20.0, -20.0, 20.0], [-20.0, 20.0, -20.0]]])        # one hit, one miss
    >>> round(FocalTverskyLoss(classes=[1])(logits, torch.tensor([[0, 1, 1]])).item(), 4)     # (.7 / 1.7) ** .75
    0.514

    Notes: the paper sums over classes, we average. The power is taken class by class, before the mean; smp takes it
    after, which is another loss. Jadon's exponent gamma in [1, 3] is the inverse of the paper's.
    Reference: Abraham and Khan, A novel focal Tversky loss function with improved attention U-Net for lesion
    segmentation, ISBI 2019, arXiv 1810.07842.
    """

    def __init__(
        self, *, fp_weight: float = 0.3, fn_weight: float = 0.7, exponent: float = 0.75, **common: Unpack[RegionCommon]
    ):
        super().__init__(**common)
        self.fp_weight, self.fn_weight = _prices(self, fp_weight, fn_weight)
        self.exponent = self._number("exponent", exponent, 0, above=True)

    def class_loss(self, counts: Counts) -> Tensor:
        return _power(_tversky(counts, self.fp_weight, self.fn_weight, self.smooth), self.exponent)


def _prices(loss: Loss, fp_weight: float, fn_weight: float) -> tuple[float, float]:
    prices = loss._number("fp_weight", fp_weight, 0), loss._number("fn_weight", fn_weight, 0)
    if not any(prices):
        raise ValueError(f"{type(loss).__name__}: `fp_weight` and `fn_weight` must not both be 0.")
    return prices


class LogCoshDiceLoss(_ClassLoss):
    """The logarithm of the hyperbolic cosine of the Dice loss: quadratic near 0, nearly linear far from it.

        log cosh(x) = x + softplus(-2 x) - log 2,    x: Dice loss of the class

    Args: pool, absent, smooth: see `delineate.losses.region`; the others: see `Loss`.
    Shape: see `Loss`.
    Range: [0, log cosh 1 = 0.4338]; 0 at a perfect prediction. Its derivative tanh(x) is what lies in [-1, 1].
    Absent classes: left out of the mean; an empty target counts its false positives.

    >>> logits = torch.tensor([[[20.0, -20.0, 20.0], [-20.0, 20.0, -20.0]]])        # one hit, one miss
    >>> round(LogCoshDiceLoss(classes=[1])(logits, torch.tensor([[0, 1, 1]])).item(), 4)      # log cosh(1 / 3)
    0.0546

    Notes: the gradient shrinks as the class gets better, so it polishes less than Dice: not for small structures alone.
    Reference: Jadon, A survey of loss functions for semantic segmentation, CIBCB 2020, arXiv 2006.14822.
    """

    def __init__(self, **common: Unpack[RegionCommon]):
        super().__init__(**common)

    def class_loss(self, counts: Counts) -> Tensor:
        wrong = counts.fp + counts.fn
        dice = wrong / (2 * counts.tp + wrong + self.smooth)
        return torch.log(torch.cosh(dice))


class GeneralizedDiceLoss(_RegionLoss):
    """Dice over all classes in one ratio, each weighted by the inverse square of its size.

        1 - (2 sum_c w_c tp_c + smooth) / (sum_c w_c (sum p_c + sum y_c) + smooth),    w_c = 1 / (sum y_c)^2

    Args:
        weighting: "square" (the paper), "simple" 1 / sum y_c, or "uniform" 1.
        pool, absent, smooth: see `delineate.losses.region`; common: see `Loss`. `class_weight` multiplies w_c. The
            weights are scaled so that the largest is 1, which matters to `smooth` alone.

    Shape: see `Loss`.
    Range: [0, 1]; 0 at a perfect prediction.
    Absent classes: the paper is silent. "skip" drops them from both sums; "count" gives them the largest finite weight;
        with no scored class present the mean false-positive rate stands in.

    >>> logits = torch.tensor([[[20.0, -20.0, 20.0], [-20.0, 20.0, -20.0]]])        # predicts 0 1 0
    >>> round(GeneralizedDiceLoss()(logits, torch.tensor([[0, 1, 1]])).item(), 4)   # 1 - 2 (1 + 1/4) / (3 + 3/4)
    0.3333

    Notes: the smallest class rules the ratio; in multi-organ tasks with the background scored it has trained badly
    (Ma et al., MedIA 2021). Some code gives an absent class a weight of 1e20, which lets it swamp the rest.
    Reference: Sudre et al., Generalised Dice overlap as a deep learning loss function for highly unbalanced
    segmentations, DLMIA 2017, arXiv 1707.03237.
    """

    def __init__(self, *, weighting: str = "square", **common: Unpack[RegionCommon]):
        super().__init__(**common)
        self.weighting = self._option("weighting", weighting, WEIGHTINGS)

    def row_loss(self, counts: Counts, present: Tensor, counted: Tensor) -> Tensor:
        weights = self._weights(counts.count, present & counted) * counted
        weights = weights * self.class_weights(weights.shape[1], weights.device)
        wrong, size = (weights * (counts.fp + counts.fn)).sum(1), (weights * (counts.mass + counts.count)).sum(1)
        empty = self.mean_over_classes(counts.false_positive_rate, counted)
        some = (present & counted).any(1)
        return torch.where(some, wrong / torch.where(some, size + self.smooth, 1), empty)

    def _weights(self, count: Tensor, present: Tensor) -> Tensor:
        """Relative to the largest, (R, C); absent classes get the largest, 1."""
        exponent = {"square": 2, "simple": 1, "uniform": 0}[self.weighting]
        smallest = torch.where(present, count, torch.inf).amin(1, keepdim=True)
        return torch.where(present, smallest / torch.where(present, count, 1), 1).pow(exponent)
