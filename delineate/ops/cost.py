"""Costs of one voxel as a function of the log-probability of the truth, and their derivatives."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from delineate.ops.blocks import refuse_second_derivative
from delineate.ops.transforms import differentiable

_SMALL, _LARGE = 1e-30, 1e30
"""Bounds that only p = 1 and p = 0 reach, where the factors beside them are 0."""


class Cost(NamedTuple):
    """(1 - p)^gamma (-log p)^power + epsilon (1 - p)^(gamma + 1), with p the probability of the truth.

    The default is cross entropy; gamma alone is focal, epsilon alone Poly-1. A power other than 1 stands alone.
    """

    gamma: float = 0.0
    power: float = 1.0
    epsilon: float = 0.0

    def value(self, log_p: Tensor) -> Tensor:
        """The cost, any shape; 0 at log_p = 0."""
        found = -log_p
        if self.power != 1:
            return found.pow_(self.power)
        if self.gamma == 0 and self.epsilon == 0:
            return found
        wrong = torch.expm1(log_p).neg_()
        if self.epsilon:
            found.add_(wrong, alpha=self.epsilon)
        return found.mul_(wrong.pow_(self.gamma))

    def slope(self, log_p: Tensor, p: Tensor) -> Tensor:
        """The derivative to log_p, any shape. Where a power has an infinite slope (p = 1), 0."""
        if self.power != 1:
            return (-log_p).pow_(self.power - 1).mul_(-self.power).masked_fill_(log_p == 0, 0)
        if self.gamma == 0:
            return p.mul(-self.epsilon).sub_(1)
        wrong = torch.expm1(log_p).neg_()
        ratio = log_p.clamp(min=-_LARGE).div_(wrong.clamp(min=_SMALL))  # -(-log p) / (1 - p), finite at both ends
        found = ratio.mul_(self.gamma).sub_(self.epsilon * (self.gamma + 1)).mul_(p).sub_(1)
        return found.mul_(wrong.pow_(self.gamma))


def packed(costs: Sequence[Cost]) -> list[float]:
    """Costs as a flat list of numbers, which the schema of an op can carry."""
    return [number for cost in costs for number in cost]


def unpacked(numbers: Sequence[float]) -> Iterator[tuple[int, Cost]]:
    """The costs of a flat list, each with its place."""
    for place in range(len(numbers) // 3):
        yield place, Cost(*numbers[3 * place : 3 * place + 3])


@torch.library.custom_op("delineate::voxel_costs", mutates_args=())
def _voxel_costs(log_p: Tensor, cost: Sequence[float]) -> Tensor:
    """A packed cost of every log-probability, any shape."""
    return Cost(*cost).value(log_p)


@torch.library.custom_op("delineate::voxel_costs_backward", mutates_args=())
def _voxel_costs_backward(grad: Tensor, log_p: Tensor, cost: Sequence[float]) -> Tensor:
    return Cost(*cost).slope(log_p, log_p.exp()).mul_(grad)


@_voxel_costs.register_fake
def _(log_p, cost):
    return torch.empty_like(log_p)


@_voxel_costs_backward.register_fake
def _(grad, log_p, cost):
    return torch.empty_like(log_p)


def _context(ctx, inputs, output):
    log_p, ctx.cost = inputs
    ctx.save_for_backward(log_p)


def _backward(ctx, grad):
    return voxel_costs_backward(grad, ctx.saved_tensors[0], ctx.cost), None


voxel_costs = differentiable(_voxel_costs, _backward, _context)
voxel_costs_backward = differentiable(_voxel_costs_backward, refuse_second_derivative)
