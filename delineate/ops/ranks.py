"""A sum over the processes of a distributed run that gradients flow through."""

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


@torch.library.custom_op("delineate::sum_over_ranks", mutates_args=())
def _sum_over_ranks(table: Tensor) -> Tensor:
    total = table.contiguous().clone()
    dist.all_reduce(total)
    return total


@_sum_over_ranks.register_fake
def _(table):
    return torch.empty_like(table, memory_format=torch.contiguous_format)


_sum_over_ranks.register_autograd(
    lambda ctx, grad: _sum_over_ranks(grad), setup_context=lambda ctx, inputs, output: None
)
