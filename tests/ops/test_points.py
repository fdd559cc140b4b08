"""Means over distances to points against all pairs, and their gradients."""

import numpy as np
import pytest
import torch

from delineate.ops import points
from delineate.ops.points import EPSILON, point_means

SPACES = {"1d": (19,), "2d": (9, 8), "3d": (5, 6, 4), "depth 1": (1, 7, 6), "one voxel": (1, 1)}
SMALL = {"1d": (7,), "2d": (4, 3), "3d": (2, 3, 2), "depth 1": (1, 4, 3), "one voxel": (1, 1)}
spaces = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
exponents = pytest.mark.parametrize("exponent", [-1.0, -0.3, -4.0, -6.0])


def inputs(space, *, dtype=torch.float64, share=0.3):
    """p, masks, weight, size of a voxel, d_max: the first sample has an empty mask, and voxels without weight."""
    p, masks = torch.rand(2, 2, *space, dtype=dtype), torch.rand(2, 2, *space) < share
    masks[0, 1] = False
    weight = torch.rand(2, *space, dtype=dtype)
    weight[0] *= torch.rand(space) > 0.3
    size = torch.tensor([[1.0, 1, 1], [0.7, 3, 2.5]], dtype=torch.float64)[:, : len(space)].contiguous()
    return p, masks & (weight > 0)[:, None], weight, size, torch.tensor([11.0, 20.0], dtype=torch.float64)


def by_pairs(p, masks, weight, size, farthest, exponent, max_points=10**9):
    sums = np.zeros((*p.shape[:2], 2))
    grid = np.indices(p.shape[2:]).reshape(p.ndim - 2, -1).T
    for n, c in np.ndindex(*p.shape[:2]):
        p_i, w_i, on = (t.double().numpy().ravel() for t in (p[n, c], weight[n], masks[n, c]))
        chosen = np.flatnonzero(on)
        if len(chosen) > max_points:
            chosen = chosen[[k * len(chosen) // max_points for k in range(max_points)]]
        for j in chosen:
            d = np.sqrt((((grid - grid[j]) * size[n].numpy()) ** 2).sum(1))
            logs = exponent * np.log(p_i * d + (1 - p_i) * farthest[n].item() + EPSILON)
            most = logs[w_i > 0].max()
            mean = np.log((w_i * np.exp(np.minimum(logs - most, 0))).sum() / w_i.sum()) + most
            sums[n, c] += w_i[j] * np.exp(mean / exponent), w_i[j]
    return torch.from_numpy(sums).unbind(2)


def check(found, expected, tolerance=1e-9):
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float64
        torch.testing.assert_close(one, other, rtol=tolerance, atol=0)


@spaces
@exponents
def test_equals_all_pairs(space, exponent):
    p, *others = inputs(space)
    check(point_means(p, *others, exponent, 1000), by_pairs(p, *others, exponent))
    check(point_means(p.float(), *others, exponent, 1000), by_pairs(p.float(), *others, exponent), 1e-5)
    sure = p.round()
    check(point_means(sure, *others, exponent, 1000), by_pairs(sure, *others, exponent), 1e-9)


@pytest.mark.parametrize("max_points", [1, 2, 7, 20, 21, 1000])
def test_larger_sets_are_sampled_evenly(max_points):
    p, *others = inputs((9, 8), share=0.6)
    check(point_means(p, *others, -1.0, max_points), by_pairs(p, *others, -1.0, max_points))


@pytest.mark.parametrize("pairs", [1, 73, 500])
def test_blocks_join_without_seams(monkeypatch, pairs):
    p, *others = inputs((9, 8))
    p.requires_grad_()

    def run():
        total, count = point_means(p, *others, -1.0, 1000)
        return total, count, torch.autograd.grad((total * total.detach().cos()).sum(), p)[0]

    whole = run()
    monkeypatch.setattr(points, "PAIRS", pairs)
    torch.testing.assert_close(run(), whole, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("space", SMALL.values(), ids=SMALL)
@exponents
def test_gradients(space, exponent):
    """Of all points of a mask, and of a sample of them."""
    p, *others = inputs(space, share=0.6)
    for most in (2, 20):
        assert torch.autograd.gradcheck(lambda p, n=most: point_means(p, *others, exponent, n)[0], p.requires_grad_())


@pytest.mark.parametrize("exponent", [-1.0, -4.0, -4.5, -9.0, -30.0, -1000.0])
def test_steep_exponents_stay_finite_in_float32(exponent):
    p, masks, *others = inputs((9, 8), dtype=torch.float32)
    for given in (p, masks.float()):  # the second: f = 1e-6 at each point
        z = given.clone().requires_grad_()
        total, count = point_means(z, masks, *others, exponent, 1000)
        check((total, count), by_pairs(given, masks, *others, exponent), 2e-5)
        total.sum().backward()
        assert z.grad.isfinite().all()
        wide = given.double().requires_grad_()
        point_means(wide, masks, *others, exponent, 1000)[0].sum().backward()
        torch.testing.assert_close(z.grad.double(), wide.grad, rtol=2e-3, atol=1e-5)


def test_voxels_without_weight_do_not_count():
    p, masks, weight, *others = inputs((9, 8))
    other = torch.where((weight > 0)[:, None], p, 1e-3).requires_grad_()
    found = point_means(other, masks, weight, *others, -20.0, 1000)
    check(found, point_means(p, masks, weight, *others, -20.0, 1000))
    found[0].sum().backward()
    assert not other.grad[(weight == 0)[:, None].expand_as(p)].any()


def test_nothing_to_average():
    p, masks, weight, *others = inputs((9, 8))
    for nothing in ((masks & False, weight), (masks, weight * 0)):
        z = p.clone().requires_grad_()
        total, count = point_means(z, *nothing, *others, -1.0, 10)
        assert total.tolist() == count.tolist() == [[0, 0], [0, 0]]
        total.sum().backward()
        assert not z.grad.any()


@pytest.mark.parametrize("shape", [(0, 2, 5, 6), (2, 2, 0, 6), (2, 2, 0)])
def test_no_voxels(shape):
    p, samples = torch.rand(shape, requires_grad=True), shape[0]
    size = torch.ones(samples, len(shape) - 2, dtype=torch.float64)
    total, count = point_means(p, p > 0.5, p[:, 0].detach(), size, torch.ones(samples), -1.0, 10)
    total.sum().backward()
    assert total.tolist() == count.tolist() == [[0, 0]] * samples
    assert p.grad.shape == shape


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_a_volume_of_depth_one_equals_its_image(axis):
    p, masks, weight, size, farthest = inputs((7, 8))
    thick = torch.cat([size[:, : axis - 1], size.new_full((2, 1), 7), size[:, axis - 1 :]], 1)
    deep = point_means(
        p.unsqueeze(axis + 1), masks.unsqueeze(axis + 1), weight.unsqueeze(axis), thick, farthest, -1.0, 9
    )
    check(deep, point_means(p, masks, weight, size, farthest, -1.0, 9))


def test_memory_layout_does_not_count_and_nothing_is_written():
    p, masks, weight, *others = inputs((7, 8))
    expected, results = point_means(p, masks, weight, *others, -1.0, 9), []
    spread = torch.zeros(2, 2, 14, 16, dtype=p.dtype)
    spread[:, :, ::2, ::2] = p
    for same in (p, p.to(memory_format=torch.channels_last), p.mT.contiguous().mT, spread[:, :, ::2, ::2]):
        same = same.detach().requires_grad_()
        found = point_means(same, masks.mT.contiguous().mT, weight.mT.contiguous().mT, *others, -1.0, 9)
        check(found, expected)
        results.append(torch.autograd.grad(found[0].sum(), same)[0])
        assert torch.equal(same, p)
    for grad in results[1:]:
        torch.testing.assert_close(grad, results[0])


def test_nan_is_not_lost():
    p, masks, *others = inputs((5, 6))
    p[1, 1, 2, 3] = torch.nan
    masks[1] = True
    assert point_means(p, masks, *others, -1.0, 9)[0].isnan().tolist() == [[False, False], [False, True]]


def test_opcheck():
    p, *others = inputs((5, 4), dtype=torch.float32)
    utils = ("test_schema", "test_faketensor")
    for same in (p, p.to(memory_format=torch.channels_last)):
        args = (same.detach().requires_grad_(), *others, -1.0, 9)
        torch.library.opcheck(points._forward, args, test_utils=utils)
        torch.library.opcheck(points._backward, (torch.rand(2, 2, 2).double(), same, same), test_utils=utils)


def test_compiles():
    def value(p):
        total, count = point_means(p.sigmoid(), *others, -1.0, 9)
        return (total / count.clamp_min(1)).square().sum()

    torch.compiler.reset()
    p, *others = inputs((5, 6))
    p.requires_grad_()
    values = torch.compile(value, fullgraph=True, backend="aot_eager")(p), value(p)
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*(torch.autograd.grad(v, p)[0] for v in values))
    torch.compiler.reset()


def test_second_derivatives_are_refused():
    """Also beside terms that have one: they are not taken for 0."""
    p, *others = inputs((5, 6))
    total, _ = point_means(p.requires_grad_(), *others, -1.0, 9)
    (slope,) = torch.autograd.grad(total.sum() + p.square().sum(), p, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives of a loss are not supported"):
        slope.sum().backward()
