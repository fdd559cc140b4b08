"""Costs of a voxel and their derivatives."""

import pytest
import torch

from delineate.ops.cost import Cost, packed, unpacked

COSTS = [
    Cost(),
    Cost(gamma=2.0),
    Cost(gamma=0.5),
    Cost(gamma=1.0),
    Cost(epsilon=1.0),
    Cost(2.0, 1.0, -0.5),
    Cost(power=0.3),
]


@pytest.mark.parametrize("cost", COSTS, ids=repr)
def test_value_and_slope(cost):
    log_p = -torch.logspace(-6, 2, 200, dtype=torch.float64)
    log_p.requires_grad_()
    wrong = 1 - log_p.exp()
    plain = wrong**cost.gamma * (-log_p) ** cost.power + cost.epsilon * wrong ** (cost.gamma + 1)
    (slope,) = torch.autograd.grad(plain.sum(), log_p)
    torch.testing.assert_close(cost.value(log_p.detach()), plain.detach(), rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(cost.slope(log_p.detach(), log_p.detach().exp()), slope, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("cost", COSTS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ends(cost, dtype):
    """p = 1 and p = 0 in the number format: value and slope are finite, and a perfect voxel costs nothing."""
    log_p = torch.tensor([0.0, -1e-38, -1e4, -3e38], dtype=dtype)
    value, slope = cost.value(log_p), cost.slope(log_p, log_p.exp())
    assert value.isfinite().all()
    assert slope.isfinite().all()
    assert value[0] == 0
    assert (value >= 0).all()


@pytest.mark.parametrize("cost", COSTS, ids=repr)
def test_nan_stays(cost):
    log_p = torch.tensor([float("nan")])
    assert cost.value(log_p).isnan()
    assert cost.slope(log_p, log_p.exp()).isnan() or cost == Cost(power=1.0)


def test_costs_travel_as_numbers():
    assert [cost for _, cost in unpacked(packed(COSTS))] == COSTS
    assert [place for place, _ in unpacked(packed(COSTS))] == list(range(len(COSTS)))
