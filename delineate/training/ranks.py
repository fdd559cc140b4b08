"""Runs of several processes: who writes, and what makes their mean loss the loss of one process."""

import torch.distributed as dist
from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch import Tensor

from delineate.losses import Loss
from delineate.losses.loss import Sum
from delineate.losses.voxel import VoxelLoss
from delineate.ops.ranks import share_of_ranks


def is_first() -> bool:
    """Whether this is the process that writes files and prints."""
    return rank_zero_only.rank == 0


def balanced_over_ranks(loss: Loss, parts: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """The terms of a loss, those that are means over voxels weighted by this process's share of the voxels.

    The mean over processes, which is what gradients are, is then the mean over all voxels, though some processes have
    more ignored ones. OHEM and TopK still choose among the voxels of each process; losses by image need no weight.

    Args:
        loss: its terms are those of `parts`, in order.
        labels: of this process, (N, *S).
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return parts
    terms = [term for _, term in loss.pairs()] if isinstance(loss, Sum) else [loss]
    balanced = {}
    for (name, value), term in zip(parts.items(), terms, strict=True):
        share = share_of_ranks((labels != term.ignore_index).sum()) if isinstance(term, VoxelLoss) else 1
        balanced[name] = share * value
    return balanced
