"""One pass over the logits: everything that losses by voxel and by region are functions of.

Letters: N samples, C channels, V voxels (the spatial dims flattened), B voxels of one block.

With p the probabilities, y the target (one-hot, or a dense map), w the voxel weight and sums over valid voxels:

    voxels  sum y           count  sum w y          mass     sum w p         tp       sum w min(p, y)
    nll     sum w y (-log p)        nll_off  sum w (1 - y)(-log(1 - p))      (nll_off: sigmoid mode only)
    costs   sum w y cost(log p)     and, in sigmoid mode, sum w (1 - y) cost(log(1 - p)), for each cost asked for
    log_p   log-probability of what the label says, one value per voxel (softmax) or per voxel and channel (sigmoid)

and, if asked for,

    spread  sum w (-log p), in sigmoid mode sum w (-log p - log(1 - p))
    squares sum w p^2       product  sum w p y      target_squares  sum w y^2
    miss_squares  sum w y (y - p)^2                 false_squares   sum w (1 - y)(y - p)^2

`min(p, y)` is `p y` for hard labels and the soft-label form (p + y - |p - y|) / 2 otherwise, whose optimum is p = y.

Algorithm: blocks of voxels small enough to stay in cache; all arithmetic of a block happens there, and on the CPU on
one core. Sums of a block are float32 at least, sums over blocks float64. The backward pass is one more sweep and
needs of the forward only `log_p` (softmax labels: log-sum-exp is z[y] - log_p) or nothing at all. Neither one-hot
labels nor probabilities are ever stored. Read: the logits, once forward and once backward. Written: the gradient, and
`log_p` if it is asked for, on the CPU always. On CUDA a block lives in registers: `delineate.ops.cuda`.

Two ops share this, over the blocks of `delineate.ops.blocks`: `overlap_labels` (softmax mode, integer labels) and
`overlap_channels` (sigmoid mode, and dense targets). Second derivatives are refused with an error.
"""

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor

from delineate.ops.blocks import COSTS, COUNT, TARGET_SQUARES, VOXELS
from delineate.ops.cost import Cost, packed
from delineate.ops.overlap_channels import overlap_channels
from delineate.ops.overlap_labels import overlap_labels

OF_TARGET = (VOXELS, COUNT, TARGET_SQUARES)
"""Tables that the logits have no part in: no gradient, and no sweep for one."""


class Overlap(NamedTuple):
    """What one pass found. All tables are (N, C) in float64; `valid` and `total` are (N,); see the module for the rest.

    valid: number of voxels that are not ignored.   total: sum of their weights.
    costs: the tables of voxels that are on and off (off: 0 in softmax mode), for each cost.
    log_p: (N, 1, V) in softmax mode with labels, (N, C, V) in sigmoid mode with labels when asked for, else None;
    exactly 0 at ignored voxels.
    """

    voxels: Tensor
    count: Tensor
    mass: Tensor
    tp: Tensor
    nll: Tensor
    nll_off: Tensor
    spread: Tensor
    squares: Tensor
    product: Tensor
    target_squares: Tensor
    miss_squares: Tensor
    false_squares: Tensor
    valid: Tensor
    total: Tensor
    log_p: Tensor | None
    costs: dict[Cost, tuple[Tensor, Tensor]]


def overlap(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    mode: str = "softmax",
    ignore_index: int | None = None,
    squares: bool = False,
    spread: bool = False,
    costs: Iterable[Cost] = (),
    per_voxel: bool = False,
) -> Overlap:
    """Run the pass.

    Args:
        logits: (N, C, V) of any float dtype.
        target: integer or bool labels (N, V), or a dense float map (N, C, V) with values in [0, 1].
            In sigmoid mode labels name the one channel that is on; with C = 1 they are 0 or 1.
        weight: (N, V), at least 0; no gradient flows to it.
        mode: "softmax" or "sigmoid".
        ignore_index: label value that takes no part, whatever the logits there.
        squares: also fill the five tables of squares, which are 0 otherwise; with softmax labels `product` and
            `target_squares` are `tp` and `count`, and always there.
        spread: also fill `spread`, which is 0 otherwise.
        costs: further costs of a voxel to sum.
        per_voxel: also return `log_p` in sigmoid mode (softmax mode has it anyway); labels only.

    Raises:
        ValueError: on the CPU, for labels out of range, negative weights or dense values outside [0, 1]. Elsewhere
            an assertion on the device, without waiting for it.
    """
    costs = list(costs)
    options = (squares, spread, packed(costs))
    if mode == "softmax" and not target.is_floating_point():
        log_p, sums, totals = overlap_labels(logits, target, weight, ignore_index, *options, per_voxel)
        log_p = log_p[:, None] if per_voxel else None
    else:
        softmax = mode == "softmax"
        log_p, sums, totals = overlap_channels(logits, target, weight, ignore_index, softmax, *options, per_voxel)
        log_p = log_p if per_voxel else None
    rows = [sums[:, row] for row in range(sums.shape[1])]  # not unbind, whose gradient fills rows that nobody looked at
    tables = [table.detach() if row in OF_TARGET else table for row, table in enumerate(rows[:COSTS])]
    pairs = zip(rows[COSTS::2], rows[COSTS + 1 :: 2], strict=True)
    by_cost = dict(zip(costs, pairs, strict=True))
    return Overlap._make([*tables, *totals.detach().unbind(1), log_p, by_cost])
