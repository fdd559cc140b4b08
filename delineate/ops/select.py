"""The hardest fraction of each row, as weights: what top-k losses average over.

The K-th largest value of a row is found by partial ordering, O(M) for M values; everything above it is kept, and
values equal to it share what is left of K, so that the result depends on values only, never on their order. The
selection carries no gradient. Sizes that depend on data stay inside the op, so it compiles with fullgraph.
"""

import math

import numpy as np
import torch
from torch import Tensor


@torch.library.custom_op("delineate::hardest", mutates_args=())
def hardest(values: Tensor, candidates: Tensor | None, fraction: float) -> tuple[Tensor, Tensor]:
    """Which values are among the largest.

    Args:
        values: (R, M), at least 0.
        candidates: (R, M) bool, what may be chosen; None: everything.
        fraction: in (0, 1]; K = max(1, floor(fraction * candidates of the row)), 0 for a row without candidates.

    Returns:
        weights (R, M) of the values' dtype: 1 kept, 0 not, a fraction for values tied with the K-th; they add up to K.
        kept (R,) float64: K.
    """
    weights, kept = torch.zeros_like(values), values.new_zeros(values.shape[0], dtype=torch.float64)
    for row in range(values.shape[0]):
        found = values[row] if candidates is None else values[row].masked_fill(~candidates[row], -1)
        size = found.numel() if candidates is None else int(candidates[row].sum())
        if size == 0:
            continue
        keep = max(1, math.floor(fraction * size + 1e-9))
        least = _kth_largest(found, keep)
        above, equal = found > least, found == least
        share = (keep - above.sum()) / equal.sum()
        weights[row] = above + equal * share
        kept[row] = keep
    return weights, kept


def _kth_largest(values: Tensor, k: int) -> Tensor:
    place = values.numel() - k
    if values.device.type == "cpu":
        return values.new_tensor(np.partition(values.numpy(), place)[place])
    return values.kthvalue(place + 1).values


@hardest.register_fake
def _(values, candidates, fraction):
    return torch.empty_like(values), values.new_empty(values.shape[0], dtype=torch.float64)
