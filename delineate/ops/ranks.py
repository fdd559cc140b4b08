"""Sums over the processes of a distributed run, and what they are for: to do as one process would."""

import torch
import torch.distributed as dist
from torch import Tensor


def sum_over_ranks(table: Tensor) -> Tensor:
    """Add what all ranks have, any shape; the table itself in a run of one process.

    Every rank must call this as often as the others, in its backward pass too. The gradient of a rank is the sum of
    what all ranks send back: with gradients averaged over ranks, as DistributedDataParallel does, a loss of such sums
    moves the weights as one process with all the samples would.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return _sum_over_ranks(table)
    return table


def share_of_ranks(count: Tensor) -> Tensor:
    """What this rank has, over the mean of all ranks: the factor that turns a mean over a rank into its part of all.

        share = count / mean over ranks of count;   1 where that mean is 0, and in a run of one process

    For a rank's mean over `count` things, such as valid voxels, the mean over ranks of `share * mean` is the mean over
    all things of all ranks, and gradients averaged over ranks follow. Every rank must call this as often as the others.

    Args:
        count: at least 0, of any shape and dtype; no gradient flows to it.

    Shape: that of `count`, float64.
    Range: [0, number of ranks].

    >>> share_of_ranks(torch.tensor([7, 0]))
    tensor([1., 1.], dtype=torch.float64)
    """
    count = count.detach().double()
    distributed = dist.is_available() and dist.is_initialized()
    mean = sum_over_ranks(count) / (dist.get_world_size() if distributed else 1)
    some = mean > 0
    return torch.where(some, count / torch.where(some, mean, 1), 1)


@torch.library.custom_op("delineate::sum_over_ranks", mutates_args=())
def _sum_over_ranks(table: Tensor) -> Tensor:
    total = table.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


@_sum_over_ranks.register_fake
def _(table):
    return torch.empty_like(table, memory_format=torch.contiguous_format)


_sum_over_ranks.register_autograd(
    lambda ctx, grad: _sum_over_ranks(grad), setup_context=lambda ctx, inputs, output: None
)
