"""Losses by region: formulae over true positives, false positives and misses of each class.

What they have in common, `pool`, `absent` and `smooth` among it, is described in `delineate.losses.counts`.
"""

from typing import Unpack

import torch
from torch import Tensor

from delineate.losses.counts import (
    ClassLoss,
    Counts,
    PoolCommon,
    RatioCommon,
    RatioLoss,
    RegionLoss,
    not_negative,
    power,
    ratio,
)
from delineate.losses.loss import Loss

WEIGHTINGS = ("square", "simple", "uniform")


class DiceLoss(RatioLoss):
    """One minus the soft Dice coefficient: overlap against the mean of both sizes.

        plain:    1 - (2 tp + smooth) / (2 tp + fp + fn + smooth)               (denominator: sum p + sum y)
        squared:  1 - (2 sum p y + smooth) / (sum p^2 + sum y^2 + smooth)

    Args:
        squared: the form of V-Net. Both are called the original; they agree for p in {0, 1}.
        pool, absent, smooth: see `delineate.losses.counts`; common: see `Loss`.

    Shape: see `Loss`.
    Range: [0, 1]; 0 at a perfect prediction.
    Absent classes: left out of the mean; an empty target counts its false positives.

    >>> logits = torch.tensor([[[20.0, -20.0, 20.0], [-20.0, 20.0, -20.0]]])        # predicts 0 1 0
    >>> round(DiceLoss(classes=[1])(logits, torch.tensor([[0, 1, 1]])).item(), 4)   # 1 - 2 / 3
    0.3333

    Use for: any segmentation with foreground much smaller than background, beside a loss by voxel.
    Not for: training with nothing beside it: on voxels that are wrong with confidence the gradient vanishes. Nor where
    every object counts alike: many small ones weigh less than one large.
    Notes: per sample by default, as in the papers; `pool="batch"` is nnU-Net's batch Dice. Background is scored unless
    `classes` leaves it out.
    Reference: Milletari et al., V-Net, 3DV 2016 (squared); Drozdzal et al. 2016 and Sudre et al. 2017 (plain).
    """

    def __init__(self, *, squared: bool = False, **common: Unpack[RatioCommon]):
        super().__init__(**common)
        self.squared = self._flag("squared", squared)
        self.needs = ("squares",) if squared else ()

    def class_loss(self, counts: Counts) -> Tensor:
        if self.squared:
            size = counts.squares + counts.target_squares
            return not_negative(size - 2 * counts.product) / (size + self.smooth)
        return counts.wrong / (counts.size + self.smooth)


class JaccardLoss(RatioLoss):
    """One minus the soft Jaccard index (intersection over union).

        1 - (tp + smooth) / (tp + fp + fn + smooth)

    Args: pool, absent, smooth: see `delineate.losses.counts`; the others: see `Loss`.
    Shape: see `Loss`.
    Range: [0, 1]; 0 at a perfect prediction.
    Absent classes: left out of the mean; an empty target counts its false positives.

    >>> logits = torch.tensor([[[20.0, -20.0, 20.0], [-20.0, 20.0, -20.0]]])        # predicts 0 1 0
    >>> JaccardLoss(classes=[1])(logits, torch.tensor([[0, 1, 1]])).item()
    0.5

    Use for: tasks that are scored by IoU.
    Not for: hoping for other masks than with Dice: the two rank predictions of one class alike.
    Notes: across classes it is harder on poor overlap than Dice.
    Reference: Rahman and Wang, Optimizing intersection-over-union in deep neural networks, ISVC 2016.
    """

    def __init__(self, **common: Unpack[RatioCommon]):
        super().__init__(**common)

    def class_loss(self, counts: Counts) -> Tensor:
        return counts.wrong / (counts.tp + counts.wrong + self.smooth)


def tversky_loss(counts: Counts, fp_weight: float, fn_weight: float, smooth: float) -> Tensor:
    """1 - (tp + smooth) / (tp + fp_weight fp + fn_weight fn + smooth)."""
    wrong = fp_weight * counts.fp + fn_weight * counts.fn
    return ratio(wrong, counts.tp + wrong + smooth)


class TverskyLoss(RatioLoss):
    """One minus the Tversky index: Dice with separate prices for false positives and misses.

        1 - (tp + smooth) / (tp + fp_weight fp + fn_weight fn + smooth)

    Args:
        fp_weight, fn_weight: the prices, at least 0, not both 0 (alpha and beta of the paper). (.5, .5) is Dice,
            (1, 1) is Jaccard.
        pool, absent, smooth: see `delineate.losses.counts`; common: see `Loss`.

    Shape: see `Loss`.
    Range: [0, 1]; 0 at a perfect prediction.
    Absent classes: left out of the mean; an empty target counts its false positives.

    >>> logits = torch.tensor([[[20.0, -20.0, 20.0], [-20.0, 20.0, -20.0]]])        # one hit, one miss
    >>> round(TverskyLoss(classes=[1])(logits, torch.tensor([[0, 1, 1]])).item(), 4)          # .7 / 1.7
    0.4118

    Use for: lesions and other targets where a miss costs more than a false alarm, or the reverse.
    Not for: masks of the right size, unless the prices are equal: the dearer error is avoided by drawing too large or
    too small. Equal prices of .5 are Dice.
    Notes: alpha prices false positives in Salehi, MONAI and smp, and misses in Abraham and in Jadon's code: hence no
    letters here.
    Reference: Salehi et al., Tversky loss function for image segmentation using 3D fully convolutional deep networks,
    MLMI 2017, arXiv 1706.05721.
    """

    def __init__(self, *, fp_weight: float = 0.3, fn_weight: float = 0.7, **common: Unpack[RatioCommon]):
        super().__init__(**common)
        self.fp_weight, self.fn_weight = _prices(self, fp_weight, fn_weight)

    def class_loss(self, counts: Counts) -> Tensor:
        return tversky_loss(counts, self.fp_weight, self.fn_weight, self.smooth)


class FocalTverskyLoss(RatioLoss):
    """A power of the Tversky loss of each class, which keeps classes that are nearly right from fading out.

        mean over classes of (1 - TI)^exponent,    TI = (tp + smooth) / (tp + fp_weight fp + fn_weight fn + smooth)

    Args:
        fp_weight, fn_weight: see `TverskyLoss`.
        exponent: above 0; below 1 lifts small losses, above 1 suppresses them. .75 is the paper's 1 / gamma at its
            best gamma, 4 / 3.
        pool, absent, smooth: see `delineate.losses.counts`; common: see `Loss`.

    Shape: see `Loss`.
    Range: [0, 1]; 0 at a perfect prediction, with the gradient 0 there.
    Absent classes: left out of the mean; an empty target counts its false positives.

    >>> logits = torch.tensor([[[20.0, -20.0, 20.0], [-20.0, 20.0, -20.0]]])        # one hit, one miss
    >>> round(FocalTverskyLoss(classes=[1])(logits, torch.tensor([[0, 1, 1]])).item(), 4)     # (.7 / 1.7) ** .75
    0.514

    Use for: small targets that Tversky leaves half found: an exponent below 1 keeps the gradient up until late.
    Not for: noisy outlines, since small errors are lifted.
    Notes: the paper sums over classes, we average. The power is taken class by class, before the mean; smp takes it
    after, which is another loss. Jadon's exponent gamma in [1, 3] is the inverse of the paper's.
    Reference: Abraham and Khan, A novel focal Tversky loss function with improved attention U-Net for lesion
    segmentation, ISBI 2019, arXiv 1810.07842.
    """

    def __init__(
        self, *, fp_weight: float = 0.3, fn_weight: float = 0.7, exponent: float = 0.75, **common: Unpack[RatioCommon]
    ):
        super().__init__(**common)
        self.fp_weight, self.fn_weight = _prices(self, fp_weight, fn_weight)
        self.exponent = self._number("exponent", exponent, 0, above=True)

    def class_loss(self, counts: Counts) -> Tensor:
        return power(tversky_loss(counts, self.fp_weight, self.fn_weight, self.smooth), self.exponent)


def _prices(loss: Loss, fp_weight: float, fn_weight: float) -> tuple[float, float]:
    prices = loss._number("fp_weight", fp_weight, 0), loss._number("fn_weight", fn_weight, 0)
    if not any(prices):
        raise ValueError(f"{type(loss).__name__}: `fp_weight` and `fn_weight` must not both be 0.")
    return prices


class AsymmetricSimilarityLoss(RatioLoss):
    """One minus the F-beta score: Dice in which recall counts beta times as much as precision.

        1 - ((1 + beta^2) tp + smooth) / ((1 + beta^2) tp + beta^2 fn + fp + smooth)

    Args:
        beta: above 0; above 1 misses cost more, below 1 false positives do. 1 is Dice.
        pool, absent, smooth: see `delineate.losses.counts`; common: see `Loss`.

    Shape: see `Loss`.
    Range: [0, 1]; 0 at a perfect prediction.
    Absent classes: left out of the mean; an empty target counts its false positives.

    >>> logits = torch.tensor([[[20.0, -20.0, 20.0], [-20.0, 20.0, -20.0]]])        # one hit, one miss
    >>> round(AsymmetricSimilarityLoss(classes=[1])(logits, torch.tensor([[0, 1, 1]])).item(), 4)   # 2.25 / 5.5
    0.4091

    Use for: lesions, where recall matters more than precision and one number is to say by how much.
    Not for: masks of the right size, as with Tversky, or a free choice of both prices, which here hang on one number.
    Notes: equals Tversky with fp_weight = 1 / (1 + beta^2) and fn_weight = beta^2 / (1 + beta^2). beta^2 is on the
    misses; one survey has it on the false positives.
    Reference: Hashemi et al., Asymmetric loss functions and deep densely connected networks for highly imbalanced
    medical image segmentation, IEEE Access 2019, arXiv 1803.11078.
    """

    def __init__(self, *, beta: float = 1.5, **common: Unpack[RatioCommon]):
        super().__init__(**common)
        self.beta = self._number("beta", beta, 0, above=True)

    def class_loss(self, counts: Counts) -> Tensor:
        wrong = self.beta**2 * counts.fn + counts.fp
        return wrong / ((1 + self.beta**2) * counts.tp + wrong + self.smooth)


class LogCoshDiceLoss(RatioLoss):
    """The logarithm of the hyperbolic cosine of the Dice loss: quadratic near 0, nearly linear far from it.

        log cosh(x) = x + softplus(-2 x) - log 2,    x: Dice loss of the class

    Args: pool, absent, smooth: see `delineate.losses.counts`; the others: see `Loss`.
    Shape: see `Loss`.
    Range: [0, log cosh 1 = 0.4338]; 0 at a perfect prediction. Its derivative tanh(x) is what lies in [-1, 1].
    Absent classes: left out of the mean; an empty target counts its false positives.

    >>> logits = torch.tensor([[[20.0, -20.0, 20.0], [-20.0, 20.0, -20.0]]])        # one hit, one miss
    >>> round(LogCoshDiceLoss(classes=[1])(logits, torch.tensor([[0, 1, 1]])).item(), 4)      # log cosh(1 / 3)
    0.0546

    Use for: training in which the gradient of Dice jumps about near the end.
    Not for: small structures with nothing beside it: the gradient is that of Dice times tanh of its loss.
    Notes: the gradient shrinks as the class gets better.
    Reference: Jadon, A survey of loss functions for semantic segmentation, CIBCB 2020, arXiv 2006.14822.
    """

    def __init__(self, **common: Unpack[RatioCommon]):
        super().__init__(**common)

    def class_loss(self, counts: Counts) -> Tensor:
        dice = counts.wrong / (counts.size + self.smooth)
        return torch.log(torch.cosh(dice))


class GeneralizedDiceLoss(RegionLoss):
    """Dice over all classes in one ratio, each weighted by the inverse square of its size.

        1 - (2 sum_c w_c tp_c + smooth) / (sum_c w_c (sum p_c + sum y_c) + smooth),    w_c = 1 / (sum y_c)^2

    Args:
        weighting: "square" (the paper), "simple" 1 / sum y_c, or "uniform" 1.
        pool, absent, smooth: see `delineate.losses.counts`; common: see `Loss`. `class_weight` multiplies w_c. The
            weights are scaled so that the largest is 1, which matters to `smooth` alone.

    Shape: see `Loss`.
    Range: [0, 1]; 0 at a perfect prediction.
    Absent classes: the paper is silent. "skip" drops them from both sums; "count" gives them the largest finite weight;
        with no scored class present the mean false-positive rate stands in.

    >>> logits = torch.tensor([[[20.0, -20.0, 20.0], [-20.0, 20.0, -20.0]]])        # predicts 0 1 0
    >>> round(GeneralizedDiceLoss()(logits, torch.tensor([[0, 1, 1]])).item(), 4)   # 1 - 2 (1 + 1/4) / (3 + 3/4)
    0.3333

    Use for: two or three classes of very unequal size that are all present.
    Not for: many organs with the background scored: the smallest class rules the ratio and training fails (Ma et
    al., MedIA 2021).
    Notes: some code gives an absent class a weight of 1e20, which lets it swamp the rest.
    Reference: Sudre et al., Generalised Dice overlap as a deep learning loss function for highly unbalanced
    segmentations, DLMIA 2017, arXiv 1707.03237.
    """

    def __init__(self, *, weighting: str = "square", smooth: float = 0.0, **common: Unpack[PoolCommon]):
        super().__init__(**common)
        self.smooth = self._number("smooth", smooth, 0)
        self.weighting = self._option("weighting", weighting, WEIGHTINGS)

    def row_loss(self, counts: Counts, counted: Tensor) -> Tensor:
        present = counts.present & counted
        weights = self._weights(counts.count, present) * counted
        if self.class_weight is not None:
            weights = weights * self.class_weights(weights.shape[1], weights.device)
        wrong, size = (weights * counts.wrong).sum(1), (weights * counts.size).sum(1)
        empty, some = self.mean_over_classes(counts.mean_probability, counted), present.any(1)
        return torch.where(some, self.of_ratio(wrong / torch.where(some, size + self.smooth, 1)), empty)

    def of_ratio(self, value: Tensor) -> Tensor:
        """The loss, given one minus the generalised Dice coefficient of each row."""
        return value

    def _weights(self, count: Tensor, present: Tensor) -> Tensor:
        """Relative to the largest, (R, C); absent classes get the largest, 1."""
        exponent = {"square": 2, "simple": 1, "uniform": 0}[self.weighting]
        sizes = torch.where(present, count, torch.inf)
        smallest = sizes.amin(1, keepdim=True)
        return torch.where(present, smallest / sizes, 1).pow(exponent)


class PenaltyGeneralizedDiceLoss(GeneralizedDiceLoss):
    """The generalised Dice loss with false positives and misses penalised k times more in the denominator.

        (1 - GD) / (1 + k GD),    GD: generalised Dice coefficient, 1 - `GeneralizedDiceLoss`

    Args:
        k: penalty, at least 0; 0 is the generalised Dice loss.
        weighting: see `GeneralizedDiceLoss`.
        pool, absent, smooth: see `delineate.losses.counts`; common: see `Loss`.

    Shape: see `Loss`.
    Range: [0, 1]; 0 at a perfect prediction.
    Absent classes: as in `GeneralizedDiceLoss`; with no scored class present the mean false-positive rate, unpenalised.

    >>> logits = torch.tensor([[[20.0, -20.0, 20.0], [-20.0, 20.0, -20.0]]])        # generalised Dice 2 / 3
    >>> round(PenaltyGeneralizedDiceLoss()(logits, torch.tensor([[0, 1, 1]])).item(), 4)     # (1/3) / (1 + 2.5 * 2/3)
    0.125

    Use for: reproducing published results with it.
    Not for: a first choice: it shares the weakness of generalised Dice, and near a perfect overlap its gradient is
    1 + k times smaller.
    Notes: it is not a reweighting of classes. Fed with -GD instead of 1 - GD, as in some code, it is another function.
    The formula is from secondary sources, k from published code.
    Reference: Yang et al., Major vessel segmentation on X-ray coronary angiography using deep networks with a novel
    penalty loss function, MIDL 2019.
    """

    def __init__(self, *, k: float = 2.5, weighting: str = "square", **common: Unpack[RatioCommon]):
        super().__init__(weighting=weighting, **common)
        self.k = self._number("k", k, 0)

    def of_ratio(self, value: Tensor) -> Tensor:
        return value / (1 + self.k * (1 - value))


class SensitivitySpecificityLoss(ClassLoss):
    """Squared errors, averaged over the object and over what is not the object, in fixed shares.

        r sum w (y - p)^2 y / sum w y  +  (1 - r) sum w (y - p)^2 (1 - y) / sum w (1 - y)

    Args:
        r: share of the first term, the sensitivity error, in [0, 1].
        pool, absent: see `delineate.losses.counts`; common: see `Loss`.

    Shape: see `Loss`.
    Range: [0, 1]; 0 at a perfect prediction.
    Absent classes: left out of the mean; an empty target counts its false positives. A class that fills the image
        has no second term.

    >>> logits = torch.tensor([[[20.0, -20.0, 20.0], [-20.0, 20.0, -20.0]]])        # one hit, one miss
    >>> round(SensitivitySpecificityLoss(r=0.05, classes=[1])(logits, torch.tensor([[0, 1, 1]])).item(), 4)   # .05 / 2
    0.025

    Use for: small lesions, with r as the handle between misses and false positives.
    Not for: many classes at once: it has trained poorly there (Ma et al., MedIA 2021). Nor for two softmax classes that
    are both scored, where r drops out: write classes=[1].
    Notes: the two rates of the name are not in it; it is a squared error. A weighted sum of the two,
    as some surveys print, is a score. r = .05 is NiftyNet's, which calls .01 to .10 equivalent; some code names the two
    terms the other way round.
    Reference: Brosch et al., Deep convolutional encoder networks for multiple sclerosis lesion segmentation,
    MICCAI 2015.
    """

    def __init__(self, *, r: float = 0.05, **common: Unpack[PoolCommon]):
        super().__init__(**common)
        self.r = self._number("r", r, 0, 1)
        self.needs = ("squares",)

    def class_loss(self, counts: Counts) -> Tensor:
        missed, false = ratio(counts.miss_squares, counts.count), ratio(counts.false_squares, counts.outside)
        return self.r * missed + (1 - self.r) * torch.where(counts.outside > 0, false, 0)


class MCCLoss(ClassLoss):
    """One minus the Matthews correlation coefficient of each class against the rest.

        1 - (tp tn - fp fn) / sqrt((tp + fp)(tp + fn)(tn + fp)(tn + fn))

    Args: pool, absent: see `delineate.losses.counts`; the others: see `Loss`.
    Shape: see `Loss`.
    Range: [0, 2]; 0 at a perfect prediction, 1 for a prediction unrelated to the target, 2 for its opposite.
    Absent classes: left out of the mean; an empty target counts its false positives. A class that fills the image
        costs its misses, fn / (tp + fn).

    >>> logits = torch.tensor([[[20.0, -20.0, 20.0], [-20.0, 20.0, -20.0]]])        # tp 1, fn 1, tn 1
    >>> round(MCCLoss(classes=[1])(logits, torch.tensor([[0, 1, 1]])).item(), 4)    # 1 - 1 / sqrt(1 * 2 * 1 * 2)
    0.5

    Use for: one foreground class where true negatives should count as well.
    Not for: small foreground in large images: with ever more true negatives it turns into
    1 - tp / sqrt((tp + fp)(tp + fn)), which is close to Dice.
    Notes: the paper and its code pool the batch, which is `pool="batch"` here. Counts are float64, since tp tn - fp fn
    cancels. Predicting all or nothing leaves a margin of 0, where the coefficient is taken as 0.
    Reference: Abhishek and Hamarneh, Matthews correlation coefficient loss for deep convolutional networks, ISBI 2021,
    arXiv 2010.13454.
    """

    def class_loss(self, counts: Counts) -> Tensor:
        truth, said, hit = (table / counts.total for table in (counts.count, counts.mass, counts.tp))
        margins = said * not_negative(1 - said) * truth * not_negative(1 - truth)
        none = margins <= 0
        root = torch.where(none, 1, margins).sqrt()
        value = torch.where(none, 1, (root - (hit - said * truth)) / root)
        return torch.where(counts.outside > 0, not_negative(value), counts.fn / counts.count)
