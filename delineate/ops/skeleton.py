"""Skeletons: the soft one of probabilities, with its gradient, and two hard ones of masks.

The soft skeleton of Shit et al. takes off one layer after the other and keeps what an opening would lose:

    I_0 = p,   I_(k+1) = erode(I_k),   R_k = relu(I_k - dilate(I_(k+1))),   S = 1 - (1 - R_0) (1 - R_1) ... (1 - R_K)

erode: the smallest of a voxel and its face neighbours; dilate: the largest of the box of 3 voxels a side. Voxels
outside the image and ignored ones are no neighbours. Equal neighbours share the gradient of their minimum or maximum.

A few channels of a sample are computed at a time; the backward pass computes them again, so that nothing but the result
is kept, and on the CPU each thread takes whole groups.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from delineate.ops.blocks import refuse_second_derivative
from delineate.ops.distance import read_masks
from delineate.ops.thinning import thin
from delineate.ops.threads import in_threads
from delineate.ops.transforms import batched, differentiable

GROUP = 1 << 19
"""Voxels of the channels that are computed at a time on the CPU: enough for the price of starting an operation."""
TUBE_RADIUS = 2
"""How often `tubes` dilates a thinned mask."""


def _beside(values: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """All but the first, and all but the last along a dim: neighbours, as views."""
    size = max(1, values.shape[dim]) - 1
    return values.narrow(dim, values.shape[dim] - size, size), values.narrow(dim, 0, size)


def _extreme(values: Tensor, dims: list[int], smallest: bool) -> Tensor:
    """The smallest or largest of each voxel and its two neighbours along each of the dims."""
    found, pick = values.clone(), torch.minimum if smallest else torch.maximum
    for dim in dims:
        (found_after, found_before), (after, before) = _beside(found, dim), _beside(values, dim)
        pick(found_after, before, out=found_after)
        pick(found_before, after, out=found_before)
    return found


def _extreme_backward(grad: Tensor, values: Tensor, found: Tensor, dims: list[int]) -> Tensor:
    """Gradient to the values: shared by all that equal what was found."""

    def equal(a: Tensor, b: Tensor) -> Tensor:
        return torch.eq(a, b, out=torch.empty_like(a))

    count = equal(values, found)
    for dim in dims:
        (values_after, values_before), (found_after, found_before) = _beside(values, dim), _beside(found, dim)
        count_after, count_before = _beside(count, dim)
        count_after += equal(values_before, found_after)
        count_before += equal(values_after, found_before)
    grad = grad / count
    out = grad * equal(values, found)
    for dim in dims:
        (values_after, values_before), (found_after, found_before) = _beside(values, dim), _beside(found, dim)
        (grad_after, grad_before), (out_after, out_before) = _beside(grad, dim), _beside(out, dim)
        out_before.addcmul_(grad_after, equal(values_before, found_after))
        out_after.addcmul_(grad_before, equal(values_after, found_before))
    return out


class _Planes:
    """Some channels of one sample (K, *S), and which voxels of the sample are ignored (*S)."""

    def __init__(self, ignored: Tensor | None, dims: int):
        self.ignored, self.dims = ignored, list(range(1, 1 + dims))

    def without(self, values: Tensor, neutral: float) -> Tensor:
        return values if self.ignored is None else values.masked_fill(self.ignored, neutral)

    def eroded(self, values: Tensor) -> Tensor:
        return _extreme(self.without(values, 1), self.dims, True)

    def dilated(self, values: Tensor) -> list[Tensor]:
        """Step by step: the values, and what each dim makes of them."""
        steps = [self.without(values, 0)]
        for dim in self.dims:
            steps.append(_extreme(steps[-1], [dim], False))
        return steps

    def eroded_backward(self, grad: Tensor, values: Tensor, found: Tensor) -> Tensor:
        return self.without(_extreme_backward(grad, self.without(values, 1), found, self.dims), 0)

    def dilated_backward(self, grad: Tensor, steps: list[Tensor]) -> Tensor:
        for dim in reversed(self.dims):
            grad = _extreme_backward(grad, steps[dim - 1], steps[dim], [dim])
        return self.without(grad, 0)

    def residue(self, values: Tensor, eroded: Tensor) -> Tensor:
        """What an opening of the values loses."""
        return self.without((values - self.dilated(eroded)[-1]).clamp_min(0), 0)

    def skeleton(self, values: Tensor, iterations: int) -> Tensor:
        left = None
        for _ in range(iterations + 1):
            eroded = self.eroded(values)
            kept = 1 - self.residue(values, eroded)
            left = kept if left is None else left * kept
            values = eroded
        assert left is not None
        return 1 - left

    def skeleton_backward(self, grad: Tensor, values: Tensor, iterations: int) -> Tensor:
        layers, lefts = [values], [torch.ones_like(values)]
        for _ in range(iterations + 1):
            layers.append(self.eroded(layers[-1]))
            lefts.append(lefts[-1] * (1 - self.residue(*layers[-2:])))
        below, later = torch.zeros_like(values), grad  # later: gradient to minus what is left, and its later factors
        for k in reversed(range(iterations + 1)):
            values, eroded = layers[k], layers[k + 1]
            steps = self.dilated(eroded)
            residue = self.without(values - steps[-1], 0)
            own = later * lefts[k] * (residue > 0)
            below = self.eroded_backward(below + self.dilated_backward(-own, steps), values, eroded) + own
            later = later * (1 - residue.clamp_min(0))
        return below

    def whole_skeleton(self, mask: Tensor) -> Tensor:
        """Of masks of 0 and 1 (uint8), layer by layer until nothing changes; what never goes away is kept.

        The skeleton holds the number of the layer, from 1 to at most 255.
        """
        found, layer = torch.zeros_like(mask), 1
        while True:
            eroded = self.without(self.eroded(mask), 0)
            if torch.equal(eroded, mask):
                return torch.maximum(found, mask)
            residue = mask * (1 - self.dilated(eroded)[-1])  # an opening by two shapes may also add
            found = torch.maximum(found, residue * min(layer, 255))
            mask, layer = eroded, layer + 1


def _each(work: Callable[..., Tensor], ignored: Tensor | None, *maps: Tensor) -> Tensor:
    """`work` of the maps (N, C, *S), so many channels of a sample at a time that an operation has enough to do."""
    out, on_cpu = maps[0].new_empty(maps[0].shape), maps[0].device.type == "cpu"
    samples, channels, *space = out.shape
    several = max(1, GROUP // max(1, math.prod(space))) if on_cpu else max(1, channels)
    groups = [(n, slice(at, at + several)) for n in range(samples) for at in range(0, channels, several)]

    def write(group: tuple[int, slice]) -> None:
        void = None if ignored is None else ignored[group[0]]
        void = None if void is None or (on_cpu and not void.any()) else void  # elsewhere: no wait
        out[group] = work(_Planes(void, len(space)), *(values[group].contiguous() for values in maps))

    list((in_threads if on_cpu else map)(write, groups if out.numel() else []))
    return out


@torch.library.custom_op("delineate::soft_skeletons", mutates_args=())
def _forward(p: Tensor, ignored: Tensor | None, iterations: int) -> Tensor:
    return _each(lambda planes, values: planes.skeleton(values, iterations), ignored, p)


@torch.library.custom_op("delineate::soft_skeletons_backward", mutates_args=())
def _backward(grad: Tensor, p: Tensor, ignored: Tensor | None, iterations: int) -> Tensor:
    return _each(lambda planes, slope, values: planes.skeleton_backward(slope, values, iterations), ignored, grad, p)


def _setup(ctx, inputs: tuple, output: Tensor) -> None:
    p, ignored, ctx.iterations = inputs
    ctx.save_for_backward(p, ignored)


def _chain(ctx, grad: Tensor) -> tuple:
    return _slopes(grad, *ctx.saved_tensors, ctx.iterations), None, None


_forward.register_fake(lambda p, ignored, iterations: p.new_empty(p.shape))
_backward.register_fake(lambda grad, p, ignored, iterations: grad.new_empty(grad.shape))
_run = differentiable(_forward, _chain, _setup)
_slopes = differentiable(_backward, refuse_second_derivative)


def soft_skeletons(p: Tensor, ignored: Tensor | None, iterations: int) -> Tensor:
    """Soft skeleton of each sample and channel, with its gradient.

    Args:
        p: (N, C, *S) in [0, 1], float32 or float64.
        ignored: (N, *S) bool, or None; there the skeleton is 0.
        iterations: layers to take off after the first; objects of a larger radius have no skeleton.
    """
    return _run(p, ignored, iterations)


@torch.library.custom_op("delineate::skeletons", mutates_args=())
def skeletons(target: Tensor, channels: int, ignored: Tensor | None) -> Tensor:
    """The same of masks, with as many iterations as they need: uint8, the number of the layer or 0, (N, C, *S).

    Args:
        target, channels, ignored: see `delineate.ops.distance.read_masks`.
    """
    masks = read_masks(target, channels, ignored).to(torch.uint8)
    return _each(lambda planes, values: planes.whole_skeleton(values), ignored, masks)


@torch.library.custom_op("delineate::skeleton_tubes", mutates_args=())
def tubes(target: Tensor, channels: int, ignored: Tensor | None, merged: bool) -> Tensor:
    """The surroundings of the thinned masks, within each mask: uint8 of 0 and 1, (N, C, *S). Runs on the CPU.

    Args:
        target, channels, ignored: see `delineate.ops.distance.read_masks`.
        merged: thin the foreground, channels 1 and up together, as one mask; channel 0 is then empty.
    """
    masks = read_masks(target, channels, ignored)
    if merged:
        masks[:, 0] = False
    sides = masks.any(1, keepdim=True) if merged else masks
    grown = sides.cpu().numpy()
    grown = [[_grown(thin(mask)) for mask in sample] for sample in grown]
    around = torch.from_numpy(np.array(grown, dtype=bool).reshape(sides.shape)).to(masks.device)
    return (masks & around).to(torch.uint8).contiguous()


def _grown(mask: np.ndarray) -> np.ndarray:
    values = torch.from_numpy(mask.view(np.uint8))
    for _ in range(TUBE_RADIUS):
        values = _extreme(values, list(range(values.ndim)), False)
    return values.numpy().astype(bool)


def _fake(target: Tensor, channels: int, *_) -> Tensor:
    space = target.shape[2:] if target.is_floating_point() else target.shape[1:]
    return target.new_empty(target.shape[0], channels, *space, dtype=torch.uint8)


for _op in (skeletons, tubes):
    _op.register_fake(_fake)
    _op.register_vmap(batched(_op))
