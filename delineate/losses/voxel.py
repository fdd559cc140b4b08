"""What losses by voxel have in common: a sum over voxels, divided by their number.

In sigmoid mode the mean runs over valid voxels and scored channels. With a dense target the cost is taken of every
outcome and weighted by the target: sum_c y_c cost(log p_c), and in sigmoid mode y cost(log p) + (1 - y) cost(log(1 -
p)) for each channel. Sums by class of any such cost come from the pass itself, so none of these losses keeps
anything of the size of the image.
"""

from abc import abstractmethod

import torch
from torch import Tensor

from delineate.losses.inputs import Inputs, Need
from delineate.losses.loss import Loss
from delineate.ops.cost import Cost
from delineate.ops.overlap import Overlap


class VoxelLoss(Loss):
    """A mean over voxels: those of the batch, or those of each sample."""

    def average(self, total: Tensor, divisor: Tensor, valid: Tensor) -> Tensor:
        """Sums and what they are divided by, by sample, and the voxels of each that are not ignored: (N,) each."""
        if self.reduction == "mean":
            total, divisor = total.sum(), divisor.sum()
        nothing = divisor == 0
        value = torch.where(nothing, divisor, total / (divisor + nothing))
        return value if self.reduction == "mean" else self.reduce(value, valid > 0)

    def divisor(self, found: Overlap) -> Tensor:
        """Scored voxels by sample, times scored channels in sigmoid mode: (N,)."""
        if self.mode == "softmax" and self.classes is None:
            return found.valid
        if self.classes is None:
            return found.voxels.sum(1)
        return (found.voxels * self.scored(found.voxels.shape[1], found.voxels.device)).sum(1)


class MeanCostLoss(VoxelLoss):
    """A sum of costs by sample and class, divided by the number of scored voxels."""

    cost: Cost
    """Of one voxel, where the loss is a sum of one."""

    @abstractmethod
    def costs(self, found: Overlap) -> Tensor:
        """Sum of the costs by sample and class, (N, C)."""

    def of_both(self, on: Tensor, off: Tensor) -> Tensor:
        """Costs of voxels that are on and of those that are off, which softmax mode has none of."""
        return on if self.mode == "softmax" else on + off

    def by_class_weight(self, table: Tensor) -> Tensor:
        """Sum a table (N, C) over its scored classes, weighted: (N,)."""
        if self.all_alike:
            return table.sum(1)
        return (self.class_weights(table.shape[1], table.device) * table).sum(1)

    def voxel_value(self, found: Overlap) -> Tensor:
        return self.average(self.by_class_weight(self.costs(found)), self.divisor(found), found.valid)

    def compute(self, inputs: Inputs) -> Tensor:
        return self.voxel_value(inputs.overlap(self.mode, self.ignore_index))


class EachVoxelLoss(VoxelLoss):
    """A loss that looks at the cross entropy of each voxel, and of each channel in sigmoid mode."""

    needs: tuple[Need, ...] = ("log_p",)

    def gains(self, inputs: Inputs, found: Overlap, weights: Tensor | None) -> Tensor:
        """Minus the costs, weighted by class: (N, K, V), K = 1 in softmax mode, C in sigmoid mode."""
        if found.log_p is None:
            return self._dense_gains(inputs, weights)
        if weights is None:
            return found.log_p
        weights = weights.to(found.log_p.dtype)
        factors = weights[:, None] if self.mode == "sigmoid" else weights[inputs.labels()][:, None]
        return found.log_p * factors

    def _dense_gains(self, inputs: Inputs, weights: Tensor | None) -> Tensor:
        wide = torch.float64 if inputs.logits.dtype == torch.float64 else torch.float32
        z, y = inputs.logits.to(wide), inputs.target.to(wide)
        factors = 1 if weights is None else weights.to(wide)[:, None]
        if self.mode == "softmax":
            return (_expected(y, z.log_softmax(1)) * factors).sum(1, keepdim=True)
        on, off = torch.nn.functional.logsigmoid(z), torch.nn.functional.logsigmoid(-z)
        return (_expected(y, on) + _expected(1 - y, off)) * factors

    def weighted_gains(self, inputs: Inputs, found: Overlap) -> Tensor:
        """Minus the costs with the weights of their classes and voxels, (N, K, V)."""
        weights = None if self.all_alike else self.class_weights(inputs.shape[1], inputs.logits.device)
        return self.by_voxel_weight(inputs, self.gains(inputs, found, weights))

    def by_voxel_weight(self, inputs: Inputs, gains: Tensor) -> Tensor:
        return gains if inputs.weight is None else gains * inputs.weight[:, None].to(gains.dtype)

    def candidates(self, inputs: Inputs) -> Tensor | None:
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


class HardestLoss(EachVoxelLoss):
    """Cross entropy averaged over the voxels that `choose` keeps, and over channels in sigmoid mode."""

    @abstractmethod
    def choose(self, plain: Tensor, weighted: Tensor, candidates: Tensor | None) -> tuple[Tensor, Tensor]:
        """Minus the costs, without and with weights (R, M), and what may be chosen -> weights and their sum (R,)."""

    def compute(self, inputs: Inputs) -> Tensor:
        found = inputs.overlap(self.mode, self.ignore_index)
        scored = None if self.classes is None else self.scored(inputs.shape[1], inputs.logits.device)
        candidates, plain = self.candidates(inputs), self.gains(inputs, found, scored)
        by_voxel = self.class_weight is None
        weighted = self.by_voxel_weight(inputs, plain) if by_voxel else self.weighted_gains(inputs, found)
        if weighted.numel() == 0:
            return self.average(weighted.flatten(1).sum(1).double(), found.valid, found.valid)
        rows = 1 if self.reduction == "mean" else len(weighted)
        plain, weighted = plain.reshape(rows, -1), weighted.reshape(rows, -1)
        candidates = None if candidates is None else candidates.reshape(rows, -1)
        chosen, kept = self.choose(plain.detach(), weighted.detach(), candidates)
        return self.average(-(weighted * chosen).sum(1).double(), kept, found.valid)


def _expected(y: Tensor, log_p: Tensor) -> Tensor:
    """y log p; outcomes with y = 0 cost nothing and get no gradient, even if they are impossible."""
    return y * torch.where(y > 0, log_p, 0)
