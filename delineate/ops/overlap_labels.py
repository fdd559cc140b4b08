"""The pass in softmax mode with integer labels: the one-hot matrix is never formed, not even for a block."""

from collections.abc import Sequence

import torch
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
    at,
    check_labels,
    check_weights,
    full_precision,
    read_labels,
    read_weights,
    refuse_second_derivative,
    row_sums,
    rows_of,
    sum_by_class,
    sweep,
    table_rows,
    wide_dtype,
)
from delineate.ops.cost import unpacked
from delineate.ops.cuda import on_cuda
from delineate.ops.transforms import differentiable


@torch.library.custom_op("delineate::overlap_labels", mutates_args=())
@full_precision
def _forward(
    logits: Tensor,
    labels: Tensor,
    weight: Tensor | None,
    ignore_index: int | None,
    squares: bool,
    spread: bool,
    costs: Sequence[float],
    per_voxel: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (N, C, V), labels (N, V) -> log_p (N, V) or (N, 0), sums (N, rows, C), totals (N, 2)."""
    samples, classes, wide = *logits.shape[:2], wide_dtype(logits.dtype)
    log_p = logits.new_empty(samples, _kept(logits, per_voxel), dtype=wide)
    sums = logits.new_zeros(samples, table_rows(costs), classes, dtype=torch.float64)

    def sums_of(n: int, block: slice) -> Tensor:
        y, ignored = read_labels(labels[n, block], ignore_index)
        check_labels(y, labels[n, block], ignore_index, classes)
        check_weights(at(weight, n, block))
        w = read_weights(at(weight, n, block), ignored, wide)
        z, row = rows_of(logits[n, :, block], wide), torch.zeros_like(sums[0])
        z = z if ignored is None else z.masked_fill(ignored, 0)
        peak = z.amax(0)
        e = (z - peak).exp_()
        norm = e.sum(0)
        lse = norm.log()
        lp = z.gather(0, y[None])[0].sub_(peak).sub_(lse)
        if spread:
            row[SPREAD] = row_sums((peak + lse) - z, w)
        lp = lp if ignored is None else lp.masked_fill_(ignored, 0)
        if log_p.shape[1]:
            log_p[n, block] = lp
        row[VOXELS] = sum_by_class(y, torch.ones_like(lp) if ignored is None else ~ignored, classes)
        if weight is not None and w is not None:
            row[COUNT] = sum_by_class(y, w, classes)
        _sum_hits(row, y, lp, w, squares, costs)
        false = e.mul_(norm.reciprocal_()).scatter_(0, y[None], 0)
        if squares:
            row[FALSE_SQUARES] = row_sums(false.square(), w)
        row[MASS] = row_sums(false, w)
        return row

    for n, found in sweep(sums_of, logits):
        sums[n] += found
    if weight is None:
        sums[:, COUNT] = sums[:, VOXELS]
    sums[:, MASS] += sums[:, TP]  # false positives were summed by themselves: a few voxels beside a million hits
    sums[:, SQUARES] += sums[:, FALSE_SQUARES]
    sums[:, PRODUCT] = sums[:, TP]
    sums[:, TARGET_SQUARES] = sums[:, COUNT]
    return log_p, sums, sums[:, VOXELS : COUNT + 1].sum(2)  # neighbours: a list of rows would be copied to a GPU


def _sum_hits(row: Tensor, y: Tensor, lp: Tensor, w: Tensor | None, squares: bool, costs: Sequence[float]) -> None:
    """Fill the rows of a block's table (rows, C) that are sums over the voxels of a label, of functions of log p."""

    def by_label(values: Tensor) -> Tensor:
        return sum_by_class(y, values if w is None else values.mul_(w), row.shape[1])

    row[NLL] = by_label(-lp)
    for k, cost in unpacked(costs):
        row[COSTS + 2 * k] = by_label(cost.value(lp))
    hit = lp.exp()
    if squares:
        row[SQUARES], row[MISS_SQUARES] = by_label(hit.square()), by_label(torch.expm1(lp).square_())
    row[TP] = by_label(hit)


def _kept(logits: Tensor, per_voxel: bool) -> int:
    """How many values of `log_p` are kept: on the CPU all, since the backward pass is faster with them."""
    return logits.shape[2] if per_voxel or logits.device.type == "cpu" else 0


@_forward.register_fake
def _(logits, labels, weight, ignore_index, squares, spread, costs, per_voxel):
    samples, classes = logits.shape[:2]
    return (
        logits.new_empty(samples, _kept(logits, per_voxel), dtype=wide_dtype(logits.dtype)),
        logits.new_empty(samples, table_rows(costs), classes, dtype=torch.float64),
        logits.new_empty(samples, 2, dtype=torch.float64),
    )


@torch.library.custom_op("delineate::overlap_labels_backward", mutates_args=())
@full_precision
def _backward(
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
    """Gradient to the logits, given those to `log_p` and to the sums.

    With m = g_mass + 2 p (g_squares + g_false_squares) of every class, h what the labelled class gets beside it, s =
    g_spread and S its sum over classes:  dz_c = p_c (w m_c + w S - w sum_k p_k m_k - h) + [c = y] h - w s_c.
    """
    wide = wide_dtype(logits.dtype)
    grad = torch.empty_like(logits)
    g_all = g_sums.to(wide)

    def write(n: int, block: slice) -> None:
        y, ignored = read_labels(labels[n, block], ignore_index)
        w = read_weights(at(weight, n, block), ignored, wide)
        z, g = rows_of(logits[n, :, block], wide), g_all[n]
        labelled = z.gather(0, y[None])[0]
        lp = log_p[n, block] if log_p.shape[1] else labelled - z.logsumexp(0)
        h = _of_label(g, y, lp, squares, costs)
        h = h if w is None else h.mul_(w)
        h = h if g_log_p is None else h.add_(g_log_p[n, block])
        h = h if ignored is None else h.masked_fill_(ignored, 0)
        lse = labelled.sub_(lp)
        place = grad[n, :, block]
        direct = place.dtype == wide and place.stride(1) == 1
        p = torch.sub(z, _finite(lse, z), out=place if direct else torch.empty_like(z)).exp_()
        m = g[MASS][:, None]
        dot = g[MASS] @ p
        if squares:
            m = torch.addcmul(m, p, (g[SQUARES] + g[FALSE_SQUARES])[:, None], value=2)
            dot = (m * p).sum(0)
        dot = dot.sub_(g[SPREAD].sum()) if spread else dot
        if w is not None:
            m, dot = m * w, dot.mul_(w)
        p.mul_(m - dot.add_(h))
        p.scatter_add_(0, y[None], h[None])
        if spread:
            p.sub_(g[SPREAD][:, None] if w is None else g[SPREAD][:, None] * w)
        if ignored is not None:
            p.masked_fill_(ignored, 0)
        if not direct:
            place.copy_(p)

    sweep(write, logits)
    return grad


@_backward.register_fake
def _(logits, labels, weight, log_p, g_log_p, g_sums, ignore_index, squares, spread, costs):
    return torch.empty_like(logits)


def _of_label(g: Tensor, y: Tensor, lp: Tensor, squares: bool, costs: Sequence[float]) -> Tensor:
    """What a voxel of weight 1 gives to the log-probability of its label, beyond the mass of all classes: (B,)."""
    p = lp.exp()
    direct = (g[TP] + g[PRODUCT]).index_select(0, y)
    if squares:
        direct.addcmul_(g[FALSE_SQUARES].index_select(0, y), p, value=-2)
        direct.addcmul_(g[MISS_SQUARES].index_select(0, y), torch.expm1(lp), value=2)
    h = direct.mul_(p).sub_(g[NLL].index_select(0, y))
    for k, cost in unpacked(costs):
        h.addcmul_(g[COSTS + 2 * k].index_select(0, y), cost.slope(lp, p))
    return h


def _finite(lse: Tensor, z: Tensor) -> Tensor:
    """Where the labelled logit is -inf, z[y] - log_p says nothing: take the log-sum-exp anew."""
    if lse.device.type == "cpu" and lse.isfinite().all():
        return lse
    return torch.where(lse.isfinite(), lse, z.logsumexp(0))


def _labels_context(ctx, inputs, output):
    logits, labels, weight, ctx.ignore_index, ctx.squares, ctx.spread, ctx.costs, ctx.per_voxel = inputs
    ctx.save_for_backward(logits, labels, weight, output[0])
    ctx.set_materialize_grads(False)


def _labels_backward(ctx, g_log_p, g_sums, _):
    logits, labels, weight, log_p = ctx.saved_tensors
    if g_sums is None:
        g_sums = logits.new_zeros(logits.shape[0], table_rows(ctx.costs), logits.shape[1], dtype=torch.float64)
    options = ctx.ignore_index, ctx.squares, ctx.spread, ctx.costs
    g_log_p = g_log_p if ctx.per_voxel else None
    grad = overlap_labels_backward(logits, labels, weight, log_p, g_log_p, g_sums, *options)
    return grad, None, None, None, None, None, None, None


overlap_labels = differentiable(_forward, _labels_backward, _labels_context)
overlap_labels_backward = differentiable(_backward, refuse_second_derivative)
on_cuda(_forward, "overlap_labels", "forward")
on_cuda(_backward, "overlap_labels", "backward")
