"""Maps by erosion against the formula voxel by voxel, and their gradients."""

import numpy as np
import pytest
import torch

from delineate.ops import erosion
from delineate.ops.erosion import erosion_maps
from reference.grids import cross, shifted

SPACES = {"1d": (19,), "2d": (9, 8), "3d": (5, 6, 4), "depth 1": (1, 7, 6), "column": (9, 1), "one voxel": (1, 1)}
spaces = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
holes = pytest.mark.parametrize("holes", [False, True])
rescaled = pytest.mark.parametrize("rescale", [False, True], ids=["plain", "rescaled"])


def inputs(space, *, holes=False, dtype=torch.float64, power=0.2):
    """Residuals, mostly large."""
    residual, ignored = torch.rand(2, 3, *space, dtype=dtype) ** power, torch.rand(2, *space) < 0.15
    return (residual.masked_fill(ignored[:, None], 0), ignored) if holes else (residual, None)


def by_voxel(residual, ignored, alpha, erosions, rescale):
    found = np.zeros(residual.shape)
    for n, c in np.ndindex(*residual.shape[:2]):
        b = residual[n, c].double().numpy()
        valid = np.full(b.shape, True) if ignored is None else ~ignored[n].numpy()
        steps = cross(b.shape)
        for k in range(1, erosions + 1):
            b = (b + sum(shifted(b, step, 0.0) for step in steps)) / (len(steps) + 1)
            b = np.where(valid, np.maximum(b - 0.5, 0.0), 0.0)
            low, high = (b[valid].min(), b[valid].max()) if valid.any() else (0, 0)
            if rescale and high > low:
                b = np.where(valid, (b - low) / (high - low), 0.0)
            found[n, c] += k**alpha * b
    return torch.from_numpy(found)


@spaces
@holes
@rescaled
@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_equals_the_formula(space, holes, rescale, alpha):
    residual, ignored = inputs(space, holes=holes)
    residual[0, 0] = residual[0, 0].round()
    residual[0, 1] = 0
    if ignored is not None:
        ignored[1] = True
        residual[1] = 0
    for erosions in (1, 6):
        expected = by_voxel(residual, ignored, alpha, erosions, rescale)
        torch.testing.assert_close(erosion_maps(residual, ignored, alpha, erosions, rescale), expected)
        found = erosion_maps(residual.float(), ignored, alpha, erosions, rescale)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


@spaces
@holes
@rescaled
def test_gradients(space, holes, rescale):
    residual, ignored = inputs(space, holes=holes)
    args = (residual.requires_grad_(), ignored, 1.5, 4, rescale)
    assert torch.autograd.gradcheck(erosion_maps, args, fast_mode=True)


@rescaled
def test_every_entry_of_the_gradient(rescale):
    residual, ignored = inputs((4, 5), holes=True, power=0.1)
    for void in (None, ignored):
        assert torch.autograd.gradcheck(
            erosion_maps, (residual[:1, :1].requires_grad_(), None if void is None else void[:1], 2.0, 3, rescale)
        )


@rescaled
def test_ties_share_the_gradient(rescale):
    """As autograd has it: the smallest and the largest value are those of many voxels."""
    erosions = 1 if rescale else 3  # rescaled values are rounded, and then no longer equal
    residual = torch.ones(1, 1, 7, 7, dtype=torch.float64)
    residual[..., 3, 3] = 0.25
    residual.requires_grad_()
    found = erosion_maps(residual, None, 2.0, erosions, rescale)
    (grad,) = torch.autograd.grad(found.square().sum(), residual)
    assert grad.any()
    for same in (grad.flip(2), grad.flip(3), grad.mT):
        torch.testing.assert_close(same, grad)
    b, total = residual, 0
    kernel = torch.tensor([[0.0, 1, 0], [1, 1, 1], [0, 1, 0]]).double()[None, None] / 5
    for k in range(1, erosions + 1):
        b = (torch.nn.functional.conv2d(b, kernel, padding=1) - 0.5).clamp_min(0)
        b = (b - b.amin()) / (b.amax() - b.amin()) if rescale and b.amax() > b.amin() else b
        total = total + k**2 * b
    torch.testing.assert_close(found, total)
    torch.testing.assert_close(grad, torch.autograd.grad(total.square().sum(), residual)[0])


@rescaled
def test_erosion_ends_where_nothing_is_left(monkeypatch, rescale):
    residual = torch.zeros(1, 1, 9, 9)
    residual[..., 3:6, 3:6] = 1
    steps, step = [], erosion._Step
    monkeypatch.setattr(erosion, "_Step", lambda *args: steps.append(1) or step(*args))
    few, many = (erosion_maps(residual, None, 2.0, erosions, rescale) for erosions in (12, 1000))
    assert torch.equal(few, many)
    assert 2 <= len(steps) <= 24
    steps.clear()
    assert not erosion_maps(0 * residual, None, 2.0, 10, rescale).any()
    assert len(steps) == 1


def test_a_flat_residual_is_not_scaled():
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64, requires_grad=True)
    found = erosion_maps(one, None, 2.0, 3, True)
    assert found.item() == 0.5
    found.sum().backward()
    assert one.grad.item() == 1
    row, ignored = torch.tensor([[[0.0, 1, 1, 1, 0]]]), torch.tensor([[True, True, False, True, True]])
    row = row.masked_fill(ignored[:, None], 0)
    assert not erosion_maps(row, ignored, 2.0, 3, True).any()
    wide = torch.tensor([[[0.9, 0.9]]])
    assert erosion_maps(wide, None, 2.0, 1, True)[0, 0].tolist() == pytest.approx([0.1, 0.1])


@holes
@rescaled
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_a_volume_of_depth_one_equals_its_image(axis, holes, rescale):
    residual, ignored = inputs((7, 8), holes=holes)
    deep = None if ignored is None else ignored.unsqueeze(axis)
    found = erosion_maps(residual.unsqueeze(axis + 1), deep, 2.0, 4, rescale)
    assert torch.equal(found, erosion_maps(residual, ignored, 2.0, 4, rescale).unsqueeze(axis + 1))


@pytest.mark.parametrize("shape", [(0, 3, 5, 6), (2, 3, 0, 6), (2, 3, 0)])
@holes
@rescaled
def test_nothing_to_erode(shape, holes, rescale):
    residual = torch.rand(shape, requires_grad=True)
    ignored = torch.zeros(shape[0], *shape[2:], dtype=torch.bool) if holes else None
    found = erosion_maps(residual, ignored, 2.0, 3, rescale)
    found.sum().backward()
    assert found.shape == residual.grad.shape == shape


def test_memory_layout_does_not_count_and_nothing_is_written():
    residual, ignored = inputs((8, 9), holes=True)
    upstream, results = torch.rand_like(residual), []
    spread = torch.zeros(2, 3, 16, 18, dtype=residual.dtype)
    spread[:, :, ::2, ::2] = residual
    layouts = residual.to(memory_format=torch.channels_last), residual.mT.contiguous().mT, spread[:, :, ::2, ::2]
    for same in (residual, *layouts):
        same = same.detach().requires_grad_()
        found = erosion_maps(same, ignored.mT.contiguous().mT, 2.0, 4, True)
        results.append((found, torch.autograd.grad(found, same, upstream)[0]))
        assert torch.equal(same, residual)
    for parts in results[1:]:
        torch.testing.assert_close(parts, results[0])


@rescaled
def test_nan_is_not_lost(rescale):
    residual, _ = inputs((6, 6))
    residual[1, 2, 3, 3] = torch.nan
    found = erosion_maps(residual.requires_grad_(), None, 2.0, 3, rescale)
    assert found.flatten(2).isnan().any(2).tolist() == [[False] * 3, [False, False, True]]


@holes
@rescaled
def test_opcheck(holes, rescale):
    residual, ignored = inputs((5, 4), holes=holes, dtype=torch.float32)
    utils = ("test_schema", "test_faketensor")
    for same in (residual, residual.to(memory_format=torch.channels_last)):
        args = (same, ignored, 2.0, 3, rescale)
        torch.library.opcheck(erosion._backward, (torch.rand_like(residual), *args), test_utils=utils)
        torch.library.opcheck(erosion._forward, (same.detach().requires_grad_(), *args[1:]), test_utils=utils)


def test_compiles():
    def total(residual):
        return erosion_maps(residual * residual, ignored, 2.0, 3, True).sum()

    torch.compiler.reset()
    residual, ignored = inputs((6, 7), holes=True)
    residual.requires_grad_()
    values = torch.compile(total, fullgraph=True, backend="aot_eager")(residual), total(residual)
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*(torch.autograd.grad(value, residual)[0] for value in values))
    torch.compiler.reset()


def test_second_derivatives_are_refused():
    residual, _ = inputs((6, 7))
    found = erosion_maps(residual.requires_grad_(), None, 2.0, 3, True)
    (slope,) = torch.autograd.grad(found.sum(), residual, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives of a loss are not supported"):
        slope.sum().backward()
