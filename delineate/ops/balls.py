"""Means over balls around every voxel, with 0 outside the image: by fast Fourier transform, whatever their radius.

The transforms are float64, as their rounding error is that of the largest value, and not of each.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from delineate.ops.blocks import full_precision, refuse_second_derivative
from delineate.ops.transforms import differentiable


def radii_in_use(radii: Sequence[float], space: Sequence[int]) -> list[float]:
    """Those smaller than the shortest axis longer than 1; if none is, the smallest one."""
    longer = [side for side in space if side > 1]
    return [r for r in radii if not longer or r < min(longer)] or [min(radii)]


def ball_means(maps: Tensor, radii: Sequence[float]) -> Tensor:
    """Mean of the maps over a ball of each radius around each voxel, differentiable.

    Args:
        maps: (N, C, *S), float32 or float64; axes of length 1 do not count as such.
        radii: above 0, in voxels.

    Returns:
        (N, R, C, *S) for R radii.
    """
    return _run(maps, [float(radius) for radius in radii])


def _fast_size(size: int) -> int:
    """The next number without prime factors above 5."""
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 1


class _Spectra:
    """Fourier transforms of the balls, on a periodic grid that no ball reaches around."""

    def __init__(self, like: Tensor, space: Sequence[int], radii: Sequence[float]):
        reach = int(max(radii))
        self.space, self.dims = space, tuple(range(-len(space), 0))
        self.sizes = [_fast_size(max(side + reach, 2 * reach + 1)) if side > 1 else 1 for side in space]
        self.dtype = like.dtype
        squared = torch.zeros(self.sizes, dtype=torch.float64, device=like.device)
        for dim, size in enumerate(self.sizes):
            offsets = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64, device=like.device).round()
            squared = squared + offsets.square().view(-1, *[1] * (len(self.sizes) - dim - 1))
        balls = [(squared <= radius**2).double() for radius in radii]
        self.balls = [torch.fft.rfftn(ball / ball.sum(), dim=self.dims) for ball in balls]

    def of(self, maps: Tensor) -> Tensor:
        return torch.fft.rfftn(maps.double(), self.sizes, self.dims)

    def back(self, spectrum: Tensor) -> Tensor:
        found = torch.fft.irfftn(spectrum, self.sizes, self.dims)
        return found[(..., *(slice(side) for side in self.space))].to(self.dtype)


@torch.library.custom_op("delineate::ball_means", mutates_args=())
@full_precision
def _forward(maps: Tensor, radii: Sequence[float]) -> Tensor:
    if not maps.numel():
        return maps.new_empty(maps.shape[0], len(radii), *maps.shape[1:])
    spectra = _Spectra(maps, maps.shape[2:], radii)
    of_maps = spectra.of(maps)
    return torch.stack([spectra.back(of_maps * ball) for ball in spectra.balls], 1)


@torch.library.custom_op("delineate::ball_means_backward", mutates_args=())
@full_precision
def _backward(grad: Tensor, radii: Sequence[float]) -> Tensor:
    """A ball is symmetric: the transpose of a mean is the same mean."""
    if not grad.numel():
        return grad.new_empty(grad.shape[0], *grad.shape[2:])
    spectra = _Spectra(grad, grad.shape[3:], radii)
    parts = [spectra.of(grad[:, k]) * ball for k, ball in enumerate(spectra.balls)]
    return spectra.back(torch.stack(parts).sum(0)).contiguous()


@_forward.register_fake
def _(maps, radii):
    return maps.new_empty(maps.shape[0], len(radii), *maps.shape[1:])


@_backward.register_fake
def _(grad, radii):
    return grad.new_empty(grad.shape[0], *grad.shape[2:])


def _setup(ctx, inputs: tuple, output: Tensor) -> None:
    ctx.radii = inputs[1]


def _chain(ctx, grad: Tensor) -> tuple:
    return _slopes(grad, ctx.radii), None


_run = differentiable(_forward, _chain, _setup)
_slopes = differentiable(_backward, refuse_second_derivative)
