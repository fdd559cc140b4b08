"""C10, C11 and C12: sums, weights, reductions, pooling. (Several ranks: test_ranks.py.)"""

import functools

import pytest
import torch

import delineate.losses as L
from losses.cases import (
    CASES,
    DEFAULTS,
    MODES,
    REGION_PARTS,
    VOXEL_PARTS,
    batch,
    exempt_from,
    held_to,
    value_and_gradient,
    variant,
)

PAIRED = [
    *DEFAULTS,
    variant(L.CrossEntropyLoss, normalize="weight", label_smoothing=0.1),
    variant(L.FocalLoss, gamma=0.5),
    variant(L.PolyLoss, gamma=0.5),
    variant(L.DiceLoss, squared=True, pool="batch"),
    variant(L.GeneralizedDiceLoss, absent="count"),
]
REGION = [c for c in CASES if c.region and not c.spatial] + REGION_PARTS
BY_WEIGHT = [c for c in CASES if "normalize" in c.own]
BY_COUNT = [c for c in held_to("C10d") if not c.pooled and "normalize" not in c.own] + VOXEL_PARTS
MAPS = [c for c in held_to("C10d") if c.region and c.spatial]
SCALE_FREE = [c for c in REGION + MAPS if not getattr(c.build(), "smooth", 0)] + BY_WEIGHT
FACTORS = [*((c, 1) for c in SCALE_FREE), *((c, 10) for c in BY_COUNT)]

every_case = pytest.mark.parametrize("case", CASES, ids=repr)
both_modes = pytest.mark.parametrize("mode", MODES)
both_kinds = pytest.mark.parametrize("soft", [False, True], ids=["labels", "dense"])


def kind_of(soft, *cases):
    """Labels, or the kind of dense target that all of the losses take."""
    return "labels" if not soft else "dense" if any(c.hard_only for c in cases) else "soft"


@functools.cache
def problem(mode, kind):
    """Logits, target and weight of all sums, and what their terms are told. Nothing writes to them."""
    logits, target = batch(mode=mode, kind=kind)
    weight = torch.rand(3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    common = {"mode": mode, "class_weight": [1.0, 0.3, 2.0]}
    if kind == "labels":
        target[:, 0] = 255
        common["ignore_index"] = 255
    return (logits, target, weight), common


@functools.cache
def alone(name, mode, kind, reduction):
    """Value and gradient of the row of that name, which many sums have as a term."""
    case = next(c for c in PAIRED + CASES if repr(c) == name)
    inputs, common = problem(mode, kind)
    return value_and_gradient(case.build(**common, reduction=reduction), *inputs)


def assert_sum(a, b, mode, kind, reduction, *, parsed=True):
    """That of a and half of b is the sum of both alone; `parsed`: of what `parse` reads, too."""
    inputs, common = problem(mode, kind)
    terms = [alone(repr(c), mode, kind, reduction) for c in (a, b)]
    expected = [x + 0.5 * y for x, y in zip(*terms, strict=True)]
    total = a.build(**common, reduction=reduction) + 0.5 * b.build(**common, reduction=reduction)
    read = L.parse(total.expression())
    assert read.expression() == total.expression()
    for loss in (total, read)[: 1 + parsed]:
        torch.testing.assert_close(list(value_and_gradient(loss, *inputs)), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("a", PAIRED, ids=repr)
@both_modes
def test_c10a_sum_of_every_pair_is_the_sum_of_its_terms(a, mode):
    """The terms share one pass, which must do all that each of them needs, and what `parse` reads is equal."""
    others = PAIRED[: PAIRED.index(a) + 1]
    if a.spatial:  # with those that may share geometry, and with some that share the pass
        others = [b for place, b in enumerate(others) if b.spatial or place % 5 == 0]
    for number, b in enumerate(others):
        assert_sum(a, b, mode, kind_of(number % 2, a, b), "none" if number % 3 else "mean", parsed=b is a)


@every_case
@both_modes
@pytest.mark.parametrize(("soft", "reduction"), [(False, "none"), (True, "sum")], ids=["labels", "dense"])
def test_c10a_sum_of_every_row_with_dice(case, mode, soft, reduction):
    assert_sum(case, PAIRED[-2], mode, kind_of(soft, case), reduction)


@both_modes
def test_c10a_parts_add_up_to_the_loss(mode):
    logits, target = batch(mode=mode)
    loss = 2 * (L.DiceLoss(mode=mode) + 0.25 * L.TopKLoss(mode=mode)) + L.CrossEntropyLoss(mode=mode)
    parts = loss.parts(logits, target)
    assert len(parts) == 3
    torch.testing.assert_close(sum(parts.values()), loss(logits, target))


def test_c10a_terms_may_differ_in_mode_and_ignored_label():
    logits, target = batch()
    a, b = L.DiceLoss(ignore_index=2), L.FocalLoss(mode="sigmoid", ignore_index=1)
    torch.testing.assert_close((a + b)(logits, target), a(logits, target) + b(logits, target))


def test_c10a_sums_refuse_what_cannot_be_added():
    with pytest.raises(ValueError, match="same `reduction`"):
        L.DiceLoss() + L.CrossEntropyLoss(reduction="none")
    for factor in (float("nan"), float("inf"), 10**400, True):
        with pytest.raises(ValueError, match="finite number"):
            factor * L.DiceLoss()
    with pytest.raises(ValueError, match="finite number"):
        1e200 * (1e200 * L.DiceLoss())
    with pytest.raises(TypeError):
        L.DiceLoss() + 1  # pyright: ignore


def test_c10b_multilabel_dice_ce_is_dice_and_binary_cross_entropy():
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


def zero_and_ignored(case, mode):
    """Value and gradient with weight 0 on a region, and with that region ignored."""
    logits, target = batch((6, 5), mode=mode)
    weight = torch.ones(target.shape)
    weight[:, 2:4] = 0
    zero = value_and_gradient(case.build(mode=mode), logits, target, weight)
    target[:, 2:4] = 255
    return zero, value_and_gradient(case.build(mode=mode, ignore_index=255), logits, target)


@pytest.mark.parametrize("case", REGION + BY_WEIGHT, ids=repr)
@both_modes
def test_c10c_weight_zero_equals_ignoring(case, mode):
    zero, ignored = zero_and_ignored(case, mode)
    torch.testing.assert_close(zero, ignored, rtol=1e-9, atol=1e-12)


def repeated(case, mode, kind):
    """The loss with weights 0, 1, 2 ..., and of voxels repeated as often."""
    logits, target = batch((12,), mode=mode, kind=kind)
    weight = torch.randint(0, 3, (3, 12)).double()
    weight[:, 0] = 24 - weight[:, 1:].sum(1)  # all samples get twice their voxels, as many for each
    each = case.build(mode=mode, reduction="none")(logits, target, weight)
    times = 1 if case.region or "normalize" in case.own else 2  # by voxel, the voxels counted are those given
    alone = []
    for n in range(3):
        repeats = weight[n].long()
        z, y = logits[n].repeat_interleave(repeats, -1)[None], target[n].repeat_interleave(repeats, -1)[None]
        alone.append(times * case.build(mode=mode)(z, y))
    return each, torch.stack(alone)


@pytest.mark.parametrize(
    "case",
    [*(c for c in held_to("C10c") if not c.spatial and (c.region or not c.pooled)), *VOXEL_PARTS, *REGION_PARTS],
    ids=repr,
)
@both_modes
@both_kinds
def test_c10c_weight_is_like_repeating_voxels(case, mode, soft):
    """A weight multiplies contributions, never logits or labels."""
    each, alone = repeated(case, mode, kind_of(soft, case))
    torch.testing.assert_close(each, alone, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", exempt_from("C10c"), ids=repr)
@both_modes
def test_c10c_exemption_is_needed(case, mode):
    """A voxel of weight 2 is one voxel among those chosen from."""
    each, alone = repeated(case, mode, "labels")
    assert not torch.allclose(each, alone)


@pytest.mark.parametrize(("case", "factor"), FACTORS, ids=repr)
@both_modes
@both_kinds
def test_c10d_ten_times_the_weight(case, factor, mode, soft):
    logits, target = batch(mode=mode, kind=kind_of(soft, case))
    weight = torch.rand(3, 5, 4, dtype=torch.float64)
    loss = case.build(mode=mode)
    plain, scaled = (value_and_gradient(loss, logits, target, w) for w in (weight, 10 * weight))
    torch.testing.assert_close(list(scaled), [factor * t for t in plain], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("case", "factor"), FACTORS, ids=repr)
@both_modes
def test_c10d_ten_times_the_class_weight(case, factor, mode):
    logits, target = batch(mode=mode)
    plain, scaled = (
        value_and_gradient(case.build(mode=mode, class_weight=w), logits, target) for w in ([1, 2, 4], [10, 20, 40])
    )
    torch.testing.assert_close(list(scaled), [factor * t for t in plain], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", held_to("C10e"), ids=repr)
@both_modes
def test_c10e_class_weight_has_one_number_per_channel_whatever_classes_says(case, mode):
    logits, target = batch(mode=mode)
    a, b = (case.build(mode=mode, classes=[1, 2], class_weight=[w, 2.0, 3.0]) for w in (1.0, 100.0))
    torch.testing.assert_close(a(logits, target), b(logits, target), rtol=0, atol=0)


@every_case
@both_modes
@both_kinds
def test_c11_reductions(case, mode, soft):
    """Also with as many samples as classes, which a mistaken broadcast would hide behind a plausible shape."""
    for samples in (1, 3, 4) if case.leading else (3,):
        logits, target = batch((3, 2), samples=samples, mode=mode, kind=kind_of(soft, case))
        ignored = not soft and samples > 2
        if ignored:
            target[1] = 255
        common = {"mode": mode, "ignore_index": 255 if ignored else None}
        none, total, mean = (case.build(**common, reduction=r)(logits, target) for r in ("none", "sum", "mean"))
        assert none.shape == (samples,)
        torch.testing.assert_close(total, none.sum())
        singles = [case.build(**common)(logits[n : n + 1], target[n : n + 1]) for n in range(samples)]
        if "C11" not in case.exempt:
            torch.testing.assert_close(none, torch.stack(singles), rtol=1e-12, atol=1e-14)
            if case.region:
                torch.testing.assert_close(mean, none.sum() / (samples - ignored))


@pytest.mark.parametrize("loss", [L.DiceLoss(reduction="none") + c.build(reduction="none") for c in DEFAULTS], ids=repr)
def test_c11_none_of_a_sum_never_mixes_samples(loss):
    logits, target = batch(samples=3, channels=3)
    changed = logits.clone()
    changed[1] = 0
    before, after = loss(logits, target), loss(changed, target)
    assert before.shape == (3,)
    assert (before == after).tolist() == [True, False, True]


@pytest.mark.parametrize("case", held_to("C12"), ids=repr)
@both_modes
def test_c12_order_of_the_batch_does_not_matter(case, mode):
    logits, target = batch(samples=4, mode=mode)
    order = torch.tensor([2, 0, 3, 1])
    loss = case.build(mode=mode, reduction="none")
    torch.testing.assert_close(loss(logits, target)[order], loss(logits[order], target[order]), rtol=1e-12, atol=1e-14)
    halves = torch.cat([loss(logits[:1], target[:1]), loss(logits[1:], target[1:])])
    torch.testing.assert_close(loss(logits, target), halves, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("case", REGION, ids=repr)
@both_modes
@both_kinds
@pytest.mark.parametrize("absent", ["skip", "count"])
def test_c12_pooled_batch_equals_the_samples_joined(case, mode, soft, absent):
    """Of region losses, and of the region part of a compound: its part by voxel knows no pools."""
    logits, target = batch((6, 5), mode=mode, kind=kind_of(soft, case))
    weight = torch.rand(3, 6, 5, dtype=torch.float64)
    if not soft:
        target[0] = 0
    joined = [torch.cat(list(t), -1)[None] for t in (logits, target, weight)]
    one = case.build(mode=mode, absent=absent)(*joined)
    for reduction, expected in {"mean": one, "sum": 3 * one, "none": one.expand(3)}.items():
        pooled = case.build(mode=mode, pool="batch", absent=absent, reduction=reduction)(logits, target, weight)
        torch.testing.assert_close(pooled, expected, rtol=1e-9, atol=1e-12)
