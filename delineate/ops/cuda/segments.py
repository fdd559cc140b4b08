"""Sums over segments on CUDA; see `delineate.ops.segments`, for letters too, and B voxels of a block.

Voxels of one segment that lie side by side, a run, are added up in registers by a scan, and only the last voxel of a
run sends its sum to memory, in one atomic addition of float64 for each row. Neighbouring programs send to tables of
their own, so that few wait for each other at the bin of a large segment; the tables are added in the end. Where there
is no component, only the numbers are read.

`torch.use_deterministic_algorithms(True)` asks for a fixed order: then the numbers are sorted, and programs of each
segment look its voxels up. Backward, the gradient of a segment is looked up for each voxel, in any order.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from delineate.ops.cuda.arithmetic import cost_slope, cost_value, exp, expm1
from delineate.ops.cuda.tiles import bytes_of, strides
from delineate.ops.segments import COSTS, COUNT, LABEL, MISS_SQUARES, SQUARES, TP, VOXELS

BLOCK, STEPS, WARPS = 256, 4, 1
"""Voxels of one scan, scans of one program, and its warps: one, whose threads need not meet in shared memory."""
SORTED_BLOCK = 512
"""Voxels that are looked up at once where their order is fixed."""
LOOKUPS = 1024
"""Voxels of one program backward."""
MOST_PARTS, MOST_BINS = 32, 4096
"""Tables that the sums of a sample are shared among, at most; and bins of a row in all of them, unless one has more."""

_VOXELS, _LABEL, _TP = tl.constexpr(VOXELS), tl.constexpr(LABEL), tl.constexpr(TP)
_SQUARES, _MISS_SQUARES, _COSTS = tl.constexpr(SQUARES), tl.constexpr(MISS_SQUARES), tl.constexpr(COSTS)


def _parts(segments: int) -> int:
    """Tables that the sums of a sample are shared among."""
    return max(1, min(MOST_PARTS, MOST_BINS // (segments + 1)))


def _in_order(ids: Tensor, segments: int) -> tuple[Tensor, Tensor]:
    """Voxels by segment (N, V), those of a segment in their order, and where each segment begins (N, K + 2)."""
    numbers, order = ids.sort(dim=1, stable=True)
    names = torch.arange(segments + 2, dtype=ids.dtype, device=ids.device).repeat(len(ids), 1)
    return order, torch.searchsorted(numbers, names)


@triton.jit
def _bounds(place):
    """Where a segment begins among the voxels by segment, and where the next one does."""
    return tl.load(place), tl.load(place + 1)


@triton.jit
def _join(begun, total, starts, value):
    """Of two stretches side by side: where the last run starts, 0 if before them, and its sum in them."""
    return tl.maximum(begun, starts), tl.where(starts > 0, value, total + value)


@triton.jit
def _runs(ids, k, v, i_v, voxels, B: tl.constexpr):
    """The runs of a block: its place from 1 on where one starts, else 0, (B,) int32; and where one ends.

    Args:
        k: numbers of its voxels v, (B,).
    """
    place = tl.arange(0, B)
    before = tl.load(ids + (v - 1) * i_v, (v > 0) & (v < voxels), -1)
    after = tl.load(ids + (v + 1) * i_v, v + 1 < voxels, -1)
    starts = tl.where((k != before) | (place == 0), place + 1, 0)
    return starts, (v < voxels) & ((k != after) | (place == B - 1))


@triton.jit
def _send(bins, values, starts, ends):
    """Add the values of each run to its bin; returns for each voxel where its run starts, as `_runs` does."""
    begun, sums = tl.associative_scan((starts, values), 0, _join)
    tl.atomic_add(bins, sums.to(tl.float64), ends, sem="relaxed")
    return begun


@triton.jit
def _read(log_p, weight, v, there, p_v, w_v, WEIGHTED: tl.constexpr):
    """Log-probabilities and weights, 0 where there is no voxel."""
    lp = tl.load(log_p + v * p_v, there, 0).to(tl.float32)
    w = tl.load(weight + v * w_v, there, 0).to(tl.float32) if WEIGHTED else tl.where(there, 1.0, 0.0)
    return lp, w


@triton.jit
def _values(lp, w, WEIGHTED: tl.constexpr, SQUARED: tl.constexpr, COSTS: tl.constexpr):
    """What is summed, (B,) each, in the order of `_rows`."""
    p = exp(lp)
    found = (p * w,)
    if WEIGHTED:
        found = found + (w,)
    if SQUARED:
        miss = expm1(lp)
        found = found + (p * p * w, miss * miss * w)
    for j in tl.static_range(len(COSTS) // 3):
        found = found + (cost_value(lp, COSTS[3 * j], COSTS[3 * j + 1], COSTS[3 * j + 2]) * w,)
    return found


def _rows(weighted: bool, squares: bool, costs: Sequence[float]) -> tuple[int, ...]:
    """Rows of the table that have values of voxels to sum."""
    fixed = [TP] + [COUNT] * weighted + [SQUARES, MISS_SQUARES] * squares
    return (*fixed, *range(COSTS, COSTS + len(costs) // 3))


@triton.jit
def _send_all(bins, width, values, starts, ends, ROWS: tl.constexpr):
    """Add the values of each run, and its length; bins: those of the voxels in the first row."""
    begun = starts
    for row in tl.static_range(len(ROWS)):
        begun = _send(bins + ROWS[row] * width, values[row], starts, ends)
    length = tl.arange(0, starts.shape[0]) + 2 - begun
    tl.atomic_add(bins + _VOXELS * width, length.to(tl.float64), ends, sem="relaxed")


@triton.jit
def _component_sums(
    log_p, labels, ids, weight, sums, voxels, width, parts,
    p_n, p_v, y_n, y_v, i_n, i_v, w_n, w_v,
    B: tl.constexpr, STEPS: tl.constexpr, ROWS: tl.constexpr, TABLE_ROWS: tl.constexpr,
    WEIGHTED: tl.constexpr, SQUARED: tl.constexpr, COSTS: tl.constexpr,
):  # fmt: skip
    """Add to one of the parts of sums (N, parts, rows, K + 1); width: K + 1. Labels go to the first part only."""
    n, first = tl.program_id(1).to(tl.int64), tl.program_id(0).to(tl.int64) * (STEPS * B)
    log_p, labels, ids, weight = log_p + n * p_n, labels + n * y_n, ids + n * i_n, weight + n * w_n
    of_labels = sums + (n * parts * TABLE_ROWS + _LABEL) * width
    own = sums + (n * parts + tl.program_id(0) % parts) * TABLE_ROWS * width
    every = first + tl.arange(0, STEPS * B)
    if tl.max(tl.load(ids + every * i_v, every < voxels, 0), 0) > 0:
        for step in range(STEPS):
            v = first + step * B + tl.arange(0, B)
            k = tl.load(ids + v * i_v, v < voxels, 0)
            if tl.max(k, 0) > 0:
                starts, ends = _runs(ids, k, v, i_v, voxels, B)
                ends = ends & (k > 0)
                lp, w = _read(log_p, weight, v, k > 0, p_v, w_v, WEIGHTED)
                _send_all(own + k, width, _values(lp, w, WEIGHTED, SQUARED, COSTS), starts, ends, ROWS)
                tl.store(of_labels + k, tl.load(labels + v * y_v, ends, 0).to(tl.float64), ends)


@triton.jit
def _ordered_component_sums(
    log_p, labels, order, bounds, weight, sums, voxels, width,
    p_n, p_v, y_n, y_v, w_n, w_v,
    B: tl.constexpr, ROWS: tl.constexpr, TABLE_ROWS: tl.constexpr,
    WEIGHTED: tl.constexpr, SQUARED: tl.constexpr, COSTS: tl.constexpr,
):  # fmt: skip
    """One part of the sums of a component (N, parts, rows, K + 1); see `_in_order`."""
    n, k, part, parts = tl.program_id(2).to(tl.int64), tl.program_id(0) + 1, tl.program_id(1), tl.num_programs(1)
    log_p, weight, order = log_p + n * p_n, weight + n * w_n, order + n * voxels
    low, high = _bounds(bounds + n * (width + 1) + k)
    found = ()
    for _ in tl.static_range(len(ROWS)):
        found = found + (tl.full((), 0.0, tl.float64),)
    for at in range(low + part * B, high, parts * B):
        there = at + tl.arange(0, B) < high
        v = tl.load(order + at + tl.arange(0, B), there, 0)
        lp, w = _read(log_p, weight, v, there, p_v, w_v, WEIGHTED)
        values, more = _values(lp, w, WEIGHTED, SQUARED, COSTS), ()
        for row in tl.static_range(len(ROWS)):
            more = more + (found[row] + tl.sum(values[row], 0).to(tl.float64),)
        found = more
    own = sums + (n * parts + part) * TABLE_ROWS * width + k
    for row in tl.static_range(len(ROWS)):
        tl.store(own + ROWS[row] * width, found[row])
    if (part == 0) & (low < high):
        tl.store(own + _VOXELS * width, (high - low).to(tl.float64))
        tl.store(own + _LABEL * width, tl.load(labels + n * y_n + tl.load(order + low) * y_v).to(tl.float64))


def component_sums(
    log_p: Tensor,
    labels: Tensor,
    ids: Tensor,
    weight: Tensor | None,
    segments: int,
    squares: bool,
    costs: Sequence[float],
) -> Tensor:
    """See `delineate.ops.segments`."""
    if log_p.dtype == torch.float64:
        return NotImplemented
    sums = log_p.new_zeros(len(log_p), _parts(segments), COSTS + len(costs) // 3, segments + 1, dtype=torch.float64)
    if log_p.numel() and segments:
        _add_components(sums, log_p, bytes_of(labels), ids, weight, squares, tuple(costs))
    found = sums.sum(1)
    if weight is None:
        found[:, COUNT] = found[:, VOXELS]
    return found


def _add_components(
    sums: Tensor,
    log_p: Tensor,
    labels: Tensor,
    ids: Tensor,
    weight: Tensor | None,
    squares: bool,
    costs: tuple[float, ...],
) -> None:
    """Fill sums (N, parts, rows, K + 1), which are 0."""
    (samples, parts, table_rows, width), voxels, w = sums.shape, log_p.shape[1], log_p if weight is None else weight
    options = _rows(weight is not None, squares, costs), table_rows, weight is not None, squares, costs
    steps = *log_p.stride(), *labels.stride()
    if torch.are_deterministic_algorithms_enabled():
        _ordered_component_sums[(width - 1, parts, samples)](
            log_p, labels, *_in_order(ids, width - 1), w, sums, voxels, width,
            *steps, *strides(weight, 2), SORTED_BLOCK, *options,
        )  # fmt: skip
    else:
        _component_sums[(triton.cdiv(voxels, STEPS * BLOCK), samples)](
            log_p, labels, ids, w, sums, voxels, width, parts,
            *steps, *ids.stride(), *strides(weight, 2), BLOCK, STEPS, *options,
            num_warps=WARPS,
        )  # fmt: skip


@triton.jit
def _slope(g, g_r, there, lp, SQUARED: tl.constexpr, COSTS: tl.constexpr):
    """Gradient to the log-probabilities of voxels of weight 1, (B,); g: that to the first row of its bin."""
    p = exp(lp)
    found = tl.load(g + _TP * g_r, there, 0).to(tl.float32) * p
    if SQUARED:
        found += 2 * p * p * tl.load(g + _SQUARES * g_r, there, 0).to(tl.float32)
        found += 2 * p * expm1(lp) * tl.load(g + _MISS_SQUARES * g_r, there, 0).to(tl.float32)
    for j in tl.static_range(len(COSTS) // 3):
        of_cost = tl.load(g + (_COSTS + j) * g_r, there, 0).to(tl.float32)
        found += of_cost * cost_slope(lp, p, COSTS[3 * j], COSTS[3 * j + 1], COSTS[3 * j + 2])
    return found


@triton.jit
def _component_gradient(
    log_p, ids, weight, g_sums, grad, voxels,
    p_n, p_v, i_n, i_v, w_n, w_v, g_n, g_r, g_k, d_n, d_v,
    B: tl.constexpr, WEIGHTED: tl.constexpr, SQUARED: tl.constexpr, COSTS: tl.constexpr,
):  # fmt: skip
    n, v = tl.program_id(1).to(tl.int64), tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    k = tl.load(ids + n * i_n + v * i_v, v < voxels, 0)
    found = tl.zeros((B,), tl.float32)
    if tl.max(k, 0) > 0:
        lp, w = _read(log_p + n * p_n, weight + n * w_n, v, k > 0, p_v, w_v, WEIGHTED)
        found = _slope(g_sums + n * g_n + k * g_k, g_r, k > 0, lp, SQUARED, COSTS) * w
    tl.store(grad + n * d_n + v * d_v, found, v < voxels)


def component_sums_backward(
    log_p: Tensor, ids: Tensor, weight: Tensor | None, g_sums: Tensor, squares: bool, costs: Sequence[float]
) -> Tensor:
    """See `delineate.ops.segments`."""
    if log_p.dtype == torch.float64:
        return NotImplemented
    grad, (samples, voxels) = torch.empty_like(log_p), log_p.shape
    if grad.numel():
        _component_gradient[(triton.cdiv(voxels, LOOKUPS), samples)](
            log_p, ids, log_p if weight is None else weight, g_sums, grad, voxels,
            *log_p.stride(), *ids.stride(), *strides(weight, 2), *g_sums.stride(), *grad.stride(),
            LOOKUPS, weight is not None, squares, tuple(costs),
        )  # fmt: skip
    return grad


@triton.jit
def _segment_sums(
    values, ids, sums, voxels, rows, width, parts,
    x_n, x_r, x_v, i_n, i_v,
    B: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Add to one of the parts of sums (N, parts, R, K + 1); width: K + 1."""
    n, first = tl.program_id(1).to(tl.int64), tl.program_id(0).to(tl.int64) * (STEPS * B)
    values, ids = values + n * x_n, ids + n * i_n
    own = sums + (n * parts + tl.program_id(0) % parts) * rows * width
    for step in range(STEPS):
        v = first + step * B + tl.arange(0, B)
        k = tl.load(ids + v * i_v, v < voxels, 0)
        starts, ends = _runs(ids, k, v, i_v, voxels, B)
        x, bins = values + v * x_v, own + k
        for _ in range(rows):
            _send(bins, tl.load(x, v < voxels, 0).to(tl.float32), starts, ends)
            x += x_r
            bins += width


@triton.jit
def _ordered_segment_sums(
    values, order, bounds, sums, voxels, rows, width, x_n, x_r, x_v, B: tl.constexpr
):  # fmt: skip
    """One part of the sums of a segment (N, parts, R, K + 1); see `_in_order`."""
    n, k, part, parts = tl.program_id(2).to(tl.int64), tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    low, high = _bounds(bounds + n * (width + 1) + k)
    values, own = values + n * x_n, sums + (n * parts + part) * rows * width + k
    for _ in range(rows):
        found = tl.full((), 0.0, tl.float64)
        for at in range(low + part * B, high, parts * B):
            there = at + tl.arange(0, B) < high
            v = tl.load(order + n * voxels + at + tl.arange(0, B), there, 0)
            found += tl.sum(tl.load(values + v * x_v, there, 0).to(tl.float32), 0).to(tl.float64)
        tl.store(own, found)
        values += x_r
        own += width


def segment_sums(values: Tensor, ids: Tensor, segments: int) -> Tensor:
    """See `delineate.ops.segments`."""
    if values.dtype == torch.float64:
        return NotImplemented
    (samples, rows, voxels), parts = values.shape, _parts(segments)
    sums = values.new_zeros(samples, parts, rows, segments + 1, dtype=torch.float64)
    if not values.numel():
        return sums.sum(1)
    if torch.are_deterministic_algorithms_enabled():
        _ordered_segment_sums[(segments + 1, parts, samples)](
            values, *_in_order(ids, segments), sums, voxels, rows, segments + 1, *values.stride(), SORTED_BLOCK,
        )  # fmt: skip
    else:
        _segment_sums[(triton.cdiv(voxels, STEPS * BLOCK), samples)](
            values, ids, sums, voxels, rows, segments + 1, parts, *values.stride(), *ids.stride(), BLOCK, STEPS,
            num_warps=WARPS,
        )  # fmt: skip
    return sums.sum(1)


@triton.jit
def _gather(table, ids, found, voxels, rows, t_n, t_r, t_k, i_n, i_v, B: tl.constexpr):
    n, v = tl.program_id(1).to(tl.int64), tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    k = tl.load(ids + n * i_n + v * i_v, v < voxels, 0)
    bins, found = table + n * t_n + k * t_k, found + n * rows * voxels + v
    for _ in range(rows):
        tl.store(found, tl.load(bins, v < voxels, 0).to(tl.float32), v < voxels)
        bins += t_r
        found += voxels


def segment_gather(table: Tensor, ids: Tensor, like: Tensor) -> Tensor:
    """See `delineate.ops.segments`."""
    if like.dtype == torch.float64:
        return NotImplemented
    found = like.new_empty(*table.shape[:2], ids.shape[1])
    samples, rows, voxels = found.shape
    if found.numel():
        _gather[(triton.cdiv(voxels, LOOKUPS), samples)](
            table, ids, found, voxels, rows, *table.stride(), *ids.stride(), LOOKUPS,
        )  # fmt: skip
    return found
