"""The slopes of the Lovász extension of the Jaccard loss: how much each error counts, given the order of all.

With the errors of a row sorted in descending order, w the weights of their voxels, y the target (0 or 1) and

    J_k = 1 - (P - sum_{j<=k} w_j y_j) / (P + sum_{j<=k} w_j (1 - y_j)),     P = sum w y,    J_0 = 0

the slope of the k-th is J_k - J_{k-1}. The loss is the sum of errors times slopes, and the slopes are its gradient to
the errors, so they need none themselves. On the CPU a float32 error and its place are sorted as one 64-bit integer,
which takes a tenth of the time of sorting with indices. Sums are float64.
"""

import numpy as np
import torch
from torch import Tensor

from delineate.ops.blocks import require
from delineate.ops.threads import in_threads
from delineate.ops.transforms import batched


@torch.library.custom_op("delineate::lovasz_slopes", mutates_args=())
def lovasz_slopes(errors: Tensor, target: Tensor, weight: Tensor | None, wanted: Tensor) -> Tensor:
    """Slopes of each row.

    Args:
        errors: (R, M), at least 0.
        target: (R, M) bool, or a float map of 0 and 1.
        weight: (N, M), at least 0, one row for each R / N rows of errors; None: 1. Voxels of weight 0 have the slope 0.
        wanted: (R,) bool; rows that are not wanted get 0, without the cost of sorting.

    Returns:
        (R, M) of the errors' dtype.
    """
    if target.is_floating_point():
        hard = ((target == 0) | (target == 1)).all()
        require(
            hard,
            "target: LovaszLoss needs a dense target of 0 and 1, having no form for soft labels; use JaccardLoss",
            target,
        )
    slopes, rows = torch.zeros_like(errors), errors.shape[0]

    def write_row(row: int) -> None:
        order = _descending(errors[row])
        y = target[row].index_select(0, order).double()
        w = None if weight is None else weight[row * len(weight) // rows].index_select(0, order).double()
        slopes[row].scatter_(0, order, _differences(y, w).to(errors.dtype))

    run = in_threads if errors.device.type == "cpu" else map
    list(run(write_row, wanted.nonzero().flatten().tolist()))
    return slopes


def _differences(y: Tensor, w: Tensor | None) -> Tensor:
    """J_k - J_{k-1} of one row, given the sorted target and weights, float64."""
    inside, outside = (y, 1 - y) if w is None else (w * y, w * (1 - y))
    size = inside.sum()
    left, union = inside.cumsum(0).neg_().add_(size), outside.cumsum(0).add_(size)
    if w is not None:
        left, union = torch.where(union > 0, left, 1), torch.where(union > 0, union, 1)
    jaccard = left.div_(union).neg_().add_(1)
    slopes = jaccard.clone()
    slopes[1:] -= jaccard[:-1]
    return slopes


def _descending(values: Tensor) -> Tensor:
    """The places of the values from the largest to the smallest; NaN first."""
    if values.device.type == "cpu" and values.dtype == torch.float32 and len(values) < 1 << 32:
        bits = ~np.abs(values.numpy()).view(np.uint32)  # of floats >= 0 the bits order as the values do
        keys = (bits.astype(np.uint64) << np.uint64(32)) | np.arange(len(bits), dtype=np.uint64)
        keys.sort()
        return torch.from_numpy((keys & np.uint64(0xFFFFFFFF)).view(np.int64))
    return values.argsort(descending=True)


@lovasz_slopes.register_fake
def _(errors, target, weight, wanted):
    return torch.empty_like(errors)


lovasz_slopes.register_vmap(batched(lovasz_slopes))
