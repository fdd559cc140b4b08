"""Soft skeletons against the reference and against max-pooling; hard skeletons and tubes against scipy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from delineate.ops import skeleton
from delineate.ops.skeleton import skeletons, soft_skeletons, tubes
from delineate.ops.thinning import thin
from reference.structure import soft_skeleton

SPACES = {"1d": (19,), "2d": (9, 8), "3d": (5, 6, 4), "depth 1": (1, 7, 6), "column": (9, 1), "one voxel": (1, 1)}
spaces = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
holes = pytest.mark.parametrize("holes", [False, True])


def inputs(space, *, holes=False, dtype=torch.float64):
    return torch.rand(2, 3, *space, dtype=dtype), torch.rand(2, *space) < 0.25 if holes else None


def by_reference(p, ignored, iterations):
    void = np.zeros((len(p), *p.shape[2:]), bool) if ignored is None else ignored.numpy()
    pairs = zip(p.numpy(), ~void, strict=True)
    planes = [[soft_skeleton(x * valid, valid, iterations) for x in sample] for sample, valid in pairs]
    return torch.from_numpy(np.array(planes))


def by_pooling(p, iterations):
    """As the authors write it, for (N, C, H, W) or (N, C, D, H, W)."""
    dims = p.ndim - 2
    pool = F.max_pool2d if dims == 2 else F.max_pool3d

    def eroded(x):
        sides = [[3 if k == axis else 1 for k in range(dims)] for axis in range(dims)]
        each = [-pool(-x, side, 1, [k // 2 for k in side]) for side in sides]
        return torch.stack(each).amin(0)

    def lost(x):
        return F.relu(x - pool(eroded(x), 3, 1, 1))

    found = lost(p)
    for _ in range(iterations):
        p = eroded(p)
        found = found + F.relu(lost(p) - found * lost(p))
    return found


@spaces
@holes
@pytest.mark.parametrize("iterations", [0, 1, 4])
def test_equals_the_reference(space, holes, iterations):
    p, ignored = inputs(space, holes=holes)
    p[0, 0] = p[0, 0].round()
    p[0, 1] = (p[0, 1] * 3).round() / 3  # many ties
    expected = by_reference(p, ignored, iterations)
    torch.testing.assert_close(soft_skeletons(p, ignored, iterations), expected, rtol=0, atol=1e-12)
    found = soft_skeletons(p.float(), ignored, iterations)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("space", [(12, 11), (6, 7, 8)])
@pytest.mark.parametrize("iterations", [0, 3])
def test_equals_max_pooling(space, iterations):
    p, upstream = torch.rand(2, 2, *space, dtype=torch.float64, requires_grad=True), torch.rand(2, 2, *space).double()
    found, expected = soft_skeletons(p, None, iterations), by_pooling(p, iterations)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, p, upstream)[0] for value in (found, expected)))


@spaces
@holes
@pytest.mark.parametrize("iterations", [0, 3])
def test_gradients(space, holes, iterations):
    p, ignored = inputs(space, holes=holes)
    args = (p.requires_grad_(), ignored, iterations)
    assert torch.autograd.gradcheck(soft_skeletons, args, fast_mode=True)


def test_every_entry_of_the_gradient():
    p, ignored = torch.rand(1, 1, 4, 5, dtype=torch.float64), torch.rand(1, 4, 5) < 0.2
    for void in (None, ignored):
        assert torch.autograd.gradcheck(soft_skeletons, (p.requires_grad_(), void, 2))


@pytest.mark.parametrize("kind", ["flat", "bars", "steps"])
@pytest.mark.parametrize("dims", [2, 3])
def test_ties_share_the_gradient(kind, dims):
    """Of a symmetric image it is symmetric too."""
    x = (torch.arange(9, dtype=torch.float64) - 4).abs()
    if kind == "flat":
        p = torch.full((9,) * dims, 0.7, dtype=torch.float64)
    elif kind == "bars":
        p = torch.where(x < 3, 0.9, 0.2).double().expand((9,) * dims)
    else:
        p = 1 - sum(x.view([-1 if k == axis else 1 for k in range(dims)]) for axis in range(dims)) / 20
    p = p[None, None].contiguous().requires_grad_()
    found = soft_skeletons(p, None, 3)
    (grad,) = torch.autograd.grad(found.sum(), p)
    for dim in range(2, p.ndim):
        torch.testing.assert_close(found.flip(dim), found, rtol=0, atol=1e-12)
        torch.testing.assert_close(grad.flip(dim), grad, rtol=0, atol=1e-12)
    if kind == "steps":
        torch.testing.assert_close(grad.transpose(2, 3), grad, rtol=0, atol=1e-12)


def test_ignored_voxels_may_hold_anything():
    p, ignored = inputs((9, 8), holes=True)
    other = torch.where(ignored[:, None], torch.rand_like(p), p).requires_grad_()
    found = soft_skeletons(other, ignored, 3)
    assert torch.equal(found, soft_skeletons(p, ignored, 3))
    assert not found[ignored[:, None].expand_as(p)].any()
    found.sum().backward()
    assert not other.grad[ignored[:, None].expand_as(p)].any()


@pytest.mark.parametrize("axis", [1, 2, 3])
@holes
def test_a_volume_of_depth_one_equals_its_image(axis, holes):
    p, ignored = inputs((7, 8), holes=holes)
    deep = None if ignored is None else ignored.unsqueeze(axis)
    found = soft_skeletons(p.unsqueeze(axis + 1), deep, 2)
    assert torch.equal(found, soft_skeletons(p, ignored, 2).unsqueeze(axis + 1))
    for op in (lambda *a: skeletons(*a), lambda *a: tubes(*a, True), lambda *a: tubes(*a, False)):
        assert torch.equal(op(p.unsqueeze(axis + 1), 3, deep), op(p, 3, ignored).unsqueeze(axis + 1))


def layers_by_scipy(mask, valid):
    """The number of the last layer at which an opening loses each voxel; 1 for what never goes away."""
    long = tuple(slice(None) if n > 1 else slice(1, 2) for n in mask.shape)
    cross, box = (ndimage.generate_binary_structure(mask.ndim, rank)[long] for rank in (1, mask.ndim))
    found, layer, mask = np.zeros(mask.shape, int), 1, mask & valid
    while True:
        eroded = ndimage.binary_erosion(mask | ~valid, cross, border_value=1) & valid
        if (eroded == mask).all():
            return np.where(mask & (found == 0), 1, found)
        found[mask & ~ndimage.binary_dilation(eroded, box)] = layer
        mask, layer = eroded, layer + 1


@spaces
@holes
@pytest.mark.parametrize("share", [0, 0.5, 0.9, 0.98, 1])
def test_skeletons_equal_scipy(space, holes, share):
    labels = (torch.rand(2, *space) < share).long()
    ignored = torch.rand(2, *space) < 0.15 if holes else None
    valid = np.ones(labels.shape, bool) if ignored is None else ~ignored.numpy()
    planes = [[layers_by_scipy(y == c, ok) for c in (0, 1)] for y, ok in zip(labels.numpy(), valid, strict=True)]
    found = skeletons(labels, 2, ignored)
    assert found.dtype == torch.uint8
    assert found.tolist() == np.array(planes).tolist()
    on = np.stack([labels == 0, labels == 1], 1) & valid[:, None]
    assert torch.equal(found > 0, by_reference(torch.from_numpy(on).double(), ignored, None) > 0)


@pytest.mark.parametrize("width", range(1, 26))
def test_bars_have_a_skeleton(width):
    labels = torch.zeros(1, 30, 60, dtype=torch.uint8)
    labels[0, 2 : 2 + width, 5:55] = 1
    found = skeletons(labels, 1, None)[0, 0]
    assert found.max() == (width + 1) // 2
    middle = found[:, 20:40]
    rows = middle.any(1).nonzero()[:, 0].tolist()
    assert rows == ([2 + width // 2] if width % 2 else [1 + width // 2, 2 + width // 2])
    assert (middle[rows] == (width + 1) // 2).all()
    whole = soft_skeletons((labels[:, None] == 1).double(), None, width)
    assert torch.equal(whole[0, 0] > 0, found > 0)


def test_layers_end_at_255():
    labels = torch.zeros(1, 640, dtype=torch.uint8)
    labels[0, 10:610] = 1
    found = skeletons(labels, 1, None)[0, 0]
    assert found.nonzero()[:, 0].tolist() == [309, 310]
    assert found.max() == 255


def test_a_full_image_is_its_own_skeleton():
    labels = torch.ones(1, 6, 7, dtype=torch.long)
    assert skeletons(labels, 2, None).tolist() == [[[[0] * 7] * 6, [[1] * 7] * 6]]
    labels[0, :3] = 255
    assert skeletons(labels, 1, labels == 255)[0, 0].tolist() == [[0] * 7] * 3 + [[1] * 7] * 3


def tube_by_scipy(mask):
    return ndimage.binary_dilation(thin(mask), ndimage.generate_binary_structure(mask.ndim, 1), iterations=2)


@spaces
@holes
@pytest.mark.parametrize("merged", [False, True])
def test_tubes_equal_scipy(space, holes, merged):
    labels = torch.randint(0, 3, (2, *space))
    labels[0] = torch.where(torch.rand(space) < 0.9, 2, 0)
    ignored = torch.rand(2, *space) < 0.1 if holes else None
    found = tubes(labels, 3, ignored, merged)
    assert found.dtype == torch.uint8
    for n in range(2):
        valid = np.ones(space, bool) if ignored is None else ~ignored[n].numpy()
        y = labels[n].numpy()
        everything = tube_by_scipy((y > 0) & valid)
        for c in range(3):
            mask = (y == c) & valid
            expected = mask & everything & (c > 0) if merged else mask & tube_by_scipy(mask)
            assert np.array_equal(found[n, c].numpy().astype(bool), expected)


def test_tubes_are_five_voxels_wide():
    labels = torch.zeros(1, 21, 40, dtype=torch.long)
    labels[0, 4:17] = 1
    labels[0, 4:17, 20:] = 2
    whole = tubes(labels, 3, None, True)[0]
    assert not whole[0].any()
    assert whole[1:].sum(0)[:, 10:30].sum(0).tolist() == [5] * 20
    assert whole[2, :, 20:30].sum(0).tolist() == [5] * 10


@holes
def test_masks_of_any_kind(holes):
    labels, ignored = torch.randint(0, 2, (2, 8, 9)), torch.rand(2, 8, 9) < 0.2 if holes else None
    for op in (skeletons, lambda *a: tubes(*a, True), lambda *a: tubes(*a, False)):
        expected = op(labels, 2, ignored)
        for dtype in (torch.bool, torch.uint8, torch.int8, torch.int32):
            assert torch.equal(op(labels.to(dtype), 2, ignored), expected)
        dense = torch.stack([labels == 0, labels == 1], 1) * 0.6
        for same in (dense, dense.to(memory_format=torch.channels_last)):
            before = same.clone()
            assert torch.equal(op(same, 2, ignored), expected)
            assert torch.equal(same, before)
        assert torch.equal(op(labels.mT.contiguous().mT, 2, ignored), expected)
    assert torch.equal(skeletons(labels, 1, ignored), skeletons(labels, 2, ignored)[:, 1:])


@pytest.mark.parametrize("shape", [(0, 5, 6), (2, 0, 6), (2, 4, 0), (2, 0)])
@holes
def test_nothing_to_thin(shape, holes):
    labels, ignored = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool) if holes else None
    p = torch.rand(shape[0], 2, *shape[1:], requires_grad=True)
    found = soft_skeletons(p, ignored, 3)
    found.sum().backward()
    assert found.shape == p.grad.shape == p.shape
    assert skeletons(labels, 2, ignored).shape == p.shape
    assert tubes(labels, 2, ignored, True).shape == tubes(labels, 2, ignored, False).shape == p.shape


def test_memory_layout_does_not_count_and_nothing_is_written():
    p, ignored = inputs((8, 9), holes=True)
    upstream, results = torch.rand_like(p), []
    spread = torch.zeros(2, 3, 16, 18, dtype=p.dtype)
    spread[:, :, ::2, ::2] = p
    for same in (p, p.to(memory_format=torch.channels_last), p.mT.contiguous().mT, spread[:, :, ::2, ::2]):
        same = same.detach().requires_grad_()
        found = soft_skeletons(same, ignored.mT.contiguous().mT, 3)
        results.append((found, torch.autograd.grad(found, same, upstream)[0]))
        assert torch.equal(same, p)
    for found, grad in results[1:]:
        assert torch.equal(found, results[0][0])
        assert torch.equal(grad, results[0][1])


def test_nan_is_not_lost():
    p = torch.rand(1, 2, 5, 5)
    p[0, 1, 2, 2] = torch.nan
    p.requires_grad_()
    found = soft_skeletons(p, None, 2)
    assert found.flatten(2).isnan().any(2).tolist() == [[False, True]]
    found.sum().backward()
    assert p.grad.flatten(2).isnan().any(2).tolist() == [[False, True]]


@holes
def test_opcheck(holes):
    p, ignored = inputs((5, 4), holes=holes, dtype=torch.float32)
    labels, utils = torch.randint(0, 3, (2, 5, 4)), ("test_schema", "test_faketensor")
    for same in (p, p.to(memory_format=torch.channels_last)):
        torch.library.opcheck(skeleton._forward, (same.detach().requires_grad_(), ignored, 2), test_utils=utils)
        torch.library.opcheck(skeleton._backward, (torch.rand_like(p), same, ignored, 2), test_utils=utils)
        for target in (labels, labels.mT.contiguous().mT, same):
            torch.library.opcheck(skeletons, (target, 3, ignored), test_utils=utils)
            torch.library.opcheck(tubes, (target, 3, ignored, True), test_utils=utils)
            torch.library.opcheck(tubes, (target, 3, ignored, False), test_utils=utils)


def test_compiles():
    def total(p):
        both = skeletons(labels, 3, ignored) + tubes(labels, 3, ignored, True)
        return (soft_skeletons(p, ignored, 2) * both).sum()

    torch.compiler.reset()
    p, ignored = inputs((6, 7), holes=True)
    labels = torch.randint(0, 3, (2, 6, 7))
    p.requires_grad_()
    values = torch.compile(total, fullgraph=True, backend="aot_eager")(p), total(p)
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*(torch.autograd.grad(value, p)[0] for value in values))
    torch.compiler.reset()


def test_second_derivatives_are_refused():
    p, _ = inputs((6, 7))
    (slope,) = torch.autograd.grad(soft_skeletons(p.requires_grad_(), None, 2).sum(), p, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives of a loss are not supported"):
        slope.sum().backward()
