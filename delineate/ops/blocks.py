"""Blocks of voxels: what both passes of `delineate.ops.overlap` share.

Letters: N samples, C channels, V voxels, B voxels of one block.
"""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import NoReturn

import torch
from torch import Tensor

ROWS = ("voxels", "count", "mass", "tp", "nll", "nll_off", "squares", "product", "target_squares")
VOXELS, COUNT, MASS, TP, NLL, NLL_OFF, SQUARES, PRODUCT, TARGET_SQUARES = range(len(ROWS))

BLOCK = 655_360
"""Logits per block on the CPU (2.5 MiB in float32); how it was chosen: docs/speed.md."""
BLOCK_ELSEWHERE = 1 << 25
"""Logits per block on other devices: there a block only bounds the memory of the temporaries."""


def full_precision(op: Callable) -> Callable:
    """Keep autocast out of an op whose first argument is a tensor: the products here are sums over many voxels."""

    @wraps(op)
    def run(logits: Tensor, *args, **kwargs):
        with torch.autocast(logits.device.type, enabled=False):
            return op(logits, *args, **kwargs)

    return run


def blocks(logits: Tensor) -> Iterator[tuple[int, slice]]:
    """Samples and slices of their voxels, block by block."""
    size = BLOCK if logits.device.type == "cpu" else BLOCK_ELSEWHERE
    samples, channels, voxels = logits.shape
    step = max(1, size // channels)
    for n in range(samples):
        for start in range(0, voxels, step):
            yield n, slice(start, min(start + step, voxels))


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type sums are taken in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def require(ok: Tensor, message: str, found: Tensor) -> None:
    """Raise on the CPU; elsewhere assert on the device, which needs no wait."""
    if ok.device.type == "cpu":
        if not ok:
            low, high = found.aminmax()
            raise ValueError(f"{message}; got values from {low.item():g} to {high.item():g}.")
    else:
        torch.ops.aten._assert_async.msg(ok, message)


def read_labels(labels: Tensor, ignore_index: int | None, classes: int) -> tuple[Tensor, Tensor | None]:
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
        require(
            (low >= 0) & (high < classes),
            f"target: labels must be in 0..{classes - 1} ({classes} classes), {hint}",
            labels,
        )
    return y, ignored


def at(weight: Tensor | None, n: int, block: slice) -> Tensor | None:
    """A block of the voxel weights, where there are any."""
    return None if weight is None else weight[n, block]


def read_weights(weight: Tensor | None, ignored: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Voxel weights of one block with ignored voxels at 0; None when all are 1."""
    if weight is None:
        return None if ignored is None else (~ignored).to(dtype)
    require((weight >= 0).all(), "weight: voxel weights must be at least 0", weight)
    w = weight.to(dtype)
    return w if ignored is None else w.masked_fill(ignored, 0)


def read_block(
    labels: Tensor, weight: Tensor | None, ignore_index: int | None, classes: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """One block's labels (B,), ignored voxels (B,) or None, and voxel weights (B,) or None where all are 1."""
    y, ignored = read_labels(labels, ignore_index, classes)
    return y, ignored, read_weights(weight, ignored, dtype)


def sum_by_class(y: Tensor, values: Tensor | None, classes: int) -> Tensor:
    """Sum values by label, in float64: a bin may take every voxel of a block, one by one."""
    if y.device.type == "cpu":
        return torch.bincount(y, None if values is None else values.double(), classes).double()
    added = torch.ones_like(y, dtype=torch.float64) if values is None else values.double()
    return added.new_zeros(classes).index_add_(0, y, added)


def row_sums(values: Tensor, weights: Tensor | None) -> Tensor:
    """Weighted sum of each row, (C,), in place of `values`. Unlike a product of matrices, `sum` adds by halves."""
    return (values if weights is None else values.mul_(weights)).sum(1)


def refuse_second_derivative(ctx, *_) -> NoReturn:
    """The derivative of a backward op."""
    raise RuntimeError(
        "delineate: second derivatives of a loss are not supported (its backward pass is written by hand); "
        "remove create_graph=True."
    )
