"""The pass in softmax mode with integer labels: the one-hot matrix is never formed, not even for a block."""

import torch
from torch import Tensor

from delineate.ops.blocks import (
    COUNT,
    MASS,
    NLL,
    PRODUCT,
    ROWS,
    SQUARES,
    TARGET_SQUARES,
    TP,
    VOXELS,
    at,
    blocks,
    full_precision,
    read_block,
    refuse_second_derivative,
    row_sums,
    sum_by_class,
    wide_dtype,
)


@torch.library.custom_op("delineate::overlap_labels", mutates_args=())
@full_precision
def overlap_labels(
    logits: Tensor, labels: Tensor, weight: Tensor | None, ignore_index: int | None, squares: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (N, C, V), labels (N, V) -> log_p (N, V), sums (N, rows, C), totals (N, 2)."""
    (samples, classes, voxels), wide = logits.shape, wide_dtype(logits.dtype)
    log_p = logits.new_empty(samples, voxels, dtype=wide)
    sums = logits.new_zeros(samples, len(ROWS), classes, dtype=torch.float64)
    for n, block in blocks(logits):
        y, ignored, w = read_block(labels[n, block], at(weight, n, block), ignore_index, classes, wide)
        z, row = logits[n, :, block].to(wide), sums[n]
        z = z if ignored is None else z.masked_fill(ignored, 0)
        peak = z.amax(0)
        e = (z - peak).exp_()
        norm = e.sum(0)
        lp = z.gather(0, y[None])[0].sub_(peak).sub_(norm.log())
        hit = lp.exp()
        lp = lp if ignored is None else lp.masked_fill_(ignored, 0)
        p = e.mul_(norm.reciprocal_())
        log_p[n, block] = lp
        row[VOXELS] += sum_by_class(y, None if ignored is None else ~ignored, classes)
        row[TP] += sum_by_class(y, hit if w is None else hit.mul_(w), classes)
        row[NLL] -= sum_by_class(y, lp if w is None else lp * w, classes)
        if weight is not None:
            row[COUNT] += sum_by_class(y, w, classes)
        if squares:
            row[SQUARES] += row_sums(p.square(), w)
        row[MASS] += row_sums(p, w)
    if weight is None:
        sums[:, COUNT] = sums[:, VOXELS]
    sums[:, PRODUCT] = sums[:, TP]
    sums[:, TARGET_SQUARES] = sums[:, COUNT]
    return log_p, sums, sums[:, [VOXELS, COUNT]].sum(2)


@overlap_labels.register_fake
def _(logits, labels, weight, ignore_index, squares):
    samples, classes, voxels = logits.shape
    return (
        logits.new_empty(samples, voxels, dtype=wide_dtype(logits.dtype)),
        logits.new_empty(samples, len(ROWS), classes, dtype=torch.float64),
        logits.new_empty(samples, 2, dtype=torch.float64),
    )


@torch.library.custom_op("delineate::overlap_labels_backward", mutates_args=())
@full_precision
def overlap_labels_backward(
    logits: Tensor,
    labels: Tensor,
    weight: Tensor | None,
    log_p: Tensor,
    g_log_p: Tensor | None,
    g_sums: Tensor,
    ignore_index: int | None,
    squares: bool,
) -> Tensor:
    """Gradient to the logits, given those to `log_p` and to the sums.

    With m = g_mass + 2 p g_squares and h = w (g_tp p_y - g_nll) + g_log_p at the labelled class:
    dz_c = p_c (w m_c - w sum_k p_k m_k - h) + [c = y] h.
    """
    classes, wide = logits.shape[1], wide_dtype(logits.dtype)
    grad = torch.empty_like(logits, memory_format=torch.contiguous_format)
    g = g_sums.to(wide)
    for n, block in blocks(logits):
        y, ignored, w = read_block(labels[n, block], at(weight, n, block), ignore_index, classes, wide)
        z, lp = logits[n, :, block].to(wide), log_p[n, block]
        g_mass, g_tp, g_nll, g_squares = g[n, MASS], g[n, TP] + g[n, PRODUCT], g[n, NLL], g[n, SQUARES]
        h = g_tp[y].mul_(lp.exp()).sub_(g_nll[y])
        h = h if w is None else h.mul_(w)
        h = h if g_log_p is None else h.add_(g_log_p[n, block])
        h = h if ignored is None else h.masked_fill_(ignored, 0)
        lse = z.gather(0, y[None])[0].sub_(lp)
        out = grad[n, :, block] if grad.dtype == wide else torch.empty_like(z)
        p = torch.sub(z, _finite(lse, z), out=out).exp_()
        m = g_mass[:, None]
        dot = g_mass @ p
        if squares:
            m = torch.addcmul(m, p, g_squares[:, None], value=2)
            dot = (m * p).sum(0)
        if w is not None:
            m, dot = m * w, dot.mul_(w)
        p.mul_(m - dot.add_(h))
        p.scatter_add_(0, y[None], h[None])
        if ignored is not None:
            p.masked_fill_(ignored, 0)
        if p.dtype != grad.dtype:
            grad[n, :, block] = p
    return grad


@overlap_labels_backward.register_fake
def _(logits, labels, weight, log_p, g_log_p, g_sums, ignore_index, squares):
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _finite(lse: Tensor, z: Tensor) -> Tensor:
    """Where the labelled logit is -inf, z[y] - log_p says nothing: take the log-sum-exp anew."""
    if lse.device.type == "cpu" and lse.isfinite().all():
        return lse
    return torch.where(lse.isfinite(), lse, z.logsumexp(0))


def _labels_context(ctx, inputs, output):
    logits, labels, weight, ctx.ignore_index, ctx.squares = inputs
    ctx.save_for_backward(logits, labels, weight, output[0])
    ctx.set_materialize_grads(False)


def _labels_backward(ctx, g_log_p, g_sums, _):
    logits, labels, weight, log_p = ctx.saved_tensors
    if g_sums is None:
        g_sums = logits.new_zeros(logits.shape[0], len(ROWS), logits.shape[1], dtype=torch.float64)
    grad = torch.ops.delineate.overlap_labels_backward(
        logits, labels, weight, log_p, g_log_p, g_sums, ctx.ignore_index, ctx.squares
    )
    return grad, None, None, None, None


overlap_labels.register_autograd(_labels_backward, setup_context=_labels_context)
overlap_labels_backward.register_autograd(refuse_second_derivative)
