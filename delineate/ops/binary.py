"""Binary cross entropy of every channel against the rest, plain and weighed by an error of each voxel.

Letters: N samples, C channels, V voxels, B voxels of one block. With q = 1 - p, the voxel weight w and an error e that
counts where it is above the cut of its channel, the sums over valid voxels of

    cost = -y log p - (1 - y) log q:     plain  sum w cost     weighed  sum w e [e > cut] cost     kept  sum [e > cut]

p is the sigmoid of the logit, or its share of the softmax. Then log q of the largest logit is the log-sum-exp of the
log p of the others, exact also where p rounds to 1; of the others it is log1p(-p).

Blocks as in `delineate.ops.overlap`; the backward pass keeps nothing but the errors. Second derivatives are refused.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from delineate.ops.blocks import (
    at,
    check_labels,
    check_weights,
    full_precision,
    read_labels,
    read_weights,
    refuse_second_derivative,
    require,
    rows_of,
    sweep,
    wide_dtype,
)
from delineate.ops.transforms import differentiable


def binary_costs(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    mode: str,
    ignore_index: int | None = None,
    errors: Tensor | None = None,
    cuts: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of the costs by sample and channel: plain, weighed and kept, (N, C) float64 each.

    Args:
        logits: (N, C, V) of any float dtype.
        target: integer or bool labels (N, V), with C = 1 of 0 and 1; or a dense float map (N, C, V) in [0, 1].
        weight: (N, V), at least 0; no gradient flows to it.
        errors: (N, C, V), at least 0, and 0 at ignored voxels; a gradient flows to them. cuts: (N, C), with errors.
            None: `weighed` and `kept` are 0.

    Raises:
        ValueError: as `delineate.ops.overlap.overlap`.
    """
    sums = _run(logits, target, weight, errors, cuts, ignore_index, mode == "softmax")
    plain, weighed, kept = sums.unbind(1)
    return plain, weighed, kept.detach()


def _target_of(
    target: Tensor, ignore_index: int | None, channels: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """One block's target as numbers (C, B), and which voxels are ignored: (B,) or None."""
    if target.is_floating_point():
        require(((target >= 0) & (target <= 1)).all(), "target: a dense target must lie in [0, 1]", target)
        return target.to(dtype), None
    labels, ignored = read_labels(target, ignore_index)
    check_labels(labels, target, ignore_index, max(channels, 2))
    names = torch.arange(channels, device=labels.device)[:, None] if channels > 1 else labels.new_ones(1, 1)
    on = torch.empty(channels, len(labels), dtype=dtype, device=labels.device)
    return torch.eq(labels.to(dtype), names.to(dtype), out=on), ignored  # comparing numbers is the fastest


def _logs(z: Tensor, softmax: bool) -> tuple[Tensor, Tensor]:
    """log p and log (1 - p) of a block (C, B)."""
    if not softmax:
        return F.logsigmoid(z), F.logsigmoid(-z)
    log_p, top = z.log_softmax(0), z.argmax(0, keepdim=True)
    others = log_p.scatter(0, top, -torch.inf).logsumexp(0, keepdim=True)
    return log_p, torch.log1p(-log_p.exp().scatter(0, top, 0)).scatter(0, top, others)


def _costs(z: Tensor, y: Tensor, softmax: bool, hard: bool) -> Tensor:
    if hard and not softmax:
        return F.softplus((1 - 2 * y).mul_(z), threshold=40)  # beyond, log1p(exp(x)) is x, also in float64
    log_p, log_q = _logs(z, softmax)
    return -torch.where(y > 0, y * log_p, 0) - torch.where(y < 1, (1 - y) * log_q, 0)


def _kept(e: Tensor, cuts: Tensor) -> Tensor:
    """1 where the error is above the cut, 0 where not; NaN is kept."""
    below = torch.le(e, cuts, out=torch.empty_like(e))
    return below.neg_().add_(1)


@torch.library.custom_op("delineate::binary_costs", mutates_args=())
@full_precision
def _forward(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    errors: Tensor | None,
    cuts: Tensor | None,
    ignore_index: int | None,
    softmax: bool,
) -> Tensor:
    wide, hard = wide_dtype(logits.dtype), not target.is_floating_point()

    def work(n: int, block: slice) -> Tensor:
        z = rows_of(logits[n, :, block], wide)
        y, ignored = _target_of(target[n, ..., block], ignore_index, len(z), wide)
        check_weights(at(weight, n, block))
        w = read_weights(at(weight, n, block), ignored, wide)
        cost = _costs(z if ignored is None else z.masked_fill(ignored, 0), y, softmax, hard)
        cost = cost if w is None else cost.mul_(w)
        plain = cost.sum(1).double()
        if errors is None or cuts is None:
            return torch.stack([plain, torch.zeros_like(plain), torch.zeros_like(plain)])
        e = errors[n, :, block]
        kept = _kept(e, cuts[n, :, None])
        weighed = cost.mul_(e).mul_(kept)
        return torch.stack([plain, weighed.sum(1).double(), kept.sum(1).double()])

    sums = logits.new_zeros(len(logits), 3, logits.shape[1], dtype=torch.float64)
    for n, found in sweep(work, logits):
        sums[n] += found
    return sums


def _slope(z: Tensor, y: Tensor, factor: Tensor, softmax: bool) -> Tensor:
    """Gradient to the logits of sum factor * cost, (C, B)."""
    if not softmax:
        return z.sigmoid().sub_(y).mul_(factor)
    p, top = z.softmax(0), z.argmax(0, keepdim=True)
    on, off = -factor * y, -factor * (1 - y)  # gradients to log p and log q
    above = off.gather(0, top)  # that of the largest, which the others share by their own softmax
    share = F.softmax(z.scatter(0, top, -torch.inf), 0).nan_to_num(0) if len(z) > 1 else torch.zeros_like(z)
    rest = (off / (1 - p.scatter(0, top, 0))).scatter(0, top, 0)
    return on - p * (on.sum(0) + above - (rest * p).sum(0) + rest) + above * share


@torch.library.custom_op("delineate::binary_costs_backward", mutates_args=())
@full_precision
def _backward(
    logits: Tensor,
    g_sums: Tensor,
    target: Tensor,
    weight: Tensor | None,
    errors: Tensor | None,
    cuts: Tensor | None,
    ignore_index: int | None,
    softmax: bool,
    to_errors: bool,
) -> tuple[Tensor, Tensor]:
    wide, grad = wide_dtype(logits.dtype), torch.empty_like(logits)
    g_all, hard = g_sums.to(wide), not target.is_floating_point()
    g_errors = torch.zeros_like(errors) if to_errors and errors is not None else grad.new_empty(len(logits))

    def write(n: int, block: slice) -> None:
        z = rows_of(logits[n, :, block], wide)
        y, ignored = _target_of(target[n, ..., block], ignore_index, len(z), wide)
        w = read_weights(at(weight, n, block), ignored, wide)
        z = z if ignored is None else z.masked_fill(ignored, 0)
        plain, weighed, _ = g_all[n, :, :, None]
        factor = plain.expand_as(z)
        if errors is not None and cuts is not None:
            e = errors[n, :, block]
            kept = _kept(e, cuts[n, :, None])
            factor = torch.addcmul(plain, e * kept, weighed)
            if to_errors:
                g_e = _costs(z, y, softmax, hard).mul_(weighed).mul_(kept)
                g_errors[n, :, block] = g_e if w is None else g_e.mul_(w)
        slope = _slope(z, y, factor if w is None else factor * w, softmax)
        grad[n, :, block] = slope if ignored is None else slope.masked_fill_(ignored, 0)

    sweep(write, logits)
    return grad, g_errors


@_forward.register_fake
def _(logits, *_):
    return logits.new_empty(len(logits), 3, logits.shape[1], dtype=torch.float64)


@_backward.register_fake
def _(logits, g_sums, target, weight, errors, cuts, ignore_index, softmax, to_errors):
    return torch.empty_like(logits), torch.empty_like(errors) if to_errors else logits.new_empty(len(logits))


def _setup(ctx, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.ignore_index, ctx.softmax = inputs
    ctx.save_for_backward(*tensors)


def _chain(ctx, g_sums: Tensor) -> tuple:
    logits, *others = ctx.saved_tensors
    to_errors = ctx.needs_input_grad[3]
    grad, g_errors = _slopes(logits, g_sums, *others, ctx.ignore_index, ctx.softmax, to_errors)
    return grad, None, None, g_errors if to_errors else None, None, None, None


_run = differentiable(_forward, _chain, _setup)
_slopes = differentiable(_backward, refuse_second_derivative)
