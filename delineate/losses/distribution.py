"""Losses by voxel: a cost of the probability given to what the label says, averaged over the voxels.

All of them are one function, `cost(log_p)`. With a dense target the cost is taken of every outcome and weighted by
the target: sum_c y_c cost(log p_c), and in sigmoid mode y cost(log p) + (1 - y) cost(log(1 - p)) for each channel.
In sigmoid mode the mean runs over valid voxels and scored channels.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from delineate.losses.inputs import Inputs
from delineate.losses.loss import Common, Loss
from delineate.ops.overlap import Overlap
from delineate.ops.select import hardest

NORMALIZE = ("count", "weight")
_ROUNDING = 1e-10
"""A share of the voxels below one voxel of any image, and above the rounding of float64 sums."""


class _VoxelLoss(Loss):
    """A sum over voxels by sample, divided by the number of scored voxels."""

    @abstractmethod
    def total(self, inputs: Inputs, found: Overlap) -> Tensor:
        """Sum of the weighted costs by sample, (N,)."""

    def divisor(self, found: Overlap) -> Tensor:
        """Scored voxels by sample, times scored channels in sigmoid mode: (N,)."""
        if self.mode == "softmax" and self.classes is None:
            return found.valid
        return (found.voxels * self.scored(found.voxels.shape[1], found.voxels.device)).sum(1)

    def compute(self, inputs: Inputs) -> Tensor:
        found = inputs.overlap(self.mode, self.ignore_index)
        return self.average(self.total(inputs, found), self.divisor(found), found.valid > 0)

    def average(self, total: Tensor, divisor: Tensor, valid: Tensor) -> Tensor:
        """One mean over the voxels of the batch, or one of each sample."""
        if self.reduction == "mean":
            total, divisor = total.sum(), divisor.sum()
            return total / torch.where(divisor > 0, divisor, 1)
        return self.reduce(total / torch.where(divisor > 0, divisor, 1), valid)


class _CostLoss(_VoxelLoss):
    """A sum of `cost(log_p)`, which needs every voxel's log-probability."""

    per_voxel = True

    @abstractmethod
    def cost(self, log_p: Tensor) -> Tensor:
        """Cost of giving the truth the log-probability `log_p`, any shape; 0 at 0."""

    def on_off(self) -> tuple[float, float]:
        """Factors of the two outcomes of a channel in sigmoid mode: on (y = 1) and off (y = 0)."""
        return 1.0, 1.0

    def costs(self, inputs: Inputs, found: Overlap) -> Tensor:
        """Weighted costs (N, K, V), K = 1 in softmax mode, C in sigmoid mode; 0 at ignored voxels."""
        values = self._dense_costs(inputs) if found.log_p is None else self._label_costs(inputs, found.log_p)
        return values if inputs.weight is None else values * inputs.weight[:, None].to(values.dtype)

    def _label_costs(self, inputs: Inputs, log_p: Tensor) -> Tensor:
        values = self.cost(log_p)
        weights = self.class_weights(inputs.logits.shape[1], values.device).to(values.dtype)
        if self.mode == "sigmoid":
            on, off = self.on_off()
            values = values * weights[:, None]
            if on == off == 1:
                return values
            return values * torch.where(inputs.channels_on(), values.new_tensor(on), values.new_tensor(off))
        if self.class_weight is None and self.classes is None:
            return values
        return values * weights[inputs.labels()][:, None]

    def _dense_costs(self, inputs: Inputs) -> Tensor:
        wide = torch.float64 if inputs.logits.dtype == torch.float64 else torch.float32
        z, y = inputs.logits.to(wide), inputs.target.to(wide)
        weights = self.class_weights(z.shape[1], z.device).to(wide)[:, None]
        if self.mode == "softmax":
            return (self._expected(y, z.log_softmax(1)) * weights).sum(1, keepdim=True)
        on, off = self.on_off()
        present, missing = self._expected(y, F.logsigmoid(z)), self._expected(1 - y, F.logsigmoid(-z))
        return (on * present + off * missing) * weights

    def _expected(self, y: Tensor, log_p: Tensor) -> Tensor:
        """y cost(log p); outcomes with y = 0 cost nothing and get no gradient, even if they are impossible."""
        return y * self.cost(torch.where(y > 0, log_p, 0))

    def total(self, inputs: Inputs, found: Overlap) -> Tensor:
        return self.costs(inputs, found).flatten(1).sum(1).double()


def _by_class_weight(table: Tensor, loss: Loss) -> Tensor:
    """Sum a table (N, C) over its scored classes, weighted: (N,)."""
    return (loss.class_weights(table.shape[1], table.device) * table).sum(1)


class CrossEntropyLoss(_VoxelLoss):
    """Minus the log-probability of the truth, averaged over the voxels.

        softmax:  sum_i w_i a_{y_i} (-log p_{i, y_i}) / Z         dense:  -sum_c y_c log p_c
        sigmoid:  -y log p - (1 - y) log(1 - p), mean over valid voxels and scored channels
        Z = valid voxels ("count", the papers) or sum_i w_i a_{y_i} ("weight", torch)

    Args:
        normalize: "count" divides by the valid voxels, those of weight 0 included, so that weights change the size
            of the loss; "weight" divides by the weights, so that their scale drops out. The papers do the first,
            `torch.nn.CrossEntropyLoss` the second; without weights they are equal.
        common: see `Loss`. With `classes`, terms of other labels are dropped, from Z too: false positives on those
            voxels then cost nothing.

    Shape: see `Loss`.
    Range: [0, inf); 0 at a perfect prediction.
    Absent classes: need no rule. All voxels ignored: 0 with a graph.

    >>> logits = torch.tensor([[[20.0, -20.0], [-20.0, 20.0]]])            # N, C, S = 1, 2, 2
    >>> round(CrossEntropyLoss()(logits, torch.tensor([[0, 0]])).item(), 3)
    20.0

    Notes: computed from sums by class, so a sum with Dice costs no extra pass and no memory per voxel. Not the best
    choice alone when classes are very unequal: rare ones are learnt late or never.
    Reference: the binary and categorical forms of every survey, for example Jadon, CIBCB 2020, arXiv 2006.14822.
    """

    def __init__(self, *, normalize: str = "count", **common: Unpack[Common]):
        super().__init__(**common)
        self.normalize = self._option("normalize", normalize, NORMALIZE)

    def total(self, inputs: Inputs, found: Overlap) -> Tensor:
        return _by_class_weight(found.nll + found.nll_off, self)

    def divisor(self, found: Overlap) -> Tensor:
        if self.normalize == "count":
            return super().divisor(found)
        by_class = found.count if self.mode == "softmax" else found.total[:, None].expand_as(found.count)
        return _by_class_weight(by_class, self)


class BalancedCrossEntropyLoss(_VoxelLoss):
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

    Notes: the paper sums over voxels and code in use averages; ours is the mean. The multi-class form is ours: for two
    classes it equals the paper's. Frequencies come from the target of each image and are weighted by `weight`.
    Not for calibrated probabilities: balancing shifts them.
    Reference: Xie and Tu, Holistically-nested edge detection, ICCV 2015, arXiv 1504.06375.
    """

    def __init__(self, **common: Unpack[Common]):
        super().__init__(**common)

    def total(self, inputs: Inputs, found: Overlap) -> Tensor:
        share = found.count / torch.where(found.total > 0, found.total, 1)[:, None]
        full, empty = share > 1 - _ROUNDING, share < _ROUNDING
        single = full.any(1, keepdim=True) if self.mode == "softmax" else full | empty
        on, off = torch.where(single, 1.0, 1 - share), torch.where(single, 1.0, share)
        return _by_class_weight(on * found.nll + off * found.nll_off, self)


class TopKLoss(_CostLoss):
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

    Notes: nnU-Net's form, with K over all voxels of the batch ("mean") or of each sample ("none", "sum"); nnU-Net lets
    ignored voxels dilute the mean. Voxels tied with the K-th share its place. The choice carries no gradient. Noisy
    labels are hard voxels too: with many of them, prefer a larger k.
    Reference: Wu, Shen and van den Hengel, Bridging category-level and instance-level semantic image segmentation,
    2016, arXiv 1605.06885, for the idea; Isensee et al., nnU-Net, for the form.
    """

    def __init__(self, *, k: float = 0.1, **common: Unpack[Common]):
        super().__init__(**common)
        self.k = self._number("k", k, 0, 1, above=True)

    def cost(self, log_p: Tensor) -> Tensor:
        return -log_p

    def compute(self, inputs: Inputs) -> Tensor:
        found = inputs.overlap(self.mode, self.ignore_index)
        costs, candidates = self.costs(inputs, found), self._candidates(inputs)
        rows = 1 if self.reduction == "mean" else len(costs)
        if costs.numel() == 0:
            return self.average(costs.flatten(1).sum(1).double(), found.valid, found.valid > 0)
        costs = costs.reshape(rows, -1)
        chosen, kept = hardest(costs.detach(), None if candidates is None else candidates.reshape(rows, -1), self.k)
        return self.average((costs * chosen).sum(1).double(), kept, found.valid > 0)

    def _candidates(self, inputs: Inputs) -> Tensor | None:
        """Voxels, and channels in sigmoid mode, that are scored, (N, K, V); None for all."""
        valid = inputs.valid(self.ignore_index)
        if valid is None and self.classes is None:
            return None
        channels, voxels = inputs.logits.shape[1:]
        scored = self.scored(channels, inputs.logits.device)
        if self.mode == "sigmoid":
            by_channel = scored[:, None].expand(channels, voxels)
            return by_channel & valid[:, None] if valid is not None else by_channel.expand(len(inputs.logits), -1, -1)
        in_classes = (inputs.target * scored[:, None]).sum(1) > 0 if inputs.dense else scored[inputs.labels()]
        return (in_classes if valid is None else in_classes & valid)[:, None]


class FocalLoss(_CostLoss):
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

    Notes: detection divides by the number of positives, segmentation by the voxels, and so do we. Softmax focal and
    sigmoid focal are different losses; `mode` says which, and nothing is silently switched. A dense target is not
    its own optimum here: not for soft labels. The gradient is finite for every gamma, also for 0 < gamma < 1 at
    saturated logits.
    Reference: Lin et al., Focal loss for dense object detection, ICCV 2017, arXiv 1708.02002.
    """

    def __init__(self, *, gamma: float = 2.0, alpha: float | Sequence[float] | None = None, **common: Unpack[Common]):
        super().__init__(**common)
        self.gamma = self._number("gamma", gamma, 0)
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

    def on_off(self) -> tuple[float, float]:
        return (self.alpha, 1 - self.alpha) if isinstance(self.alpha, (int, float)) else (1.0, 1.0)

    def cost(self, log_p: Tensor) -> Tensor:
        if self.gamma == 0:
            return -log_p
        wrong = -torch.expm1(log_p)
        perfect = wrong <= 0
        return torch.where(perfect, 0, torch.where(perfect, 1, wrong).pow(self.gamma) * -log_p)
