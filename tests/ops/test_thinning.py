"""The skeleton: what it keeps, what it is, and the same algorithm voxel by voxel."""

from itertools import pairwise, product

import cc3d
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from delineate.ops.thinning import _are_simple, _neighbourhood, thin

SMALL = arrays(bool, array_shapes(min_dims=2, max_dims=3, min_side=2, max_side=6))


def touching(dims):
    return ndimage.generate_binary_structure(dims, dims)


def components(mask):
    """Number of components over all neighbours."""
    return ndimage.label(mask, touching(mask.ndim))[1]


def euler_number(mask):
    """Vertices - edges + faces - cubes of the union of closed voxels, whose neighbours touch."""
    total = 0
    for axes in product([False, True], repeat=mask.ndim):  # along these axes the cell is a point
        cells = np.pad(mask, 1)
        for axis in np.flatnonzero(axes):
            cells = np.moveaxis(cells, axis, 0)
            cells = np.moveaxis(cells[1:] | cells[:-1], 0, axis)
        total += (-1) ** (mask.ndim - sum(axes)) * int(cells.sum())
    return total


def topology(mask):
    return components(mask), ndimage.label(~np.pad(mask, 1))[1], euler_number(mask)


def neighbours(mask):
    """Number of neighbours of each voxel."""
    return ndimage.convolve(mask.astype(int), touching(mask.ndim).astype(int), mode="constant") - mask


def is_simple(block):
    """By definition: of a block of 3 voxels a side, its centre."""
    dims = block.ndim
    centre = (1,) * dims
    around = ndimage.generate_binary_structure(dims, 2)
    around[centre] = False
    others = block.copy()
    others[centre] = False
    background = ndimage.label(~block & around)[0]
    faces = ndimage.generate_binary_structure(dims, 1) & around
    return components(others) == 1 and len(set(background[faces & ~block])) == 1


def block_at(padded, voxel):
    return padded[tuple(slice(i - 1, i + 2) for i in voxel)]


@pytest.mark.parametrize("dims", [2, 3])
def test_simple_points_are_those_of_the_definition(dims):
    near = _neighbourhood(dims)
    blocks = np.random.default_rng(0).random((1500, *(3,) * dims)) < np.linspace(0, 1, 1500).reshape(-1, *(1,) * dims)
    flags = np.stack([blocks[:, *(step + 1)] for step in near.steps], 1)
    bits = (flags << np.arange(len(near.steps))).sum(1).astype(np.int32)
    assert _are_simple(bits, near).tolist() == [is_simple(block) for block in blocks]


def voxel_by_voxel(mask):
    """The algorithm as the module states it, in loops."""
    padded = np.pad(mask, 1)
    corner = np.argwhere(mask).min(0)  # of the box around the mask, from which parity counts
    for outside in (True, False):
        solid_edge = np.pad(np.zeros_like(mask), 1, constant_values=outside)
        changed = padded.copy()
        while changed.any():
            before = padded.copy()
            inner = ndimage.binary_erosion(padded | solid_edge, border_value=1)
            near = ndimage.binary_dilation(changed, touching(mask.ndim))
            marked = padded & near & ~inner & (neighbours(padded) != 1)
            for parity in product([0, 1], repeat=mask.ndim):
                for voxel in np.argwhere(marked):
                    if tuple((voxel - corner) % 2) == parity and is_simple(block_at(padded, voxel)):
                        padded[tuple(voxel)] = marked[tuple(voxel)] = False
            changed = before & ~padded
    return padded[(slice(1, -1),) * mask.ndim]


def random_mask(seed, shape, smooth):
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=shape), smooth)
    return noise > np.quantile(noise, rng.uniform(0.1, 0.9))


def check(mask):
    before = mask.copy()
    skeleton = thin(mask)
    assert skeleton.dtype == bool
    assert skeleton.shape == mask.shape
    assert np.array_equal(mask, before)
    assert not (skeleton & ~mask).any()
    assert topology(skeleton) == topology(mask)
    assert np.array_equal(thin(skeleton), skeleton)
    padded = np.pad(skeleton, 1)
    inside = padded & (neighbours(padded) != 1)
    assert not any(is_simple(block_at(padded, voxel)) for voxel in np.argwhere(inside))
    return skeleton


@pytest.mark.parametrize("smooth", [0, 1, 2])
@pytest.mark.parametrize("shape", [(24, 24), (12, 12, 12), (3, 40), (2, 9, 14)])
@pytest.mark.parametrize("seed", range(3))
def test_topology_is_kept_and_nothing_more_is_simple(seed, shape, smooth):
    mask = random_mask(seed, shape, smooth)
    skeleton = check(mask)
    for m in (mask, skeleton):
        assert cc3d.connected_components(m, connectivity=8 if m.ndim == 2 else 26, return_N=True)[1] == components(mask)


@settings(max_examples=60, deadline=None)
@given(SMALL)
def test_small_masks(mask):
    check(mask)


@settings(max_examples=30, deadline=None)
@given(SMALL.filter(lambda mask: mask.any()))
def test_as_voxel_by_voxel(mask):
    assert np.array_equal(thin(mask), voxel_by_voxel(mask))


@pytest.mark.parametrize("shape", [(20, 16), (9, 9, 8)])
@pytest.mark.parametrize("seed", range(4))
def test_blobs_as_voxel_by_voxel(seed, shape):
    mask = random_mask(seed, shape, 1.5)
    assert np.array_equal(thin(mask), voxel_by_voxel(mask))


def test_the_euler_number_of_a_cube_a_shell_and_a_ring():
    grid = np.indices((9, 9, 9)) - 4
    distance = np.abs(grid).max(0)
    assert euler_number(distance <= 2) == 1
    assert euler_number((distance <= 3) & (distance >= 2)) == 2
    assert euler_number((distance <= 3) & (np.abs(grid[:2]).max(0) >= 2)) == 0


def ends(skeleton):
    return int((skeleton & (neighbours(skeleton) == 1)).sum())


def distance_from(*lines, shape):
    """The distance to polylines, given by their corners."""
    away = np.ones(shape, bool)
    for line in lines:
        for start, stop in pairwise(line):
            for t in np.linspace(0, 1, 200):
                away[tuple(np.rint(np.add(start, t * np.subtract(stop, start))).astype(int))] = False
    return np.asarray(ndimage.distance_transform_edt(away))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("radius", [3, 6.5, 10])
def test_a_ball_becomes_a_point(dims, radius):
    grid = np.indices((25,) * dims) - 12
    skeleton = check(np.sqrt((grid**2).sum(0)) <= radius)
    assert skeleton.sum() <= 3
    assert np.abs(np.argwhere(skeleton) - 12).max() <= 1


@pytest.mark.parametrize("width", [1, 2, 5, 25])
def test_a_bar_becomes_its_centre_line(width):
    mask = np.zeros((60, 150), bool)
    mask[15 : 15 + width, 10:140] = True
    skeleton = check(mask)
    assert ends(skeleton) == 2
    rows, columns = np.nonzero(skeleton)
    assert np.abs(rows - (15 + (width - 1) / 2)).max() <= 0.5
    assert len(set(columns)) == len(columns) >= 130 - width - 3


def test_a_bar_that_the_image_cuts_off_keeps_its_length():
    mask = np.zeros((60, 90), bool)
    mask[15:40] = True
    assert np.array_equal(np.argwhere(check(mask)), [(27, column) for column in range(90)])
    mask[:, :30] = False
    assert check(mask)[27, -20:].all()


def test_a_bar_that_is_cut_off_lengthwise_has_its_line_on_the_border():
    mask = np.zeros((20, 60), bool)
    mask[:6, 10:50] = True
    assert set(np.nonzero(check(mask))[0]) == {0}


def test_a_ring_stays_closed_and_is_one_voxel_wide():
    radius = np.hypot(*(np.indices((41, 41)) - 20))
    skeleton = check((radius < 15) & (radius > 9))
    assert (neighbours(skeleton)[skeleton] == 2).all()
    assert np.abs(radius[skeleton] - 12).max() <= 1.5


def test_a_torus_keeps_its_loop():
    x, y, z = np.indices((31, 31, 11)) - np.array([15, 15, 5])[:, None, None, None]
    skeleton = check(np.hypot(np.hypot(x, y) - 9, z) <= 3.5)
    assert ends(skeleton) == 0
    assert 45 <= skeleton.sum() <= 65


def test_a_plate_becomes_a_line_and_a_shell_a_surface():
    mask = np.zeros((9, 24, 40), bool)
    mask[3:6, 4:20, 4:36] = True
    skeleton = check(mask)
    assert ends(skeleton) == 2
    assert 14 <= skeleton.sum() <= 24
    away = np.sqrt(((np.indices((23,) * 3) - 11) ** 2).sum(0))
    assert topology(check((away <= 9) & (away >= 6))) == (1, 2, 2)


@pytest.mark.parametrize("depth", [(), (12,)])
def test_a_y_has_three_ends(depth):
    middle = tuple(n // 2 for n in depth)
    points = [place + middle for place in [(60, 32), (32, 32), (8, 10), (8, 54)]]
    lines = [(points[1], points[k]) for k in (0, 2, 3)]
    mask = distance_from(*lines, shape=(70, 64, *depth)) <= 3
    skeleton = check(mask)
    assert ends(skeleton) == 3
    assert distance_from(*lines, shape=mask.shape)[skeleton].max() <= 2
    assert skeleton.sum() >= 60


@pytest.mark.parametrize("angle", range(0, 90, 15))
def test_corners_make_no_spurs(angle):
    x, y = np.indices((64, 64)) - 32
    turned = (x + 1j * y) * np.exp(1j * np.radians(angle))
    assert ends(check((np.abs(turned.real) <= 24) & (np.abs(turned.imag) <= 7))) == 2


@pytest.mark.parametrize("shape", [(0,), (4, 0), (5,), (1, 1), (7, 9), (1, 8), (3, 4, 5), (1, 4, 1)])
def test_empty_and_full_masks(shape):
    assert not thin(np.zeros(shape, bool)).any()
    skeleton = thin(np.ones(shape, bool))
    assert skeleton.shape == shape
    assert components(skeleton) == min(1, skeleton.size)
    assert skeleton.sum() <= max(shape)


def test_runs_of_a_vector_keep_their_middle():
    line = np.array([1, 1, 0, 1, 1, 1, 1, 1, 0, 0, 1], bool)
    expected = np.array([1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1], bool)
    for shape in [(11,), (1, 11), (11, 1), (1, 11, 1)]:
        assert np.array_equal(thin(line.reshape(shape)), expected.reshape(shape))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_volume_of_depth_one_equals_its_image(axis):
    image = random_mask(3, (24, 20), 1)
    assert np.array_equal(thin(np.expand_dims(image, axis)), np.expand_dims(thin(image), axis))


def test_memory_layout_does_not_count():
    mask = random_mask(5, (12, 14, 10), 1)
    spread = np.zeros((24, 28, 20), bool)
    spread[::2, ::2, ::2] = mask
    mirrored = np.ascontiguousarray(mask[::-1, :, ::-1])[::-1, :, ::-1]
    for same in (spread[::2, ::2, ::2], np.asfortranarray(mask), mirrored):
        same.flags.writeable = False
        assert np.array_equal(thin(same), thin(mask))


@settings(max_examples=20, deadline=None)
@given(SMALL, st.integers(1, 3))
def test_the_place_in_a_larger_image_does_not_count(mask, margin):
    inner = (slice(margin, -margin),) * mask.ndim
    once = thin(np.pad(mask, 1))
    assert np.array_equal(thin(np.pad(mask, margin))[inner], once[(slice(1, -1),) * mask.ndim])


def test_what_is_no_mask_is_refused():
    with pytest.raises(TypeError, match="expected bool, got uint8"):
        thin(np.zeros((3, 3), np.uint8))
    for shape in [(), (2, 2, 2, 2)]:
        with pytest.raises(ValueError, match="1 to 3 dims"):
            thin(np.zeros(shape, bool))
