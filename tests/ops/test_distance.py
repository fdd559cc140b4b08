"""Distances to the other side against scipy, and against all pairs of voxels where some are ignored."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.distance import cdist

from delineate.ops.distance import _separable, read_masks, squared_distances, squared_label_distances

SPACES = {"1d": (23,), "2d": (13, 17), "3d": (7, 9, 8), "depth 1": (1, 9, 11), "column": (12, 1), "one voxel": (1, 1)}
SPACINGS = {"unit": None, "thick": (3.0, 1.0, 1.0), "odd": (0.7, 0.7, 2.5)}

spaces = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
spacings = pytest.mark.parametrize("spacing", SPACINGS.values(), ids=SPACINGS)


def some_masks(space):
    """Empty, full, one voxel, and random ones: (7, *S)."""
    rng = np.random.default_rng(0)
    masks = rng.random((7, *space)) < np.array([0, 1, 0, 0.03, 0.3, 0.7, 0.97]).reshape(-1, *[1] * len(space))
    masks[2].flat[masks[2].size // 3] = True
    return masks


def some_void(masks):
    """Ignored voxels: of one sample none, of the last all."""
    void = np.random.default_rng(1).random(masks.shape) < 0.4
    void[3], void[-1] = False, True
    return void


def sizes(spacing, samples, dims):
    return None if spacing is None else torch.tensor([spacing[:dims]] * samples, dtype=torch.float64)


def step_of(spacing, dims):
    return np.ones(dims) if spacing is None else np.array(spacing[:dims])


def by_scipy(mask, spacing):
    if mask.all() or not mask.any():
        return np.ones(mask.shape)
    step = step_of(spacing, mask.ndim)
    inside, outside = (ndimage.distance_transform_edt(side, sampling=step) for side in (mask, ~mask))
    return np.where(mask, inside, outside)


def by_pairs(labels, valid, spacing):
    """From every valid voxel to the nearest valid one of another label."""
    found, step = valid.astype(float), step_of(spacing, labels.ndim)
    for label in np.unique(labels[valid]):
        here, there = valid & (labels == label), valid & (labels != label)
        if there.any():
            found[here] = cdist(np.argwhere(here) * step, np.argwhere(there) * step).min(1)
    return found


def check(found, expected, rtol=1e-5):
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.double().sqrt(), expected, rtol=rtol, atol=0)


@spaces
@spacings
def test_equals_scipy(space, spacing):
    masks = some_masks(space)
    size, labels = sizes(spacing, len(masks), len(space)), torch.from_numpy(masks)
    expected = np.array([by_scipy(mask, spacing) for mask in masks])
    check(squared_distances(labels, 1, None, size)[:, 0], expected)
    check(squared_distances(labels, 2, None, size), np.stack([expected, expected], 1))
    check(squared_distances(labels[:, None] * 0.8, 1, None, size)[:, 0], expected)
    check(squared_label_distances(labels, None, size), expected)
    check(_separable(labels[:, None], None, size)[:, 0], expected, 1e-4)


@spaces
@spacings
def test_ignored_voxels_are_passed_through(space, spacing):
    masks = some_masks(space)
    void = some_void(masks)
    size, labels, ignored = sizes(spacing, len(masks), len(space)), torch.from_numpy(masks), torch.from_numpy(void)
    expected = np.array([by_pairs(mask, ~hole, spacing) for mask, hole in zip(masks, void, strict=True)])
    check(squared_distances(labels, 1, ignored, size)[:, 0], expected)
    check(squared_label_distances(labels, ignored, size), expected)
    check(_separable(read_masks(labels, 1, ignored), ignored, size)[:, 0], expected, 1e-4)


@spaces
@pytest.mark.parametrize("holes", [False, True])
def test_label_distances_are_those_of_each_mask(space, holes):
    labels = torch.randint(0, 4, (3, *space))
    labels[1] = 2
    ignored = torch.rand(3, *space) < 0.3 if holes else None
    size = sizes((0.7, 0.7, 2.5), 3, len(space))
    found = squared_label_distances(labels, ignored, size)
    by_channel = squared_distances(labels, 4, ignored, size)
    torch.testing.assert_close(found, by_channel.gather(1, labels[:, None])[:, 0], rtol=1e-6, atol=0)
    valid = np.ones(labels.shape, bool) if ignored is None else ~ignored.numpy()
    pairs = zip(labels.numpy(), valid, strict=True)
    check(found, np.array([by_pairs(one, ok, (0.7, 0.7, 2.5)) for one, ok in pairs]))


def test_every_one_of_many_classes():
    labels = torch.randint(0, 105, (1, 24, 24))
    found = squared_distances(labels, 105, None, None)
    check(found[0], np.array([by_scipy(labels[0].numpy() == c, None) for c in range(105)]))
    check(_separable(read_masks(labels, 105, None), None, None)[0], found[0].sqrt().numpy())
    check(squared_label_distances(labels, None, None)[0], by_pairs(labels[0].numpy(), labels[0].numpy() >= 0, None))


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.int64], ids=str
)
@pytest.mark.parametrize("holes", [False, True])
def test_any_type_of_labels(dtype, holes):
    labels = torch.randint(0, 2, (2, 6, 7))
    ignored = torch.rand(2, 6, 7) < 0.2 if holes else None
    for op, options in ((squared_distances, (2,)), (squared_label_distances, ())):
        assert torch.equal(op(labels.to(dtype), *options, ignored, None), op(labels, *options, ignored, None))


@pytest.mark.parametrize(("void", "dtype"), [(-1, torch.int8), (-100, torch.int64), (255, torch.uint8)])
def test_the_label_of_ignored_voxels_does_not_count(void, dtype):
    labels, ignored = torch.randint(0, 3, (2, 6, 7)), torch.rand(2, 6, 7) < 0.2
    marked = labels.masked_fill(ignored, void).to(dtype)
    for op, options in ((squared_distances, (3,)), (squared_label_distances, ())):
        assert torch.equal(op(marked, *options, ignored, None), op(labels, *options, ignored, None))


def test_no_voxel_is_ignored_where_none_is_marked():
    labels, ignored = torch.randint(0, 3, (2, 6, 7)), torch.zeros(2, 6, 7, dtype=torch.bool)
    for op, options in ((squared_distances, (3,)), (squared_label_distances, ())):
        assert torch.equal(op(labels, *options, ignored, None), op(labels, *options, None, None))


def test_integer_spacing_is_exact():
    labels = torch.zeros(1, 1, 300, dtype=torch.long)
    labels[..., 0] = 1
    expected = (torch.arange(300.0) * 3).square()
    expected[0] = 9
    size = torch.tensor([[5.0, 3.0]], dtype=torch.float64)
    assert torch.equal(squared_distances(labels, 1, None, size)[0, 0, 0], expected)
    assert torch.equal(squared_label_distances(labels, None, size)[0, 0], expected)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_a_volume_of_depth_one_equals_its_image(axis):
    labels, ignored = torch.randint(0, 3, (2, 8, 9)), torch.rand(2, 8, 9) < 0.2
    size = torch.tensor([[3.0, 0.5]] * 2, dtype=torch.float64)
    thick = torch.cat([size[:, : axis - 1], size.new_full((2, 1), 7), size[:, axis - 1 :]], 1)
    for void in (None, ignored):
        deep = None if void is None else void.unsqueeze(axis)
        flat = squared_distances(labels, 3, void, size)
        assert torch.equal(squared_distances(labels.unsqueeze(axis), 3, deep, thick), flat.unsqueeze(axis + 1))
        flat = squared_label_distances(labels, void, size)
        assert torch.equal(squared_label_distances(labels.unsqueeze(axis), deep, thick), flat.unsqueeze(axis))


@pytest.mark.parametrize("holes", [False, True])
def test_each_sample_has_its_spacing(holes):
    labels = torch.randint(0, 3, (3, 5, 6, 4))
    ignored = torch.rand(3, 5, 6, 4) < 0.2 if holes else None
    size = torch.tensor([[1.0, 1, 1], [3, 1, 1], [0.7, 0.7, 2.5]], dtype=torch.float64)
    for op, options in ((squared_distances, (3,)), (squared_label_distances, ())):
        alone = [
            op(labels[k, None], *options, None if ignored is None else ignored[k, None], size[k, None])
            for k in range(3)
        ]
        assert torch.equal(op(labels, *options, ignored, size), torch.cat(alone))
    elsewhere = _separable(read_masks(labels, 3, ignored), ignored, size)
    torch.testing.assert_close(elsewhere, squared_distances(labels, 3, ignored, size))


def test_memory_layout_does_not_count_and_nothing_is_written():
    labels, dense = torch.randint(0, 3, (2, 6, 8)), torch.rand(2, 3, 6, 8)
    ignored = torch.rand(2, 6, 8) < 0.2
    spread = torch.zeros(2, 12, 16, dtype=torch.long)
    spread[:, ::2, ::2] = labels
    for void in (None, ignored, ignored.mT.contiguous().mT):
        expected = squared_distances(labels, 3, void, None), squared_label_distances(labels, void, None)
        for same in (labels.mT.contiguous().mT, spread[:, ::2, ::2]):
            assert torch.equal(squared_distances(same, 3, void, None), expected[0])
            assert torch.equal(squared_label_distances(same, void, None), expected[1])
            assert torch.equal(same, labels)
        last = dense.to(memory_format=torch.channels_last)
        assert torch.equal(squared_distances(last, 3, void, None), squared_distances(dense, 3, void, None))
        assert torch.equal(last, dense)


@pytest.mark.parametrize("shape", [(0, 5, 6), (2, 0, 6), (2, 4, 0), (2, 0)])
@pytest.mark.parametrize("holes", [False, True])
def test_nothing_to_measure(shape, holes):
    labels = torch.zeros(shape, dtype=torch.long)
    ignored = torch.zeros(shape, dtype=torch.bool) if holes else None
    size = torch.ones(shape[0], len(shape) - 1, dtype=torch.float64)
    assert squared_distances(labels, 2, ignored, size).shape == (shape[0], 2, *shape[1:])
    assert _separable(read_masks(labels, 2, ignored), ignored, size).shape == (shape[0], 2, *shape[1:])
    assert squared_label_distances(labels, ignored, size).shape == shape


def test_the_default_type_of_numbers_does_not_count():
    torch.set_default_dtype(torch.float64)
    try:
        for labels in (torch.randint(0, 2, (2, 4, 4)), torch.zeros(0, 4, 4, dtype=torch.long)):
            assert squared_distances(labels, 2, None, None).dtype == torch.float32
            assert squared_label_distances(labels, None, None).dtype == torch.float32
            assert squared_label_distances(labels, torch.ones_like(labels) > 0, None).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_opcheck(holes, layout):
    labels, dense = torch.randint(0, 3, (2, 4, 5)), torch.rand(2, 3, 4, 5)
    if layout == "columns":
        labels, dense = labels.mT.contiguous().mT, dense.to(memory_format=torch.channels_last)
    ignored = torch.rand(2, 4, 5) < 0.2 if holes else None
    size = torch.ones(2, 2, dtype=torch.float64)
    utils = ("test_schema", "test_faketensor")
    torch.library.opcheck(squared_distances, (labels, 3, ignored, size), test_utils=utils)
    torch.library.opcheck(squared_distances, (dense, 3, ignored, None), test_utils=utils)
    torch.library.opcheck(squared_label_distances, (labels, ignored, size), test_utils=utils)


def test_compiles():
    def both(labels, ignored):
        return squared_distances(labels, 3, ignored, None).sqrt(), squared_label_distances(labels, ignored, None) * 2

    torch.compiler.reset()
    labels, ignored = torch.randint(0, 3, (2, 4, 5)), torch.rand(2, 4, 5) < 0.2
    found = torch.compile(both, fullgraph=True, backend="aot_eager")(labels, ignored)
    torch.testing.assert_close(found, both(labels, ignored))
    torch.compiler.reset()
