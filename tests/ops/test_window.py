"""Means and variances of windows against loops over their taps."""

from itertools import product

import pytest
import torch

from delineate.ops.window import (
    binary_moments,
    gaussian_taps,
    moments,
    moments_backward,
    padded,
    padded_backward,
    smooth,
    weighted_moments,
)

SPACES = [(26,), (13, 15), (11, 12, 13)]
sizes = pytest.mark.parametrize("size", [1, 3, 5, 11])
spaces = pytest.mark.parametrize("space", SPACES, ids=["1d", "2d", "3d"])


def by_loops(values, weight, taps):
    """Of all windows that lie within the image, tap by tap; 0 where a window has no weight."""
    inner = [n - len(taps) + 1 for n in values.shape]
    windows = []
    for corner in product(range(len(taps)), repeat=values.ndim):
        part = tuple(slice(k, k + n) for k, n in zip(corner, inner, strict=True))
        tap = torch.tensor([taps[k] for k in corner], dtype=torch.float64).prod()
        windows.append((tap * weight[part].double(), values[part]))
    w, x = (torch.stack(parts) for parts in zip(*windows, strict=True))
    w = w / torch.where(w.sum(0) > 0, w.sum(0), 1)
    mean = (w * x).sum(0)
    return mean, (w * (x - mean) ** 2).sum(0)


def check(found, expected, dtype):
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance)


@sizes
@pytest.mark.parametrize("sigma", [0.1, 1.5, 100])
def test_taps(size, sigma):
    taps = gaussian_taps(size, sigma)
    assert len(taps) == size
    assert taps == taps[::-1]
    assert sum(taps) == pytest.approx(1, abs=1e-15)
    assert max(taps) == taps[size // 2]
    if size > 1 and sigma > 1:
        assert taps[0] / taps[size // 2] == pytest.approx(2.718281828459045 ** (-((size // 2) ** 2) / (2 * sigma**2)))


@spaces
@sizes
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_equal_loops(space, size, dtype):
    if size > 5 and len(space) == 3:
        size = 9
    taps, dims = gaussian_taps(size, 1.5), list(range(len(space)))
    values, weight = torch.rand(space).double(), (torch.rand(space) > 0.4).double()
    mask = (values > 0.6).double()
    ones = torch.ones_like(values)
    check(moments(values.to(dtype), taps, dims), by_loops(values, ones, taps), dtype)
    check(binary_moments(mask.to(dtype), taps, dims), by_loops(mask, ones, taps), dtype)
    check(weighted_moments(values.to(dtype), weight.to(dtype), taps, dims), by_loops(values, weight, taps), dtype)
    check(weighted_moments(values.to(dtype), ones.to(dtype), taps, dims), by_loops(values, ones, taps), dtype)


def test_only_some_dims():
    values, taps = torch.rand(3, 9, 10, dtype=torch.float64), gaussian_taps(3, 1.5)
    mean, variance = moments(values, taps, [1, 2])
    for k in range(3):
        check((mean[k], variance[k]), by_loops(values[k], torch.ones(9, 10), taps), torch.float64)
    mean, variance = moments(values, taps, [])
    assert torch.equal(mean, values)
    assert not variance.any()


@sizes
@pytest.mark.parametrize("level", [0, 0.1, 1 / 3, 0.7, 1])
def test_flat_windows_have_no_variance_in_float32(size, level):
    taps = gaussian_taps(size, 1.5)
    for space in SPACES:
        flat, dims = torch.full(space, float(level)), list(range(len(space)))
        mean, variance = moments(flat, taps, dims)
        assert (mean == level).all()
        assert not variance.any()
        weight = (torch.rand(space) > 0.5).float()
        mean, variance = weighted_moments(flat, weight, taps, dims)
        assert ((mean == level) | (mean == 0)).all()
        assert not variance.any()
        if level in (0, 1):
            mean, variance = binary_moments(flat, taps, dims)
            assert (mean == level).all()
            assert not variance.any()


def test_small_variances_are_not_lost():
    """As a difference of moments, this variance would be rounding noise."""
    values = 1 + 1e-5 * torch.rand(40, 40, dtype=torch.float64).float()
    taps = gaussian_taps(5, 1.5)
    _, found = moments(values, taps, [0, 1])
    _, expected = by_loops(values.double(), torch.ones(40, 40), taps)
    torch.testing.assert_close(found.double(), expected, rtol=0.05, atol=0)


def test_windows_without_weight_are_zero():
    weight = torch.zeros(8, 8)
    weight[0, 0] = 1
    mean, variance = weighted_moments(torch.rand(8, 8), weight, gaussian_taps(3, 1.5), [0, 1])
    assert mean[0, 0] > 0
    mean[0, 0] = 0
    assert not mean.any()
    assert not variance.any()


def test_what_has_no_weight_does_not_count():
    values, weight, taps = torch.rand(9, 9).double(), (torch.rand(9, 9) > 0.4).double(), gaussian_taps(5, 1.5)
    other = torch.where(weight > 0, values, 1e3)
    for one, same in zip(*(weighted_moments(v, weight, taps, [0, 1]) for v in (values, other)), strict=True):
        torch.testing.assert_close(one, same, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [moments, binary_moments, weighted_moments])
def test_memory_layout_does_not_count_and_nothing_is_written(kind):
    values, taps = (torch.rand(9, 8) > 0.5).double(), gaussian_taps(3, 1.5)
    options = (torch.ones(9, 8).double(),) if kind is weighted_moments else ()
    before = values.clone()
    expected = kind(values, *options, taps, [0, 1])
    found = kind(values.mT.contiguous().mT, *options, taps, [0, 1])
    assert torch.equal(values, before)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_are_slopes(size, weighted):
    """Of each value, by central differences."""
    values, taps = torch.rand(6, 7, dtype=torch.float64), gaussian_taps(size, 1.5)
    weight = (torch.rand(6, 7) > 0.3).double() if weighted else None

    def of(v):
        found = moments(v, taps, [0, 1]) if weight is None else weighted_moments(v, weight, taps, [0, 1])
        return torch.stack(found)

    upstream = torch.rand_like(of(values))
    steps = 1e-6 * torch.eye(values.numel(), dtype=torch.float64).view(-1, 6, 7)
    slopes = [((of(values + step) - of(values - step)) * upstream).sum() / 2e-6 for step in steps]
    found = moments_backward(*upstream, values, weight, taps, [0, 1])
    torch.testing.assert_close(found, torch.stack(slopes).view(6, 7), rtol=1e-6, atol=1e-8)


def test_margins():
    row = torch.tensor([1.0, 2, 3, 4])
    assert padded(row, [(2, 1)], "reflect").tolist() == [3, 2, 1, 2, 3, 4, 3]
    assert padded(row, [(2, 1)], "zeros").tolist() == [0, 0, 1, 2, 3, 4, 0]
    assert padded(row, [(0, 2)], "zeros", -1).tolist() == [1, 2, 3, 4, -1, -1]
    assert padded(row, [(0, 0)], "reflect") is row
    assert padded(row.view(2, 2), [(1, 0), (0, 1)], "reflect").tolist() == [[3, 4, 3], [1, 2, 1], [3, 4, 3]]
    assert padded(torch.zeros(3, 4, 5), [(1, 2), (0, 3), (4, 0)], "reflect").shape == (6, 7, 9)


@pytest.mark.parametrize("padding", ["reflect", "zeros"])
def test_gradient_of_margins(padding):
    margins, values = [(2, 0), (1, 3), (0, 2)], torch.rand(4, 5, 6, requires_grad=True)
    wide = padded(values, margins, padding)
    upstream = torch.rand_like(wide)
    (expected,) = torch.autograd.grad(wide, values, upstream)
    torch.testing.assert_close(padded_backward(upstream, margins, padding), expected)


def test_smooth_is_the_sum_over_taps():
    values, taps = torch.rand(4, 9, dtype=torch.float64), gaussian_taps(5, 1.5)
    expected = sum(tap * values[:, k : k + 5] for k, tap in enumerate(taps))
    torch.testing.assert_close(smooth(values, taps, 1), expected)
