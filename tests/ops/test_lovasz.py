"""Slopes of the Lovász extension against explicit sorting, and the properties that make it an extension."""

import pytest
import torch

from delineate.ops.lovasz import lovasz_slopes
from losses.conftest import one_thread, seed  # noqa: F401


def by_sorting(errors, target, weight):
    """Walk through one row from the largest error on, in plain Python."""
    order = sorted(range(len(errors)), key=lambda i: -errors[i])
    inside = sum(w * y for w, y in zip(weight, target, strict=True))
    left, union, before, slopes = inside, inside, 0.0, [0.0] * len(errors)
    for i in order:
        left, union = left - weight[i] * target[i], union + weight[i] * (1 - target[i])
        now = 1 - left / union if union > 0 else 0.0
        slopes[i], before = now - before, now
    return slopes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("size", [1, 2, 50])
def test_equals_sorting(dtype, weighted, size):
    errors, target = torch.rand(6, size, dtype=dtype), torch.rand(6, size) > 0.6
    target[1], target[2] = False, True
    weight = torch.rand(2, size, dtype=torch.float64) * (torch.rand(2, size) > 0.3) if weighted else None
    found = lovasz_slopes(errors, target, weight, torch.ones(6, dtype=torch.bool))
    assert found.dtype == dtype
    for row in range(6):
        w = [1.0] * size if weight is None else weight[row // 3].tolist()
        expected = torch.tensor(by_sorting(errors[row].tolist(), target[row].tolist(), w), dtype=dtype)
        torch.testing.assert_close(found[row], expected, rtol=1e-6, atol=1e-12)


def test_float32_is_sorted_as_float64_is():
    """The float32 path sorts bit patterns: zeros of both signs, denormals, infinities and ties included."""
    special = [0.0, -0.0, 1e-45, 1e-38, 1.0, 1.0, float("inf"), 3.0e38, 0.5, 0.5, 0.5]
    errors = torch.tensor([special + torch.rand(500).tolist()])
    target = torch.rand(1, errors.shape[1]) > 0.5
    wanted = torch.ones(1, dtype=torch.bool)
    narrow, wide = (lovasz_slopes(e, target, None, wanted) for e in (errors, errors.double()))
    finite = errors[0].isfinite()
    values = [(errors.double()[:, finite] * s.double()[:, finite]).sum() for s in (narrow, wide)]
    torch.testing.assert_close(*values, rtol=1e-6, atol=0)
    unique = [errors[0].tolist().count(e) == 1 for e in errors[0].tolist()]
    torch.testing.assert_close(narrow[0][unique].double(), wide[0][unique], rtol=1e-6, atol=0)


def test_rows_that_are_not_wanted_are_zero():
    wanted = torch.tensor([True, False, True])
    slopes = lovasz_slopes(torch.rand(3, 20), torch.rand(3, 20) > 0.5, None, wanted)
    assert slopes.any(1).tolist() == wanted.tolist()


def test_soft_targets_are_refused():
    with pytest.raises(ValueError, match=r"no form for soft labels; use JaccardLoss; got values from 0.5 to 1"):
        lovasz_slopes(torch.rand(1, 2), torch.tensor([[0.5, 1.0]]), None, torch.ones(1, dtype=torch.bool))


def test_nan_is_not_lost():
    errors = torch.tensor([[0.1, float("nan"), 0.7]])
    slopes = lovasz_slopes(errors, torch.tensor([[True, False, False]]), None, torch.ones(1, dtype=torch.bool))
    assert (errors * slopes).sum().isnan()


@pytest.mark.parametrize("weight", [None, torch.rand(1, 9, dtype=torch.float64)], ids=["plain", "weighted"])
def test_opcheck(weight):
    args = (torch.rand(3, 9), torch.rand(3, 9) > 0.5, weight, torch.tensor([True, True, False]))
    torch.library.opcheck(lovasz_slopes, args)
