"""The same loss at several scales of a network's output."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from delineate.losses.loss import Loss
from delineate.target import Target

_MAX_POOL: tuple[Callable, ...] = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)
_MEAN_POOL: tuple[Callable, ...] = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)


class DeepSupervision(nn.Module):
    """A weighted sum of one loss over outputs of several sizes, each against the target at its size.

        sum_k weights_k loss(outputs_k, target at the size of outputs_k)

    A cell of a smaller target takes its **rarest** label (the one with the fewest voxels in the sample), so that a line
    one voxel wide survives; nearest-neighbour resizing deletes it. A cell is ignored when all its voxels are. Dense
    targets are pooled by the maximum of each class, and in softmax mode divided by their sum. Voxel weights are
    averaged over the valid voxels of a cell.

    Args:
        loss: any loss; all terms of a sum must agree on `ignore_index`.
        weights: one number >= 0 for each output, finest first; None: each half of the one before, together 1.

    Shape: outputs: a list of logits (N, C, *S_k), finest first and of the target's size; or one tensor, for which this
        is the loss itself, so that validation needs no other. target, weight: see `Loss`. Distances are in voxels of
        each size, unless a `Target` knows their spacing, or the loss is scale-free.

    Raises:
        ValueError: when the sizes grow, or when there are not as many weights as outputs.

    >>> from delineate.losses import DiceLoss
    >>> outputs = [torch.randn(1, 2, 8, 8), torch.randn(1, 2, 4, 4)]
    >>> DeepSupervision(DiceLoss())(outputs, torch.zeros(1, 8, 8, dtype=torch.long)).shape
    torch.Size([])

    Reference: Lee et al., Deeply-supervised nets, AISTATS 2015; halving weights as in nnU-Net.
    """

    def __init__(self, loss: Loss, weights: Sequence[float] | None = None):
        super().__init__()
        if not isinstance(loss, Loss):
            raise ValueError(f"DeepSupervision: `loss` must be a Loss; got {type(loss).__name__}.")
        self.loss = loss
        self.weights = None if weights is None else tuple(loss._number("weights", w, 0) for w in weights)
        leaves = [part for part in loss.modules() if isinstance(part, Loss) and not any(part.children())]
        ignored = {leaf.ignore_index for leaf in leaves}
        if len(ignored) > 1:
            raise ValueError(
                f"DeepSupervision: all terms must have the same `ignore_index`; got {sorted(map(str, ignored))}. "
                "Construct them alike."
            )
        self.ignore_index = ignored.pop()
        self.exclusive = any(leaf.mode == "softmax" for leaf in leaves)

    def forward(
        self, outputs: Tensor | Sequence[Tensor], target: Tensor | Target, weight: Tensor | None = None
    ) -> Tensor:
        if isinstance(outputs, Tensor):
            return self.loss(outputs, target, weight)
        shares, finest = self._shares(outputs), self.loss(outputs[0], target, weight)
        smaller = zip(shares[1:], outputs[1:], strict=True)
        coarse = [share * self.loss(logits, *self._coarse(logits, target, weight)) for share, logits in smaller]
        return torch.stack([shares[0] * finest, *coarse]).sum(0)

    def _shares(self, outputs: Sequence[Tensor]) -> Sequence[float]:
        sizes = [tuple(logits.shape[2:]) for logits in outputs]
        if not sizes or any(b > a for one, two in pairwise(sizes) for a, b in zip(one, two, strict=True)):
            raise ValueError(f"DeepSupervision: `outputs` must be logits from fine to coarse; got sizes {sizes}.")
        if self.weights is None:
            halves = [0.5**k for k in range(len(sizes))]
            return [half / sum(halves) for half in halves]
        if len(self.weights) != len(sizes):
            raise ValueError(
                f"DeepSupervision: `weights` must have one number for each output, {len(sizes)}; got "
                f"{len(self.weights)}."
            )
        return self.weights

    def _coarse(
        self, logits: Tensor, target: Tensor | Target, weight: Tensor | None
    ) -> tuple[Tensor | Target, Tensor | None]:
        """Target and weight at the size of the logits; a `Target` derives anew, with voxels that much larger."""
        if isinstance(target, Tensor):
            return self._resized(logits, target, weight)
        labels, weight = self._resized(logits, target.labels, weight)
        spacing = target.spacing
        if spacing is not None:
            fine = target.labels.shape[-logits.ndim + 2 :]
            spacing = spacing * torch.tensor([a / b for a, b in zip(fine, logits.shape[2:], strict=True)])
        return Target(labels, ignore_index=target.ignore_index, spacing=spacing), weight

    def _resized(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
        space, labels = tuple(logits.shape[2:]), not target.is_floating_point()
        target = target[:, 0] if labels and target.ndim == logits.ndim else target
        if not labels:
            return self._dense(target, space), _mean(weight, None, space)
        valid = None if self.ignore_index is None else target.long() != self.ignore_index
        return self._rarest(target.long(), valid, max(2, logits.shape[1]), space), _mean(weight, valid, space)

    def _rarest(self, labels: Tensor, valid: Tensor | None, classes: int, space: tuple[int, ...]) -> Tensor:
        """Labels (N, *S) -> (N, *space): of each cell the label with the fewest valid voxels in the sample."""
        flat = labels.clamp(0, classes - 1).flatten(1)
        alive = torch.ones_like(flat) if valid is None else valid.flatten(1).long()
        counts = alive.new_zeros(len(labels), classes).scatter_add_(1, flat, alive)
        by_rarity = counts.argsort(dim=1, descending=True, stable=True)
        rank = by_rarity.argsort(dim=1).gather(1, flat).view_as(labels).double()
        rank = rank if valid is None else rank.masked_fill(~valid, -1)
        pooled = _MAX_POOL[len(space) - 1](rank[:, None], space)[:, 0].long()
        found = by_rarity.gather(1, pooled.clamp_min(0).flatten(1)).view_as(pooled)
        return found if self.ignore_index is None else found.masked_fill(pooled < 0, self.ignore_index)

    def _dense(self, target: Tensor, space: tuple[int, ...]) -> Tensor:
        pooled = _MAX_POOL[len(space) - 1](target, space)
        return pooled / pooled.sum(1, keepdim=True).clamp_min(1) if self.exclusive else pooled


def _mean(weight: Tensor | None, valid: Tensor | None, space: tuple[int, ...]) -> Tensor | None:
    """Voxel weights (N, *S) -> (N, *space), averaged over the valid voxels of each cell."""
    if weight is None:
        return None
    pool, alive = _MEAN_POOL[len(space) - 1], torch.ones_like(weight) if valid is None else valid.to(weight.dtype)
    return (pool((weight * alive)[:, None], space) / pool(alive[:, None], space).clamp_min(1e-12))[:, 0]
