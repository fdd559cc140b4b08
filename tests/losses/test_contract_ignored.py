"""C1, C6, C19: what must not matter does not (ignored voxels, empty batches), and what must be seen is (NaN)."""

import itertools

import pytest
import torch

import delineate.losses as L
from losses.cases import (
    CASES,
    DEFAULTS,
    MODES,
    batch,
    held_to,
    in_each_space,
    in_mode,
    policies,
    pools,
    value_and_gradient,
)

VOID = 255
SUM = L.DiceLoss(ignore_index=VOID) + 0.5 * L.TopKLoss(ignore_index=VOID) + 2 * L.CrossEntropyLoss(ignore_index=VOID)

every_case = pytest.mark.parametrize("case", CASES, ids=repr)
every_loss = pytest.mark.parametrize("case", DEFAULTS, ids=repr)
both_modes = pytest.mark.parametrize("mode", MODES)


@pytest.mark.parametrize(("case", "space"), in_each_space(held_to("C1a")))
@both_modes
def test_c1a_ignored_region_equals_the_cropped_input(case, mode, space):
    """Nothing ignored dilutes a mean, and nothing is scored as class 0 or as logit 0."""
    logits, target = batch(space, mode=mode)
    weight = torch.rand(target.shape, dtype=torch.float64)
    kept = target.clone()
    target[:, :2] = VOID
    for options in pools(case):
        for w, w_kept in ((None, None), (weight, weight[:, 2:])):
            ours = case.build(mode=mode, ignore_index=VOID, **options)(logits, target, w)
            cropped = case.build(mode=mode, **options)(logits[:, :, 2:], kept[:, 2:], w_kept)
            torch.testing.assert_close(ours, cropped, rtol=1e-12, atol=1e-14)


@every_case
@both_modes
def test_c1b_ignore_index_without_such_voxels_changes_nothing(case, mode):
    logits, target = batch(mode=mode)
    without = value_and_gradient(case.build(mode=mode), logits, target)
    for index in (VOID, -1):
        ours = value_and_gradient(case.build(mode=mode, ignore_index=index), logits, target)
        torch.testing.assert_close(ours, without, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("case", "dtype"), [*((c, torch.float64) for c in CASES), *((c, torch.float16) for c in DEFAULTS)], ids=str
)
@both_modes
def test_c1c_logits_of_ignored_voxels_do_not_matter(case, mode, dtype):
    logits, target = batch(mode=mode)
    logits = logits.to(dtype)
    target[:, 1:3] = VOID
    target[2] = VOID
    loss = case.build(mode=mode, ignore_index=VOID)
    value, gradient = value_and_gradient(loss, logits, target)
    ignored = (target == VOID)[:, None].expand_as(logits)
    assert "C1c" in case.exempt or gradient[~ignored].any()
    bad = itertools.product((torch.nan, torch.inf, -torch.inf), (slice(None), slice(1, 2)))
    for number, channels in bad if case.leading and dtype == torch.float64 else [(torch.nan, slice(1, 2))]:
        spoilt = logits.clone()
        spoilt[:, channels] = spoilt[:, channels].masked_fill(ignored[:, channels], number)
        ours, ours_gradient = value_and_gradient(loss, spoilt, target)
        assert ours == value
        assert torch.equal(ours_gradient, gradient)
        assert not ours_gradient[ignored].any()


@pytest.mark.parametrize(
    ("case", "reduction"),
    [*((c, "none") for c in CASES), *((c, r) for c in DEFAULTS for r in ("mean", "sum"))],
    ids=str,
)
@both_modes
def test_c1d_all_ignored_is_zero_with_a_graph(case, mode, reduction):
    logits, target = batch(mode=mode)
    target[:] = VOID
    for options in (*pools(case), *policies(case)[1:]):
        loss = case.build(mode=mode, ignore_index=VOID, reduction=reduction, **options)
        for z in (logits, torch.full_like(logits, torch.nan)):
            z = z.clone().requires_grad_()
            value = loss(z, target, torch.rand(target.shape))
            assert value.requires_grad
            assert value.shape == ((3,) if reduction == "none" else ())
            assert not value.any()
            value.sum().backward()
            assert z.grad is not None
            assert not z.grad.any()


@every_case
@both_modes
def test_c1e_ignored_sample_is_left_out_of_the_mean(case, mode):
    logits, target = batch(mode=mode)
    kept_logits, kept = logits[1:], target[1:].clone()
    target[0] = VOID
    for options in pools(case):
        value = case.build(mode=mode, ignore_index=VOID, **options)(logits, target)
        torch.testing.assert_close(value, case.build(mode=mode, **options)(kept_logits, kept), rtol=1e-12, atol=1e-14)
        each = case.build(mode=mode, ignore_index=VOID, reduction="none", **options)(logits, target)
        assert each[0] == 0
        assert (each[1:] >= case.minimum).all()
        assert each[1:].any()


@both_modes
@pytest.mark.parametrize("weighted", [False, True])
def test_c1f_inputs_are_never_changed(mode, weighted):
    """All losses at once, which share them. (One by one: test_contract.py.)"""
    loss = in_mode(sum((c.build(ignore_index=VOID) for c in DEFAULTS), start=SUM), mode)
    logits, target = batch(mode=mode)
    target[:, 1] = VOID
    weight = torch.rand(target.shape)
    logits[:, 0, 1, 2] = torch.nan
    before = [t.clone() for t in (logits, target, weight)]
    writes = [t._version for t in (logits, target, weight)]
    value_and_gradient(loss, logits, target, weight if weighted else None)
    loss(logits, target, weight if weighted else None)
    for now, then in zip((logits, target, weight), before, strict=True):
        torch.testing.assert_close(now, then, rtol=0, atol=0, equal_nan=True)
    assert [t._version for t in (logits, target, weight)] == writes


@every_case
@both_modes
def test_c1g_ignore_index_is_a_label_never_a_channel(case, mode):
    logits, target = batch(mode=mode)
    target[target == 1] = 0
    void = torch.zeros_like(target, dtype=torch.bool)
    void[:, 2] = True
    options = policies(case)[-1]
    found = []
    for index in (-1, VOID, 1):
        loss = case.build(mode=mode, ignore_index=index, **options)
        found.append(value_and_gradient(loss, logits, target.masked_fill(void, index)))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=0)
    assert "C1g" in case.exempt or found[2][1][:, 1].any(), "the channel of the ignored label is still scored"


@every_loss
def test_c1g_ignore_index_and_narrow_labels(case):
    """-1 is no label of uint8, and is not taken for 255."""
    logits, target = batch((2, 2), samples=1, channels=256)
    target = torch.tensor([[[255, 255], [255, 3]]])
    ours = value_and_gradient(case.build(ignore_index=-1), logits, target.to(torch.uint8))
    torch.testing.assert_close(ours, value_and_gradient(case.build(), logits, target), rtol=0, atol=0)


@every_loss
@both_modes
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_c19_empty_batch_is_zero_with_a_graph(case, mode, reduction):
    for kind, options in itertools.product(("labels", case.soft), (*pools(case), *policies(case))):
        logits, target = batch(mode=mode, kind=kind)
        z = logits[:0].clone().requires_grad_()
        for weight in (None, torch.ones(0, 5, 4)):
            value = case.build(mode=mode, reduction=reduction, **options)(z, target[:0], weight)
            assert value.shape == ((0,) if reduction == "none" else ())
            assert value.sum() == 0
            (gradient,) = torch.autograd.grad(value.sum(), z)
            assert gradient.shape == z.shape


@every_case
@both_modes
def test_c6_nan_in_a_valid_logit_makes_the_loss_nan(case, mode):
    """In any channel for one row of each loss, in the last one for the others."""
    for kind in ("labels", case.soft):
        logits, target = batch((6, 7), mode=mode, kind=kind)
        if kind == "labels":
            target[:, 0] = VOID
        common = {"mode": mode, "ignore_index": VOID if kind == "labels" else None}
        for channel, options in itertools.product(range(3) if case.leading else [2], pools(case)):
            spoilt = logits.clone()
            spoilt[1, channel, 3, 2] = torch.nan
            assert case.build(**common, **options)(spoilt, target).isnan()
            each = case.build(**common, **options, reduction="none")(spoilt, target)
            together = options.get("pool") == "batch"  # of a value of the whole batch, NaN is everywhere
            assert each.isnan().tolist() == [together, True, together]
