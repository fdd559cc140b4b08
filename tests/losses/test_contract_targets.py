"""C8 and C9: soft targets, activations, and which classes are scored."""

import inspect
import itertools

import pytest
import torch

import delineate.losses as L
from delineate.losses.loss import arguments
from losses.cases import (
    CASES,
    DEFAULTS,
    MODES,
    REGION_PARTS,
    VOXEL_PARTS,
    batch,
    exempt_from,
    held_to,
    margins,
    value_and_gradient,
)

every_case = pytest.mark.parametrize("case", CASES, ids=repr)
every_loss = pytest.mark.parametrize("case", DEFAULTS, ids=repr)
both_modes = pytest.mark.parametrize("mode", MODES)


@every_case
@both_modes
def test_c8b_hard_dense_target_equals_labels(case, mode):
    logits, labels = batch(mode=mode)
    dense = margins(labels, 3, 1.0, "softmax")
    more = [{"classes": [0, 2]}, {"class_weight": [1.0, 2.0, 0.5], "reduction": "none"}]
    for options in ({}, *(more if case.leading else [])):
        loss = case.build(mode=mode, **options)
        torch.testing.assert_close(
            value_and_gradient(loss, logits, labels), value_and_gradient(loss, logits, dense), rtol=1e-9, atol=1e-12
        )


TEMPERATURES = [1 / 20, 1 / 5, 1 / 2, 0.9, 1.0, 1.1, 2, 5, 20]


def over_temperatures(case, mode, *, channels=3, uneven=1, seed=0):
    """The loss of p = activation(logit(t) / T), T of `TEMPERATURES`, for a soft target t."""
    _, target = batch((6, 6), mode=mode, kind="soft", channels=channels, seed=seed)
    target = target**uneven
    if mode == "softmax":
        target[:, 0] *= uneven
        target = target / target.sum(1, keepdim=True)
    logits = target.log() if mode == "softmax" else target.logit()
    return [case.build(mode=mode)(logits / t, target).item() for t in TEMPERATURES]


@pytest.mark.parametrize("case", held_to("C8a"), ids=repr)
@both_modes
def test_c8a_optimum_of_soft_labels_is_the_labels_themselves(case, mode):
    """Not the hardened prediction: the minimum is at T = 1."""
    values = over_temperatures(case, mode)
    assert min(values[:4] + values[5:]) > values[4] + 1e-6
    if case.region:
        assert values[4] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("case", [c for c in exempt_from("C8a") if not (c.hard_only or c.spatial)], ids=repr)
def test_c8a_exemption_is_needed(case):
    """Of some target, with many classes or with classes of unequal size, another prediction costs less."""
    kinds = itertools.product(MODES, ({}, {"uneven": 3}, {"channels": 4}, {"channels": 5}))
    found = [over_temperatures(case, mode, **options) for mode, options in kinds]
    assert any(min(values) < values[4] - 1e-6 for values in found)


@pytest.mark.parametrize("case", [c for c in CASES if c.hard_only], ids=repr)
@both_modes
def test_c8c_losses_without_a_soft_form_refuse(case, mode):
    logits, target = batch(mode=mode, kind="soft")
    with pytest.raises(
        ValueError, match=r"LovaszLoss needs a dense target of 0 and 1, .*; use JaccardLoss; got values from 0"
    ):
        case.build(mode=mode)(logits, target)


@both_modes
def test_c8d_smoothed_dense_target_reaches_every_term(mode):
    logits, hard = batch(mode=mode, kind="dense")
    smooth = 0.9 * hard + 0.1 / 3
    cases = [c for c in held_to("C8d", DEFAULTS) if not c.hard_only]
    loss = sum((c.build(mode=mode) for c in cases[1:]), start=1 * cases[0].build(mode=mode))
    before, after = loss.parts(logits, hard), loss.parts(logits, smooth)
    assert len(before) == len(cases)
    assert all(abs(before[name] - after[name]) > 1e-4 for name in before)


def test_c8d_label_smoothing_belongs_to_cross_entropy_only():
    assert [c.cls for c in DEFAULTS if "label_smoothing" in arguments(c.cls)] == [L.CrossEntropyLoss]


@every_case
@both_modes
def test_c9a_softmax_ignores_a_constant_and_sigmoid_does_not(case, mode):
    """Softmax stays softmax in every term: no loss is silently one-vs-rest."""
    logits, target = batch(mode=mode)
    shift = 1 + torch.rand(3, 1, 5, 4, dtype=torch.float64)
    for loss in (case.build(mode=mode), L.DiceLoss(mode=mode) + case.build(mode=mode)):
        before, after = (value_and_gradient(loss, z, target) for z in (logits, logits + shift))
        if mode == "softmax":
            torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-12)
        else:
            assert abs(after[0] - before[0]) > 1e-3


def gradients_of_another_channel(case, kind, seed=0):
    """The gradient before and after the logits of channel 1 change."""
    logits, target = batch(mode="sigmoid", kind=kind, seed=seed)
    changed = logits.clone()
    changed[:, 1] = 2 * torch.randn(3, 5, 4, dtype=torch.float64)
    return [value_and_gradient(case.build(mode="sigmoid"), z, target)[1] for z in (logits, changed)]


@pytest.mark.parametrize("case", held_to("C9a"), ids=repr)
def test_c9a_sigmoid_channels_do_not_reach_each_other(case):
    for kind in ("labels", case.soft):
        before, after = gradients_of_another_channel(case, kind)
        torch.testing.assert_close(after[:, [0, 2]], before[:, [0, 2]], rtol=1e-12, atol=1e-15)
        assert not torch.allclose(after[:, 1], before[:, 1])


@pytest.mark.parametrize("case", [c for c in exempt_from("C9a") if "one " in c.exempt["C9a"]], ids=repr)
def test_c9a_exemption_is_needed(case):
    pairs = [gradients_of_another_channel(case, "labels", seed) for seed in range(5)]
    assert not all(torch.allclose(after[:, [0, 2]], before[:, [0, 2]]) for before, after in pairs)


@every_case
@pytest.mark.parametrize("soft", [False, True])
def test_c9a_sigmoid_channels_that_are_not_scored_do_not_matter(case, soft):
    kind = case.soft if soft else "labels"
    logits, target = batch(mode="sigmoid", kind=kind)
    loss = case.build(mode="sigmoid", classes=[0, 2])
    changed = logits.clone()
    changed[:, 1] = torch.randn(3, 5, 4, dtype=torch.float64)
    before, after = value_and_gradient(loss, logits, target), value_and_gradient(loss, changed, target)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert not before[1][:, 1].any()


@pytest.mark.parametrize("case", held_to("C9b"), ids=repr)
@pytest.mark.parametrize("soft", [False, True])
def test_c9b_classes_act_after_the_softmax(case, soft):
    """Without the background among the scored classes, its channel still has a gradient and an effect."""
    kind = case.soft if soft else "labels"
    logits, target = batch(kind=kind)
    loss = case.build(mode="softmax", classes=[1, 2])
    value, gradient = value_and_gradient(loss, logits, target)
    assert gradient[:, 0].abs().max() > 1e-4
    changed = logits.clone()
    changed[:, 0] += 1
    assert abs(loss(changed, target) - value) > 1e-3


@pytest.mark.parametrize("case", held_to("C9c") + VOXEL_PARTS + REGION_PARTS, ids=repr)
def test_c9c_one_sigmoid_channel_equals_two_of_softmax(case):
    """Scored the foreground by region, both classes by voxel."""
    logits, target = batch(channels=1, mode="sigmoid")
    both = torch.cat([torch.zeros_like(logits), logits], 1)
    for options in ({}, {"reduction": "none"}):
        sigmoid = case.build(mode="sigmoid", **options)
        softmax = case.build(mode="softmax", classes=[1] if case.by_foreground else None, **options)
        value, gradient = value_and_gradient(sigmoid, logits, target)
        value_2, gradient_2 = value_and_gradient(softmax, both, target)
        torch.testing.assert_close((value, gradient), (value_2, gradient_2[:, 1:]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", exempt_from("C9c"), ids=repr)
def test_c9c_exemption_is_needed(case):
    logits, target = batch(channels=1, mode="sigmoid")
    both = torch.cat([torch.zeros_like(logits), logits], 1)
    for classes in ([1], None):
        softmax = case.build(mode="softmax", classes=classes)(both, target)
        assert abs(case.build(mode="sigmoid")(logits, target) - softmax) > 1e-3


@every_loss
def test_c9_there_is_no_activation_flag(case):
    """Every loss takes logits."""
    found = set(inspect.signature(case.cls.forward).parameters)
    assert found == {"self", "logits", "target", "weight"}
    flags = {"from_logits", "sigmoid", "softmax", "activation", "apply_nonlin", "logits", "normalized"}
    assert not flags & set(arguments(case.cls))
