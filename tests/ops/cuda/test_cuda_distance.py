"""Kernels of distances against their definition on the CPU, and against scipy."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from delineate.losses import parse
from delineate.ops.distance import squared_distances, squared_label_distances

from .device import kernels, there

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of infinities in the interpreter

SPACES = {"1d": (17,), "2d": (3, 34), "3d": (2, 3, 4), "depth 1": (1, 3, 5), "column": (7, 1), "one voxel": (1, 1)}
SIZES = torch.tensor([[3.0, 1.0, 2.0], [0.7, 0.7, 2.5]], dtype=torch.float64)
VOID = 255

holes = pytest.mark.parametrize("holes", [False, True])


def void(*shape, holes=True, share=0.4):
    """Ignored voxels."""
    return torch.rand(shape) < share if holes else None


def check(op, *args, rtol=1e-5):
    """Of the kernel, which writes to nothing given, against the definition; returns what it found."""
    expected, given = op(*args), [there(arg)[0] if isinstance(arg, torch.Tensor) else arg for arg in args]
    copies = [arg.clone() if isinstance(arg, torch.Tensor) else arg for arg in given]
    with kernels():
        found = op(*given).cpu()
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected, rtol=rtol, atol=0)
    torch.testing.assert_close(given, copies, rtol=0, atol=0, equal_nan=True)
    return found


@holes
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_noise_and_a_large_region(space, holes):
    labels, ignored, size = torch.randint(0, 3, (2, *space)), void(2, *space, holes=holes), SIZES[:, : len(space)]
    labels[1, ..., : space[-1] // 3] = 1
    check(squared_distances, labels, 2, ignored, size)
    check(squared_label_distances, labels, ignored, size)


@holes
@pytest.mark.parametrize("space", [(7, 5), (5, 2, 3)], ids=str)
def test_many_tiles(space, holes, monkeypatch):
    kernel_file = pytest.importorskip("delineate.ops.cuda.distance")
    monkeypatch.setattr(kernel_file.Axis, "tile", lambda axis, size: (2, 4))
    labels, ignored = torch.randint(0, 3, (1, *space)), void(1, *space, holes=holes)
    labels[:, 4:] = 2
    check(squared_distances, labels, 1, ignored, None, rtol=0)
    check(squared_label_distances, labels, ignored, SIZES[1:, : len(space)])


@holes
def test_far_distances(holes):
    labels = torch.zeros(1, 20, 33, dtype=torch.long)
    labels[0, 17, 3] = 1
    ignored = void(1, 20, 33) & (labels == 0) if holes else None
    found = check(squared_distances, labels, 1, ignored, None, rtol=0)
    assert found.max() > 32**2


def test_two_voxels_in_the_void():
    labels, ignored = torch.zeros(2, 3, 7, 6, dtype=torch.long), torch.ones(2, 3, 7, 6, dtype=torch.bool)
    labels[:, 2, 6, 1], ignored[:, 2, 6, 1], ignored[0, 0, 0, 5] = 1, False, False
    found = check(squared_label_distances, labels, ignored, None, rtol=0)
    assert found[0, 0, 0, 5] == found[0, 2, 6, 1] == 4 + 36 + 16
    assert found[1, 2, 6, 1] == 1
    assert found.count_nonzero() == 3
    found = check(squared_distances, labels, 1, None, None, rtol=0)
    assert found[0, 0, 0, 0, 5] == 4 + 36 + 16


def test_both_names_of_an_ignored_voxel_may_come_from_one_place():
    labels = torch.full((1, 2, 3, 4), VOID)
    labels[0, 0, 0, 0], labels[0, 1, 2, 0], labels[0, 1, 2, 2] = 1, 1, 2
    found = check(squared_label_distances, labels, labels == VOID, None, rtol=0)
    assert found[0, 0, 0, 0] == 1 + 4 + 4  # by way of (1, 0, 0), which sees both others in row 2


@pytest.mark.parametrize("space", [(5, 33), (2, 3, 4)], ids=str)
def test_equals_scipy(space):
    masks, size = torch.rand(2, *space) < torch.tensor([0.1, 0.8]).view(2, *[1] * len(space)), SIZES[:, : len(space)]
    with kernels():
        found = squared_distances(*there(masks), 1, None, *there(size))[:, 0].cpu()
    for one, mask, sampling in zip(found, masks.numpy(), size.tolist(), strict=True):
        sides = [ndimage.distance_transform_edt(side, sampling=sampling) for side in (mask, ~mask)]
        np.testing.assert_allclose(one, (sides[0] + sides[1]) ** 2, rtol=1e-5)


@pytest.mark.parametrize("share", [0.5, 0.85])
def test_ignored_voxels_between_several_labels(share):
    labels, ignored = torch.randint(0, 3, (2, 3, 4, 6)), void(2, 3, 4, 6, share=share)
    check(squared_label_distances, labels.masked_fill(ignored, VOID), ignored, None, rtol=0)


@holes
@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32], ids=str
)
def test_any_type_of_labels(dtype, holes):
    labels, ignored = torch.randint(0, 2, (1, 2, 5)).to(dtype), void(1, 2, 5, holes=holes)
    check(squared_distances, labels, 2, ignored, None)
    check(squared_label_distances, labels, ignored, None)


@holes
def test_labels_of_64_bits(holes):
    names, labels = torch.tensor([0, 2**32, 5, -7]), torch.randint(0, 4, (1, 4, 7))
    ignored = void(1, 4, 7, holes=holes)
    expected = squared_label_distances(labels, ignored, None)
    with kernels():
        found = squared_label_distances(*there(names[labels], ignored), None).cpu()
    assert torch.equal(found, expected)


@holes
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_dense_maps_around_one_half(dtype, holes):
    eps = torch.finfo(dtype).eps
    values = torch.tensor([0.5 - eps, 0.5, 0.5 + eps, torch.nan], dtype=dtype)
    dense = values[torch.randint(0, 4, (1, 2, 2, 6))]
    check(squared_distances, dense, 2, void(1, 2, 6, holes=holes), SIZES[1:, :2])


@holes
def test_memory_layout_does_not_count(holes):
    space, wide = (2, 2, 3), torch.zeros(2, 4, 2, 6, dtype=torch.long)
    labels, dense, ignored = torch.randint(0, 3, (2, *space)), torch.rand(2, 2, *space), void(2, *space, holes=holes)
    wide[:, ::2, :, ::2] = labels
    turned = None if ignored is None else ignored.transpose(1, 3).contiguous().transpose(1, 3)
    size = SIZES.mT.contiguous().mT
    check(squared_distances, wide[:, ::2, :, ::2], 2, turned, size)
    check(squared_label_distances, labels.transpose(1, 3).contiguous().transpose(1, 3), turned, size)
    check(squared_distances, dense.to(memory_format=torch.channels_last_3d), 2, ignored, size)
    check(squared_distances, labels[:1].expand(2, *space), 1, ignored, SIZES[:1].expand(2, 3))


@holes
@pytest.mark.parametrize("shape", [(0, 5, 6), (2, 0, 6), (2, 4, 0), (2, 0)], ids=str)
def test_nothing_to_measure(shape, holes):
    labels, ignored = torch.zeros(shape, dtype=torch.long), void(*shape, holes=holes)
    check(squared_distances, labels, 2, ignored, None)
    check(squared_label_distances, labels, ignored, None)


@pytest.mark.parametrize(
    "text",
    ["HausdorffDT", "HausdorffDT(ignore_index=255, spacing=[2.0, 1.0])", "Boundary", "Boundary(ignore_index=255)"],
)
def test_losses(text):
    loss, logits, labels = parse(text), 3 * torch.randn(2, 2, 4, 5), torch.randint(0, 2, (2, 4, 5))
    labels = labels.masked_fill(void(2, 4, 5, share=0.3 if loss.ignore_index == VOID else 0), VOID)

    def value_and_gradient(logits, labels):
        logits = logits.clone().requires_grad_()
        value = loss(logits, labels)
        (1.7 * value).backward()
        return value.detach().cpu(), logits.grad.cpu()

    expected = value_and_gradient(logits, labels)
    with kernels():
        found = value_and_gradient(*there(logits, labels))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
