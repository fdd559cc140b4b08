"""The pass in sigmoid mode, and with dense targets in both modes: every channel has its own target."""

import torch
import torch.nn.functional as F
from torch import Tensor

from delineate.ops.blocks import (
    COUNT,
    MASS,
    NLL,
    NLL_OFF,
    PRODUCT,
    ROWS,
    SQUARES,
    TARGET_SQUARES,
    TP,
    VOXELS,
    at,
    blocks,
    full_precision,
    read_labels,
    read_weights,
    refuse_second_derivative,
    require,
    row_sums,
    wide_dtype,
)


def _target_of(
    target: Tensor, ignore_index: int | None, channels: int, softmax: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """One block's target as a map y (C, B), and which voxels are ignored: (B,) or None."""
    if target.is_floating_point():
        require(((target >= 0) & (target <= 1)).all(), "target: a dense target must lie in [0, 1]", target)
        return target.to(dtype), None
    labels, ignored = read_labels(target, ignore_index, channels if softmax else max(channels, 2))
    names = torch.arange(channels, device=labels.device)[:, None] if channels > 1 else labels.new_ones(1, 1)
    return (labels == names).to(dtype), ignored


def _log_probabilities(z: Tensor, softmax: bool) -> tuple[Tensor, Tensor]:
    """log p and log (1 - p); the second is only meant for sigmoid mode and is zeros in softmax mode."""
    if softmax:
        return z.log_softmax(0), torch.zeros_like(z)
    return F.logsigmoid(z), F.logsigmoid(-z)


@torch.library.custom_op("delineate::overlap_channels", mutates_args=())
@full_precision
def overlap_channels(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int | None,
    softmax: bool,
    squares: bool,
    per_voxel: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (N, C, V), target (N, V) or (N, C, V) -> log_p (N, C, V) or empty, sums (N, rows, C), totals (N, 2)."""
    (samples, channels, voxels), wide = logits.shape, wide_dtype(logits.dtype)
    log_p = logits.new_empty((samples, channels, voxels) if per_voxel else (0,), dtype=wide)
    sums = logits.new_zeros(samples, len(ROWS), channels, dtype=torch.float64)
    totals = logits.new_zeros(samples, 2, dtype=torch.float64)
    for n, block in blocks(logits):
        y, ignored = _target_of(target[n, ..., block], ignore_index, channels, softmax, wide)
        w = read_weights(at(weight, n, block), ignored, wide)
        z = logits[n, :, block].to(wide)
        z = z if ignored is None else z.masked_fill(ignored, 0)
        on, off = _log_probabilities(z, softmax)
        p, row = on.exp(), sums[n]
        ones = torch.ones_like(z[0])
        alive = ones if ignored is None else (~ignored).to(wide)
        w = alive if w is None else w
        row[VOXELS] += y.double() @ alive.double() if softmax else alive.sum()
        row[COUNT] += y.double() @ w.double()
        row[TP] += row_sums(torch.minimum(p, y), w)
        row[NLL] -= row_sums(torch.where(y > 0, on * y, 0), w)
        if not softmax:
            row[NLL_OFF] -= row_sums(torch.where(y < 1, off * (1 - y), 0), w)
        if squares:
            row[SQUARES] += row_sums(p.square(), w)
            row[PRODUCT] += row_sums(p * y, w)
            row[TARGET_SQUARES] += row_sums(y.square(), w)
        row[MASS] += row_sums(p, w)
        totals[n] += torch.stack([alive.sum(dtype=torch.float64), w.sum(dtype=torch.float64)])
        if per_voxel:
            lp = torch.where(y > 0, on, off)
            log_p[n, :, block] = lp if ignored is None else lp.masked_fill_(ignored, 0)
    return log_p, sums, totals


@overlap_channels.register_fake
def _(logits, target, weight, ignore_index, softmax, squares, per_voxel):
    samples, channels, voxels = logits.shape
    return (
        logits.new_empty((samples, channels, voxels) if per_voxel else (0,), dtype=wide_dtype(logits.dtype)),
        logits.new_empty(samples, len(ROWS), channels, dtype=torch.float64),
        logits.new_empty(samples, 2, dtype=torch.float64),
    )


@torch.library.custom_op("delineate::overlap_channels_backward", mutates_args=())
@full_precision
def overlap_channels_backward(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    g_log_p: Tensor | None,
    g_sums: Tensor,
    ignore_index: int | None,
    softmax: bool,
    squares: bool,
) -> Tensor:
    """Gradient to the logits: dL/dp through the activation, plus what the logarithms send directly."""
    channels, wide = logits.shape[1], wide_dtype(logits.dtype)
    grad = torch.empty_like(logits, memory_format=torch.contiguous_format)
    g_all = g_sums.to(wide)
    for n, block in blocks(logits):
        y, ignored = _target_of(target[n, ..., block], ignore_index, channels, softmax, wide)
        w = read_weights(at(weight, n, block), ignored, wide)
        z = logits[n, :, block].to(wide)
        g = g_all[n, :, :, None]
        p = z.softmax(0) if softmax else z.sigmoid()
        below = torch.sign(y - p).add_(1).mul_(0.5)
        gp = g[MASS] + g[TP] * below
        if squares:
            gp += 2 * g[SQUARES] * p + g[PRODUCT] * y
        if softmax:
            direct = p * (g[NLL] * y).sum(0) - g[NLL] * y
            dz = p * (gp - (p * gp).sum(0)) + direct
        else:
            q = (-z).sigmoid()
            dz = p * q * gp - g[NLL] * y * q + g[NLL_OFF] * (1 - y) * p
        dz = dz if w is None else dz.mul_(w)
        if g_log_p is not None:
            dz += g_log_p[n, :, block] * (y - p)
        grad[n, :, block] = dz if ignored is None else dz.masked_fill_(ignored, 0)
    return grad


@overlap_channels_backward.register_fake
def _(logits, target, weight, g_log_p, g_sums, ignore_index, softmax, squares):
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _channels_context(ctx, inputs, output):
    logits, target, weight, ctx.ignore_index, ctx.softmax, ctx.squares, ctx.per_voxel = inputs
    ctx.save_for_backward(logits, target, weight)
    ctx.set_materialize_grads(False)


def _channels_backward(ctx, g_log_p, g_sums, _):
    logits, target, weight = ctx.saved_tensors
    if g_sums is None:
        g_sums = logits.new_zeros(logits.shape[0], len(ROWS), logits.shape[1], dtype=torch.float64)
    grad = torch.ops.delineate.overlap_channels_backward(
        logits, target, weight, g_log_p if ctx.per_voxel else None, g_sums, ctx.ignore_index, ctx.softmax, ctx.squares
    )
    return grad, None, None, None, None, None, None


overlap_channels.register_autograd(_channels_backward, setup_context=_channels_context)
overlap_channels_backward.register_autograd(refuse_second_derivative)
