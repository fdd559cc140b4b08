"""The hardest fraction against sorting."""

import math

import pytest
import torch

from delineate.ops.select import hardest


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
