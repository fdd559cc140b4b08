"""Costs of a voxel and their derivatives."""

import pytest
import torch

from delineate.ops.cost import Cost, _voxel_costs, _voxel_costs_backward, packed, unpacked, voxel_costs

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


def plain(cost, log_p):
    wrong = 1 - log_p.exp()
    return wrong**cost.gamma * (-log_p) ** cost.power + cost.epsilon * wrong ** (cost.gamma + 1)


@pytest.mark.parametrize("cost", COSTS, ids=repr)
def test_costs_of_voxels_and_their_gradient(cost):
    log_p = (-0.05 - 3 * torch.rand(2, 3, 4, dtype=torch.float64)).requires_grad_()
    kept = log_p.detach().clone()
    factors = torch.randn(2, 3, 4, dtype=torch.float64)
    found, expected = voxel_costs(log_p, list(cost)), plain(cost, log_p)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad((found * factors).sum(), log_p)
    torch.testing.assert_close(gradient, torch.autograd.grad((expected * factors).sum(), log_p)[0], rtol=1e-10, atol=0)
    assert torch.equal(log_p.detach(), kept)
    assert torch.autograd.gradcheck(lambda x: voxel_costs(x, list(cost)), log_p)


@pytest.mark.parametrize("cost", COSTS, ids=repr)
def test_costs_of_voxels_in_any_layout(cost):
    log_p = -torch.rand(2, 3, 4, 5)
    expected = voxel_costs(log_p, list(cost))
    for same in (log_p.to(memory_format=torch.channels_last), log_p.mT.contiguous().mT):
        same.requires_grad_()
        found = voxel_costs(same, list(cost))
        torch.testing.assert_close(found.detach(), expected, rtol=1e-6, atol=0)
        (gradient,) = torch.autograd.grad(found.sum(), same)
        torch.testing.assert_close(gradient, cost.slope(log_p, log_p.exp()), rtol=1e-5, atol=1e-7)


def test_second_derivative_of_costs_is_refused():
    log_p = (-torch.rand(2, 5)).requires_grad_()
    found = voxel_costs(log_p, list(Cost(gamma=2.0))).square().sum()
    (gradient,) = torch.autograd.grad(found, log_p, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives of a loss are not supported"):
        gradient.sum().backward()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
@pytest.mark.parametrize("cost", COSTS[:3], ids=repr)
def test_opcheck(cost):
    log_p = (-0.1 - torch.rand(2, 3, 4)).mT.contiguous().mT
    torch.library.opcheck(_voxel_costs, (log_p.clone().requires_grad_(), list(cost)))
    args = (torch.randn(2, 3, 4), log_p, list(cost))
    torch.library.opcheck(_voxel_costs_backward, args, test_utils=("test_schema", "test_faketensor"))


def test_costs_of_voxels_compile_and_map():
    cost = list(Cost(2.0, 1.0, -0.5))
    log_p = -torch.rand(4, 2, 5, dtype=torch.float64)
    slope = Cost(*cost).slope(log_p, log_p.exp())
    gradients = torch.func.vmap(torch.func.grad(lambda x: voxel_costs(x, cost).sum()))(log_p)
    torch.testing.assert_close(gradients, slope, rtol=1e-12, atol=0)
    torch.compiler.reset()
    compiled = torch.compile(lambda x: voxel_costs(x, cost) * 2, fullgraph=True, backend="aot_eager")
    log_p.requires_grad_()
    found = compiled(log_p)
    torch.testing.assert_close(found, 2 * voxel_costs(log_p, cost), rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), log_p)[0], 2 * slope, rtol=1e-12, atol=0)
    torch.compiler.reset()
