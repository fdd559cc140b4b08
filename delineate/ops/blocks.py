"""Blocks of voxels: what both passes of `delineate.ops.overlap` share.

Letters: N samples, C channels, V voxels, B voxels of one block.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import NoReturn, TypeVar

import torch
from torch import Tensor

from delineate.ops.threads import in_threads

T = TypeVar("T")

ROWS = (
    "voxels", "count", "mass", "tp", "nll", "nll_off", "spread",
    "squares", "product", "target_squares", "miss_squares", "false_squares",
)  # fmt: skip
(
    VOXELS, COUNT, MASS, TP, NLL, NLL_OFF, SPREAD, SQUARES, PRODUCT, TARGET_SQUARES, MISS_SQUARES, FALSE_SQUARES,
) = range(len(ROWS))  # fmt: skip
COSTS = len(ROWS)
"""Where the rows of further costs begin: of cost k, those of voxels that are on, then those of voxels that are off."""

BLOCK = 655_360
"""Logits per block on the CPU (2.5 MiB in float32); how it was chosen: docs/speed.md."""
LANES, LANED = 8, 4096
"""Lanes of the sums by class, and from how many voxels on they are worth their while."""
BLOCK_ELSEWHERE = 1 << 25
"""Logits per block on other devices: there a block only bounds the memory of the temporaries."""


def table_rows(costs: Sequence[float]) -> int:
    """Number of rows of the sums, those of the packed costs included."""
    return COSTS + 2 * (len(costs) // 3)


def full_precision(op: Callable) -> Callable:
    """Keep autocast out of an op whose first argument is a tensor: the products here are sums over many voxels."""

    @wraps(op)
    def run(logits: Tensor, *args, **kwargs):
        with torch.autocast(logits.device.type, enabled=False):
            return op(logits, *args, **kwargs)

    return run


def blocks(logits: Tensor) -> list[tuple[int, slice]]:
    """Samples and slices of their voxels, block by block."""
    size = BLOCK if logits.device.type == "cpu" else BLOCK_ELSEWHERE
    samples, channels, voxels = logits.shape
    step = max(1, size // channels)
    return [(n, slice(at, min(at + step, voxels))) for n in range(samples) for at in range(0, voxels, step)]


def sweep(work: Callable[[int, slice], T], logits: Tensor) -> list[tuple[int, T]]:
    """Run `work` on every block; samples and results, in order.

    On the CPU each thread takes whole blocks. Threads inside every operation would meet at the end of each of them, and
    whatever else the machine does would hold all of them up. With few blocks for each thread the temporaries would
    weigh too much beside the logits, and PyTorch divides the work instead.
    """
    places = blocks(logits)
    by_block = logits.device.type == "cpu" and len(places) >= 4 * torch.get_num_threads()
    run = in_threads if by_block else map
    return [(n, found) for (n, _), found in zip(places, run(lambda place: work(*place), places), strict=True)]


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type sums are taken in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def rows_of(values: Tensor, dtype: torch.dtype) -> Tensor:
    """A block (C, B) in the type, each channel a run in memory: a block of channels_last is copied."""
    values = values.to(dtype)
    return values if values.stride(-1) == 1 else values.contiguous()


def require(ok: Tensor, message: str, found: Tensor) -> None:
    """Raise on the CPU; elsewhere assert on the device, which needs no wait."""
    if ok.device.type == "cpu":
        if not ok:
            low, high = found.aminmax()
            raise ValueError(f"{message}; got values from {low.item():g} to {high.item():g}.")
    else:
        torch.ops.aten._assert_async.msg(ok, message)


def read_labels(labels: Tensor, ignore_index: int | None) -> tuple[Tensor, Tensor | None]:
    """Labels of one block as int64, and which are ignored: None when none is."""
    y = labels.long()
    if ignore_index is None:
        return y, None
    ignored = y == ignore_index
    if ignored.device.type == "cpu" and not ignored.any():
        return y, None
    return y.masked_fill(ignored, 0), ignored


def check_labels(y: Tensor, labels: Tensor, ignore_index: int | None, classes: int) -> None:
    """Raise for labels of a block that are out of range; `y` are those labels with ignored ones left out."""
    if y.numel():
        low, high = y.aminmax()
        hint = "pass ignore_index=... for void labels" if ignore_index is None else "or ignored"
        require(
            (low >= 0) & (high < classes),
            f"target: labels must be in 0..{classes - 1} ({classes} classes), {hint}",
            labels,
        )


def at(weight: Tensor | None, n: int, block: slice) -> Tensor | None:
    """A block of the voxel weights, where there are any."""
    return None if weight is None else weight[n, block]


def check_weights(weight: Tensor | None) -> None:
    """Raise for negative weights of a block."""
    if weight is not None:
        require((weight >= 0).all(), "weight: voxel weights must be at least 0", weight)


def read_weights(weight: Tensor | None, ignored: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Voxel weights of one block with ignored voxels at 0; None when all are 1."""
    if weight is None:
        return None if ignored is None else (~ignored).to(dtype)
    w = weight.to(dtype)
    return w if ignored is None else w.masked_fill(ignored, 0)


def sum_by_class(y: Tensor, values: Tensor, classes: int) -> Tensor:
    """Sum values (B,) by label, in float64: a bin may take every voxel of a block, one by one.

    Several lanes of the block are summed side by side, so that additions to one bin need not wait for each other.
    """
    lanes = LANES if len(y) >= LANED else 1
    head = len(y) // lanes * lanes
    y, values = y.contiguous(), values.double()
    sums = values.new_zeros(lanes, classes)
    sums = sums.scatter_add_(1, y[:head].view(lanes, -1), values[:head].view(lanes, -1)).sum(0)
    return sums.scatter_add_(0, y[head:], values[head:]) if head < len(y) else sums


def row_sums(values: Tensor, weights: Tensor | None) -> Tensor:
    """Weighted sum of each row, (C,), in place of `values`. Unlike a product of matrices, `sum` adds by halves."""
    return (values if weights is None else values.mul_(weights)).sum(1)


def refuse_second_derivative(ctx, *_) -> NoReturn:
    """The derivative of a backward op."""
    raise RuntimeError(
        "delineate: second derivatives of a loss are not supported (its backward pass is written by hand); "
        "remove create_graph=True."
    )
