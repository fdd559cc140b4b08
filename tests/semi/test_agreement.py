"""Agreement of logits: formula, identity, closed-form gradient, and where it is not defined."""

import numpy as np
import pytest
import torch

from delineate.semi.agreement import logit_agreement
from reference import semi as reference

SPACE = (3, 4)


def pair(channels=5, space=SPACE, scale=1.0):
    return (scale * torch.randn(2, channels, *space, dtype=torch.float64) for _ in range(2))


def plain(a, b, w=None, eps=1e-6):
    w = torch.ones(len(a), *a.shape[2:]) if w is None else w
    return reference.agreement(*(x.double().flatten(2).numpy() for x in (a, b)), w.double().flatten(1).numpy(), eps)


@pytest.mark.parametrize("space", [(5,), (3, 4), (2, 3, 2)], ids=["1d", "2d", "3d"])
@pytest.mark.parametrize("channels", [3, 4, 21])
@pytest.mark.parametrize("eps", [0.0, 1e-6, 0.5])
def test_equals_the_formula(channels, space, eps):
    a, b = pair(channels, space)
    weight = torch.rand(2, *space, dtype=torch.float64)
    weight[0] *= weight[0] > 0.3
    assert logit_agreement(a, b, eps=eps).item() == pytest.approx(plain(a, b, eps=eps), rel=1e-12)
    assert logit_agreement(a, b, weight, eps).item() == pytest.approx(plain(a, b, weight, eps), rel=1e-12)
    mask = weight > 0.5
    assert logit_agreement(a, b, mask, eps).item() == pytest.approx(plain(a, b, mask, eps), rel=1e-12)


@pytest.mark.parametrize("channels", [3, 7, 50])
def test_is_one_minus_correlation(channels):
    a, b = pair(channels, (6,))
    r = [np.corrcoef(a[n, :, v], b[n, :, v])[0, 1] for n in range(2) for v in range(6)]
    expected = 2 * (channels - 1) / channels * (1 - np.mean(r))
    assert logit_agreement(a, b, eps=0).item() == pytest.approx(expected, rel=1e-13)


def test_gradient_in_closed_form():
    a, b = (x.requires_grad_() for x in pair())
    found = torch.autograd.grad(logit_agreement(a, b, eps=0), (a, b))
    flat = [x.detach().flatten(2).numpy() for x in (a, b)]
    for grad, order in zip(found, (flat, flat[::-1]), strict=True):
        np.testing.assert_allclose(
            grad.flatten(2).numpy(), reference.agreement_gradient(*order), rtol=1e-11, atol=1e-15
        )


def test_gradcheck():
    a, b = (x.requires_grad_() for x in pair(4, (3,)))
    mask = torch.tensor([[0.5, 0.0, 2.0], [1.0, 1.0, 0.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(logit_agreement, (a, b))
    assert torch.autograd.gradcheck(lambda a, b: logit_agreement(a, b, mask, 0.1), (a, b))


def test_symmetry_and_affine_maps():
    a, b = pair()
    value = logit_agreement(a, b, eps=0)
    torch.testing.assert_close(logit_agreement(b, a, eps=0), value, rtol=1e-14, atol=0)
    torch.testing.assert_close(logit_agreement(3 * a - 2, 0.1 * b + 7, eps=0), value, rtol=1e-12, atol=0)
    assert logit_agreement(a, 2 * a + 1, eps=0).item() < 1e-25
    assert logit_agreement(a, -a, eps=0).item() == pytest.approx(4 * 4 / 5, rel=1e-13)
    assert logit_agreement(a, a).item() == 0


def test_unrelated_logits_cost_about_two():
    a, b = pair(20, (4000,))
    assert logit_agreement(a, b).item() == pytest.approx(2 * 19 / 20, rel=0.02)


@pytest.mark.parametrize("scale", [0, 1e-4, 1e4])
@pytest.mark.parametrize("masked", [False, True])
def test_constant_logits_are_finite(scale, masked):
    """In value and gradient, which stays bounded by 1 / sqrt(eps)."""
    a = torch.full((1, 4, 6), float(scale), requires_grad=True)
    b = torch.randn(1, 4, 6, requires_grad=True)
    mask = torch.ones(1, 6, dtype=torch.bool) if masked else None
    for one, other in ((a, b), (b, a), (a, a)):
        value = logit_agreement(one, other, mask)
        assert value.isfinite()
        for grad in torch.autograd.grad(value, (a, b), allow_unused=True):
            assert grad is None or grad.abs().max() < 1e3


def test_small_differences_survive_large_offsets():
    """A mean of squares less the square of the mean would be rounding noise here."""
    a, b = pair(6, (50,))
    big = [(x + 1000).float() for x in (a, b)]
    assert logit_agreement(*big).item() == pytest.approx(plain(*big), rel=1e-4)


def test_masked_voxels_do_not_matter():
    a, b = pair()
    mask = torch.rand(2, *SPACE) > 0.4
    value = logit_agreement(a, b, mask)
    for junk in (1e6, torch.inf, torch.nan):
        one = torch.where(mask[:, None], a, junk).requires_grad_()
        other = b.clone().requires_grad_()
        found = logit_agreement(one, other, mask)
        assert torch.equal(found, value)
        for grad in torch.autograd.grad(found, (one, other)):
            assert not (grad * ~mask[:, None]).any()
            assert grad.isfinite().all()
            assert grad.any()
    assert logit_agreement(one, other).isnan()


def test_a_mask_is_as_if_voxels_were_deleted():
    a, b = pair(4, (8,))
    mask = torch.zeros(2, 8)
    mask[:, :5] = 1
    for given in (mask, mask.bool(), 3 * mask):
        torch.testing.assert_close(logit_agreement(a, b, given), logit_agreement(a[..., :5], b[..., :5]))


@pytest.mark.parametrize("mask", [torch.zeros(2, *SPACE), torch.zeros(2, *SPACE, dtype=torch.bool)])
def test_an_empty_mask_is_zero_with_a_graph(mask):
    a, b = (x.requires_grad_() for x in pair())
    value = logit_agreement(a, b, mask, eps=0)
    assert value.item() == 0
    for grad in torch.autograd.grad(value, (a, b)):
        assert not grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_and_autocast_are_read_in_float32(dtype):
    a, b = (x.to(dtype).requires_grad_() for x in pair(8, (30,)))
    with torch.autocast("cpu", torch.bfloat16):
        value = logit_agreement(a, b)
        wide = logit_agreement(a.detach().float(), b.detach().float())
    assert value.dtype == torch.float32
    assert torch.equal(value, wide)
    assert value.item() == pytest.approx(plain(a.detach(), b.detach()), rel=1e-6)
    assert torch.autograd.grad(value, a)[0].dtype == dtype


def test_nothing_is_written():
    a, b = pair()
    mask = torch.rand(2, *SPACE) > 0.5
    before = [x.clone() for x in (a, b, mask)]
    logit_agreement(a, b, mask)
    assert all(torch.equal(x, y) for x, y in zip((a, b, mask), before, strict=True))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda a: logit_agreement(a[:, :2], a[:, :2]), "at least 3 channels, got 2.*agree_weight=0"),
        (lambda a: logit_agreement(a[:, :1], a[:, :1]), "at least 3 channels, got 1"),
        (lambda a: logit_agreement(a, a[:, :4]), r"one shape.*\(2, 4, 3, 4\)"),
        (lambda a: logit_agreement(a[0, :, 0], a[0, :, 0]), r"\(N, C, \*S\)"),
        (lambda a: logit_agreement(a.long(), a.long()), "int64"),
        (lambda a: logit_agreement(a, a, torch.ones(2, 1, 3, 4)), r"mask.*\(2, 3, 4\).*\(2, 1, 3, 4\)"),
        (lambda a: logit_agreement(a, a, eps=-1), "eps.*-1"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words) as error:
        call(torch.randn(2, 5, 3, 4))
    assert "\n" not in str(error.value)
