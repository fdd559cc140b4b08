"""Generalised means over all voxels of their distances to each point of a set: of the weighted Hausdorff loss.

For the points j of a set Y, voxels i with weights w_i, probabilities p_i, and the largest distance d_max,

    M_j = ( sum_i w_i (p_i d_ij + (1 - p_i) d_max + e)^a / sum_i w_i )^(1/a),     e = 1e-6

The sums over the points of w_j M_j and of w_j, and the derivative of the first to each p_i, come from one sweep over
blocks of points: the time is that of all pairs, the memory that of a block.
"""

import torch
from torch import Tensor

from delineate.ops.blocks import refuse_second_derivative
from delineate.ops.threads import in_threads
from delineate.ops.transforms import differentiable

EPSILON = 1e-6
PAIRS = 1 << 20
"""Pairs of a voxel and a point that are held at once."""
STEEP = -4.0
"""Exponents below are taken of multiples of the smallest value: powers of the values themselves would overflow."""


@torch.library.custom_op("delineate::point_means", mutates_args=())
def _forward(
    p: Tensor, masks: Tensor, weight: Tensor, size: Tensor, farthest: Tensor, exponent: float, max_points: int
) -> tuple[Tensor, Tensor]:
    sums, slopes = p.new_zeros(*p.shape[:2], 2, dtype=torch.float64), torch.zeros_like(p)

    def write(place: tuple[int, int]) -> None:
        n, c = place
        points = masks[n, c].nonzero() if weight[n].any() else masks.new_empty(0, p.ndim - 2, dtype=torch.long)
        if len(points) > max_points:
            points = points[torch.arange(max_points, device=p.device) * len(points) // max_points]
        w, coordinates = weight[n].flatten().to(p.dtype), size[n].to(p.dtype)
        grid = torch.cartesian_prod(*(torch.arange(s, device=p.device) for s in p.shape[2:]))
        grid = grid.view(-1, p.ndim - 2).to(p.dtype) * coordinates
        w_points = weight[n][tuple(points.T)].to(p.dtype)
        sums[n, c, 1] = w_points.double().sum()
        step = max(1, PAIRS // max(1, len(grid)))
        for at in range(0, len(points), step):
            d = torch.cdist(points[at : at + step].to(p.dtype) * coordinates, grid, compute_mode=_DIRECT)
            total, slope = _block(p[n, c].flatten(), d, w, w_points[at : at + step], farthest[n].to(p.dtype), exponent)
            sums[n, c, 0] += total
            slopes[n, c] += slope.view(p.shape[2:])

    places = [(n, c) for n in range(p.shape[0]) for c in range(p.shape[1])]
    list((in_threads if p.device.type == "cpu" else map)(write, places))
    return sums, slopes


_DIRECT = "donot_use_mm_for_euclid_dist"


def _block(p: Tensor, d: Tensor, w: Tensor, w_points: Tensor, farthest: Tensor, a: float) -> tuple[Tensor, Tensor]:
    """Sum of w_j M_j over points (B,) at distances d (B, V), and its derivative to p (V,)."""
    f = p * d + (1 - p) * farthest + EPSILON
    share = w / w.sum().clamp_min(torch.finfo(w.dtype).tiny)
    low = torch.ones_like(f[:, :1])
    if a < STEEP:
        low = torch.where(share > 0, f, torch.inf).amin(1, keepdim=True)
        f = (f / low).clamp_min(1)
    powers = f.pow(a - 1)
    mean = (f * powers * share).sum(1)
    slopes = (w_points * mean.pow(1 / a - 1))[:, None] * share * powers * (d - farthest)
    return (w_points * low[:, 0] * mean.pow(1 / a)).double().sum(), slopes.sum(0)


@_forward.register_fake
def _(p, *_):
    return p.new_empty(*p.shape[:2], 2, dtype=torch.float64), torch.empty_like(p)


def _setup(ctx, inputs: tuple, output: tuple) -> None:
    ctx.save_for_backward(output[1], inputs[0])
    ctx.mark_non_differentiable(output[1])


def _chain(ctx, grad: Tensor, _: Tensor) -> tuple:
    return _scaled(grad, *ctx.saved_tensors), None, None, None, None, None, None


@torch.library.custom_op("delineate::point_means_backward", mutates_args=())
def _backward(grad: Tensor, slopes: Tensor, p: Tensor) -> Tensor:
    """What the slopes depend on is here for second derivatives to be refused, and not taken for 0."""
    return grad[..., 0].to(slopes.dtype).view(*slopes.shape[:2], *[1] * (slopes.ndim - 2)) * slopes


_backward.register_fake(lambda grad, slopes, p: torch.empty_like(slopes))
_run = differentiable(_forward, _chain, _setup)
_scaled = differentiable(_backward, refuse_second_derivative)


def point_means(
    p: Tensor, masks: Tensor, weight: Tensor, size: Tensor, farthest: Tensor, exponent: float, max_points: int
) -> tuple[Tensor, Tensor]:
    """Sums over the points of each mask of w_j M_j, with a gradient to `p`, and of w_j: (N, C) float64 each.

    Args:
        p: (N, C, *S). masks: (N, C, *S) bool, the points.
        weight: (N, *S), 0 at ignored voxels. size: of a voxel along each axis, (N, dims) float64.
        farthest: d_max of each sample, (N,). exponent: a, below 0.
        max_points: of larger sets, so many points are taken, spread evenly over their order in memory.
    """
    sums, _ = _run(p, masks, weight, size, farthest, exponent, max_points)
    return sums[..., 0], sums[..., 1].detach()
