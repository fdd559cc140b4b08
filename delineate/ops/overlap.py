"""One pass over the logits: everything that losses by voxel and by region are functions of.

Letters: N samples, C channels, V voxels (the spatial dims flattened), B voxels of one block.

With p the probabilities, y the target (one-hot, or a dense map), w the voxel weight and sums over valid voxels:

    voxels  sum y           count  sum w y          mass     sum w p         tp       sum w min(p, y)
    nll     sum w y (-log p)        nll_off  sum w (1 - y)(-log(1 - p))      (nll_off: sigmoid mode only)
    squares sum w p^2       product  sum w p y      target_squares  sum w y^2                (only if asked for)
    log_p   log-probability of what the label says, one value per voxel (softmax) or per voxel and channel (sigmoid)

`min(p, y)` is `p y` for hard labels and the soft-label form (p + y - |p - y|) / 2 otherwise, whose optimum is p = y.

Algorithm: blocks of voxels small enough to stay in cache; all arithmetic of a block happens there. Sums of a block
are float32 at least, sums over blocks float64. The backward pass is one more sweep and needs of the forward only
`log_p` (softmax labels: log-sum-exp is z[y] - log_p) or nothing at all. Neither one-hot labels nor probabilities are
ever stored. Read: the logits, once forward and once backward. Written: `log_p` and the gradient.

Two ops share this: `overlap_labels` (softmax, integer labels) never forms the one-hot matrix, not even for a block;
`overlap_channels` serves sigmoid mode and dense targets. Second derivatives are refused with an error.
"""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = ("voxels", "count", "mass", "tp", "nll", "nll_off", "squares", "product", "target_squares")
VOXELS, COUNT, MASS, TP, NLL, NLL_OFF, SQUARES, PRODUCT, TARGET_SQUARES = range(len(ROWS))
OF_TARGET = (VOXELS, COUNT, TARGET_SQUARES)
"""Tables that the logits have no part in: no gradient, and no sweep for one."""

BLOCK = 655_360
"""Logits per block on the CPU (2.5 MiB in float32). Tuned in benchmarks/overlap.py; flat within a factor of two."""
BLOCK_ELSEWHERE = 1 << 25
"""Logits per block on other devices: there a block only bounds the memory of the temporaries."""


class Overlap(NamedTuple):
    """What one pass found. All tables are (N, C) in float64; `valid` and `total` are (N,); see the module for the rest.

    valid: number of voxels that are not ignored.   total: sum of their weights.
    log_p: (N, 1, V) in softmax mode with labels, (N, C, V) in sigmoid mode with labels when asked for, else None;
    exactly 0 at ignored voxels.
    """

    voxels: Tensor
    count: Tensor
    mass: Tensor
    tp: Tensor
    nll: Tensor
    nll_off: Tensor
    squares: Tensor
    product: Tensor
    target_squares: Tensor
    valid: Tensor
    total: Tensor
    log_p: Tensor | None


def overlap(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    mode: str = "softmax",
    ignore_index: int | None = None,
    squares: bool = False,
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
        squares: also fill the last three tables.
        per_voxel: also return `log_p` in sigmoid mode (softmax mode has it anyway); labels only.

    Raises:
        ValueError: on the CPU, for labels out of range, negative weights or dense values outside [0, 1]. Elsewhere
            an assertion on the device, without waiting for it.
    """
    if mode == "softmax" and not target.is_floating_point():
        log_p, sums, totals = overlap_labels(logits, target, weight, ignore_index, squares)
        log_p = log_p[:, None]
    else:
        log_p, sums, totals = overlap_channels(logits, target, weight, ignore_index, mode == "softmax", per_voxel)
        log_p = log_p if per_voxel else None
    tables = [table.detach() if row in OF_TARGET else table for row, table in enumerate(sums.unbind(1))]
    return Overlap._make([*tables, *totals.detach().unbind(1), log_p])


def _full_precision(op: Callable) -> Callable:
    """Keep autocast out of an op whose first argument is a tensor: the products here are sums over many voxels."""

    @wraps(op)
    def run(logits: Tensor, *args, **kwargs):
        with torch.autocast(logits.device.type, enabled=False):
            return op(logits, *args, **kwargs)

    return run


def _blocks(logits: Tensor) -> Iterator[tuple[int, slice]]:
    size = BLOCK if logits.device.type == "cpu" else BLOCK_ELSEWHERE
    samples, channels, voxels = logits.shape
    step = max(1, size // channels)
    for n in range(samples):
        for start in range(0, voxels, step):
            yield n, slice(start, min(start + step, voxels))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _require(ok: Tensor, message: str, found: Tensor) -> None:
    """Raise on the CPU; elsewhere assert on the device, which needs no wait."""
    if ok.device.type == "cpu":
        if not ok:
            low, high = found.aminmax()
            raise ValueError(f"{message}; got values from {low.item():g} to {high.item():g}.")
    else:
        torch.ops.aten._assert_async.msg(ok, message)


def _labels(labels: Tensor, ignore_index: int | None, classes: int) -> tuple[Tensor, Tensor | None]:
    """Labels of one block as int64, and which are ignored: None when none is."""
    y = labels.long()
    ignored = None
    if ignore_index is not None:
        ignored = y == ignore_index
        if ignored.device.type == "cpu" and not ignored.any():
            ignored = None
        else:
            y = y.masked_fill(ignored, 0)
    if y.numel():
        low, high = y.aminmax()
        hint = "pass ignore_index=... for void labels" if ignore_index is None else "or ignored"
        _require(
            (low >= 0) & (high < classes),
            f"target: labels must be in 0..{classes - 1} ({classes} classes), {hint}",
            labels,
        )
    return y, ignored


def _at(weight: Tensor | None, n: int, block: slice) -> Tensor | None:
    return None if weight is None else weight[n, block]


def _weights(weight: Tensor | None, ignored: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Voxel weights of one block with ignored voxels at 0; None when all are 1."""
    if weight is None:
        return None if ignored is None else (~ignored).to(dtype)
    _require((weight >= 0).all(), "weight: voxel weights must be at least 0", weight)
    w = weight.to(dtype)
    return w if ignored is None else w.masked_fill(ignored, 0)


def _block_of(
    labels: Tensor, weight: Tensor | None, ignore_index: int | None, classes: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """One block's labels (B,), ignored voxels (B,) or None, and voxel weights (B,) or None where all are 1."""
    y, ignored = _labels(labels, ignore_index, classes)
    return y, ignored, _weights(weight, ignored, dtype)


def _by_class(y: Tensor, values: Tensor | None, classes: int) -> Tensor:
    """Sum values by label, in float64: a bin may take every voxel of a block, one by one."""
    if y.device.type == "cpu":
        return torch.bincount(y, None if values is None else values.double(), classes).double()
    added = torch.ones_like(y, dtype=torch.float64) if values is None else values.double()
    return added.new_zeros(classes).index_add_(0, y, added)


def _row_sums(values: Tensor, weights: Tensor | None) -> Tensor:
    """Weighted sum of each row, (C,), in place of `values`. Unlike a product of matrices, `sum` adds by halves."""
    return (values if weights is None else values.mul_(weights)).sum(1)


# ------------------------------------------------------------------------------------------ softmax mode, labels


@torch.library.custom_op("delineate::overlap_labels", mutates_args=())
@_full_precision
def overlap_labels(
    logits: Tensor, labels: Tensor, weight: Tensor | None, ignore_index: int | None, squares: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (N, C, V), labels (N, V) -> log_p (N, V), sums (N, rows, C), totals (N, 2)."""
    (samples, classes, voxels), wide = logits.shape, _wide(logits.dtype)
    log_p = logits.new_empty(samples, voxels, dtype=wide)
    sums = logits.new_zeros(samples, len(ROWS), classes, dtype=torch.float64)
    for n, block in _blocks(logits):
        y, ignored, w = _block_of(labels[n, block], _at(weight, n, block), ignore_index, classes, wide)
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
        row[VOXELS] += _by_class(y, None if ignored is None else ~ignored, classes)
        row[TP] += _by_class(y, hit if w is None else hit.mul_(w), classes)
        row[NLL] -= _by_class(y, lp if w is None else lp * w, classes)
        if weight is not None:
            row[COUNT] += _by_class(y, w, classes)
        if squares:
            row[SQUARES] += _row_sums(p.square(), w)
        row[MASS] += _row_sums(p, w)
    if weight is None:
        sums[:, COUNT] = sums[:, VOXELS]
    sums[:, PRODUCT] = sums[:, TP]
    sums[:, TARGET_SQUARES] = sums[:, COUNT]
    return log_p, sums, sums[:, [VOXELS, COUNT]].sum(2)


@overlap_labels.register_fake
def _(logits, labels, weight, ignore_index, squares):
    samples, classes, voxels = logits.shape
    return (
        logits.new_empty(samples, voxels, dtype=_wide(logits.dtype)),
        logits.new_empty(samples, len(ROWS), classes, dtype=torch.float64),
        logits.new_empty(samples, 2, dtype=torch.float64),
    )


@torch.library.custom_op("delineate::overlap_labels_backward", mutates_args=())
@_full_precision
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
    classes, wide = logits.shape[1], _wide(logits.dtype)
    grad = torch.empty_like(logits, memory_format=torch.contiguous_format)
    g = g_sums.to(wide)
    for n, block in _blocks(logits):
        y, ignored, w = _block_of(labels[n, block], _at(weight, n, block), ignore_index, classes, wide)
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


# ------------------------------------------------------------------------- sigmoid mode, and dense targets in both


def _target_of(
    target: Tensor, ignore_index: int | None, channels: int, softmax: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """One block's target as a map y (C, B), and which voxels are ignored: (B,) or None."""
    if target.is_floating_point():
        _require(((target >= 0) & (target <= 1)).all(), "target: a dense target must lie in [0, 1]", target)
        return target.to(dtype), None
    labels, ignored = _labels(target, ignore_index, channels if softmax else max(channels, 2))
    names = torch.arange(channels, device=labels.device)[:, None] if channels > 1 else labels.new_ones(1, 1)
    return (labels == names).to(dtype), ignored


def _log_probabilities(z: Tensor, softmax: bool) -> tuple[Tensor, Tensor]:
    """log p and log (1 - p); the second is only meant for sigmoid mode and is zeros in softmax mode."""
    if softmax:
        return z.log_softmax(0), torch.zeros_like(z)
    return F.logsigmoid(z), F.logsigmoid(-z)


@torch.library.custom_op("delineate::overlap_channels", mutates_args=())
@_full_precision
def overlap_channels(
    logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int | None, softmax: bool, per_voxel: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (N, C, V), target (N, V) or (N, C, V) -> log_p (N, C, V) or empty, sums (N, rows, C), totals (N, 2)."""
    (samples, channels, voxels), wide = logits.shape, _wide(logits.dtype)
    log_p = logits.new_empty((samples, channels, voxels) if per_voxel else (0,), dtype=wide)
    sums = logits.new_zeros(samples, len(ROWS), channels, dtype=torch.float64)
    totals = logits.new_zeros(samples, 2, dtype=torch.float64)
    for n, block in _blocks(logits):
        y, ignored = _target_of(target[n, ..., block], ignore_index, channels, softmax, wide)
        w = _weights(_at(weight, n, block), ignored, wide)
        z = logits[n, :, block].to(wide)
        z = z if ignored is None else z.masked_fill(ignored, 0)
        on, off = _log_probabilities(z, softmax)
        p, row = on.exp(), sums[n]
        ones = torch.ones_like(z[0])
        alive = ones if ignored is None else (~ignored).to(wide)
        w = alive if w is None else w
        row[VOXELS] += (y @ alive) if softmax else alive.sum()
        row[COUNT] += y.double() @ w.double()
        row[TP] += _row_sums(torch.minimum(p, y), w)
        row[NLL] -= _row_sums(torch.where(y > 0, on * y, 0), w)
        row[NLL_OFF] -= _row_sums(torch.where(y < 1, off * (1 - y), 0), w)
        row[SQUARES] += _row_sums(p.square(), w)
        row[PRODUCT] += _row_sums(p * y, w)
        row[TARGET_SQUARES] += _row_sums(y.square(), w)
        row[MASS] += _row_sums(p, w)
        totals[n] += torch.stack([alive.sum(dtype=torch.float64), w.sum(dtype=torch.float64)])
        if per_voxel:
            lp = torch.where(y > 0, on, off)
            log_p[n, :, block] = lp if ignored is None else lp.masked_fill_(ignored, 0)
    return log_p, sums, totals


@overlap_channels.register_fake
def _(logits, target, weight, ignore_index, softmax, per_voxel):
    samples, channels, voxels = logits.shape
    return (
        logits.new_empty((samples, channels, voxels) if per_voxel else (0,), dtype=_wide(logits.dtype)),
        logits.new_empty(samples, len(ROWS), channels, dtype=torch.float64),
        logits.new_empty(samples, 2, dtype=torch.float64),
    )


@torch.library.custom_op("delineate::overlap_channels_backward", mutates_args=())
@_full_precision
def overlap_channels_backward(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    g_log_p: Tensor | None,
    g_sums: Tensor,
    ignore_index: int | None,
    softmax: bool,
) -> Tensor:
    """Gradient to the logits: dL/dp through the activation, plus what the logarithms send directly."""
    channels, wide = logits.shape[1], _wide(logits.dtype)
    grad = torch.empty_like(logits, memory_format=torch.contiguous_format)
    g_all = g_sums.to(wide)
    for n, block in _blocks(logits):
        y, ignored = _target_of(target[n, ..., block], ignore_index, channels, softmax, wide)
        w = _weights(_at(weight, n, block), ignored, wide)
        z = logits[n, :, block].to(wide)
        g = g_all[n, :, :, None]
        p = z.softmax(0) if softmax else z.sigmoid()
        below = torch.sign(y - p).add_(1).mul_(0.5)
        gp = g[MASS] + g[TP] * below + 2 * g[SQUARES] * p + g[PRODUCT] * y
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
def _(logits, target, weight, g_log_p, g_sums, ignore_index, softmax):
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _channels_context(ctx, inputs, output):
    logits, target, weight, ctx.ignore_index, ctx.softmax, ctx.per_voxel = inputs
    ctx.save_for_backward(logits, target, weight)
    ctx.set_materialize_grads(False)


def _channels_backward(ctx, g_log_p, g_sums, _):
    logits, target, weight = ctx.saved_tensors
    if g_sums is None:
        g_sums = logits.new_zeros(logits.shape[0], len(ROWS), logits.shape[1], dtype=torch.float64)
    grad = torch.ops.delineate.overlap_channels_backward(
        logits, target, weight, g_log_p if ctx.per_voxel else None, g_sums, ctx.ignore_index, ctx.softmax
    )
    return grad, None, None, None, None, None


overlap_channels.register_autograd(_channels_backward, setup_context=_channels_context)


# -------------------------------------------------------------------------------------------- second derivatives


def _refuse(ctx, *_):
    raise RuntimeError(
        "delineate: second derivatives of a loss are not supported (its backward pass is written by hand); "
        "remove create_graph=True."
    )


for _op in (overlap_labels_backward, overlap_channels_backward):
    _op.register_autograd(_refuse)
