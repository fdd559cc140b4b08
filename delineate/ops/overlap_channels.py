"""The pass in sigmoid mode, and with dense targets in both modes: every channel has its own target."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
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
    at,
    check_labels,
    check_weights,
    full_precision,
    read_labels,
    read_weights,
    refuse_second_derivative,
    require,
    row_sums,
    rows_of,
    sweep,
    table_rows,
    wide_dtype,
)
from delineate.ops.cost import unpacked
from delineate.ops.cuda import on_cuda
from delineate.ops.transforms import differentiable


def _target_of(
    target: Tensor, ignore_index: int | None, channels: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """One block's target as a map y (C, B), and which voxels are ignored: (B,) or None."""
    if target.is_floating_point():
        return target.to(dtype), None
    labels, ignored = read_labels(target, ignore_index)
    names = torch.arange(channels, device=labels.device)[:, None] if channels > 1 else labels.new_ones(1, 1)
    return (labels == names).to(dtype), ignored


def _check_target(target: Tensor, ignore_index: int | None, channels: int, softmax: bool) -> None:
    """Raise for labels or dense values of a block that are out of range."""
    if target.is_floating_point():
        require(((target >= 0) & (target <= 1)).all(), "target: a dense target must lie in [0, 1]", target)
    else:
        y, _ = read_labels(target, ignore_index)
        check_labels(y, target, ignore_index, channels if softmax else max(channels, 2))


def _log_probabilities(z: Tensor, softmax: bool) -> tuple[Tensor, Tensor]:
    """log p and log (1 - p); the second is only meant for sigmoid mode and is zeros in softmax mode."""
    if softmax:
        return z.log_softmax(0), torch.zeros_like(z)
    return F.logsigmoid(z), F.logsigmoid(-z)


def _if(share: Tensor, values: Tensor) -> Tensor:
    """share * values; what has no share counts 0, even if it is infinite."""
    return torch.where(share > 0, share * values, 0)


@torch.library.custom_op("delineate::overlap_channels", mutates_args=())
@full_precision
def _forward(
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
    """Logits (N, C, V), target (N, V) or (N, C, V) -> log_p or (N, 0, 0), sums (N, rows, C), totals (N, 2)."""
    (samples, channels, voxels), wide = logits.shape, wide_dtype(logits.dtype)
    log_p = logits.new_empty((samples, channels, voxels) if per_voxel else (samples, 0, 0), dtype=wide)
    sums = logits.new_zeros(samples, table_rows(costs) + 2, channels, dtype=torch.float64)

    def sums_of(n: int, block: slice) -> Tensor:
        _check_target(target[n, ..., block], ignore_index, channels, softmax)
        check_weights(at(weight, n, block))
        y, ignored = _target_of(target[n, ..., block], ignore_index, channels, wide)
        w = read_weights(at(weight, n, block), ignored, wide)
        z = rows_of(logits[n, :, block], wide)
        z = z if ignored is None else z.masked_fill(ignored, 0)
        on, off = _log_probabilities(z, softmax)
        p, row = on.exp(), torch.zeros_like(sums[0])
        alive = torch.ones_like(z[0]) if ignored is None else (~ignored).to(wide)
        w = alive if w is None else w
        row[VOXELS] = y.double() @ alive.double() if softmax else alive.sum()
        row[COUNT] = y.double() @ w.double()
        hit = torch.minimum(p, y)
        row[MASS], row[TP] = row_sums(p - hit, w), row_sums(hit, w)
        row[NLL] = -row_sums(_if(y, on), w)
        for k, cost in unpacked(costs):
            row[COSTS + 2 * k] = row_sums(_if(y, cost.value(on)), w)
            if not softmax:
                row[COSTS + 2 * k + 1] = row_sums(_if(1 - y, cost.value(off)), w)
        if spread:
            row[SPREAD] = -row_sums(on + off, w)
        if not softmax:
            row[NLL_OFF] = -row_sums(_if(1 - y, off), w)
        if squares:
            wrong = (y - p).square_()
            row[MISS_SQUARES] = row_sums(wrong * y, w)
            row[FALSE_SQUARES] = row_sums(wrong.mul_(1 - y), w)
            row[SQUARES] = row_sums(p.square(), w)
            row[PRODUCT] = row_sums(p * y, w)
            row[TARGET_SQUARES] = row_sums(y.square(), w)
        row[-2:] = torch.stack([alive.sum(dtype=torch.float64), w.sum(dtype=torch.float64)])[:, None]
        if per_voxel:
            lp = torch.where(y > 0, on, off)
            log_p[n, :, block] = lp if ignored is None else lp.masked_fill_(ignored, 0)
        return row

    for n, found in sweep(sums_of, logits):
        sums[n] += found
    sums[:, MASS] += sums[:, TP]  # see overlap_labels
    return log_p, sums[:, :-2].clone(), sums[:, -2:, 0].clone()


@_forward.register_fake
def _(logits, target, weight, ignore_index, softmax, squares, spread, costs, per_voxel):
    samples, channels, voxels = logits.shape
    return (
        logits.new_empty((samples, channels, voxels) if per_voxel else (samples, 0, 0), dtype=wide_dtype(logits.dtype)),
        logits.new_empty(samples, table_rows(costs), channels, dtype=torch.float64),
        logits.new_empty(samples, 2, dtype=torch.float64),
    )


@torch.library.custom_op("delineate::overlap_channels_backward", mutates_args=())
@full_precision
def _backward(
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
    """Gradient to the logits: dL/dp through the activation, plus what the logarithms send directly."""
    channels, wide = logits.shape[1], wide_dtype(logits.dtype)
    grad = torch.empty_like(logits)
    g_all = g_sums.to(wide)

    def write(n: int, block: slice) -> None:
        y, ignored = _target_of(target[n, ..., block], ignore_index, channels, wide)
        w = read_weights(at(weight, n, block), ignored, wide)
        z = rows_of(logits[n, :, block], wide)
        g = g_all[n, :, :, None]
        p = z.softmax(0) if softmax else z.sigmoid()
        gp = _to_p(g, p, y, squares)
        on, off = _to_logs(g, z, p, y, softmax, spread, costs)
        if softmax:
            dz = p * (gp - (p * gp).sum(0) - on.sum(0)) + on
        else:
            q = (-z).sigmoid()
            dz = p * q * gp + on * q - off * p
        dz = dz if w is None else dz.mul_(w)
        if g_log_p is not None:
            dz += g_log_p[n, :, block] * (y - p)
        grad[n, :, block] = dz if ignored is None else dz.masked_fill_(ignored, 0)

    sweep(write, logits)
    return grad


def _to_p(g: Tensor, p: Tensor, y: Tensor, squares: bool) -> Tensor:
    """Gradient of a voxel of weight 1 to the probabilities, (C, B); g: (rows, C, 1)."""
    below = torch.sign(y - p).add_(1).mul_(0.5)
    gp = g[MASS] + g[TP] * below
    if squares:
        gp += 2 * g[SQUARES] * p + g[PRODUCT] * y
        gp += 2 * (p - y) * (g[MISS_SQUARES] * y + g[FALSE_SQUARES] * (1 - y))
    return gp


def _to_logs(
    g: Tensor, z: Tensor, p: Tensor, y: Tensor, softmax: bool, spread: bool, costs: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Gradients of a voxel of weight 1 to log p and to log (1 - p), (C, B) each."""
    on, off = -g[NLL] * y, -g[NLL_OFF] * (1 - y)
    if costs:
        log_on, log_off = _log_probabilities(z, softmax)
        for k, cost in unpacked(costs):
            on += g[COSTS + 2 * k] * _if(y, cost.slope(log_on, p))
            off += g[COSTS + 2 * k + 1] * _if(1 - y, cost.slope(log_off, log_off.exp()))
    return (on - g[SPREAD], off - g[SPREAD]) if spread else (on, off)


@_backward.register_fake
def _(logits, target, weight, g_log_p, g_sums, ignore_index, softmax, squares, spread, costs):
    return torch.empty_like(logits)


def _channels_context(ctx, inputs, output):
    logits, target, weight, ctx.ignore_index, ctx.softmax, *ctx.optional, ctx.per_voxel = inputs
    ctx.save_for_backward(logits, target, weight)
    ctx.set_materialize_grads(False)


def _channels_backward(ctx, g_log_p, g_sums, _):
    logits, target, weight = ctx.saved_tensors
    if g_sums is None:
        g_sums = logits.new_zeros(logits.shape[0], table_rows(ctx.optional[2]), logits.shape[1], dtype=torch.float64)
    grad = overlap_channels_backward(
        logits, target, weight, g_log_p if ctx.per_voxel else None, g_sums, ctx.ignore_index, ctx.softmax, *ctx.optional
    )
    return grad, None, None, None, None, None, None, None, None


overlap_channels = differentiable(_forward, _channels_backward, _channels_context)
overlap_channels_backward = differentiable(_backward, refuse_second_derivative)
on_cuda(_forward, "overlap_channels", "forward")
on_cuda(_backward, "overlap_channels", "backward")
