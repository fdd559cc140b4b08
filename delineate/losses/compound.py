"""The named mixtures of the literature that are no plain sum: a mean over voxels and a formula of counts in one.

Both parts come from one pass. `class_weight` means for each part what it means for its family: a factor of the terms
of voxels of that class, and the weight of the class in the mean over classes. Plain mixtures are written with `+`;
`DiceCE`, `DiceTopK` and `DiceFocal` are names for these in expressions.
"""

from abc import abstractmethod
from typing import Unpack

import torch
from torch import Tensor

from delineate.losses.counts import Counts, PoolCommon, RatioLoss, power, ratio
from delineate.losses.inputs import Inputs
from delineate.losses.region import tversky_loss
from delineate.losses.voxel import MeanCostLoss
from delineate.ops.cost import Cost
from delineate.ops.overlap import Overlap


class _CompoundLoss(RatioLoss, MeanCostLoss):
    """Two parts with their factors."""

    @abstractmethod
    def factors(self) -> tuple[float, float]:
        """Factors of the part by voxel and of the part by region."""

    def compute(self, inputs: Inputs) -> Tensor:
        found = inputs.overlap(self.mode, self.ignore_index)
        by_voxel, by_region = self.factors()
        return by_voxel * self.voxel_value(found) + by_region * self.region_value(inputs)

    def foreground(self, table: Tensor) -> Tensor:
        """Which classes are foreground, (C,): in softmax mode all but class 0, in sigmoid mode all."""
        classes = torch.arange(table.shape[1], device=table.device)
        return classes >= (1 if self.mode == "softmax" else 0)


class ComboLoss(_CompoundLoss):
    """Cross entropy with a price for misses and one for false positives, minus the Dice coefficient.

        ce_weight mean[-(b y log p + (1 - b)(1 - y) log(1 - p))]
            - (1 - ce_weight) mean over classes of (2 tp + smooth) / (sum p + sum y + smooth),     b = positive_weight

    Args:
        ce_weight: share of the cross entropy, in [0, 1].
        positive_weight: b in [0, 1]; above .5 misses cost more, below false positives do.
        smooth: 1 by default, the paper's pseudo-count.
        pool, absent: see `delineate.losses.counts`; common: see `Loss`.

    Shape: see `Loss`.
    Range: [-(1 - ce_weight), inf); -(1 - ce_weight) at a perfect prediction: negative values are normal.
    Absent classes: left out of the mean; one that is counted has one minus its false-positive rate for a Dice
        coefficient. The formula, smooth / (sum p + smooth), would leave false positives in a large image next to free.

    >>> logits = torch.tensor([[[20.0, -20.0, 20.0], [-20.0, 20.0, -20.0]]])        # predicts 0 1 0
    >>> round(ComboLoss()(logits, torch.tensor([[0, 1, 0]])).item(), 4)
    -0.5

    Use for: one foreground class for which it is known whether a miss or a false positive is worse.
    Not for: comparing values with those of other losses: its minimum is not 0.
    Notes: the Dice coefficient is subtracted; one survey subtracts the Dice loss, a sign error. In softmax mode b is
    the price of all classes but class 0, the background, and 1 - b of the background; for two classes that is the
    formula above.
    Reference: Taghanaki et al., Combo loss: handling input and output imbalance in multi-organ segmentation, CMIG 2019,
    arXiv 1805.02798.
    """

    def __init__(
        self, *, ce_weight: float = 0.5, positive_weight: float = 0.5, smooth: float = 1.0, **common: Unpack[PoolCommon]
    ):
        super().__init__(smooth=smooth, **common)
        self.ce_weight = self._number("ce_weight", ce_weight, 0, 1)
        self.positive_weight = self._number("positive_weight", positive_weight, 0, 1)

    def factors(self) -> tuple[float, float]:
        return self.ce_weight, -(1 - self.ce_weight)

    def costs(self, found: Overlap) -> Tensor:
        off_weight = 1 - self.positive_weight
        on = torch.where(self.foreground(found.nll), self.positive_weight * found.nll, off_weight * found.nll)
        return on + off_weight * found.nll_off

    def class_loss(self, counts: Counts) -> Tensor:
        """The Dice coefficient: the factor is negative."""
        return ratio(2 * counts.tp + self.smooth, counts.size + self.smooth)

    def absent_loss(self, counts: Counts) -> Tensor:
        return 1 - counts.mean_probability


class ExponentialLogarithmicLoss(_CompoundLoss):
    """Powers of the logarithm of Dice and of the cross entropy of each voxel, which is weighted by rarity.

        dice_weight mean over classes of (-ln Dice_c)^dice_gamma  +  ce_weight mean_i a_{y_i} (-ln p_{i, y_i})^ce_gamma
        Dice_c = (2 tp + smooth) / (sum p + sum y + smooth),     a_c = sqrt(sum_k f_k / f_c),     f: class frequencies

    Args:
        dice_weight, ce_weight: factors of the two parts, at least 0, not both 0.
        dice_gamma, ce_gamma: exponents above 0; below 1 they lift what is nearly right.
        smooth: 1 by default, the paper's pseudo-count.
        pool, absent: see `delineate.losses.counts`; common: see `Loss`. `class_weight` takes the place of a_c, so that
            frequencies of the training set can be used.

    Shape: see `Loss`.
    Range: [0, inf); 0 at a perfect prediction, with the gradient 0 there. With exponents below 1 it falls slowly: a
        probability of 1 - 1e-9 still costs 0.002 at ce_gamma = 0.3.
    Absent classes: left out of the mean; an empty target counts its false positives.

    >>> logits = torch.zeros(1, 2, 3)
    >>> round(ExponentialLogarithmicLoss(dice_weight=0, ce_gamma=1)(logits, torch.tensor([[0, 1, 1]])).item(), 4)
    0.1932

    Use for: many labels of very different size in 3D, where Dice alone misses the smallest.
    Not for: noisy outlines, since small errors are lifted; nor for calibrated probabilities.
    Notes: the power is taken of -ln x, inside the mean. Frequencies are those of each sample's target. In sigmoid mode
    the two outcomes of a channel have frequencies of their own. The pseudo-count and the frequencies of the paper's
    experiments are from secondary sources.
    Reference: Wong et al., 3D segmentation with exponential logarithmic loss for highly unbalanced object sizes,
    MICCAI 2018, arXiv 1809.00076.
    """

    def __init__(
        self,
        *,
        dice_weight: float = 0.8,
        ce_weight: float = 0.2,
        dice_gamma: float = 0.3,
        ce_gamma: float = 0.3,
        smooth: float = 1.0,
        **common: Unpack[PoolCommon],
    ):
        super().__init__(smooth=smooth, **common)
        self.dice_weight = self._number("dice_weight", dice_weight, 0)
        self.ce_weight = self._number("ce_weight", ce_weight, 0)
        if not (self.dice_weight or self.ce_weight):
            raise ValueError(
                "ExponentialLogarithmicLoss: `dice_weight` and `ce_weight` must not both be 0; got 0 and 0."
            )
        self.dice_gamma = self._number("dice_gamma", dice_gamma, 0, above=True)
        self.ce_gamma = self._number("ce_gamma", ce_gamma, 0, above=True)
        self._cost = Cost(power=self.ce_gamma)
        self.needs = (self._cost,)

    def factors(self) -> tuple[float, float]:
        return self.ce_weight, self.dice_weight

    def costs(self, found: Overlap) -> Tensor:
        on, off = found.costs[self._cost]
        if self.class_weight is None:
            share = found.count / torch.where(found.total > 0, found.total, 1)[:, None]
            on, off = on * _rarity(share), off * _rarity(1 - share)
        return on + off

    def class_loss(self, counts: Counts) -> Tensor:
        dice = (2 * counts.tp + self.smooth) / (counts.size + self.smooth)
        return power(-dice.clamp_max(1).log(), self.dice_gamma)


def _rarity(share: Tensor) -> Tensor:
    """1 / sqrt(share); 0 where there is nothing to weigh."""
    some = share > 0
    return torch.where(some, torch.where(some, share, 1).rsqrt(), 0)


class UnifiedFocalLoss(_CompoundLoss):
    """Focal cross entropy and focal Tversky under one exponent, which spares the foreground in the asymmetric form.

        focal_weight F + (1 - focal_weight) T,    TI_c = (tp + smooth) / (tp + fn_weight fn + fp_weight fp + smooth)
        symmetric:   F = mean_i d_{y_i} (1 - p_{i, y_i})^gamma (-log p_{i, y_i}),   T = mean_c (1 - TI_c)^(1 - gamma)
        asymmetric:  F without (1 - p)^gamma on foreground voxels,   T with the exponent 1 on the background
        d = fn_weight on foreground, fp_weight on background

    Args:
        focal_weight: share of F, in [0, 1].
        fn_weight: price of misses, in [0, 1].
        fp_weight: price of false positives, at least 0; None: 1 - fn_weight.
        gamma: in [0, 1); 0 is weighted cross entropy and Tversky.
        asymmetric: whether the background alone is focused on its hard voxels, and the foreground alone is lifted.
        pool, absent, smooth: see `delineate.losses.counts`; common: see `Loss`.

    Shape: see `Loss`.
    Range: [0, inf); 0 at a perfect prediction, with the gradient 0 there.
    Absent classes: left out of the mean; an empty target counts its false positives.

    >>> logits = torch.zeros(1, 2, 4)
    >>> round(UnifiedFocalLoss(focal_weight=1)(logits, torch.tensor([[1, 1, 1, 1]])).item(), 4)       # 0.6 log 2
    0.4159

    Use for: small foreground in medical images, with one exponent to tune instead of four.
    Not for: images without a background class, for which the asymmetric form makes no sense.
    Notes: all codes have two classes; with more, class 0 is the background and the others are foreground (sigmoid mode:
    a channel that is on is foreground). Exponents as in the authors' code; the paper's symmetric form swaps them, which
    is the same at gamma = .5. fn_weight is .6 there and .7 in MONAI.
    Reference: Yeung et al., Unified focal loss: generalising Dice and cross entropy-based losses to handle class
    imbalanced medical image segmentation, CMIG 2022, arXiv 2102.04525.
    """

    def __init__(
        self,
        *,
        focal_weight: float = 0.5,
        fn_weight: float = 0.6,
        fp_weight: float | None = None,
        gamma: float = 0.5,
        asymmetric: bool = True,
        smooth: float = 0.0,
        **common: Unpack[PoolCommon],
    ):
        super().__init__(smooth=smooth, **common)
        self.focal_weight = self._number("focal_weight", focal_weight, 0, 1)
        self.fn_weight = self._number("fn_weight", fn_weight, 0, 1)
        self.fp_weight = None if fp_weight is None else self._number("fp_weight", fp_weight, 0)
        self.gamma = self._number("gamma", gamma, 0, 1, below=True)
        self.asymmetric = self._flag("asymmetric", asymmetric)
        self._cost = Cost(gamma=self.gamma)
        self.needs = (self._cost,)

    def factors(self) -> tuple[float, float]:
        return self.focal_weight, 1 - self.focal_weight

    def prices(self) -> tuple[float, float]:
        """Prices of false positives and of misses."""
        return 1 - self.fn_weight if self.fp_weight is None else self.fp_weight, self.fn_weight

    def costs(self, found: Overlap) -> Tensor:
        focal, off = found.costs[self._cost]
        fp_weight, fn_weight = self.prices()
        of_foreground = found.nll if self.asymmetric else focal
        on = torch.where(self.foreground(focal), fn_weight * of_foreground, fp_weight * focal)
        return on + fp_weight * off

    def class_loss(self, counts: Counts) -> Tensor:
        value = tversky_loss(counts, *self.prices(), self.smooth)
        lifted = power(value, 1 - self.gamma)
        return torch.where(self.foreground(value), lifted, value) if self.asymmetric else lifted
