"""Sizes of contours against a look at every voxel."""

from itertools import product

import pytest
import torch

from delineate.ops.contour import contour_sizes

SPACES = [(9,), (6, 7), (4, 5, 3), (1, 6, 5), (6, 1), (1,)]


def by_looking(mask):
    """Voxels on the contour and all; mask: (*S) bool."""
    edge = 0
    for at in map(tuple, mask.nonzero().tolist()):
        outside = False
        for axis, step in product(range(mask.ndim), (-1, 1)):
            if mask.shape[axis] > 1:
                k = at[axis] + step
                inside = 0 <= k < mask.shape[axis]
                outside |= not inside or not mask[(*at[:axis], k, *at[axis + 1 :])].item()
        edge += outside
    return [edge, int(mask.sum())]


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("share", [0, 0.2, 0.8, 0.97, 1])
def test_equals_looking(space, holes, share):
    labels = (torch.rand(2, *space) < share).long()
    ignored = torch.rand(2, *space) < 0.1 if holes else None
    seen = torch.ones_like(labels, dtype=torch.bool) if ignored is None else ~ignored
    expected = torch.tensor(
        [[by_looking((one == c) & ok) for c in (0, 1)] for one, ok in zip(labels, seen, strict=True)]
    )
    found = contour_sizes(labels, 2, ignored)
    assert found.dtype == torch.float64
    assert found.tolist() == expected.mT.tolist()
    assert torch.equal(contour_sizes(labels, 1, ignored), found[..., 1:])
    assert torch.equal(contour_sizes(labels.bool(), 2, ignored), found)
    dense = torch.stack([labels == 0, labels == 1], 1) * 0.8
    before = dense.clone()
    assert torch.equal(contour_sizes(dense, 2, ignored), found)
    assert torch.equal(contour_sizes(dense.transpose(1, -1).contiguous().transpose(1, -1), 2, ignored), found)
    assert torch.equal(dense, before)


def test_a_square_of_five():
    labels = torch.zeros(1, 7, 7, dtype=torch.uint8)
    labels[0, 1:6, 1:6] = 1
    assert contour_sizes(labels, 1, None).tolist() == [[[16], [25]]]
    labels[0, 3, 3] = 255
    assert contour_sizes(labels, 1, labels == 255).tolist() == [[[20], [24]]]
    assert contour_sizes(torch.ones(1, 7, 7, dtype=torch.long), 1, None).tolist() == [[[24], [49]]]


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_a_volume_of_depth_one_equals_its_image(axis):
    labels = torch.randint(0, 3, (2, 6, 7))
    assert torch.equal(contour_sizes(labels.unsqueeze(axis), 3, None), contour_sizes(labels, 3, None))


@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 0, 4), (2, 0)])
def test_nothing_to_count(shape):
    assert contour_sizes(torch.zeros(shape, dtype=torch.long), 3, None).tolist() == [[[0] * 3] * 2] * shape[0]


def test_compiles():
    torch.compiler.reset()
    labels, ignored = torch.randint(0, 3, (2, 6, 7)), torch.rand(2, 6, 7) < 0.2
    compiled = torch.compile(contour_sizes, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(labels, 3, ignored), contour_sizes(labels, 3, ignored))
    torch.compiler.reset()
