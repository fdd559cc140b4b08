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
    TOTALS,
    Tiling,
    add_up,
    bytes_of,
    count,
    fold,
    load_tiles,
    read_labels,
    read_weights,
    shares,
    softmax_of,
    strides,
    takes,
    write_sums,
    zeros,
)

_TP, _PRODUCT, _NLL, _MASS = tl.constexpr(TP), tl.constexpr(PRODUCT), tl.constexpr(NLL), tl.constexpr(MASS)
_SQUARES, _FALSE_SQUARES = tl.constexpr(SQUARES), tl.constexpr(FALSE_SQUARES)
_MISS_SQUARES, _SPREAD, _COSTS = tl.constexpr(MISS_SQUARES), tl.constexpr(SPREAD), tl.constexpr(COSTS)


@triton.jit
def _label_values(log_p, w, WEIGHTED: tl.constexpr, SQUARES: tl.constexpr, COSTS: tl.constexpr):
    """What is summed by label, of each voxel (B,): in the order of `_goes_to`."""
    p = exp(log_p)
    found = (p * w, -log_p * w, tl.full(w.shape, 1.0, tl.float32))
    if WEIGHTED:
        found = found + (w,)
    if SQUARES:
        miss = expm1(log_p)
        found = found + (p * p * w, miss * miss * w)
    for k in tl.static_range(len(COSTS) // 3):
        found = found + (cost_value(log_p, COSTS[3 * k], COSTS[3 * k + 1], COSTS[3 * k + 2]) * w,)
    return found


def _goes_to(weighted: bool, squares: bool, spread: bool, costs: Sequence[float]) -> list[list[int]]:
    """The rows of the table that each accumulator is added to."""
    rows = [[TP, MASS, PRODUCT], [NLL], [VOXELS] if weighted else [VOXELS, COUNT, TARGET_SQUARES]]
    rows += [[COUNT, TARGET_SQUARES]] if weighted else []
    rows += [[SQUARES], [MISS_SQUARES]] if squares else []
    rows += [[COSTS + 2 * k] for k in range(len(costs) // 3)]
    rows += [[MASS]]  # of false positives, summed by themselves: a few voxels beside a million hits
    rows += [[FALSE_SQUARES, SQUARES]] if squares else []
    return rows + ([[SPREAD]] if spread else [])


@triton.jit
def _sum_tiles(
    sums, tiles, powers, scale, rest, y, w, values,
    T: tl.constexpr, FOLD: tl.constexpr, SQUARES: tl.constexpr, SPREAD: tl.constexpr,
):  # fmt: skip
    """Add a block to the accumulators of all tiles.

    Args:
        scale: what turns powers into probabilities, (B,). rest: log-sum-exp. values: see `_label_values`.
    """
    found = ()
    ROWS: tl.constexpr = len(sums) // len(tiles)
    for t in tl.static_range(len(tiles)):
        on = y[None, :] == (t * T + tl.arange(0, T))[:, None]
        rows = ()
        for k in tl.static_range(len(values)):
            rows = rows + (fold(tl.where(on, values[k][None, :], 0.0), FOLD),)
        false = tl.where(on, 0.0, powers[t])
        rows = rows + (fold(false * (scale * w)[None, :], FOLD),)
        if SQUARES:
            rows = rows + (fold(false * false * (scale * scale * w)[None, :], FOLD),)
        if SPREAD:
            costs = (rest[None, :] - tiles[t]) * w[None, :]
            rows = rows + (fold(tl.where((w > 0)[None, :], costs, 0.0), FOLD),)
        for row in tl.static_range(ROWS):
            found = found + (sums[t * ROWS + row] + rows[row],)
    return found


@triton.jit
def _log_p(logits, voxel_step, class_step, y, peak, log_norm):
    """Log-probability of the label of each voxel, (B,); 0 where there is none. Its logit is in the cache."""
    labelled = y >= 0
    z = tl.load(logits + y.to(tl.int64) * class_step + voxel_step, labelled, 0).to(tl.float32)
    return tl.where(labelled, z - peak - log_norm, 0.0)


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
    totals = (zero, zero, zero, zero)
    for step in range(steps):
        v = (tl.program_id(0).to(tl.int64) * steps + step) * B + tl.arange(0, B)
        inside = v < voxels
        y, valid, bad_labels = read_labels(labels, v * y_v, inside, ignore, C, IGNORE)
        w, bad_weights = read_weights(weight, v * w_v, inside, valid, WEIGHTED)
        tiles = load_tiles(logits, v * z_v, z_c, inside, valid, C, T, TILES, IGNORE)
        powers, peak, log_norm, scale = softmax_of(tiles, valid)
        lp = _log_p(logits, v * z_v, z_c, y, peak, log_norm)
        if KEEP:
            tl.store(log_p + v, lp, inside)
        values = _label_values(lp, w, WEIGHTED, SQUARES, COSTS)
        sums = _sum_tiles(sums, tiles, powers, scale, peak + log_norm, y, w, values, T, FOLD, SQUARES, SPREAD)
        totals = count(totals, valid, w, bad_labels, bad_weights)
    write_sums(sums, totals, partial, counts, ROWS, TILES, T)


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
    (samples, classes, voxels), tiling = logits.shape, Tiling.of(logits)
    programs, steps = shares(logits, tiling.voxels)
    goes_to = _goes_to(weight is not None, squares, spread, costs)
    log_p = logits.new_empty(samples, voxels if per_voxel else 0, dtype=torch.float32)
    partial = logits.new_empty(samples * programs, len(goes_to), tiling.tiles * tiling.classes, dtype=torch.float32)
    counts = logits.new_empty(samples * programs, TOTALS, dtype=torch.float32)
    labels = bytes_of(labels)
    _sums[(programs, samples)](
        logits, labels, labels if weight is None else weight, log_p, partial, counts,
        voxels, steps, 0 if ignore_index is None else ignore_index,
        *logits.stride(), *labels.stride(), *strides(weight, 2),
        classes, tiling.classes, tiling.tiles, tiling.voxels, tiling.fold, len(goes_to),
        weight is not None, ignore_index is not None, per_voxel, squares, spread, tuple(costs),
        num_warps=tiling.warps,
    )  # fmt: skip
    table, totals = add_up(partial, counts, samples, classes, goes_to, table_rows(costs))
    return log_p, table, totals


@triton.jit
def _slope_of_label(
    g, y, lp, w, C: tl.constexpr, SQUARED: tl.constexpr, COSTS: tl.constexpr
):  # fmt: skip
    """What a voxel gives to the log-probability of its label beyond the mass of all classes, (B,); g: (rows, C)."""
    labelled, p = y >= 0, exp(lp)
    at = g + y
    direct = tl.load(at + _TP * C, labelled, 0.0) + tl.load(at + _PRODUCT * C, labelled, 0.0)
    direct = direct.to(tl.float32)
    if SQUARED:
        direct -= 2 * p * tl.load(at + _FALSE_SQUARES * C, labelled, 0.0).to(tl.float32)
        direct += 2 * expm1(lp) * tl.load(at + _MISS_SQUARES * C, labelled, 0.0).to(tl.float32)
    h = direct * p - tl.load(at + _NLL * C, labelled, 0.0).to(tl.float32)
    for k in tl.static_range(len(COSTS) // 3):
        of_cost = tl.load(at + (_COSTS + 2 * k) * C, labelled, 0.0).to(tl.float32)
        h += of_cost * cost_slope(lp, p, COSTS[3 * k], COSTS[3 * k + 1], COSTS[3 * k + 2])
    return h * w


@triton.jit
def _class_slopes(g, C: tl.constexpr, T: tl.constexpr, TILES: tl.constexpr, SQUARED: tl.constexpr):
    """Tile by tile (T,) each: gradients to the mass, twice those to its squares, and those to the spread."""
    mass, squares, spread = (), (), ()
    for t in tl.static_range(TILES):
        c = t * T + tl.arange(0, T)
        mass = mass + (tl.load(g + _MASS * C + c, c < C, 0.0).to(tl.float32),)
        spread = spread + (tl.load(g + _SPREAD * C + c, c < C, 0.0).to(tl.float32),)
        if SQUARED:
            both = tl.load(g + _SQUARES * C + c, c < C, 0.0) + tl.load(g + _FALSE_SQUARES * C + c, c < C, 0.0)
            squares = squares + (2 * both.to(tl.float32),)
    return mass, squares, spread


@triton.jit
def _of_mass(p, mass, squares, SQUARED: tl.constexpr):
    """Gradient of a voxel of weight 1 to the probabilities of a tile, (T, B)."""
    found = mass[:, None]
    if SQUARED:
        found = found + squares[:, None] * p
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
    mass, squares, spread = _class_slopes(g, C, T, TILES, SQUARED)
    for step in range(steps):
        v = (tl.program_id(0).to(tl.int64) * steps + step) * B + tl.arange(0, B)
        inside = v < voxels
        y, valid, _ = read_labels(labels, v * y_v, inside, ignore, C, IGNORE)
        w, _ = read_weights(weight, v * w_v, inside, valid, WEIGHTED)
        tiles = load_tiles(logits, v * z_v, z_c, inside, valid, C, T, TILES, IGNORE)
        powers, peak, log_norm, scale = softmax_of(tiles, valid)
        lp = _log_p(logits, v * z_v, z_c, y, peak, log_norm)
        h = _slope_of_label(g, y, lp, w, C, SQUARED, COSTS)
        if PER_VOXEL:
            h += tl.load(g_log_p + n * g_n + v * g_v, y >= 0, 0.0)
        dot = tl.zeros((T, B), tl.float32)
        for t in tl.static_range(TILES):
            p = powers[t] * scale[None, :]
            dot += p * _of_mass(p, mass[t], squares[t] if SQUARED else 0, SQUARED)
            if SPREAD:
                dot -= spread[t][:, None]
        shared = tl.sum(dot, 0) * w + h
        for t in tl.static_range(TILES):
            c = t * T + tl.arange(0, T)
            p = powers[t] * scale[None, :]
            m = _of_mass(p, mass[t], squares[t] if SQUARED else 0, SQUARED)
            dz = p * (m * w[None, :] - shared[None, :])
            dz += tl.where(y[None, :] == c[:, None], h[None, :], 0.0)
            if SPREAD:
                dz -= spread[t][:, None] * w[None, :]
            place = grad + c.to(tl.int64)[:, None] * d_c + (v * d_v)[None, :]
            tl.store(place, dz, (c < C)[:, None] & inside[None, :])


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
    (samples, classes, voxels), tiling = logits.shape, Tiling.of(logits)
    programs, steps = shares(logits, tiling.voxels)
    grad, labels = torch.empty_like(logits), bytes_of(labels)
    _gradient[(programs, samples)](
        logits, labels, labels if weight is None else weight, logits if g_log_p is None else g_log_p,
        g_sums.contiguous(), grad, voxels, steps, 0 if ignore_index is None else ignore_index,
        *logits.stride(), *labels.stride(), *strides(weight, 2), *strides(g_log_p, 2), *grad.stride(),
        classes, tiling.classes, tiling.tiles, tiling.voxels, table_rows(costs),
        weight is not None, ignore_index is not None, g_log_p is not None, squares, spread, tuple(costs),
        num_warps=tiling.warps,
    )  # fmt: skip
    return grad
