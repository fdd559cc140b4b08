"""The pass in sigmoid mode, and with dense targets, on CUDA; see `delineate.ops.overlap_channels`, for letters `tiles`.

One read of logits and target forward, one more of both backward, where the activation is taken anew.
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
    NLL_OFF,
    PRODUCT,
    SPREAD,
    SQUARES,
    TARGET_SQUARES,
    TP,
    VOXELS,
    table_rows,
)
from delineate.ops.cuda.arithmetic import cost_slope, cost_value, exp, log1p
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

_NLL, _NLL_OFF, _SPREAD = tl.constexpr(NLL), tl.constexpr(NLL_OFF), tl.constexpr(SPREAD)
_MASS, _TP, _COSTS = tl.constexpr(MASS), tl.constexpr(TP), tl.constexpr(COSTS)
_SQUARES, _PRODUCT = tl.constexpr(SQUARES), tl.constexpr(PRODUCT)
_MISS_SQUARES, _FALSE_SQUARES = tl.constexpr(MISS_SQUARES), tl.constexpr(FALSE_SQUARES)


@triton.jit
def _read_target(
    place, class_step, voxel_step, y, inside, C: tl.constexpr, T: tl.constexpr, TILES: tl.constexpr,
    DENSE: tl.constexpr,
):  # fmt: skip
    """The target of each tile as numbers, (T, B), and how many of a voxel's may not be, (B,).

    Args:
        place: where a dense target of the block begins. y: labels, (B,), otherwise.
    """
    found = ()
    bad = tl.zeros((T, y.shape[0]), tl.float32)
    for t in tl.static_range(TILES):
        if DENSE:
            there = tile_mask(inside, t, C, T)
            share = tl.load(tile_of(place, class_step, voxel_step, t, T, y.shape[0]), there, 0.0).to(tl.float32)
            bad += tl.where((share >= 0) & (share <= 1), 0.0, 1.0)
        else:
            names = t * T + tl.arange(0, T) + (C == 1)
            share = (y[None, :] == names[:, None]).to(tl.float32)
        found = found + (share,)
    return found, tl.sum(bad, 0)


@triton.jit
def _target_of(
    target, start, y_c, y_v, inside, ignore, C: tl.constexpr, T: tl.constexpr, TILES: tl.constexpr,
    DENSE: tl.constexpr, IGNORE: tl.constexpr,
):  # fmt: skip
    """The target of a block as tiles; valid voxels, (B,); and how many of a voxel's values may not be, (B,)."""
    place = target + start * y_v
    if DENSE:
        y, valid, bad_labels = tl.zeros(inside.shape, tl.int32), inside, inside & (inside == 0)
    else:
        y, valid, bad_labels = read_labels(place, y_v, inside, ignore, max(C, 2), IGNORE)
    tiles, bad = _read_target(place, y_c, y_v, y, inside, C, T, TILES, DENSE)
    return tiles, valid, bad + bad_labels.to(tl.float32)


@triton.jit
def _logs(shifted, power, log_norm, scale, SOFTMAX: tl.constexpr):
    """Of a tile: log p, log (1 - p), p and 1 - p, (T, B) each; the second and the last are meant for sigmoid mode.

    Args:
        shifted, power, log_norm, scale: see `softmax_of`; in sigmoid mode the first are the logits.
    """
    if SOFTMAX:
        log_p, p = shifted - log_norm[None, :], power * scale[None, :]
        log_q, q = tl.zeros_like(p), 1 - p
    else:
        a = exp(-tl.abs(shifted))
        beyond, large = log1p(a), 1 / (1 + a)
        small = a * large
        log_p, log_q = tl.minimum(shifted, 0.0) - beyond, tl.minimum(-shifted, 0.0) - beyond
        p, q = tl.where(shifted >= 0, large, small), tl.where(shifted >= 0, small, large)
    return log_p, log_q, p, q


@triton.jit
def _if(share, values, DENSE: tl.constexpr):
    """share * values; what has no share counts 0, even if it is infinite."""
    return tl.where(share > 0, share * values if DENSE else values, 0.0)


def _goes_to(softmax: bool, squares: bool, spread: bool, costs: Sequence[float]) -> list[list[int]]:
    """The rows of the table that each accumulator is added to."""
    rows = [[COUNT], [MASS], [TP, MASS], [NLL]] + ([[VOXELS]] if softmax else [[NLL_OFF]])
    rows += [[SPREAD]] if spread else []
    for k in range(len(costs) // 3):
        rows += [[COSTS + 2 * k]] if softmax else [[COSTS + 2 * k], [COSTS + 2 * k + 1]]
    return rows + ([[MISS_SQUARES], [FALSE_SQUARES], [SQUARES], [PRODUCT], [TARGET_SQUARES]] if squares else [])


@triton.jit
def _rows(
    values, FOLD: tl.constexpr, DENSE: tl.constexpr, WEIGHTED: tl.constexpr,
    SOFTMAX: tl.constexpr, SQUARES: tl.constexpr, SPREAD: tl.constexpr, COSTS: tl.constexpr,
):  # fmt: skip
    """What a tile adds to each accumulator, in the order of `_goes_to`; p and y are 0 where a voxel is not valid.

    Args:
        values: log p, log (1 - p), p, y, (T, B); and the weight, 0 where a voxel is not valid, (1, B).
    """
    log_p, log_q, p, y, w = values
    hit, false = tl.where(y < p, y, p), tl.where(p <= y, 0.0, p - y)  # exact, and NaN where p is
    found = (_sum(y, w, FOLD, WEIGHTED), _sum(false, w, FOLD, WEIGHTED), _sum(hit, w, FOLD, WEIGHTED))
    found = found + (_sum(_if(y, -log_p, DENSE), w, FOLD, WEIGHTED),)
    found = found + (fold(y, FOLD) if SOFTMAX else _sum(_if(1 - y, -log_q, DENSE), w, FOLD, WEIGHTED),)
    if SPREAD:
        found = found + (_sum(-(log_p + log_q), w, FOLD, True),)
    for k in tl.static_range(len(COSTS) // 3):
        on = cost_value(log_p, COSTS[3 * k], COSTS[3 * k + 1], COSTS[3 * k + 2])
        found = found + (_sum(_if(y, on, DENSE), w, FOLD, WEIGHTED),)
        if not SOFTMAX:
            off = cost_value(log_q, COSTS[3 * k], COSTS[3 * k + 1], COSTS[3 * k + 2])
            found = found + (_sum(_if(1 - y, off, DENSE), w, FOLD, WEIGHTED),)
    if SQUARES:
        wrong = (y - p) * (y - p)
        found = found + (_sum(_if(y, wrong, DENSE), w, FOLD, WEIGHTED),)
        found = found + (_sum(_if(1 - y, wrong, DENSE), w, FOLD, WEIGHTED), _sum(_if(p, p, True), w, FOLD, WEIGHTED))
        found = found + (_sum(_if(y, p, DENSE), w, FOLD, WEIGHTED), _sum(_if(y, y, DENSE), w, FOLD, WEIGHTED))
    return found


@triton.jit
def _sum(values, w, FOLD: tl.constexpr, WEIGHTED: tl.constexpr):
    """Values of a tile, weighted and folded; what has no weight counts 0."""
    return fold(_if(w, values, True) if WEIGHTED else values, FOLD)


@triton.jit
def _sums(
    logits, target, weight, log_p, partial, counts, voxels, steps, ignore,
    z_n, z_c, z_v, y_n, y_c, y_v, w_n, w_v,
    C: tl.constexpr, T: tl.constexpr, TILES: tl.constexpr, B: tl.constexpr, FOLD: tl.constexpr, ROWS: tl.constexpr,
    DENSE: tl.constexpr, WEIGHTED: tl.constexpr, IGNORE: tl.constexpr, KEEP: tl.constexpr,
    SOFTMAX: tl.constexpr, SQUARES: tl.constexpr, SPREAD: tl.constexpr, COSTS: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(1).to(tl.int64)
    logits, target, weight, log_p = logits + n * z_n, target + n * y_n, weight + n * w_n, log_p + n * C * voxels
    sums = zeros(TILES * ROWS, T, B // FOLD)
    zero = tl.zeros((B,), tl.float32)
    totals = (zero, zero, zero, zero) if WEIGHTED else (zero, zero)
    for step in range(steps):
        start, inside = block_of(step, steps, voxels, B)
        targets, valid, bad = _target_of(target, start, y_c, y_v, inside, ignore, C, T, TILES, DENSE, IGNORE)
        w, bad_weights = read_weights(weight + start * w_v, w_v, inside, valid, WEIGHTED)
        tiles = load_tiles(logits + start * z_v, z_c, z_v, inside, valid, C, T, TILES, IGNORE)
        shifted, powers, _, log_norm, scale = softmax_of(tiles, valid) if SOFTMAX else (tiles, tiles, w, w, w)
        found = ()
        for t in tl.static_range(TILES):
            on, off, p, _ = _logs(shifted[t], powers[t], log_norm, scale, SOFTMAX)
            rows = _rows((on, off, p, targets[t], w[None, :]), FOLD, DENSE, WEIGHTED, SOFTMAX, SQUARES, SPREAD, COSTS)
            for row in tl.static_range(ROWS):
                found = found + (sums[t * ROWS + row] + rows[row],)
            if KEEP:
                kept = tl.where(valid[None, :], tl.where(targets[t] > 0, on, off), 0.0)
                tl.store(tile_of(log_p + start, voxels, 1, t, T, B), kept, tile_mask(inside, t, C, T))
        sums = found
        totals = count(totals, valid, w, bad, bad_weights, WEIGHTED)
    write_sums(sums, totals, partial, counts, ROWS, TILES, T, WEIGHTED)


def forward(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int | None,
    softmax: bool,
    squares: bool,
    spread: bool,
    costs: Sequence[float],
    per_voxel: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `delineate.ops.overlap_channels`."""
    if not takes(logits):
        return NotImplemented
    samples, classes, voxels = logits.shape
    goes_to = _goes_to(softmax, squares, spread, costs)
    tiling = Tiling.of(classes, len(goes_to))
    tiles, (programs, steps) = tiling.tiles(classes), shares(logits, tiling.voxels)
    log_p = logits.new_empty((samples, classes, voxels) if per_voxel else (samples, 0, 0), dtype=torch.float32)
    partial = logits.new_empty(samples * programs, len(goes_to), tiles * tiling.classes, dtype=torch.float32)
    counts = logits.new_empty(samples * programs, COUNTS, dtype=torch.float32)
    target, dense = bytes_of(target), target.is_floating_point()
    _sums[(programs, samples)](
        logits, target, target if weight is None else weight, log_p, partial, counts,
        voxels, steps, 0 if ignore_index is None else ignore_index,
        *logits.stride(), *_steps(target), *strides(weight, 2),
        classes, tiling.classes, tiles, tiling.voxels, tiling.fold, len(goes_to),
        dense, weight is not None, ignore_index is not None and not dense, per_voxel,
        softmax, squares, spread, tuple(costs),
        num_warps=tiling.warps,
    )  # fmt: skip
    table, totals = add_up(partial, counts, samples, classes, goes_to, table_rows(costs), [] if softmax else [VOXELS])
    return log_p, table, totals


def _steps(target: Tensor) -> tuple[int, int, int]:
    """Strides of samples, classes and voxels; labels (N, V) have none of classes."""
    return target.stride() if target.ndim == 3 else (target.stride(0), 0, target.stride(1))


@triton.jit
def _to_p(g, p, y, t: tl.constexpr, C: tl.constexpr, T: tl.constexpr, SQUARES: tl.constexpr):
    """Gradient of a voxel of weight 1 to the probabilities of a tile, (T, B)."""
    below = tl.where(y > p, 1.0, tl.where(y < p, 0.0, 0.5))
    found = row_of(g, _MASS, t, C, T) + row_of(g, _TP, t, C, T) * below
    if SQUARES:
        found += 2 * row_of(g, _SQUARES, t, C, T) * p + row_of(g, _PRODUCT, t, C, T) * y
        found += 2 * (p - y) * (row_of(g, _MISS_SQUARES, t, C, T) * y + row_of(g, _FALSE_SQUARES, t, C, T) * (1 - y))
    return found


@triton.jit
def _to_logs(
    g, logs, y, t: tl.constexpr, C: tl.constexpr, T: tl.constexpr,
    DENSE: tl.constexpr, SPREAD: tl.constexpr, COSTS: tl.constexpr, SOFTMAX: tl.constexpr,
):  # fmt: skip
    """Gradients of a voxel of weight 1 to log p and to log (1 - p) of a tile, (T, B) each; logs: see `_logs`."""
    log_p, log_q, p, q = logs
    on, off = -row_of(g, _NLL, t, C, T) * y, -row_of(g, _NLL_OFF, t, C, T) * (1 - y)
    for k in tl.static_range(len(COSTS) // 3):
        slope_on = cost_slope(log_p, p, COSTS[3 * k], COSTS[3 * k + 1], COSTS[3 * k + 2])
        on += row_of(g, _COSTS + 2 * k, t, C, T) * _if(y, slope_on, DENSE)
        if not SOFTMAX:
            slope_off = cost_slope(log_q, q, COSTS[3 * k], COSTS[3 * k + 1], COSTS[3 * k + 2])
            off += row_of(g, _COSTS + 2 * k + 1, t, C, T) * _if(1 - y, slope_off, DENSE)
    if SPREAD:
        on, off = on - row_of(g, _SPREAD, t, C, T), off - row_of(g, _SPREAD, t, C, T)
    return on, off


@triton.jit
def _gradient(
    logits, target, weight, g_log_p, g_sums, grad, voxels, steps, ignore,
    z_n, z_c, z_v, y_n, y_c, y_v, w_n, w_v, g_n, g_c, g_v, d_n, d_c, d_v,
    C: tl.constexpr, T: tl.constexpr, TILES: tl.constexpr, B: tl.constexpr, TABLE_ROWS: tl.constexpr,
    DENSE: tl.constexpr, WEIGHTED: tl.constexpr, IGNORE: tl.constexpr, PER_VOXEL: tl.constexpr,
    SOFTMAX: tl.constexpr, SQUARES: tl.constexpr, SPREAD: tl.constexpr, COSTS: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(1).to(tl.int64)
    logits, target, weight, grad = logits + n * z_n, target + n * y_n, weight + n * w_n, grad + n * d_n
    g, g_log_p = g_sums + n * TABLE_ROWS * C, g_log_p + n * g_n
    for step in range(steps):
        start, inside = block_of(step, steps, voxels, B)
        targets, valid, _ = _target_of(target, start, y_c, y_v, inside, ignore, C, T, TILES, DENSE, IGNORE)
        w, _ = read_weights(weight + start * w_v, w_v, inside, valid, WEIGHTED)
        tiles = load_tiles(logits + start * z_v, z_c, z_v, inside, valid, C, T, TILES, IGNORE)
        shifted, powers, _, log_norm, scale = softmax_of(tiles, valid) if SOFTMAX else (tiles, tiles, w, w, w)
        total = tl.zeros((T, B), tl.float32)
        if SOFTMAX:
            for t in tl.static_range(TILES):
                y, there = targets[t], (t * T + tl.arange(0, T) < C)[:, None]
                logs = _logs(shifted[t], powers[t], log_norm, scale, SOFTMAX)
                on, _ = _to_logs(g, logs, y, t, C, T, DENSE, SPREAD, COSTS, SOFTMAX)
                total += logs[2] * _to_p(g, logs[2], y, t, C, T, SQUARES) + tl.where(there, on, 0.0)
        shared = tl.sum(total, 0)[None, :]
        for t in tl.static_range(TILES):
            y, logs = targets[t], _logs(shifted[t], powers[t], log_norm, scale, SOFTMAX)
            on, off = _to_logs(g, logs, y, t, C, T, DENSE, SPREAD, COSTS, SOFTMAX)
            p, q, to_p = logs[2], logs[3], _to_p(g, logs[2], y, t, C, T, SQUARES)
            dz = (p * (to_p - shared) + on if SOFTMAX else p * q * to_p + on * q - off * p) * w[None, :]
            there = tile_mask(inside, t, C, T)
            if PER_VOXEL:
                dz += tl.load(tile_of(g_log_p + start * g_v, g_c, g_v, t, T, B), there, 0.0) * (y - p)
            dz = tl.where(valid[None, :], dz, 0.0)
            tl.store(tile_of(grad + start * d_v, d_c, d_v, t, T, B), dz, there)


def backward(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    g_log_p: Tensor | None,
    g_sums: Tensor,
    ignore_index: int | None,
    softmax: bool,
    squares: bool,
    spread: bool,
    costs: Sequence[float],
) -> Tensor:
    """See `delineate.ops.overlap_channels`."""
    if not takes(logits):
        return NotImplemented
    samples, classes, voxels = logits.shape
    tiling = Tiling.of(classes, len(_goes_to(softmax, squares, spread, costs)))
    programs, steps = shares(logits, tiling.voxels)
    grad, target, dense = torch.empty_like(logits), bytes_of(target), target.is_floating_point()
    _gradient[(programs, samples)](
        logits, target, target if weight is None else weight, logits if g_log_p is None else g_log_p,
        g_sums.contiguous(), grad, voxels, steps, 0 if ignore_index is None else ignore_index,
        *logits.stride(), *_steps(target), *strides(weight, 2), *strides(g_log_p, 3), *grad.stride(),
        classes, tiling.classes, tiling.tiles(classes), tiling.voxels, table_rows(costs),
        dense, weight is not None, ignore_index is not None and not dense, g_log_p is not None,
        softmax, squares, spread, tuple(costs),
        num_warps=tiling.warps,
    )  # fmt: skip
    return grad
