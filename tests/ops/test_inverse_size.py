"""Weights by the size of components, by hand and by what they add up to."""

import math

import pytest
import torch

from delineate.ops.inverse_size import inverse_size_weights

BOUNDS = (0.0, math.inf)

weightings = pytest.mark.parametrize("keep_foreground", [True, False], ids=["foreground", "volume"])


def numbers(*rows):
    return torch.tensor(rows, dtype=torch.int32)


def check(found, expected):
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))


def test_by_hand():
    ids = numbers([1, 1, 2, 0, 0, 0], [0, 1, 1, 1, 1, 0])
    check(inverse_size_weights(ids, None, True, *BOUNDS), [[0.75, 0.75, 1.5, 1, 1, 1], [1] * 6])
    volume = [[1, 1, 2, 2 / 3, 2 / 3, 2 / 3], [1.5, 0.75, 0.75, 0.75, 0.75, 1.5]]
    check(inverse_size_weights(ids, None, False, *BOUNDS), volume)


def test_ignored_voxels_are_no_part_of_the_volume():
    ids, valid = numbers([1, 1, 2, 0, 0, 0]), torch.tensor([[True, True, True, True, False, False]])
    check(inverse_size_weights(ids, valid, True, *BOUNDS), [[0.75, 0.75, 1.5, 1, 1, 1]])
    check(inverse_size_weights(ids, valid, False, *BOUNDS), [[2 / 3, 2 / 3, 4 / 3, 4 / 3, 1, 1]])


def test_bounds_hold_for_valid_voxels():
    ids, valid = numbers([1, 1, 2, 0, 0, 0]), torch.tensor([[True, True, True, True, True, False]])
    check(inverse_size_weights(ids, None, True, 0.8, 1.2), [[0.8, 0.8, 1.2, 1, 1, 1]])
    check(inverse_size_weights(ids, None, False, 0.8, 1.2), [[1, 1, 1.2, 0.8, 0.8, 0.8]])
    check(inverse_size_weights(ids, valid, True, 1.1, 1.2), [[1.1, 1.1, 1.2, 1.1, 1.1, 1]])


def test_the_largest_weight_of_channels_that_overlap_holds():
    ids = numbers([1, 1, 1, 1, 0, 0], [0, 0, 0, 2, 0, 0])[None]
    check(inverse_size_weights(ids, None, True, *BOUNDS), [[0.5, 0.5, 0.5, 2, 1, 1]])
    check(inverse_size_weights(ids, None, False, *BOUNDS), [[0.5, 0.5, 0.5, 2, 1, 1]])
    check(inverse_size_weights(ids.flip(1), None, False, *BOUNDS), [[0.5, 0.5, 0.5, 2, 1, 1]])
    apart = numbers([1, 1, 0, 0, 0, 0], [0, 0, 2, 0, 0, 0])[None]
    for keep_foreground in (True, False):
        alone = inverse_size_weights(apart.sum(1), None, keep_foreground, *BOUNDS)
        assert torch.equal(inverse_size_weights(apart, None, keep_foreground, *BOUNDS), alone)


@weightings
def test_samples_without_components_weigh_one(keep_foreground):
    ids = numbers([0, 0, 0, 0], [0, 1, 1, 2])
    valid = torch.tensor([[True, False, True, True]] * 2)
    for void in (None, valid):
        found = inverse_size_weights(ids, void, keep_foreground, *BOUNDS)
        assert found[0].tolist() == [1, 1, 1, 1]
        assert torch.equal(
            found[1:], inverse_size_weights(ids[1:], None if void is None else void[1:], keep_foreground, *BOUNDS)
        )


def test_nothing_but_components():
    ids = numbers([1, 1, 1, 2])
    check(inverse_size_weights(ids, None, True, *BOUNDS), [[2 / 3, 2 / 3, 2 / 3, 2]])
    check(inverse_size_weights(ids, None, False, *BOUNDS), [[4 / 9, 4 / 9, 4 / 9, 4 / 3]])


@weightings
def test_numbers_do_not_matter(keep_foreground):
    ids = numbers([1, 1, 2, 0, 3, 3, 3])
    others = torch.tensor([0, 9, 4, 2])[ids.long()]
    expected = inverse_size_weights(ids, None, keep_foreground, *BOUNDS)
    for same in (others, others.int(), torch.stack([others, others], -1)[..., 0]):
        assert torch.equal(inverse_size_weights(same, None, keep_foreground, *BOUNDS), expected)


@weightings
def test_components_weigh_the_same(keep_foreground):
    """All of them together what they did before; by volume, the background weighs as much as each of them."""
    ids, valid = torch.randint(0, 6, (3, 200)).int(), torch.rand(3, 200) < 0.8
    ids[:, :60] = 1
    ids.masked_fill_(~valid, 0)
    kept = ids.clone(), valid.clone()
    found = inverse_size_weights(ids, valid, keep_foreground, *BOUNDS).double()
    for n in range(3):
        sums = torch.zeros(6, dtype=torch.float64).index_add_(0, ids[n].long()[valid[n]], found[n, valid[n]])
        total = (ids[n] > 0).sum() / 5 if keep_foreground else valid[n].sum() / 6
        each = sums[1:] if keep_foreground else sums
        torch.testing.assert_close(each, total.double().expand_as(each), rtol=1e-6, atol=0)
    assert (found[~valid] == 1).all()
    assert torch.equal(ids, kept[0])
    assert torch.equal(valid, kept[1])


@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (0, 2, 5), (2, 2, 0)])
@weightings
def test_nothing_to_weigh(shape, keep_foreground):
    ids = torch.zeros(shape, dtype=torch.int32)
    valid = torch.ones(shape[0], shape[-1], dtype=torch.bool)
    for void in (None, valid):
        assert inverse_size_weights(ids, void, keep_foreground, *BOUNDS).shape == (shape[0], shape[-1])


@weightings
def test_opcheck(keep_foreground):
    utils = ("test_schema", "test_faketensor")
    for shape in ((2, 7), (2, 3, 7)):
        ids = torch.randint(0, 4, shape).int()
        for valid in (None, torch.rand(2, 7) < 0.7):
            torch.library.opcheck(inverse_size_weights, (ids, valid, keep_foreground, 0.5, 3.0), test_utils=utils)


def test_compiles_and_maps():
    torch.compiler.reset()
    ids, valid = torch.randint(0, 4, (3, 2, 9)).int(), torch.rand(2, 9) < 0.7
    expected = [inverse_size_weights(one, valid, False, *BOUNDS) for one in ids]
    compiled = torch.compile(inverse_size_weights, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(ids[0], valid, False, *BOUNDS), expected[0])
    mapped = torch.func.vmap(lambda one: inverse_size_weights(one, valid, False, *BOUNDS))(ids)
    assert torch.equal(mapped, torch.stack(expected))
    torch.compiler.reset()
