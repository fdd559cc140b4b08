"""How thick a residual is, by repeated erosion: the map of the Hausdorff loss by erosion.

    b_0 = residual,   b_k = relu(cross * b_(k-1) - 1/2), then scaled to [0, 1] if asked for,   map = sum_k k^alpha b_k

cross: the mean of a voxel and its face neighbours (along axes longer than 1), with 0 outside the image and at ignored
voxels, where b stays 0. Scaling takes the smallest and largest valid value of a sample and channel to 0 and 1.

Each sample and channel is computed on its own; the backward pass computes it again, so that nothing but the result is
kept. Erosion ends early where nothing is left.
"""

import torch
from torch import Tensor

from delineate.ops.blocks import refuse_second_derivative
from delineate.ops.threads import in_threads
from delineate.ops.transforms import differentiable


def _mean_of_cross(values: Tensor) -> Tensor:
    """Mean of each voxel and its face neighbours; the operation is its own transpose."""
    total, taps = values.clone(), 1
    for dim, size in enumerate(values.shape):
        if size > 1:
            taps += 2
            total.narrow(dim, 1, size - 1).add_(values.narrow(dim, 0, size - 1))
            total.narrow(dim, 0, size - 1).add_(values.narrow(dim, 1, size - 1))
    return total.div_(taps)


class _Step:
    """One erosion of a plane, and its scale."""

    def __init__(self, before: Tensor, ignored: Tensor | None, rescale: bool):
        found = (_mean_of_cross(before) - 0.5).clamp_min_(0)
        self.ignored = ignored
        if ignored is not None:
            found.masked_fill_(ignored, 0)
        self.found = self.after = found
        if rescale:
            valid = found if ignored is None else found[~ignored]
            self.low, self.high = valid.aminmax() if valid.numel() else (found.new_zeros(()), found.new_zeros(()))
            if self.high > self.low:
                self.after = (found - self.low) / (self.high - self.low)
                if ignored is not None:
                    self.after.masked_fill_(ignored, 0)

    def backward(self, grad: Tensor) -> Tensor:
        """Gradient to what was eroded; voxels that are smallest or largest share that of the scale."""
        grad = grad if self.ignored is None else grad.masked_fill(self.ignored, 0)
        if self.after is not self.found:
            grad = grad / (self.high - self.low)
            to_high = -(grad * self.after).sum()
            to_low = -grad.sum() - to_high
            for extreme, share in ((self.low, to_low), (self.high, to_high)):
                at = self._equal(extreme)
                grad = grad + at * (share / at.sum().clamp_min(1))
        return _mean_of_cross(grad * (self.found > 0))

    def _equal(self, value: Tensor) -> Tensor:
        at = self.found == value if self.ignored is None else (self.found == value) & ~self.ignored
        return at.to(self.found.dtype)


def _steps(residual: Tensor, ignored: Tensor | None, erosions: int, rescale: bool) -> list[_Step]:
    steps: list[_Step] = []
    for _ in range(erosions):
        steps.append(_Step(steps[-1].after if steps else residual, ignored, rescale))
        if not steps[-1].after.any():
            break
    return steps


@torch.library.custom_op("delineate::erosion_maps", mutates_args=())
def _forward(residual: Tensor, ignored: Tensor | None, alpha: float, erosions: int, rescale: bool) -> Tensor:
    out = torch.empty_like(residual)

    def write(place: tuple[int, int]) -> None:
        n, c = place
        void = None if ignored is None else ignored[n]
        steps = _steps(residual[n, c], void, erosions, rescale)
        out[n, c] = torch.stack([step.after * (k + 1) ** alpha for k, step in enumerate(steps)]).sum(0)

    _of_each(write, residual)
    return out


@torch.library.custom_op("delineate::erosion_maps_backward", mutates_args=())
def _backward(
    grad: Tensor, residual: Tensor, ignored: Tensor | None, alpha: float, erosions: int, rescale: bool
) -> Tensor:
    out = torch.empty_like(residual)

    def write(place: tuple[int, int]) -> None:
        n, c = place
        steps = _steps(residual[n, c], None if ignored is None else ignored[n], erosions, rescale)
        below = torch.zeros_like(grad[n, c])
        for k in reversed(range(len(steps))):
            below = steps[k].backward(below + grad[n, c] * (k + 1) ** alpha)
        out[n, c] = below

    _of_each(write, residual)
    return out


def _of_each(write, planes: Tensor) -> None:
    places = [(n, c) for n in range(planes.shape[0]) for c in range(planes.shape[1])]
    list((in_threads if planes.device.type == "cpu" else map)(write, places))


def _setup(ctx, inputs: tuple, output: Tensor) -> None:
    residual, ignored, *ctx.options = inputs
    ctx.save_for_backward(residual, ignored)


def _chain(ctx, grad: Tensor) -> tuple:
    return _slopes(grad, *ctx.saved_tensors, *ctx.options), None, None, None, None


_forward.register_fake(lambda residual, *_: torch.empty_like(residual))
_backward.register_fake(lambda grad, residual, *_: torch.empty_like(residual))
_run = differentiable(_forward, _chain, _setup)
_slopes = differentiable(_backward, refuse_second_derivative)


def erosion_maps(residual: Tensor, ignored: Tensor | None, alpha: float, erosions: int, rescale: bool) -> Tensor:
    """The map of each sample and channel, with its gradient.

    Args:
        residual: (N, C, *S) in [0, 1], 0 at ignored voxels; float32 or float64.
        ignored: (N, *S) bool, or None.
        alpha, erosions, rescale: see the module; erosions of at least 1.
    """
    return _run(residual, ignored, alpha, erosions, rescale)
