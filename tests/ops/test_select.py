"""The hardest fraction against sorting."""

import math

import pytest
import torch

from delineate.ops.select import hardest, hardest_by_sorting, hardest_of_regions


def by_sorting(values, candidates, fraction):
    """Weights of one row: sort, keep K, and let ties with the last kept one share what is left."""
    chosen = [i for i in range(len(values)) if candidates is None or candidates[i]]
    weights = [0.0] * len(values)
    if not chosen:
        return weights, 0
    keep = max(1, math.floor(fraction * len(chosen) + 1e-9))
    ordered = sorted((values[i] for i in chosen), reverse=True)
    least = ordered[keep - 1]
    above = sum(v > least for v in ordered)
    ties = ordered.count(least)
    for i in chosen:
        weights[i] = 1.0 if values[i] > least else (keep - above) / ties if values[i] == least else 0.0
    return weights, keep


def check(values, candidates, fraction):
    weights, kept = hardest(values, candidates, fraction)
    assert weights.dtype == values.dtype
    assert weights.shape == values.shape
    for row in range(len(values)):
        inside = None if candidates is None else candidates[row].tolist()
        expected, keep = by_sorting(values[row].tolist(), inside, fraction)
        torch.testing.assert_close(weights[row], torch.tensor(expected, dtype=values.dtype))
        assert kept[row] == keep
        assert weights[row].sum().item() == pytest.approx(keep, rel=1e-5)


@pytest.mark.parametrize("fraction", [1e-6, 0.1, 0.3, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("size", [1, 2, 10, 101])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_sorting(fraction, size, dtype):
    values = torch.rand(3, size, dtype=dtype)
    check(values, None, fraction)
    check(values, torch.rand(3, size) > 0.4, fraction)
    check(values.mul(4).floor(), torch.rand(3, size) > 0.4, fraction)  # many ties
    check(torch.zeros(3, size, dtype=dtype), None, fraction)


def test_rows_without_candidates():
    candidates = torch.tensor([[False, False], [True, False]])
    weights, kept = hardest(torch.tensor([[9.0, 8.0], [0.0, 7.0]]), candidates, 1.0)
    assert weights.tolist() == [[0, 0], [1, 0]]
    assert kept.tolist() == [0, 1]


def test_fraction_of_a_round_number_is_not_one_short():
    """0.29 * 100 is 28.999999999999996 in floating point."""
    _, kept = hardest(torch.rand(1, 100), None, 0.29)
    assert kept == 29


@pytest.mark.parametrize("fraction", [0.0, 0.29, 1.0])
@pytest.mark.parametrize("above", [None, 0.4, 2.0])
@pytest.mark.parametrize("at_least", [1, 7, 1000])
def test_what_runs_on_a_gpu_keeps_the_same(fraction, above, at_least):
    values = torch.rand(5, 100)
    candidates = torch.rand(5, 100) > 0.4
    candidates[0] = False
    values[1] = values[1].mul(4).floor()  # many ties
    values[2, 3], values[3, 5] = torch.inf, torch.nan
    for chosen_from in (None, candidates):
        arguments = values, chosen_from, fraction, at_least, above
        torch.testing.assert_close(hardest_by_sorting(*arguments), hardest(*arguments), rtol=1e-6, atol=0)


def test_order_does_not_matter():
    values = torch.tensor([[3.0, 1.0, 3.0, 3.0, 0.0, 2.0]])
    order = torch.tensor([5, 3, 1, 0, 4, 2])
    weights, _ = hardest(values, None, 0.34)
    permuted, _ = hardest(values[:, order], None, 0.34)
    assert torch.equal(permuted, weights[:, order])
    assert weights.tolist() == [[pytest.approx(2 / 3), 0, pytest.approx(2 / 3), pytest.approx(2 / 3), 0, 0]]


def test_infinite_values_are_the_largest():
    values = torch.tensor([[1.0, torch.inf, 0.5, torch.inf]])
    assert hardest(values, None, 0.25)[0].tolist() == [[0, 0.5, 0, 0.5]]
    assert hardest(values, None, 0.75)[0].tolist() == [[1, 1, 0, 1]]


@pytest.mark.parametrize("fraction", [0.2, 0.4, 0.6, 1.0])
def test_nan_is_never_lost(fraction):
    """Whatever is kept, a mean of the values with these weights is NaN; other rows are as ever."""
    values = torch.tensor([[1.0, torch.nan, 0.5, 2.0, 0.0], [1.0, 4.0, 0.5, 2.0, 0.0]])
    weights, kept = hardest(values, None, fraction)
    assert (values * weights)[0].sum().isnan()
    alone, _ = hardest(values[1:], None, fraction)
    assert torch.equal(weights[1:], alone)
    assert kept.isfinite().all()


def test_nan_outside_the_candidates_does_not_matter():
    values = torch.tensor([[1.0, torch.nan, 0.5, 2.0]])
    weights, kept = hardest(values, torch.tensor([[True, False, True, True]]), 0.4)
    assert weights.tolist() == [[0, 0, 0, 1]]
    assert kept == 1


@pytest.mark.parametrize("candidates", [None, torch.rand(2, 9) > 0.5], ids=["all", "some"])
def test_opcheck(candidates):
    torch.library.opcheck(hardest, (torch.rand(2, 9), candidates, 0.3))


def test_compiles():
    torch.compiler.reset()
    values, candidates = torch.rand(2, 30), torch.rand(2, 30) > 0.3
    compiled = torch.compile(hardest, fullgraph=True, backend="aot_eager", dynamic=True)
    torch.testing.assert_close(compiled(values, candidates, 0.2), hardest(values, candidates, 0.2))
    torch.compiler.reset()


def test_all_above_a_bound_are_kept_if_they_are_more():
    values = torch.tensor([[0.1, 0.9, 0.5, 0.7, 0.3], [0.1, 0.1, 0.2, 0.1, 0.1]])
    weights, kept = hardest(values, None, 0.0, 2, 0.4)
    assert weights.tolist() == [[0, 1, 1, 1, 0], [pytest.approx(0.25)] * 2 + [1] + [pytest.approx(0.25)] * 2]
    assert kept.tolist() == [3, 2]
    weights, kept = hardest(values, torch.tensor([[True, False, True, True, False]] * 2), 0.0, 2, 0.6)
    assert kept.tolist() == [2, 2]
    assert weights[0].tolist() == [0, 0, 1, 1, 0]


def test_never_more_than_there_are():
    weights, kept = hardest(torch.rand(1, 3), None, 0.0, 100)
    assert weights.tolist() == [[1, 1, 1]]
    assert kept == 3


def of_regions_by_loop(costs, ids, background, keep, split):
    """Of one row: for every component the mean of the K largest costs of its own and of the background."""
    found, components = 0.0, sorted({k for k in ids if k})
    for k in components:
        own = [cost for cost, number in zip(costs, ids, strict=True) if number == k]
        beside = [cost / (len(components) if split else 1) for cost, b in zip(costs, background, strict=True) if b]
        found += sum(sorted(own + beside, reverse=True)[:keep]) / keep
    return found


def some_regions(size, components, dtype=torch.float64):
    """Numbers with gaps; voxels of other classes, which are in no component and not beside one; one row is empty."""
    ids = (3 * torch.randint(0, components + 1, (2, 2, size))).int()
    background = (ids == 0) & (torch.rand(2, 2, size) < 0.8)
    ids[1, 1] = 0
    return torch.rand(2, 2, size, dtype=dtype), ids, background


def check_regions(costs, ids, background, keep, split):
    weights = hardest_of_regions(costs, ids, background, torch.tensor(keep), split)
    assert weights.dtype == costs.dtype
    assert weights.shape == costs.shape
    beside = torch.zeros_like(ids, dtype=torch.bool) if background is None else background
    assert not weights[(ids == 0) & ~beside].any()
    for n in range(2):
        for r in range(2):
            row = [values[n, r].tolist() for values in (costs, ids, beside)]
            found = (weights[n, r].double() * costs[n, r].double()).sum().item()
            expected = of_regions_by_loop(*row, keep[n], split)
            assert found == pytest.approx(expected, rel=10 * torch.finfo(costs.dtype).eps, abs=1e-12)
            for k in set(row[1]) - {0}:
                kept = weights[n, r][ids[n, r] == k] * keep[n]
                torch.testing.assert_close(kept, (kept > 0).to(kept.dtype))
                assert kept.sum() < keep[n] + 0.5
    return weights


@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
@pytest.mark.parametrize("keep", [[1, 2], [4, 9], [30, 31], [1000, 61]], ids=str)
@pytest.mark.parametrize("components", [1, 3, 20])
def test_hardest_of_regions_equals_a_loop(split, keep, components):
    for dtype in (torch.float64, torch.float32):
        costs, ids, background = some_regions(61, components, dtype)
        check_regions(costs, ids, background, keep, split)
        check_regions(costs, ids, None, keep, split)
        check_regions(costs.mul(4).floor(), ids, background, keep, split)  # many ties
        check_regions(torch.zeros_like(costs), ids, background, keep, split)


@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
def test_regions_of_tied_costs(split):
    costs, ids, background = some_regions(23, 2)
    for cost in (costs.new_ones(()), costs.new_tensor(0.1)):
        weights = check_regions(cost.expand_as(costs).contiguous(), ids, background, [5, 7], split)
        assert not weights[1, 1].any()


def test_hardest_of_regions_by_hand():
    costs = torch.tensor([[[5.0, 1.0, 4.0, 3.0, 2.0, 9.0]]])
    ids = torch.tensor([[[1, 1, 2, 0, 0, 0]]], dtype=torch.int32)
    background = torch.tensor([[[False, False, False, True, True, False]]])
    two = torch.tensor([2])
    assert hardest_of_regions(costs, ids, background, two, False).tolist() == [[[0.5, 0, 0.5, 1, 0, 0]]]
    assert hardest_of_regions(costs, ids, background, two, True).tolist() == [[[0.5, 0, 0.5, 0.5, 0, 0]]]
    assert hardest_of_regions(costs, ids, None, two, False).tolist() == [[[0.5, 0.5, 0.5, 0, 0, 0]]]
    eight = torch.tensor([8])
    assert hardest_of_regions(costs, ids, background, eight, False).tolist() == [[[0.125] * 3 + [0.25] * 2 + [0]]]


def test_ties_go_to_the_component():
    costs, ids = torch.tensor([[[2.0, 2.0, 2.0, 2.0]]]), torch.tensor([[[0, 1, 2, 0]]], dtype=torch.int32)
    for keep, expected in ((1, [0, 1, 1, 0]), (2, [1, 0.5, 0.5, 0])):
        assert hardest_of_regions(costs, ids, ids == 0, torch.tensor([keep]), False).tolist() == [[expected]]


def test_the_background_of_one_region_does_not_change_with_others():
    """A class by itself, and beside another in its own row."""
    costs, ids, background = some_regions(40, 3)
    keep = torch.tensor([6, 6])
    together = hardest_of_regions(costs, ids, background, keep, True)
    for r in range(2):
        alone = hardest_of_regions(costs[:, r, None], ids[:, r, None], background[:, r, None], keep, True)
        assert torch.equal(together[:, r, None], alone)


def test_infinite_and_nan_costs_of_regions_are_kept():
    costs, ids, background = some_regions(40, 3)
    keep = torch.tensor([3, 3])
    for place in (ids[0, 0] > 0, background[0, 0]):
        worst = costs.clone()
        worst[0, 0, place.nonzero()[0]] = torch.inf
        weights = hardest_of_regions(worst, ids, background, keep, False)
        assert (weights[0, 0][worst[0, 0].isinf()] > 0).all()
        worst[0, 0, place.nonzero()[0]] = torch.nan
        weights = hardest_of_regions(worst, ids, background, keep, False)
        assert (worst * weights)[0, 0].sum().isnan()
        assert torch.equal(weights[1], hardest_of_regions(costs, ids, background, keep, False)[1])


def test_hardest_of_regions_writes_nothing_and_takes_any_layout():
    inputs = some_regions(30, 3)
    expected = hardest_of_regions(*inputs, torch.tensor([4, 5]), True)
    columns = [values.mT.contiguous().mT for values in inputs]
    assert torch.equal(hardest_of_regions(*columns, torch.tensor([4, 5]), True), expected)
    assert all(torch.equal(*pair) for pair in zip(inputs, columns, strict=True))


@pytest.mark.parametrize("shape", [(0, 2, 5), (2, 0, 5), (2, 2, 0)])
def test_no_regions(shape):
    ids, keep = torch.zeros(shape, dtype=torch.int32), torch.ones(shape[0], dtype=torch.int64)
    assert hardest_of_regions(torch.zeros(shape), ids, ids == 0, keep, True).shape == shape
    assert hardest_of_regions(torch.zeros(shape), ids, None, keep, False).shape == shape


@pytest.mark.parametrize("holes", [False, True])
def test_opcheck_of_regions(holes):
    costs, ids, background = some_regions(9, 2)
    args = (costs, ids, background if holes else None, torch.tensor([2, 3]), True)
    torch.library.opcheck(hardest_of_regions, args)


def test_hardest_of_regions_compiles_and_maps():
    torch.compiler.reset()
    costs, ids, background = some_regions(30, 3)
    keep = torch.tensor([4, 5])
    expected = hardest_of_regions(costs, ids, background, keep, True)
    compiled = torch.compile(hardest_of_regions, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(costs, ids, background, keep, True), expected)
    mapped = torch.func.vmap(lambda x: hardest_of_regions(x, ids, background, keep, True))(
        torch.stack([costs * 0.5, costs])
    )
    assert torch.equal(mapped[1], expected)
    torch.compiler.reset()
