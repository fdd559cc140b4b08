"""The pass in softmax mode with integer labels on CUDA; see `delineate.ops.overlap_labels`, for letters `tiles`.

Forward the logits are read once and, if nobody asks for `log_p`, nothing is written but sums; backward they are read
once more, the softmax is taken anew, and the gradient is written. Label sums are taken by comparing the label with
each class, in registers.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from delineate.ops.blocks import (
    COSTS,
    COUNT,
    FALSE_SQUARES,
    MASS,
    MISS_SQUARES,
    NLL,
    PRODUCT,
    SPREAD,
    SQUARES,
    TARGET_SQUARES,
    TP,
    VOXELS,
    table_rows,
)
from delineate.ops.cuda.arithmetic import cost_slope, cost_value, exp, expm1
from delineate.ops.cuda.tiles import (
    COUNTS,
    Tiling,
    add_up,
    block_of,
    bytes_of,
    count,
    fold,
    load_tiles,
    read_labels,
    read_weights,
    row_of,
    shares,
    softmax_of,
    strides,
    takes,
    tile_mask,
    tile_of,
    write_sums,
    zeros,
)

_TP, _PRODUCT, _NLL, _MASS = tl.constexpr(TP), tl.constexpr(PRODUCT), tl.constexpr(NLL), tl.constexpr(MASS)
_SQUARES, _FALSE_SQUARES = tl.constexpr(SQUARES), tl.constexpr(FALSE_SQUARES)
_MISS_SQUARES, _SPREAD, _COSTS = tl.constexpr(MISS_SQUARES), tl.constexpr(SPREAD), tl.constexpr(COSTS)


def _goes_to(weighted: bool, squares: bool, spread: bool, costs: Sequence[float]) -> list[list[int]]:
    """The rows of the table that each accumulator is added to."""
    rows = [[VOXELS] if weighted else [VOXELS, COUNT, TARGET_SQUARES], [TP, MASS, PRODUCT], [NLL]]
    rows += [[MASS]]  # of false positives, summed by themselves: a few voxels beside a million hits
    rows += [[COUNT, TARGET_SQUARES]] if weighted else []
    rows += [[SQUARES], [MISS_SQUARES], [FALSE_SQUARES, SQUARES]] if squares else []
    rows += [[SPREAD]] if spread else []
    return rows + [[COSTS + 2 * k] for k in range(len(costs) // 3)]


@triton.jit
def _rows(
    values, FOLD: tl.constexpr, WEIGHTED: tl.constexpr, SQUARES: tl.constexpr, SPREAD: tl.constexpr
):  # fmt: skip
    """What a tile adds to each accumulator, in the order of `_goes_to`.

    Args:
        values: z - peak, probabilities, and whether the class is the label, (T, B); ones, weight, log of the norm, and
            weighted square of what the label misses, (B,); its weighted costs, (B,) each.
    """
    shifted, p, on, one, w, log_norm, missed, costs = values
    none, nll = tl.zeros_like(p), log_norm[None, :] - shifted
    share, nll = (p * w[None, :], nll * w[None, :]) if WEIGHTED else (p, nll)
    found = (fold(tl.where(on, one[None, :], none), FOLD), fold(tl.where(on, share, none), FOLD))
    found = found + (fold(tl.where(on, nll, none), FOLD), fold(tl.where(on, none, share), FOLD))
    if WEIGHTED:
        found = found + (fold(tl.where(on, w[None, :], none), FOLD),)
    if SQUARES:
        found = found + (fold(tl.where(on, p * share, none), FOLD), fold(tl.where(on, missed[None, :], none), FOLD))
        found = found + (fold(tl.where(on, none, p * share), FOLD),)
    if SPREAD:
        found = found + (fold(tl.where((w > 0)[None, :], nll, none), FOLD),)
    for k in tl.static_range(len(costs)):
        found = found + (fold(tl.where(on, costs[k][None, :], none), FOLD),)
    return found


@triton.jit
def _log_p(place, class_step, voxel_step, y, peak, log_norm):
    """Log-probability of the label of each voxel, (B,); 0 where there is none. Its logit is in the cache."""
    at = y.to(tl.int64) * class_step + tl.arange(0, y.shape[0]).to(tl.int64) * voxel_step
    z = tl.load(place + at, y >= 0, 0).to(tl.float32)
    return tl.where(y >= 0, z - peak - log_norm, 0.0)


@triton.jit
def _costs_of(log_p, w, COSTS: tl.constexpr):
    """The costs of each voxel's label, weighted: (B,) each."""
    found = ()
    for k in tl.static_range(len(COSTS) // 3):
        found = found + (cost_value(log_p, COSTS[3 * k], COSTS[3 * k + 1], COSTS[3 * k + 2]) * w,)
    return found


@triton.jit
def _sums(
    logits, labels, weight, log_p, partial, counts, voxels, steps, ignore,
    z_n, z_c, z_v, y_n, y_v, w_n, w_v,
    C: tl.constexpr, T: tl.constexpr, TILES: tl.constexpr, B: tl.constexpr, FOLD: tl.constexpr, ROWS: tl.constexpr,
    WEIGHTED: tl.constexpr, IGNORE: tl.constexpr, KEEP: tl.constexpr,
    SQUARES: tl.constexpr, SPREAD: tl.constexpr, COSTS: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(1).to(tl.int64)
    logits, labels, weight, log_p = logits + n * z_n, labels + n * y_n, weight + n * w_n, log_p + n * voxels
    sums = zeros(TILES * ROWS, T, B // FOLD)
    zero = tl.zeros((B,), tl.float32)
    totals = (zero, zero, zero, zero) if WEIGHTED else (zero, zero)
    for step in range(steps):
        start, inside = block_of(step, steps, voxels, B)
        y, valid, bad_labels = read_labels(labels + start * y_v, y_v, inside, ignore, C, IGNORE)
        w, bad_weights = read_weights(weight + start * w_v, w_v, inside, valid, WEIGHTED)
        place = logits + start * z_v
        tiles = load_tiles(place, z_c, z_v, inside, valid, C, T, TILES, IGNORE)
        shifted, powers, peak, log_norm, scale = softmax_of(tiles, valid)
        missed, costs = w, ()
        if KEEP or SQUARES or len(COSTS) > 0:
            lp = _log_p(place, z_c, z_v, y, peak, log_norm)
            missed, costs = expm1(lp) * expm1(lp) * w, _costs_of(lp, w, COSTS)
            if KEEP:
                tl.store(log_p + start + tl.arange(0, B), lp, inside)
        one = tl.where(scale > 2, 0.0, 1.0)  # 1 / norm is at most 1; a constant would be laid out unlike the logits
        found = ()
        for t in tl.static_range(TILES):
            on = y[None, :] == (t * T + tl.arange(0, T))[:, None]
            p = powers[t] * scale[None, :]
            values = (shifted[t], p, on, one, w, log_norm, missed, costs)
            rows = _rows(values, FOLD, WEIGHTED, SQUARES, SPREAD)
            for row in tl.static_range(ROWS):
                found = found + (sums[t * ROWS + row] + rows[row],)
        sums = found
        totals = count(totals, valid, w, bad_labels, bad_weights, WEIGHTED)
    write_sums(sums, totals, partial, counts, ROWS, TILES, T, WEIGHTED)


def forward(
    logits: Tensor,
    labels: Tensor,
    weight: Tensor | None,
    ignore_index: int | None,
    squares: bool,
    spread: bool,
    costs: Sequence[float],
    per_voxel: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `delineate.ops.overlap_labels`."""
    if not takes(logits):
        return NotImplemented
    samples, classes, voxels = logits.shape
    goes_to = _goes_to(weight is not None, squares, spread, costs)
    tiling = Tiling.of(classes, len(goes_to))
    tiles, (programs, steps) = tiling.tiles(classes), shares(logits, tiling.voxels)
    log_p = logits.new_empty(samples, voxels if per_voxel else 0, dtype=torch.float32)
    partial = logits.new_empty(samples * programs, len(goes_to), tiles * tiling.classes, dtype=torch.float32)
    counts = logits.new_empty(samples * programs, COUNTS, dtype=torch.float32)
    labels = bytes_of(labels)
    _sums[(programs, samples)](
        logits, labels, labels if weight is None else weight, log_p, partial, counts,
        voxels, steps, 0 if ignore_index is None else ignore_index,
        *logits.stride(), *labels.stride(), *strides(weight, 2),
        classes, tiling.classes, tiles, tiling.voxels, tiling.fold, len(goes_to),
        weight is not None, ignore_index is not None, per_voxel, squares, spread, tuple(costs),
        num_warps=tiling.warps,
    )  # fmt: skip
    table, totals = add_up(partial, counts, samples, classes, goes_to, table_rows(costs))
    return log_p, table, totals


@triton.jit
def _class_slopes(
    g, C: tl.constexpr, T: tl.constexpr, TILES: tl.constexpr, SQUARED: tl.constexpr, SPREAD: tl.constexpr
):
    """Gradients to the sums (rows, C) tile by tile, (T, 1) each: to the mass, twice those to its squares, to the
    probability of the label, to the cross entropy, and to the spread."""
    mass, squares, label, nll, spread = (), (), (), (), ()
    for t in tl.static_range(TILES):
        mass, nll = mass + (row_of(g, _MASS, t, C, T),), nll + (row_of(g, _NLL, t, C, T),)
        label = label + (row_of(g, _TP, t, C, T) + row_of(g, _PRODUCT, t, C, T),)
        if SQUARED:
            squares = squares + (2 * (row_of(g, _SQUARES, t, C, T) + row_of(g, _FALSE_SQUARES, t, C, T)),)
        if SPREAD:
            spread = spread + (row_of(g, _SPREAD, t, C, T),)
    return mass, squares, label, nll, spread


@triton.jit
def _slope_of_log_p(g, y, lp, C: tl.constexpr, SQUARED: tl.constexpr, COSTS: tl.constexpr):
    """What costs and squares of misses give to the log-probability of the label, (B,)."""
    found, p = tl.zeros_like(lp), exp(lp)
    if SQUARED:
        found += 2 * p * expm1(lp) * tl.load(g + _MISS_SQUARES * C + y, y >= 0, 0.0).to(tl.float32)
        found -= 2 * p * p * tl.load(g + _FALSE_SQUARES * C + y, y >= 0, 0.0).to(tl.float32)
    for k in tl.static_range(len(COSTS) // 3):
        of_cost = tl.load(g + (_COSTS + 2 * k) * C + y, y >= 0, 0.0).to(tl.float32)
        found += of_cost * cost_slope(lp, p, COSTS[3 * k], COSTS[3 * k + 1], COSTS[3 * k + 2])
    return found


@triton.jit
def _gradient(
    logits, labels, weight, g_log_p, g_sums, grad, voxels, steps, ignore,
    z_n, z_c, z_v, y_n, y_v, w_n, w_v, g_n, g_v, d_n, d_c, d_v,
    C: tl.constexpr, T: tl.constexpr, TILES: tl.constexpr, B: tl.constexpr, TABLE_ROWS: tl.constexpr,
    WEIGHTED: tl.constexpr, IGNORE: tl.constexpr, PER_VOXEL: tl.constexpr,
    SQUARED: tl.constexpr, SPREAD: tl.constexpr, COSTS: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(1).to(tl.int64)
    logits, labels, weight, grad = logits + n * z_n, labels + n * y_n, weight + n * w_n, grad + n * d_n
    g = g_sums + n * TABLE_ROWS * C
    mass, squares, label, nll, spread = _class_slopes(g, C, T, TILES, SQUARED, SPREAD)
    for step in range(steps):
        start, inside = block_of(step, steps, voxels, B)
        y, valid, _ = read_labels(labels + start * y_v, y_v, inside, ignore, C, IGNORE)
        w, _ = read_weights(weight + start * w_v, w_v, inside, valid, WEIGHTED)
        place = logits + start * z_v
        tiles = load_tiles(place, z_c, z_v, inside, valid, C, T, TILES, IGNORE)
        _, powers, peak, log_norm, scale = softmax_of(tiles, valid)
        h = tl.zeros_like(w)
        if SQUARED or len(COSTS) > 0:
            h = _slope_of_log_p(g, y, _log_p(place, z_c, z_v, y, peak, log_norm), C, SQUARED, COSTS) * w
        if PER_VOXEL:
            at = start * g_v + tl.arange(0, B).to(tl.int64) * g_v
            h += tl.load(g_log_p + n * g_n + at, y >= 0, 0.0)
        total = tl.zeros((T, B), tl.float32)
        for t in tl.static_range(TILES):
            on, p = y[None, :] == (t * T + tl.arange(0, T))[:, None], powers[t] * scale[None, :]
            total += p * (mass[t] + squares[t] * p if SQUARED else mass[t])
            total += tl.where(on, label[t] * p - nll[t], 0.0)
            if SPREAD:
                total -= spread[t]
        shared = tl.sum(total, 0) * w + h
        for t in tl.static_range(TILES):
            on, p = y[None, :] == (t * T + tl.arange(0, T))[:, None], powers[t] * scale[None, :]
            direct, m = label[t] * p - nll[t], mass[t] + squares[t] * p if SQUARED else mass[t]
            m, direct = (m * w[None, :], direct * w[None, :]) if WEIGHTED else (m, direct)
            dz = p * (m - shared[None, :]) + tl.where(on, direct + h[None, :], 0.0)
            if SPREAD:
                dz -= spread[t] * w[None, :]
            tl.store(tile_of(grad + start * d_v, d_c, d_v, t, T, B), dz, tile_mask(inside, t, C, T))


def backward(
    logits: Tensor,
    labels: Tensor,
    weight: Tensor | None,
    log_p: Tensor,
    g_log_p: Tensor | None,
    g_sums: Tensor,
    ignore_index: int | None,
    squares: bool,
    spread: bool,
    costs: Sequence[float],
) -> Tensor:
    """See `delineate.ops.overlap_labels`; `log_p` is not looked at."""
    if not takes(logits):
        return NotImplemented
    samples, classes, voxels = logits.shape
    tiling = Tiling.of(classes, len(_goes_to(weight is not None, squares, spread, costs)))
    programs, steps = shares(logits, tiling.voxels)
    grad, labels = torch.empty_like(logits), bytes_of(labels)
    _gradient[(programs, samples)](
        logits, labels, labels if weight is None else weight, logits if g_log_p is None else g_log_p,
        g_sums.contiguous(), grad, voxels, steps, 0 if ignore_index is None else ignore_index,
        *logits.stride(), *labels.stride(), *strides(weight, 2), *strides(g_log_p, 2), *grad.stride(),
        classes, tiling.classes, tiling.tiles(classes), tiling.voxels, table_rows(costs),
        weight is not None, ignore_index is not None, g_log_p is not None, squares, spread, tuple(costs),
        num_warps=tiling.warps,
    )  # fmt: skip
    return grad
