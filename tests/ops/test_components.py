"""Components against scipy, label by label; cells against the distance to every component."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from delineate.ops.components import CONNECTIVITIES, MOST, cells, components, connected, neighbours

SPACES = {"1d": (29,), "2d": (13, 17), "3d": (7, 9, 8), "depth 1": (1, 9, 11), "column": (12, 1), "one voxel": (1,)}
SPACINGS = {"unit": None, "thick": (3.0, 1.0, 1.0), "odd": (0.7, 0.7, 2.5)}
SMALL, WIDE = (torch.bool, torch.int8, torch.uint8, torch.int16), (torch.int32, torch.int64)
UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)

spaces = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
connectivities = pytest.mark.parametrize("connectivity", CONNECTIVITIES)
everything_or_not = pytest.mark.parametrize("everything", [False, True], ids=["foreground", "everything"])
holes_or_not = pytest.mark.parametrize("holes", [False, True], ids=["whole", "holes"])


def cells_of(target, channels, ignored, size, connectivity, min_size, everything):
    """The cells of a target's own components."""
    ids = components(target, channels, ignored, connectivity, min_size, everything)
    return cells(ids, target, channels, ignored, size, everything)


def some_labels(space, samples=3, classes=4):
    """Labels in clumps, so that components have several sizes; the last sample is empty."""
    noise = np.random.default_rng(0).random((samples, *space))
    labels = np.floor(classes * ndimage.median_filter(noise, (1, *[2] * len(space)))).astype(np.int64)
    labels[-1] = 0
    return torch.from_numpy(labels)


def some_maps(space, samples=3, channels=3):
    """Dense maps whose channels overlap; 0.5 itself is in no mask."""
    maps = torch.rand(samples, channels, *space, generator=torch.Generator().manual_seed(0))
    return torch.where((maps - 0.5).abs() < 0.05, 0.5, maps)


def some_void(space, samples=3):
    return torch.rand(samples, *space, generator=torch.Generator().manual_seed(1)) < 0.2


def by_scipy(labels, connectivity):
    """Components of every label but 0, numbered through."""
    around = ndimage.generate_binary_structure(labels.ndim, {"face": 1, "edge": 2, "full": 3}[connectivity])
    found, last = np.zeros(labels.shape, int), 0
    for label in np.unique(labels[labels != 0]):
        ids, count = ndimage.label(labels == label, around)
        found[ids > 0] = ids[ids > 0] + last
        last += count
    return found


def of_channels(masks, connectivity):
    """Components of each of the masks (C, *S), numbered through."""
    found = np.stack([by_scipy(mask, connectivity) for mask in masks])
    last = np.cumsum([0, *[ids.max() for ids in found[:-1]]]).reshape(-1, *[1] * (masks.ndim - 1))
    return np.where(found > 0, found + last, 0)


def same_partition(found, expected):
    """Equal but for the order of the numbers, which are 1..K without gaps."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype == np.int32
    assert found.shape == expected.shape
    assert np.array_equal(found == 0, expected == 0)
    pairs = np.unique(np.stack([found.ravel(), expected.ravel()]), axis=1)
    assert pairs.shape[1] == len(np.unique(found)) == len(np.unique(expected))
    assert np.array_equal(np.unique(found[found > 0]), np.arange(1, found.max() + 1))


def expected_components(target, void, connectivity, everything):
    """What scipy finds in each sample."""
    found = []
    for n, one in enumerate(target):
        inside = (one > 0.5 if one.is_floating_point() else one + everything).numpy().copy()
        if void is not None:
            inside[..., void[n].numpy()] = 0
        if target.is_floating_point():
            inside[0] &= everything
            found.append(of_channels(inside, connectivity))
        else:
            found.append(by_scipy(inside, connectivity))
    return found


def test_neighbours():
    names = {"face": [2, 4, 6], "edge": [2, 8, 18], "full": [2, 8, 26]}
    assert {name: [neighbours(name, dims) for dims in (1, 2, 3)] for name in CONNECTIVITIES} == names


@spaces
@connectivities
def test_connected_equals_scipy(space, connectivity):
    for labels in (*some_labels(space).numpy(), *(some_labels(space).numpy() > 1)):
        found, count = connected(labels, connectivity)
        same_partition(found, by_scipy(labels, connectivity))
        assert count == found.max()


@spaces
@connectivities
@everything_or_not
@holes_or_not
def test_components_equal_scipy(space, connectivity, everything, holes):
    void = some_void(space) if holes else None
    for target, channels in ((some_labels(space), 4), (some_maps(space), 3)):
        found = components(target, channels, void, connectivity, 1, everything)
        for ours, theirs in zip(found, expected_components(target, void, connectivity, everything), strict=True):
            same_partition(ours, theirs)


def test_touching_classes_stay_apart():
    labels = torch.tensor([[[1, 2, 2], [1, 1, 2], [3, 0, 1]]])
    found = components(labels, 4, None, "full", 1, False)[0]
    same_partition(found, [[1, 2, 2], [1, 1, 2], [3, 0, 1]])
    same_partition(components(labels, 4, None, "face", 1, False)[0], [[1, 2, 2], [1, 1, 2], [3, 0, 4]])


def test_one_channel_is_foreground_in_any_case():
    labels = torch.tensor([[0, 1, 1, 0, 1]])
    for target in (labels, labels[:, None].float()):
        for everything in (False, True):
            found = components(target, 1, None, "face", 1, everything)
            assert found.view(-1).tolist() == [0, 1, 1, 0, 2]


def test_ignored_voxels_cut_what_they_cross():
    labels, ignored = torch.tensor([[1, 1, 255, 1, 0, 1]]), torch.tensor([[False, False, True, False, False, False]])
    same_partition(components(labels, 2, ignored, "face", 1, False)[0], [1, 1, 0, 2, 0, 3])
    dense = torch.stack([labels == 0, labels > 0], 1).float()
    found = components(dense, 2, ignored, "face", 1, True)[0]
    same_partition(found, [[0, 0, 0, 0, 4, 0], [1, 1, 0, 2, 0, 3]])


@spaces
@pytest.mark.parametrize("min_size", [2, 3, 1000])
def test_small_components_are_left_out(space, min_size):
    for target, channels in ((some_labels(space), 4), (some_maps(space), 3)):
        everywhere = components(target, channels, None, "face", 1, True).numpy()
        found = components(target, channels, None, "face", min_size, True)
        for ours, ids in zip(found, everywhere, strict=True):
            same_partition(ours, np.where(np.bincount(ids.ravel())[ids] >= min_size, ids, 0))
            sizes = np.bincount(ours.numpy().ravel())[1:]
            assert (sizes >= min_size).all()


@pytest.mark.parametrize("dtype", [*SMALL, *WIDE, *UNSIGNED], ids=str)
@holes_or_not
def test_any_type_of_labels(dtype, holes):
    labels = some_labels((6, 7)).clamp(max=1)
    void = some_void((6, 7)) if holes else None
    same, channels = labels.to(dtype), 2
    for everything in (False, True):
        found = components(same, channels, void, "edge", 2, everything)
        assert torch.equal(found, components(labels, channels, void, "edge", 2, everything))
        found = cells_of(same, channels, void, None, "edge", 2, everything)
        assert torch.equal(found, cells_of(labels, channels, void, None, "edge", 2, everything))
    expected = connected(labels[0].numpy(), "face")
    found = connected(same[0].numpy(), "face")
    assert np.array_equal(found[0], expected[0])
    assert found[1] == expected[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_any_type_of_dense_maps(dtype):
    maps = some_maps((6, 7))
    rounded = maps.to(dtype)
    masks = (rounded > 0.5).float()
    assert torch.equal(components(rounded, 3, None, "full", 1, True), components(masks, 3, None, "full", 1, True))
    assert torch.equal(
        cells_of(rounded, 3, None, None, "full", 1, True), cells_of(masks, 3, None, None, "full", 1, True)
    )


def test_the_label_of_ignored_voxels_does_not_count():
    labels, ignored = some_labels((6, 7)), some_void((6, 7))
    for value, dtype in ((-1, torch.int8), (-100, torch.int64), (255, torch.uint8), (2, torch.int32)):
        marked = labels.masked_fill(ignored, value).to(dtype)
        for everything in (False, True):
            found = components(marked, 4, ignored, "face", 1, everything)
            assert torch.equal(found, components(labels, 4, ignored, "face", 1, everything))


@pytest.mark.parametrize("rest", [("face", 1, False), ("full", 2, True)])
def test_memory_layout_does_not_count_and_nothing_is_written(rest):
    labels, maps, void = some_labels((6, 8)), some_maps((6, 8)), some_void((6, 8))
    spread = torch.zeros(3, 12, 16, dtype=torch.long)
    spread[:, ::2, ::2] = labels
    sizes = torch.tensor([[0.7, 2.5]] * 3, dtype=torch.float64)
    layouts = [(labels, same) for same in (labels, labels.int(), labels.mT.contiguous().mT, spread[:, ::2, ::2])]
    layouts += [(maps, same) for same in (maps, maps.to(memory_format=torch.channels_last))]
    for plain, same in layouts:
        channels = 3 if plain is maps else 4
        for ignored in (None, void.clone(), void.mT.contiguous().mT):
            found = components(same, channels, ignored, *rest)
            assert torch.equal(found, components(plain, channels, ignored, *rest))
            found = cells_of(same, channels, ignored, sizes, *rest)
            assert torch.equal(found, cells_of(plain, channels, ignored, sizes, *rest))
            assert ignored is None or torch.equal(ignored, void)
        assert torch.equal(same, plain)
    columns = np.asfortranarray(labels[0].numpy())
    assert np.array_equal(connected(columns, "face")[0], connected(labels[0].numpy(), "face")[0])
    assert torch.equal(labels, some_labels((6, 8)))
    assert torch.equal(maps, some_maps((6, 8)))
    assert sizes.tolist() == [[0.7, 2.5]] * 3


@pytest.mark.parametrize("shape", [(0, 5, 6), (2, 0, 6), (2, 4, 0), (2, 0)])
@holes_or_not
def test_nothing_to_number(shape, holes):
    labels, void = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool) if holes else None
    sizes = torch.ones(shape[0], len(shape) - 1, dtype=torch.float64)
    maps = torch.zeros(shape[0], 3, *shape[1:])
    for target in (labels, maps):
        assert components(target, 3, void, "full", 2, True).shape == target.shape
        for everything, kept in ((False, 2), (True, 3)):
            found = cells_of(target, 3, void, sizes, "full", 2, everything)
            assert found.shape == (shape[0], kept, *shape[1:])
    assert connected(np.zeros(shape, bool), "full")[1] == 0


def chequered(rows, columns):
    return (torch.arange(rows)[:, None] + torch.arange(columns)) % 2


def refusal(call):
    """The error's message, which is one line."""
    with pytest.raises(ValueError, match="components: expected at most 65536 connected components") as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_too_many_components_are_refused():
    few, many = chequered(256, 512), chequered(256, 513)
    assert connected(few.numpy(), "face")[1] == MOST == 65536
    assert connected(many.numpy(), "full")[1] == 1
    assert "got 65664" in refusal(lambda: connected(many.numpy(), "face"))
    assert "got 65664" in refusal(lambda: components(many[None], 2, None, "face", 1, False))
    assert components(many[None], 2, None, "face", 1, False, largest=True).max() == MOST
    assert not components(many[None], 2, None, "face", 2, False).any()
    maps = torch.stack([few, torch.zeros_like(few)])[None].float()
    assert components(maps, 2, None, "face", 1, True).max() == MOST
    maps[0, 1, 0, 0] = 1
    assert "got 65537" in refusal(lambda: components(maps, 2, None, "face", 1, True))


@pytest.mark.parametrize("name", ["corner", "Face", "", "26"])
def test_unknown_connectivity(name):
    message = f"connectivity: expected one of face, edge, full; got {name!r}."
    labels = torch.ones(1, 3, dtype=torch.long)
    for call in (
        lambda: neighbours(name, 2),
        lambda: connected(np.ones((3, 3), int), name),
        lambda: components(labels, 2, None, name, 1, False),
        lambda: cells_of(labels, 2, None, None, name, 1, False),
    ):
        with pytest.raises(ValueError, match="connectivity") as caught:
            call()
        assert str(caught.value) == message


def check_cells(found, ids, masks, void, size):
    """One channel: everywhere a component at the least distance; 0 at ignored voxels and at those left out."""
    left_out = (masks & (ids == 0)) | void
    assert not found[left_out].any()
    numbers = np.unique(ids[ids > 0])
    if not len(numbers):
        assert not found.any()
        return
    far = np.stack([ndimage.distance_transform_edt(ids != k, sampling=size) for k in numbers])
    kept = ~left_out
    assert np.isin(found[kept], numbers).all()
    own = np.take_along_axis(far, np.searchsorted(numbers, found)[None] % len(numbers), 0)[0]
    np.testing.assert_allclose(own[kept], far.min(0)[kept], rtol=1e-12, atol=0)


@spaces
@pytest.mark.parametrize("spacing", SPACINGS.values(), ids=SPACINGS)
@everything_or_not
@pytest.mark.parametrize(("holes", "min_size"), [(False, 1), (False, 3), (True, 2)])
def test_cells_are_nearest(space, spacing, everything, holes, min_size):
    void = some_void(space) if holes else None
    size = None if spacing is None else torch.tensor([spacing[: len(space)]] * 3, dtype=torch.float64)
    for target, channels in ((some_labels(space), 4), (some_maps(space), 3)):
        first = 0 if everything else 1
        found = cells_of(target, channels, void, size, "face", min_size, everything).numpy()
        assert found.dtype == np.int32
        assert found.shape == (3, channels - first, *space)
        ids = components(target, channels, void, "face", min_size, everything)
        ignored = np.zeros((3, *space), bool) if void is None else void.numpy()
        for n, c in np.ndindex(3, channels - first):
            label = c + first
            mask = (target[n, label] > 0.5 if target.is_floating_point() else target[n] == label).numpy() & ~ignored[n]
            own = np.where(mask, ids[n, label] if target.is_floating_point() else ids[n], 0)
            step = None if spacing is None else spacing[: len(space)]
            check_cells(found[n, c], own, mask, ignored[n], step)


def test_one_component_has_everything():
    labels = torch.zeros(2, 5, 6, dtype=torch.long)
    labels[0, 1, 1:3], labels[1, 4, 5], labels[1, 0, 0] = 1, 1, 2
    found = cells_of(labels, 3, None, None, "full", 1, False)
    assert (found[0, 0] == 1).all()
    assert not found[0, 1].any()
    assert found[1].flatten(1).unique(dim=1).sort(0).values.tolist() == [[1], [2]]


def test_a_cell_goes_around_ignored_and_small_components():
    labels = torch.tensor([[1, 1, 0, 0, 1, 0, 255, 0, 1, 1]])
    found = cells_of(labels, 1, labels == 255, None, "face", 2, False)
    assert found[0, 0].tolist() == [1, 1, 1, 1, 0, 2, 0, 2, 2, 2]


def test_each_sample_has_its_spacing():
    labels = torch.zeros(2, 5, 5, dtype=torch.long)
    labels[:, 0, 0], labels[:, 4, 2] = 1, 1
    size = torch.tensor([[1.0, 9.0], [9.0, 1.0]], dtype=torch.float64)
    found = cells_of(labels, 2, None, size, "face", 1, False)[:, 0]
    by_column, by_row = torch.tensor([1, 1, 2, 2, 2]), torch.tensor([1, 1, 0, 2, 2])
    assert torch.equal(found[0, 2], by_column.int())
    assert torch.equal(found[1][by_row > 0, 0], by_row[by_row > 0].int())
    for n in range(2):
        assert torch.equal(cells_of(labels[n, None], 2, None, size[n, None], "face", 1, False)[0, 0], found[n])


def test_threads_change_nothing():
    labels, void = some_labels((11, 12), samples=5), some_void((11, 12), samples=5)
    one = components(labels, 4, void, "face", 2, True), cells_of(labels, 4, void, None, "face", 2, True)
    torch.set_num_threads(2)
    try:
        assert torch.equal(components(labels, 4, void, "face", 2, True), one[0])
        assert torch.equal(cells_of(labels, 4, void, None, "face", 2, True), one[1])
    finally:
        torch.set_num_threads(1)


@holes_or_not
@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_opcheck(holes, layout):
    labels, maps = some_labels((4, 5)), some_maps((4, 5))
    if layout == "columns":
        labels, maps = labels.mT.contiguous().mT, maps.to(memory_format=torch.channels_last)
    void, size = some_void((4, 5)) if holes else None, torch.ones(3, 2, dtype=torch.float64)
    utils = ("test_schema", "test_faketensor")
    for target, channels in ((labels, 4), (maps, 3)):
        for everything in (False, True):
            args = (target, channels, void)
            torch.library.opcheck(components, (*args, "face", 2, everything), test_utils=utils)
            ids = components(*args, "face", 2, everything)
            torch.library.opcheck(cells, (ids, *args, size, everything), test_utils=utils)


def test_compiles():
    def both(labels, void, size):
        ids = components(labels, 4, void, "full", 1, False)
        return ids * 2, cells_of(labels, 4, void, size, "full", 1, False) + ids[:, None]

    torch.compiler.reset()
    inputs = some_labels((4, 5)), some_void((4, 5)), torch.ones(3, 2, dtype=torch.float64)
    found = torch.compile(both, fullgraph=True, backend="aot_eager")(*inputs)
    torch.testing.assert_close(found, both(*inputs))
    torch.compiler.reset()


def test_vmap():
    labels, void = some_labels((4, 5), samples=6), some_void((4, 5))
    apart = labels.view(2, 3, 4, 5)
    found = torch.func.vmap(lambda one: components(one, 4, void, "full", 1, False))(apart)
    assert torch.equal(found[1], components(apart[1], 4, void, "full", 1, False))
    size = torch.tensor([[1.0, 3.0]] * 3, dtype=torch.float64)
    found = torch.func.vmap(lambda one: cells_of(one, 4, void, size, "full", 1, False))(apart)
    assert torch.equal(found[0], cells_of(apart[0], 4, void, size, "full", 1, False))
