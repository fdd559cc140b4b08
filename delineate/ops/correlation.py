"""Where the structure of a prediction differs from that of its target: the error e of the CMSSL loss.

With the mean and the standard deviation of a window around each voxel, and a small stabilizer s,

    e = | (y - mean_y + s) / (deviation_y + s)  -  (p - mean_p + s) / (deviation_p + s) |

Ignored voxels are outside every window, unless asked otherwise, and their own e is 0. On the CPU the work is done in
slabs, one channel after the other, so that temporaries stay in cache.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from delineate.ops.blocks import full_precision, refuse_second_derivative
from delineate.ops.transforms import differentiable
from delineate.ops.window import (
    binary_moments,
    moments,
    moments_backward,
    padded,
    padded_backward,
    weighted_moments,
)

SLAB = 1 << 18
"""Voxels of a slab on the CPU: enough for PyTorch's own threads, and small enough for the cache that cores share."""


class Window(NamedTuple):
    """How the statistics are taken."""

    taps: list[float]
    padding: str
    stabilizer: float
    drop: bool
    """Whether ignored voxels are outside every window; their own e is 0 in any case."""


def structure_errors(p: Tensor, target: Tensor, ignored: Tensor | None, window: Window) -> tuple[Tensor, Tensor]:
    """e of every voxel and channel, and the largest of each sample and channel.

    Args:
        p: probabilities (N, C, *S), finite at ignored voxels; axes of length 1 do not count as such.
        target: labels (N, *S), with C = 1 of 0 and 1, or a dense float map (N, C, *S).
        ignored: (N, *S) bool, or None.

    Returns:
        errors (N, C, *S) of the type of `p`, 0 at ignored voxels, with a gradient to `p`; peaks (N, C), without one.

    Raises:
        ValueError: with reflected margins, for an axis that is not longer than half the window.
    """
    half, shape = len(window.taps) // 2, p.shape
    space = [size for size in shape[2:] if size != 1]
    if window.padding == "reflect" and 0 not in shape and any(size <= half for size in space):
        raise ValueError(
            f"logits: a window of {2 * half + 1} voxels with reflected margins needs more than {half} voxels along "
            f'each axis; got {tuple(shape[2:])}. Use a smaller `window_size`, or padding="zeros".'
        )
    window = window if space else window._replace(taps=[1.0])
    flat = space or [1]
    target = target.reshape(*(shape[:2] if target.is_floating_point() else shape[:1]), *flat)
    ignored = None if ignored is None else ignored.reshape(shape[0], *flat)
    errors, peaks = _run(p.reshape(*shape[:2], *flat), target, ignored, *window)
    return errors.view(shape), peaks


class _Slab(NamedTuple):
    """Rows of the first axis of one sample; the rows to read for them, and how many lie before and after the image."""

    sample: int
    rows: slice
    read: slice
    before: int
    after: int

    def margins(self, dims: int, window: Window) -> list[tuple[int, int]]:
        """How far windows reach beyond the image, before and after each axis."""
        half = len(window.taps) // 2
        return [(self.before, self.after), *[(half, half)] * (dims - 1)]


def _slabs(p: Tensor, half: int, step: int) -> list[_Slab]:
    """Slabs of `step` rows."""
    height, found = p.shape[2], []
    for sample in range(len(p) if p.numel() else 0):
        for at in range(0, height, step):
            end = min(at + step, height)
            low, high = max(0, at - half), min(height, end + half)
            found.append(_Slab(sample, slice(at, end), slice(low, high), half - (at - low), half - (high - end)))
    return found


class _Slice:
    """One slab of the target, and e of the probabilities there.

    Labels become numbers with margins once for all channels: comparing numbers is many times faster than comparing
    integers, and so is writing the result as numbers.
    """

    def __init__(self, target: Tensor, ignored: Tensor | None, slab: _Slab, window: Window, dtype: torch.dtype):
        self.slab, self.window = slab, window
        self.dense = target[slab.sample, :, slab.read].to(dtype) if target.is_floating_point() else None
        self.labels = self.valid = self.ignored = None
        void = None if ignored is None else ignored[slab.sample, slab.read]
        void = None if void is None or (void.device.type == "cpu" and not void.any()) else void  # elsewhere: no wait
        if self.dense is None:
            labels = target[slab.sample, slab.read].to(dtype)
            labels = labels if void is None else labels.masked_fill(void, -1)
            self.labels = self._padded(labels, -1)
        if ignored is not None and void is not None:
            self.ignored = ignored[slab.sample, slab.rows]
            self.valid = self._padded((~void).to(dtype), 1) if window.drop else None

    def error(self, p: Tensor, channel: int, label: int) -> Tensor:
        """e of one channel, given its probabilities in the rows that are read."""
        above, below = self._fraction(self._padded(p), False)
        e = above.div_(below).sub_(self._of_target(channel, label)).abs_()
        return e if self.ignored is None else e.masked_fill_(self.ignored, 0)

    def error_backward(self, grad: Tensor, p: Tensor, channel: int, label: int) -> Tensor:
        """Gradient to the probabilities; that of a deviation of 0 is 0."""
        p = self._padded(p)
        above, below = self._fraction(p, False)
        quotient = above / below
        grad = grad * (quotient - self._of_target(channel, label)).sgn()
        grad = grad if self.ignored is None else grad.masked_fill(self.ignored, 0)
        to_above, root = grad / below, below - self.window.stabilizer
        to_variance = torch.where(root > 0, -to_above * quotient / (2 * root), 0)
        found = moments_backward(-to_above, to_variance, p, self.valid, self.window.taps, list(range(p.ndim)))
        self._inner(found).add_(to_above)
        return padded_backward(found, self.slab.margins(p.ndim, self.window), self.window.padding)

    def _padded(self, values: Tensor, outside: float = 0) -> Tensor:
        """The rows that are read, with what lies beyond the image."""
        return padded(values, self.slab.margins(values.ndim, self.window), self.window.padding, outside)

    def _inner(self, values: Tensor) -> Tensor:
        """Without the margins, as a view."""
        half = len(self.window.taps) // 2
        return values[(slice(half, -half or None),) * values.ndim]

    def _of_target(self, channel: int, label: int) -> Tensor | float:
        if self.labels is None:
            assert self.dense is not None
            above, below = self._fraction(self._padded(self.dense[channel]), False)
            return above.div_(below)
        y = torch.eq(self.labels, label, out=torch.empty_like(self.labels))
        if y.device.type == "cpu" and y.amax() <= 0:  # elsewhere looking would wait for the device
            return 1.0
        above, below = self._fraction(y, True)
        return above.div_(below)

    def _fraction(self, values: Tensor, binary: bool) -> tuple[Tensor, Tensor]:
        dims = list(range(values.ndim))
        if self.valid is not None:
            mean, variance = weighted_moments(values, self.valid, self.window.taps, dims)
        else:
            mean, variance = (binary_moments if binary else moments)(values, self.window.taps, dims)
        s = self.window.stabilizer
        return (self._inner(values) - mean).add_(s), variance.sqrt_().add_(s)


@torch.library.custom_op("delineate::structure_errors", mutates_args=())
@full_precision
def _forward(
    p: Tensor, target: Tensor, ignored: Tensor | None, taps: list[float], padding: str, stabilizer: float, drop: bool
) -> tuple[Tensor, Tensor]:
    window, classes = Window(taps, padding, stabilizer, drop), p.shape[1]
    errors, peaks = torch.empty_like(p), p.new_zeros(p.shape[:2])
    on_cpu, height = p.device.type == "cpu", max(1, p.shape[2])
    step = max(1, SLAB * height // max(1, p[:1, :1].numel())) if on_cpu else height

    def work(slab: _Slab) -> Tensor:
        here, peaks = _Slice(target, ignored, slab, window, p.dtype), []
        for channel in range(classes):
            e = here.error(p[slab.sample, channel, slab.read], channel, channel if classes > 1 else 1)
            errors[slab.sample, channel, slab.rows] = e
            peaks.append(e.amax())
        return torch.stack(peaks)

    slabs = _slabs(p, len(taps) // 2, step)
    for slab, peak in zip(slabs, map(work, slabs), strict=True):
        peaks[slab.sample] = torch.maximum(peaks[slab.sample], peak)
    return errors, peaks


@torch.library.custom_op("delineate::structure_errors_backward", mutates_args=())
@full_precision
def _backward(
    grad: Tensor,
    p: Tensor,
    target: Tensor,
    ignored: Tensor | None,
    taps: list[float],
    padding: str,
    stabilizer: float,
    drop: bool,
) -> Tensor:
    """One sample and channel at a time, computed again."""
    window, classes, out = Window(taps, padding, stabilizer, drop), p.shape[1], torch.empty_like(p)

    def write(place: tuple[_Slab, int]) -> None:
        slab, channel = place
        here, label = _Slice(target, ignored, slab, window, p.dtype), channel if classes > 1 else 1
        out[slab.sample, channel] = here.error_backward(
            grad[slab.sample, channel], p[slab.sample, channel], channel, label
        )

    planes = [(slab, c) for slab in _slabs(p, len(taps) // 2, max(1, p.shape[2])) for c in range(classes)]
    for plane in planes:
        write(plane)
    return out


@_forward.register_fake
def _(p, *_):
    return torch.empty_like(p), p.new_empty(p.shape[:2])


@_backward.register_fake
def _(grad, p, *_):
    return torch.empty_like(p)


def _setup(ctx, inputs: tuple, output: tuple) -> None:
    p, target, ignored, *ctx.window = inputs
    ctx.save_for_backward(p, target, ignored)
    ctx.mark_non_differentiable(output[1])


def _chain(ctx, grad: Tensor, _: Tensor) -> tuple:
    return _slopes(grad, *ctx.saved_tensors, *ctx.window), None, None, None, None, None, None


_run = differentiable(_forward, _chain, _setup)
_slopes = differentiable(_backward, refuse_second_derivative)
