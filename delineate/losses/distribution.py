"""Losses by voxel: a cost of the probability given to what the label says, averaged over the voxels.

What they have in common is described in `delineate.losses.voxel`.
"""

import math
from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from delineate.losses.distances import Distances, checked_spacing, map_kind
from delineate.losses.inputs import Inputs
from delineate.losses.loss import Common
from delineate.losses.voxel import EachVoxelLoss, HardestLoss, MeanCostLoss
from delineate.ops.cost import Cost
from delineate.ops.overlap import Overlap
from delineate.ops.select import hardest
from delineate.target import Geometry

NORMALIZE = ("count", "weight")
_SAME_DISTANCE = 1e-6
"""Share of a distance below which others are equal to it: distances are float32."""
_ROUNDING = 1e-10
"""A share of the voxels below one voxel of any image, and above the rounding of float64 sums."""


class CrossEntropyLoss(MeanCostLoss):
    """Minus the log-probability of the truth, averaged over the voxels.

        softmax:  sum_i w_i a_{y_i} (-log p_{i, y_i}) / Z         dense:  -sum_c y_c log p_c
        sigmoid:  -y log p - (1 - y) log(1 - p), mean over valid voxels and scored channels
        Z = valid voxels ("count", the papers) or sum_i w_i a_{y_i} ("weight", torch)
        label_smoothing e:  (1 - e) of the above + (e / C) sum_i w_i sum_c a_c (-log p_{i, c}) / Z
        (sigmoid: C = 2 outcomes of each channel)

    Args:
        normalize: "count" divides by the valid voxels, those of weight 0 included, so that weights change the size
            of the loss; "weight" divides by the weights, so that their scale drops out. The papers do the first,
            `torch.nn.CrossEntropyLoss` the second; without weights they are equal.
        label_smoothing: share e in [0, 1) of each voxel's target that is spread evenly over the outcomes. Z is that of
            the labels as given, as in torch. It belongs to this loss only: to soften the target of every term of a
            sum, pass a dense target. A logit of -inf then costs inf.
        common: see `Loss`. With `classes`, terms of other labels are dropped, from Z too: false positives on those
            voxels then cost nothing.

    Shape: see `Loss`.
    Range: [0, inf); 0 at a perfect prediction.
    Absent classes: need no rule. All voxels ignored: 0 with a graph.

    >>> logits = torch.tensor([[[20.0, -20.0], [-20.0, 20.0]]])            # N, C, S = 1, 2, 2
    >>> round(CrossEntropyLoss()(logits, torch.tensor([[0, 0]])).item(), 3)
    20.0

    Use for: the default beside any region loss; calibrated probabilities; classes of similar size.
    Not for: very unequal classes on its own, since rare ones are learnt late or never.
    Notes: computed from sums by class, so a sum with Dice costs no extra pass and no memory per voxel.
    Reference: the binary and categorical forms of every survey, for example Jadon, CIBCB 2020, arXiv 2006.14822.
    """

    cost = Cost()

    def __init__(self, *, normalize: str = "count", label_smoothing: float = 0.0, **common: Unpack[Common]):
        super().__init__(**common)
        self.normalize = self._option("normalize", normalize, NORMALIZE)
        self.label_smoothing = self._number("label_smoothing", label_smoothing, 0, 1, below=True)
        self.needs = ("spread",) if label_smoothing else ()

    def costs(self, found: Overlap) -> Tensor:
        truth = self.of_both(found.nll, found.nll_off)
        if self.label_smoothing:
            outcomes = truth.shape[1] if self.mode == "softmax" else 2
            truth = (1 - self.label_smoothing) * truth + self.label_smoothing / outcomes * found.spread
        return truth

    def divisor(self, found: Overlap) -> Tensor:
        if self.normalize == "count":
            return super().divisor(found)
        by_class = found.count if self.mode == "softmax" else found.total[:, None].expand_as(found.count)
        return self.by_class_weight(by_class)


class BalancedCrossEntropyLoss(MeanCostLoss):
    """Cross entropy in which, image by image, every class weighs as much as all that is not of it is frequent.

        softmax:  mean_i (1 - n_{y_i} / N) (-log p_{i, y_i})                           n_c: voxels of class c, N: all
        sigmoid:  mean_i [-beta y log p - (1 - beta)(1 - y) log(1 - p)],   beta = |Y-| / |Y|       for each channel

    Args: see `Loss`.
    Shape: see `Loss`.
    Range: [0, inf); 0 at a perfect prediction.
    Absent classes: need no rule. An image with one class only would weigh everything 0; it gets weight 1 instead,
        plain cross entropy, so that false positives on an empty image keep their price.

    >>> logits = torch.zeros(1, 2, 4)
    >>> round(BalancedCrossEntropyLoss()(logits, torch.tensor([[0, 0, 0, 1]])).item(), 4)     # 0.375 log 2
    0.2599

    Use for: edges and other thin foreground that fills a small part of every image.
    Not for: calibrated probabilities, which balancing shifts: rare classes are called more often than they occur.
    Notes: the paper sums over voxels and code in use averages; ours is the mean. The multi-class form is ours: for two
    classes it equals the paper's. Frequencies come from the target of each image and are weighted by `weight`.
    Reference: Xie and Tu, Holistically-nested edge detection, ICCV 2015, arXiv 1504.06375.
    """

    def __init__(self, **common: Unpack[Common]):
        super().__init__(**common)

    def costs(self, found: Overlap) -> Tensor:
        share = found.count / torch.where(found.total > 0, found.total, 1)[:, None]
        full, empty = share > 1 - _ROUNDING, share < _ROUNDING
        single = full.any(1, keepdim=True) if self.mode == "softmax" else full | empty
        on, off = torch.where(single, 1.0, 1 - share), torch.where(single, 1.0, share)
        return on * found.nll + off * found.nll_off


class TopKLoss(HardestLoss):
    """Cross entropy of the hardest voxels only.

        mean of the K largest voxel costs,   K = max(1, floor(k * valid voxels))

    Args:
        k: fraction of the valid voxels that is kept, in (0, 1]. k = 1 is cross entropy.
        common: see `Loss`. Weights multiply the costs before the choice.

    Shape: see `Loss`.
    Range: [0, inf); 0 at a perfect prediction.
    Absent classes: need no rule. Ignored voxels count neither in K nor among the K.

    >>> logits = torch.tensor([[[9.0, 0.0, 9.0, 9.0], [0.0, 0.0, 0.0, 0.0]]])
    >>> round(TopKLoss(k=0.25)(logits, torch.zeros(1, 4, dtype=torch.long)).item(), 4)        # log 2: the second voxel
    0.6931

    Use for: small or rare structures in much easy background, beside Dice.
    Not for: noisy labels, which are the hardest voxels of all; prefer a larger k there.
    Notes: nnU-Net's form, with K over all voxels of the batch ("mean") or of each sample ("none", "sum"); nnU-Net lets
    ignored voxels dilute the mean. Voxels tied with the K-th share its place. The choice carries no gradient.
    Reference: Wu, Shen and van den Hengel, Bridging category-level and instance-level semantic image segmentation,
    2016, arXiv 1605.06885, for the idea; Isensee et al., nnU-Net, for the form.
    """

    cost = Cost()

    def __init__(self, *, k: float = 0.1, **common: Unpack[Common]):
        super().__init__(**common)
        self.k = self._number("k", k, 0, 1, above=True)

    def choose(self, plain: Tensor, weighted: Tensor, candidates: Tensor | None) -> tuple[Tensor, Tensor]:
        return hardest(-weighted, candidates, self.k)


class OHEMLoss(HardestLoss):
    """Cross entropy of the voxels whose true label is given less than a threshold: online hard example mining.

        mean over keep of -log p_{y_i},   keep = { i : p_{i, y_i} < threshold }, at least the `min_kept` hardest

    Args:
        threshold: probability in (0, 1] below which a voxel is hard.
        min_kept: at least so many voxels are kept (of the batch for "mean", of each sample otherwise), or, below 1,
            such a share of the valid voxels, at least one; None: a sixteenth. A share knows no batch size.
        common: see `Loss`. Hard is what has a low probability, whatever its weights; these multiply the costs.

    Shape: see `Loss`.
    Range: [0, inf); 0 at a perfect prediction.
    Absent classes: need no rule. Ignored voxels are never kept.

    >>> logits = torch.tensor([[[9.0, 0.0, 9.0, 9.0], [0.0, 0.0, 0.0, 0.0]]])
    >>> round(OHEMLoss()(logits, torch.zeros(1, 4, dtype=torch.long)).item(), 4)              # log 2: the second voxel
    0.6931

    Use for: street scenes and other large images of which most, such as road and sky, is soon right.
    Not for: noisy labels, which are never learnt and therefore always kept.
    Notes: `min_kept` differs most between codes: 100 000 in mmsegmentation, a sixteenth in CoinCheung's, 20 % in
    Detectron2. The value jumps when a voxel passes the threshold; the choice carries no gradient. With a dense
    target, hard is an expected cross entropy above -log threshold.
    Reference: Shrivastava et al., Training region-based object detectors with online hard example mining, CVPR 2016,
    arXiv 1604.03540, for the idea; the segmentation form is that of code in use.
    """

    def __init__(self, *, threshold: float = 0.7, min_kept: float | None = None, **common: Unpack[Common]):
        super().__init__(**common)
        self.threshold = self._number("threshold", threshold, 0, 1, above=True)
        share = isinstance(min_kept, float) and 0 < min_kept < 1
        self.min_kept = min_kept if min_kept is None or share else self._integer("min_kept", min_kept, low=1)

    def choose(self, plain: Tensor, weighted: Tensor, candidates: Tensor | None) -> tuple[Tensor, Tensor]:
        kept = 1 / 16 if self.min_kept is None else self.min_kept
        fraction, least = (kept, 1) if kept < 1 else (0.0, int(kept))
        return hardest(-plain, candidates, fraction, least, -math.log(self.threshold))


class FocalLoss(MeanCostLoss):
    """Cross entropy that forgives what is already right: each voxel is multiplied by (1 - p_t)^gamma.

        mean_i  alpha_t (1 - p_t)^gamma (-log p_t),      p_t: probability of the true label

    Args:
        gamma: focusing exponent, at least 0; 0 is cross entropy exactly.
        alpha: sigmoid mode: a number in [0, 1], the factor of positives, 1 - alpha that of negatives (paper: 0.25).
            softmax mode: one factor per class, the same as `class_weight`. None: no factor.
        common: see `Loss`.

    Shape: see `Loss`.
    Range: [0, inf); 0 at a perfect prediction.
    Absent classes: need no rule.

    >>> logits = torch.zeros(1, 2, 3)
    >>> round(FocalLoss(gamma=2)(logits, torch.tensor([[0, 1, 1]])).item(), 4)                # 0.25 log 2
    0.1733

    Use for: much easy background around few objects, as in detection, beside Dice.
    Not for: soft labels, since a dense target is not its own optimum here; nor for calibrated probabilities.
    Notes: detection divides by the number of positives, segmentation by the voxels, and so do we. Softmax focal and
    sigmoid focal are different losses; `mode` says which, and nothing is silently switched. The gradient is finite
    for every gamma, also for 0 < gamma < 1 at saturated logits.
    Reference: Lin et al., Focal loss for dense object detection, ICCV 2017, arXiv 1708.02002.
    """

    def __init__(self, *, gamma: float = 2.0, alpha: float | Sequence[float] | None = None, **common: Unpack[Common]):
        super().__init__(**common)
        self.gamma = self._number("gamma", gamma, 0)
        self.cost = Cost(gamma=self.gamma)
        self.needs = (self.cost,)
        self.alpha = alpha
        if alpha is None:
            return
        if self.mode == "sigmoid":
            self._number("alpha", alpha, 0, 1)
        elif isinstance(alpha, (int, float)) or self.class_weight is not None:
            raise ValueError(
                "FocalLoss: in softmax mode `alpha` is one factor per class, the same as `class_weight`; got "
                f"{alpha!r}{'' if self.class_weight is None else ' beside class_weight'}. "
                'Write class_weight=[...] with C numbers, or use mode="sigmoid".'
            )
        else:
            self.class_weight, self.alpha = self._checked_weights(alpha), None

    def costs(self, found: Overlap) -> Tensor:
        (on, off), (on_factor, off_factor) = found.costs[self.cost], self.factors()
        return self.of_both(on, off) if self.alpha is None else on_factor * on + off_factor * off

    def factors(self) -> tuple[float, float]:
        return (self.alpha, 1 - self.alpha) if isinstance(self.alpha, (int, float)) else (1.0, 1.0)


class PolyLoss(MeanCostLoss):
    """Cross entropy, or focal loss, with the weight of the first term of its polynomial expansion in 1 - p changed.

        mean_i  (1 - p_t)^gamma (-log p_t) + epsilon (1 - p_t)^(gamma + 1),      p_t: probability of the true label

    Args:
        epsilon: at least -1; above 0 it lifts the gradient of voxels that are nearly right, below 0 it lowers it. The
            paper tunes it per task.
        gamma: focusing exponent, at least 0; 0 is Poly-1 of cross entropy.
        common: see `Loss`.

    Shape: see `Loss`.
    Range: [0, inf); 0 at a perfect prediction.
    Absent classes: need no rule.

    >>> logits = torch.zeros(1, 2, 3)
    >>> round(PolyLoss()(logits, torch.tensor([[0, 1, 1]])).item(), 4)                        # log 2 + 1 / 2
    1.1931

    Use for: adjusting cross entropy or focal loss by one number, where there is time to tune it.
    Not for: soft labels: with epsilon above 0 a dense target is not its own optimum.
    Notes: epsilon = 0 is cross entropy (gamma = 0) or focal loss. frgfm/Holocron defaults to epsilon = 2. Below -1 the
    minimum would not be at p = 1, so that is refused.
    Reference: Leng et al., PolyLoss: a polynomial expansion perspective of classification loss functions, ICLR 2022,
    arXiv 2204.12511.
    """

    def __init__(self, *, epsilon: float = 1.0, gamma: float = 0.0, **common: Unpack[Common]):
        super().__init__(**common)
        self.epsilon = self._number("epsilon", epsilon, -1)
        self.gamma = self._number("gamma", gamma, 0)
        self.cost = Cost(gamma=self.gamma, epsilon=self.epsilon)
        self.needs = (self.cost,)

    def costs(self, found: Overlap) -> Tensor:
        return self.of_both(*found.costs[self.cost])


class DistancePenalizedCELoss(EachVoxelLoss):
    """Cross entropy that costs up to twice as much near the boundaries of the target.

        mean_i (1 + Phi_i) CE_i,     Phi_i = (D - d_i) / (D - d_min): 1 at the boundary, 0 farthest from it
        d_i: distance to the nearest voxel of another label; D, d_min: the largest and smallest of voxels of i's label

    Args:
        spacing: size of a voxel along each axis, above 0; None: that of the `Target`, or 1.
        common: see `Loss`. In sigmoid mode d is the distance to the other side of each channel.

    Shape: see `Loss`.
    Range: [0, inf); 0 at a perfect prediction.
    Absent classes: need no rule. An image of one label has Phi = 0, plain cross entropy.

    >>> target = torch.tensor([[0, 0, 0, 1]])                              # Phi: 0, 0.5, 1, and 1 for a single voxel
    >>> round(DistancePenalizedCELoss()(torch.zeros(1, 2, 4), target).item() / math.log(2), 3)     # 1 + 2.5 / 4
    1.625

    Use for: objects whose outline is hard and whose inside is not.
    Not for: noisy outlines, which it trusts most.
    Notes: distances are those of the target only, as in the paper's abstract; surveys take the prediction's, too. Where
    all voxels of a label are as far as each other, Phi is 1. A published code of this loss returns the plain mean.
    Reference: Caliva et al., Distance map loss penalty term for semantic segmentation, MIDL 2019, arXiv 1908.03679.
    """

    def __init__(self, *, spacing: Sequence[float] | None = None, **common: Unpack[Common]):
        super().__init__(**common)
        self.spacing = checked_spacing(self, spacing)
        self.needs = ("log_p", Geometry(map_kind(self.mode), self.spacing))

    def compute(self, inputs: Inputs) -> Tensor:
        found = inputs.overlap(self.mode, self.ignore_index)
        gains = self.weighted_gains(inputs, found)
        total = -(gains * (1 + self._nearness(inputs))).flatten(1).sum(1).double()
        return self.average(total, self.divisor(found), found.valid)

    def _nearness(self, inputs: Inputs) -> Tensor:
        """Phi, (N, 1, V) in softmax mode, (N, C, V) in sigmoid mode."""
        distances = Distances(inputs, self.ignore_index, self.spacing, False)
        if self.mode == "softmax":
            labels = inputs.target.argmax(1) if inputs.dense else inputs.labels()
            far, sides, kinds = distances.to_other_label(), labels[:, None], inputs.shape[1]
        else:
            on = inputs.channels_on()
            far, sides, kinds = distances.to_other_side(), (on > 0.5 if inputs.dense else on).long(), 2
        valid = inputs.valid(self.ignore_index)
        sides = sides if valid is None else sides.masked_fill(~valid[:, None], kinds)  # ignored: a kind of its own
        far = far.flatten(2)
        tables = [far.new_full((*far.shape[:2], kinds + 1), start) for start in (0, torch.inf)]
        largest, smallest = (
            table.scatter_reduce(2, sides, far, how) for table, how in zip(tables, ("amax", "amin"), strict=True)
        )
        several = (largest[..., :kinds] > 0).sum(2, keepdim=True) > 1
        top, span = largest.gather(2, sides), (largest - smallest).gather(2, sides)
        flat = span <= _SAME_DISTANCE * top
        return torch.where(flat, 1, (top - far) / torch.where(flat, 1, span)) * several
