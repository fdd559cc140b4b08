"""Sums, weights, reductions, pooling."""

import itertools

import pytest
import torch

import delineate.losses as L
from losses.cases import CASES, DEFAULTS, MODES, batch, value_and_gradient, variant

PAIRED = [
    variant(L.CrossEntropyLoss, normalize="weight"),
    variant(L.TopKLoss, k=0.3),
    variant(L.FocalLoss, gamma=0.5),
    variant(L.DiceLoss),
    variant(L.DiceLoss, squared=True, pool="batch"),
    variant(L.GeneralizedDiceLoss, absent="count"),
    variant(L.FocalTverskyLoss, smooth=1.0),
]
SCALE_FREE = [c for c in CASES if c.region and "smooth" not in c.own] + [
    variant(L.CrossEntropyLoss, normalize="weight")
]
PROPORTIONAL = [c for c in CASES if not c.region and "normalize" not in c.own]

every_case = pytest.mark.parametrize("case", CASES, ids=repr)
region_cases = pytest.mark.parametrize("case", [c for c in CASES if c.region], ids=repr)
both_modes = pytest.mark.parametrize("mode", MODES)
both_kinds = pytest.mark.parametrize("kind", ["labels", "soft"])


@pytest.mark.parametrize(("a", "b"), list(itertools.product(PAIRED, PAIRED)), ids=repr)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_sum_is_the_sum_of_its_terms(a, b, reduction):
    for mode, kind in itertools.product(MODES, ("labels", "soft")):
        logits, target = batch(mode=mode, kind=kind)
        weight = torch.rand(3, 5, 4, dtype=torch.float64)
        common = {"mode": mode, "reduction": reduction, "class_weight": [1.0, 0.3, 2.0]}
        if kind == "labels":
            target[:, 0] = 255
            common["ignore_index"] = 255
        first, second = a.build(**common), b.build(**common)
        expected = [
            x + 0.5 * y
            for x, y in zip(
                *(value_and_gradient(loss, logits, target, weight) for loss in (first, second)), strict=True
            )
        ]
        total = first + 0.5 * second
        for loss in (total, 0.5 * second + first, L.parse(total.expression())):
            found = value_and_gradient(loss, logits, target, weight)
            torch.testing.assert_close(list(found), expected, rtol=1e-9, atol=1e-12)


@both_modes
def test_parts_add_up_to_the_loss(mode):
    logits, target = batch(mode=mode)
    loss = 2 * (L.DiceLoss(mode=mode) + 0.25 * L.TopKLoss(mode=mode)) + L.CrossEntropyLoss(mode=mode)
    parts = loss.parts(logits, target)
    assert len(parts) == 3
    torch.testing.assert_close(sum(parts.values()), loss(logits, target))


def test_terms_may_differ_in_mode_and_ignored_label():
    logits, target = batch()
    a, b = L.DiceLoss(ignore_index=2), L.FocalLoss(mode="sigmoid", ignore_index=1)
    torch.testing.assert_close((a + b)(logits, target), a(logits, target) + b(logits, target))


def test_sums_refuse_what_cannot_be_added():
    with pytest.raises(ValueError, match="same `reduction`"):
        L.DiceLoss() + L.CrossEntropyLoss(reduction="none")
    for factor in (float("nan"), float("inf"), 10**400, True):
        with pytest.raises(ValueError, match="finite number"):
            factor * L.DiceLoss()
    with pytest.raises(ValueError, match="finite number"):
        1e200 * (1e200 * L.DiceLoss())
    with pytest.raises(TypeError):
        L.DiceLoss() + 1  # pyright: ignore


def test_multilabel_dice_ce_is_dice_and_binary_cross_entropy():
    """A perfect multilabel overlap is 0, and an all-negative target still costs."""
    loss = L.DiceLoss(mode="sigmoid") + L.CrossEntropyLoss(mode="sigmoid")
    target = (torch.rand(2, 3, 6, 6) > 0.4).double()
    target[:, 2] = target[:, 0] * target[:, 1]
    assert loss((2 * target - 1) * 20, target) < 1e-6
    logits = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    bce = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
    torch.testing.assert_close(loss(logits, target) - L.DiceLoss(mode="sigmoid")(logits, target), bce)
    value, gradient = value_and_gradient(loss, logits, torch.zeros_like(target))
    assert value > 0.5
    assert (gradient > 0).all()


@both_modes
def test_smoothed_dense_target_reaches_every_term(mode):
    logits, hard = batch(mode=mode, kind="dense")
    smooth = 0.9 * hard + 0.1 / 3
    loss = L.DiceLoss(mode=mode) + L.CrossEntropyLoss(mode=mode) + L.FocalLoss(mode=mode) + L.TopKLoss(mode=mode)
    before, after = loss.parts(logits, hard), loss.parts(logits, smooth)
    assert all(abs(before[name] - after[name]) > 1e-4 for name in before)


@pytest.mark.parametrize("case", SCALE_FREE, ids=repr)
@both_modes
def test_weight_zero_equals_ignoring(case, mode):
    logits, target = batch((6, 5), mode=mode)
    weight = torch.ones(target.shape)
    weight[:, 2:4] = 0
    zero = value_and_gradient(case.build(mode=mode), logits, target, weight)
    target[:, 2:4] = 255
    ignored = value_and_gradient(case.build(mode=mode, ignore_index=255), logits, target)
    torch.testing.assert_close(zero, ignored, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", [c for c in CASES if c.cls is not L.TopKLoss], ids=repr)
@both_modes
@both_kinds
def test_weight_is_like_repeating_voxels(case, mode, kind):
    """A weight multiplies contributions, never logits or labels. (Top-k counts voxels: more voxels, more are kept.)"""
    logits, target = batch((12,), mode=mode, kind=kind)
    weight = torch.randint(0, 3, (3, 12)).double()
    weight[:, 0] = 24 - weight[:, 1:].sum(1)  # all samples get twice their voxels, as many for each
    each = case.build(mode=mode, reduction="none")(logits, target, weight)
    times = 1 if case.region or "normalize" in case.own else 2  # by voxel, the voxels counted are those given
    for n in range(3):
        repeats = weight[n].long()
        z, y = logits[n].repeat_interleave(repeats, -1)[None], target[n].repeat_interleave(repeats, -1)[None]
        torch.testing.assert_close(each[n], times * case.build(mode=mode)(z, y), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("case", "factor"), [*((c, 1) for c in SCALE_FREE), *((c, 10) for c in PROPORTIONAL)], ids=repr
)
@both_modes
@both_kinds
def test_ten_times_the_weight(case, factor, mode, kind):
    logits, target = batch(mode=mode, kind=kind)
    weight = torch.rand(3, 5, 4, dtype=torch.float64)
    loss = case.build(mode=mode)
    plain, scaled = (value_and_gradient(loss, logits, target, w) for w in (weight, 10 * weight))
    torch.testing.assert_close(list(scaled), [factor * t for t in plain], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("case", "factor"), [*((c, 1) for c in SCALE_FREE), *((c, 10) for c in PROPORTIONAL)], ids=repr
)
@both_modes
def test_ten_times_the_class_weight(case, factor, mode):
    logits, target = batch(mode=mode)
    plain, scaled = (
        value_and_gradient(case.build(mode=mode, class_weight=w), logits, target) for w in ([1, 2, 4], [10, 20, 40])
    )
    torch.testing.assert_close(list(scaled), [factor * t for t in plain], rtol=1e-9, atol=1e-12)


@every_case
@both_modes
def test_class_weight_has_one_number_per_channel_whatever_classes_says(case, mode):
    logits, target = batch(mode=mode)
    a, b = (case.build(mode=mode, classes=[1, 2], class_weight=[w, 2.0, 3.0]) for w in (1.0, 100.0))
    torch.testing.assert_close(a(logits, target), b(logits, target), rtol=0, atol=0)


@every_case
@both_modes
@both_kinds
@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_reductions(case, mode, kind, samples):
    """Also with as many samples as classes, which a mistaken broadcast would hide behind a plausible shape."""
    logits, target = batch(samples=samples, mode=mode, kind=kind)
    ignored = kind == "labels" and samples > 2
    if ignored:
        target[1] = 255
    common = {"mode": mode, "ignore_index": 255 if ignored else None}
    none, total, mean = (case.build(**common, reduction=r)(logits, target) for r in ("none", "sum", "mean"))
    assert none.shape == (samples,)
    torch.testing.assert_close(total, none.sum())
    singles = [case.build(**common)(logits[n : n + 1], target[n : n + 1]) for n in range(samples)]
    torch.testing.assert_close(none, torch.stack(singles), rtol=1e-12, atol=1e-14)
    if case.region:
        torch.testing.assert_close(mean, none.sum() / (samples - ignored))


@pytest.mark.parametrize("loss", [L.DiceLoss(reduction="none") + c.build(reduction="none") for c in DEFAULTS], ids=repr)
def test_none_of_a_sum_never_mixes_samples(loss):
    logits, target = batch(samples=3, channels=3)
    changed = logits.clone()
    changed[1] = 0
    before, after = loss(logits, target), loss(changed, target)
    assert before.shape == (3,)
    assert (before == after).tolist() == [True, False, True]


@every_case
@both_modes
def test_order_of_the_batch_does_not_matter(case, mode):
    logits, target = batch(samples=4, mode=mode)
    order = torch.tensor([2, 0, 3, 1])
    loss = case.build(mode=mode, reduction="none")
    torch.testing.assert_close(loss(logits, target)[order], loss(logits[order], target[order]), rtol=1e-12, atol=1e-14)
    halves = torch.cat([loss(logits[:1], target[:1]), loss(logits[1:], target[1:])])
    torch.testing.assert_close(loss(logits, target), halves, rtol=1e-12, atol=1e-14)


@region_cases
@both_modes
@both_kinds
@pytest.mark.parametrize("absent", ["skip", "count"])
def test_pooled_batch_equals_the_samples_joined(case, mode, kind, absent):
    logits, target = batch((6, 5), mode=mode, kind=kind)
    weight = torch.rand(3, 6, 5, dtype=torch.float64)
    if kind == "labels":
        target[0] = 0
    joined = [torch.cat(list(t), -1)[None] for t in (logits, target, weight)]
    for reduction in ("mean", "sum", "none"):
        pooled = case.build(mode=mode, pool="batch", absent=absent, reduction=reduction)(logits, target, weight)
        one = case.build(mode=mode, absent=absent)(*joined)
        expected = {"mean": one, "sum": 3 * one, "none": one.expand(3)}[reduction]
        torch.testing.assert_close(pooled, expected, rtol=1e-9, atol=1e-12)
