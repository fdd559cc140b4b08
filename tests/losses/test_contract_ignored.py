"""What must not matter does not (ignored voxels, empty batches), and what must be seen is (NaN)."""

import pytest
import torch

import delineate.losses as L
from losses.cases import CASES, DEFAULTS, MODES, SPACES, batch, in_mode, value_and_gradient

VOID = 255
SUM = L.DiceLoss(ignore_index=VOID) + 0.5 * L.TopKLoss(ignore_index=VOID) + 2 * L.CrossEntropyLoss(ignore_index=VOID)

every_case = pytest.mark.parametrize("case", CASES, ids=repr)
every_loss = pytest.mark.parametrize("case", DEFAULTS, ids=repr)
both_modes = pytest.mark.parametrize("mode", MODES)


def pools(case):
    return ({"pool": "sample"}, {"pool": "batch"}) if case.region else ({},)


@every_case
@both_modes
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_ignored_region_equals_the_cropped_input(case, mode, space):
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
def test_ignore_index_without_such_voxels_changes_nothing(case, mode):
    logits, target = batch(mode=mode)
    without = value_and_gradient(case.build(mode=mode), logits, target)
    for index in (VOID, -1):
        ours = value_and_gradient(case.build(mode=mode, ignore_index=index), logits, target)
        torch.testing.assert_close(ours, without, rtol=0, atol=0)


@every_case
@both_modes
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_logits_of_ignored_voxels_do_not_matter(case, mode, dtype):
    logits, target = batch(mode=mode)
    logits = logits.to(dtype)
    target[:, 1:3] = VOID
    target[2] = VOID
    loss = case.build(mode=mode, ignore_index=VOID)
    value, gradient = value_and_gradient(loss, logits, target)
    ignored = (target == VOID)[:, None].expand_as(logits)
    assert gradient[~ignored].any()
    for bad in (torch.nan, torch.inf, -torch.inf):
        for channels in (slice(None), slice(1, 2)):
            spoilt = logits.clone()
            spoilt[:, channels] = spoilt[:, channels].masked_fill(ignored[:, channels], bad)
            ours, ours_gradient = value_and_gradient(loss, spoilt, target)
            assert ours == value
            assert torch.equal(ours_gradient, gradient)
            assert not ours_gradient[ignored].any()


@every_case
@both_modes
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_all_ignored_is_zero_with_a_graph(case, mode, reduction):
    logits, target = batch(mode=mode)
    target[:] = VOID
    for options in pools(case):
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
def test_ignored_sample_is_left_out_of_the_mean(case, mode):
    logits, target = batch(mode=mode)
    kept_logits, kept = logits[1:], target[1:].clone()
    target[0] = VOID
    for options in pools(case):
        value = case.build(mode=mode, ignore_index=VOID, **options)(logits, target)
        torch.testing.assert_close(value, case.build(mode=mode, **options)(kept_logits, kept), rtol=1e-12, atol=1e-14)
        each = case.build(mode=mode, ignore_index=VOID, reduction="none", **options)(logits, target)
        assert each[0] == 0
        assert (each[1:] > 0).all()


@pytest.mark.parametrize("loss", [SUM, *(c.build(ignore_index=VOID) for c in DEFAULTS)], ids=repr)
@both_modes
def test_inputs_are_never_changed(loss, mode):
    loss = in_mode(loss, mode)
    logits, target = batch(mode=mode)
    target[:, 1] = VOID
    weight = torch.rand(target.shape)
    logits[:, 0, 1, 2] = torch.nan
    before = [t.clone() for t in (logits, target, weight)]
    writes = [t._version for t in (logits, target, weight)]
    value_and_gradient(loss, logits, target, weight)
    loss(logits, target, weight)
    for now, then in zip((logits, target, weight), before, strict=True):
        torch.testing.assert_close(now, then, rtol=0, atol=0, equal_nan=True)
    assert [t._version for t in (logits, target, weight)] == writes


@every_case
@both_modes
def test_ignore_index_is_a_label_never_a_channel(case, mode):
    logits, target = batch(mode=mode)
    target[target == 1] = 0
    void = torch.zeros_like(target, dtype=torch.bool)
    void[:, 2] = True
    options = {"absent": "count"} if case.region else {}
    found = []
    for index in (-1, VOID, 1):
        loss = case.build(mode=mode, ignore_index=index, **options)
        found.append(value_and_gradient(loss, logits, target.masked_fill(void, index)))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=0)
    assert found[2][1][:, 1].any(), "the channel of the ignored label is still scored"


@pytest.mark.parametrize("case", [c for c in DEFAULTS if not c.region], ids=repr)
def test_ignore_index_and_narrow_labels(case):
    """-1 is no label of uint8, and is not taken for 255."""
    logits, target = batch((2, 2), samples=1, channels=256)
    target = torch.tensor([[[255, 255], [255, 3]]])
    ours = value_and_gradient(case.build(ignore_index=-1), logits, target.to(torch.uint8))
    torch.testing.assert_close(ours, value_and_gradient(case.build(), logits, target), rtol=0, atol=0)


@every_case
@both_modes
@pytest.mark.parametrize("kind", ["labels", "soft"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_empty_batch_is_zero_with_a_graph(case, mode, kind, reduction):
    logits, target = batch(mode=mode, kind=kind)
    for options in (*pools(case), *([{"absent": "count"}] if case.region else [])):
        z = logits[:0].clone().requires_grad_()
        value = case.build(mode=mode, reduction=reduction, **options)(z, target[:0])
        assert value.shape == ((0,) if reduction == "none" else ())
        assert value.sum() == 0
        value.sum().backward()
        assert z.grad is not None
        assert z.grad.shape == z.shape


@every_case
@both_modes
@pytest.mark.parametrize("kind", ["labels", "soft"])
def test_nan_in_a_valid_logit_makes_the_loss_nan(case, mode, kind):
    logits, target = batch((6, 7), mode=mode, kind=kind)
    if kind == "labels":
        target[:, 0] = VOID
    common = {"mode": mode, "ignore_index": VOID if kind == "labels" else None}
    for channel in range(3):
        spoilt = logits.clone()
        spoilt[1, channel, 3, 2] = torch.nan
        assert case.build(**common)(spoilt, target).isnan()
        each = case.build(**common, reduction="none")(spoilt, target)
        assert each.isnan().tolist() == [False, True, False]
