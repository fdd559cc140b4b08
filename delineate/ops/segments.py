"""Sums over segments: over the connected components of a target, or over any regions that are numbered voxel by voxel.

Letters: N samples, V voxels, R rows of values, K segments of a sample. Numbers are 1..K; 0 is no segment, and its bin
is the first of the K + 1 of every result.

Losses by component are functions of a few sums for each, and these come from one pass over the voxels, however many
components there are; the backward pass is one look-up for each voxel. Only voxels of a component are gathered for
`component_sums`, a small share of most images. All sums are float64: a bin may take every voxel of a volume, one by
one. On the CPU the sums of a segment are taken in a fixed order; on CUDA they are atomic, unless
`torch.use_deterministic_algorithms(True)` asks for an order.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from delineate.ops.blocks import refuse_second_derivative, sum_by_class
from delineate.ops.components import MOST
from delineate.ops.cost import unpacked
from delineate.ops.cuda import on_cuda
from delineate.ops.threads import in_threads
from delineate.ops.transforms import differentiable

SUMS = ("voxels", "count", "label", "tp", "squares", "miss_squares")
VOXELS, COUNT, LABEL, TP, SQUARES, MISS_SQUARES = range(len(SUMS))
COSTS = len(SUMS)
"""Where the rows of further costs begin."""
BLOCK = 1 << 18
"""Voxels of one block of `segment_sums`, on the CPU."""


@torch.library.custom_op("delineate::component_sums", mutates_args=())
def _component_sums(
    log_p: Tensor,
    labels: Tensor,
    ids: Tensor,
    weight: Tensor | None,
    segments: int,
    squares: bool,
    costs: Sequence[float],
) -> Tensor:
    """Sums over the components of labels.

    Args:
        log_p: log-probability of what the label says, (N, V).
        labels: (N, V), any integer dtype or bool.
        ids: number of each voxel's component, (N, V) int32.
        weight: voxel weights, (N, V).
        segments: K, no number is above it.
        squares: whether the last two of `SUMS` are filled, which are 0 otherwise.
        costs: packed costs of a voxel to sum, see `delineate.ops.cost`.

    Returns:
        (N, rows, K + 1) float64: voxels; their weights w; the label; sums of w p, w p^2, w (1 - p)^2; and
        of w cost(log p) for each cost.
    """
    found = log_p.new_zeros(len(log_p), COSTS + len(costs) // 3, segments + 1, dtype=torch.float64)
    for n, sums in enumerate(found):
        place = _inside(ids[n])
        numbers, lp = ids[n].index_select(0, place).long(), log_p[n].index_select(0, place)
        w = None if weight is None else weight[n].index_select(0, place).to(lp.dtype)
        p = lp.exp()
        rows: list[Tensor | None] = [None] * len(sums)
        rows[VOXELS], rows[COUNT] = torch.ones_like(lp), torch.ones_like(lp) if w is None else w
        rows[TP] = p
        if squares:
            rows[SQUARES], rows[MISS_SQUARES] = p.square(), torch.expm1(lp).square_()
        for k, cost in unpacked(costs):
            rows[COSTS + k] = cost.value(lp)
        for row, values in enumerate(rows):
            if values is not None:
                weighted = values if w is None or row in (VOXELS, COUNT) else values * w
                sums[row].index_add_(0, numbers, weighted.double())
        sums[LABEL].index_copy_(0, numbers, labels[n].index_select(0, place).double())
    return found


@_component_sums.register_fake
def _(log_p, labels, ids, weight, segments, squares, costs):
    return log_p.new_empty(len(log_p), COSTS + len(costs) // 3, segments + 1, dtype=torch.float64)


@torch.library.custom_op("delineate::component_sums_backward", mutates_args=())
def _component_sums_backward(
    log_p: Tensor, ids: Tensor, weight: Tensor | None, g_sums: Tensor, squares: bool, costs: Sequence[float]
) -> Tensor:
    """Gradient to the log-probabilities."""
    grad = torch.zeros_like(log_p)
    for n, g in enumerate(g_sums.to(log_p.dtype)):
        place = _inside(ids[n])
        numbers, lp = ids[n].index_select(0, place).long(), log_p[n].index_select(0, place)
        p, by_voxel = lp.exp(), g.index_select(1, numbers)
        found = by_voxel[TP] * p
        if squares:
            found += 2 * p * (by_voxel[SQUARES] * p + by_voxel[MISS_SQUARES] * torch.expm1(lp))
        for k, cost in unpacked(costs):
            found += by_voxel[COSTS + k] * cost.slope(lp, p)
        if weight is not None:
            found *= weight[n].index_select(0, place)
        grad[n].index_copy_(0, place, found)
    return grad


@_component_sums_backward.register_fake
def _(log_p, ids, weight, g_sums, squares, costs):
    return torch.empty_like(log_p)


def segments_of(ids: Tensor) -> int:
    """The largest number of any sample; where values may not be looked at, the most there can be.

    Args:
        ids: numbers of components, (N, ...).
    """
    hidden = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    most = min(MOST, ids[0].numel()) if len(ids) else 0
    return most if hidden or not ids.numel() else int(ids.max())


def _inside(ids: Tensor) -> Tensor:
    """Places of the voxels that belong to a segment; numpy finds them many times faster than PyTorch."""
    if ids.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(ids.numpy() > 0))
    return ids.nonzero()[:, 0]


def _component_context(ctx, inputs, output):
    log_p, _, ids, weight, _, ctx.squares, ctx.costs = inputs
    ctx.save_for_backward(log_p, ids, weight)


def _component_backward(ctx, g_sums):
    log_p, ids, weight = ctx.saved_tensors
    grad = component_sums_backward(log_p, ids, weight, g_sums, ctx.squares, ctx.costs)
    return grad, None, None, None, None, None, None


component_sums = differentiable(_component_sums, _component_backward, _component_context)
component_sums_backward = differentiable(_component_sums_backward, refuse_second_derivative)


@torch.library.custom_op("delineate::segment_sums", mutates_args=())
def _segment_sums(values: Tensor, ids: Tensor, segments: int) -> Tensor:
    """Sum rows of values by segment.

    Args:
        values: (N, R, V) of any float dtype.
        ids: number of each voxel's segment, (N, V) int32.
        segments: K, no number is above it.

    Returns:
        (N, R, K + 1) float64.
    """
    found = values.new_zeros(*values.shape[:2], segments + 1, dtype=torch.float64)
    voxels = values.shape[2]
    step = BLOCK if values.device.type == "cpu" else max(voxels, 1)
    places = [(n, slice(at, at + step)) for n in range(len(values)) for at in range(0, voxels, step)]
    if not found.numel():
        return found

    def sums_of(place: tuple[int, slice]) -> Tensor:
        n, block = place
        numbers = ids[n, block].long()
        return torch.stack([sum_by_class(numbers, row[block], segments + 1) for row in values[n]])

    work = in_threads(sums_of, places) if values.device.type == "cpu" else map(sums_of, places)
    for (n, _), sums in zip(places, work, strict=True):
        found[n] += sums
    return found


@_segment_sums.register_fake
def _(values, ids, segments):
    return values.new_empty(*values.shape[:2], segments + 1, dtype=torch.float64)


@torch.library.custom_op("delineate::segment_gather", mutates_args=())
def _segment_gather(table: Tensor, ids: Tensor, like: Tensor) -> Tensor:
    """A number of each segment (N, R, K + 1) at its voxels, (N, R, V) of the type of `like`."""
    found = like.new_empty(*table.shape[:2], ids.shape[1])
    for rows, numbers, place in zip(table.to(like.dtype), ids, found, strict=True):
        torch.index_select(rows, 1, numbers, out=place)
    return found


@_segment_gather.register_fake
def _(table, ids, like):
    return like.new_empty(*table.shape[:2], ids.shape[1])


def _segment_context(ctx, inputs, output):
    values, ids, _ = inputs
    ctx.save_for_backward(ids, values.new_empty(len(values), 0))


def _segment_backward(ctx, g_sums):
    ids, like = ctx.saved_tensors
    return segment_gather(g_sums, ids, like), None, None


def _gather_context(ctx, inputs, output):
    ctx.save_for_backward(inputs[1], inputs[0].new_empty(len(inputs[0]), 0))
    ctx.segments = inputs[0].shape[2] - 1


def _gather_backward(ctx, grad):
    ids, like = ctx.saved_tensors
    return segment_sums(grad, ids, ctx.segments).to(like.dtype), None, None


segment_sums = differentiable(_segment_sums, _segment_backward, _segment_context)
segment_gather = differentiable(_segment_gather, _gather_backward, _gather_context)
on_cuda(_component_sums, "segments", "component_sums")
on_cuda(_component_sums_backward, "segments", "component_sums_backward")
on_cuda(_segment_sums, "segments", "segment_sums")
on_cuda(_segment_gather, "segments", "segment_gather")
