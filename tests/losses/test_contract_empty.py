"""Empty targets, missed objects, absent classes, extreme logits, and the order of better and worse predictions."""

import math

import pytest
import torch

import delineate.losses as L
from losses.cases import CASES, DEFAULTS, MODES, ball, batch, in_mode, margins, value_and_gradient, variant

GRIDS = {"2d": (16, 16), "3d": (12, 12, 12)}
POWERS = [
    *(variant(L.FocalLoss, gamma=gamma) for gamma in (0.0, 0.5, 1.0, 2.0)),
    *(variant(L.FocalTverskyLoss, exponent=e) for e in (0.5, 0.75, 1.33)),
    variant(L.TverskyLoss, fp_weight=0.0, fn_weight=1.0),
    variant(L.TverskyLoss, fp_weight=1.0, fn_weight=0.0),
]
SUMS = [L.DiceLoss() + L.FocalLoss(), 0.5 * L.CrossEntropyLoss() + L.TopKLoss()]

every_case = pytest.mark.parametrize("case", CASES, ids=repr)
region_cases = pytest.mark.parametrize("case", [c for c in CASES if c.region], ids=repr)
both_modes = pytest.mark.parametrize("mode", MODES)
grids = pytest.mark.parametrize("space", GRIDS.values(), ids=GRIDS)


def binary(case, mode):
    """The loss of one foreground class. By voxel, softmax scores the background too: its voxels are the negatives."""
    return case.build(mode=mode, classes=[1] if mode == "softmax" and case.region else None)


def foreground(value, space, mode):
    """Logits with the foreground at `value`, a number or a map, and in softmax mode the background at 0."""
    z = torch.zeros(1, 1, *space, dtype=torch.float64) + value
    return z if mode == "sigmoid" else torch.cat([torch.zeros_like(z), z], 1)


@every_case
@both_modes
@grids
def test_empty_target(case, mode, space):
    """False positives on an empty target cost something, and lowering them lowers the loss."""
    loss, target = binary(case, mode), torch.zeros(1, *space, dtype=torch.long)
    voxels = target.numel()
    clean, _ = value_and_gradient(loss, foreground(-20, space, mode), target)
    unsure, unsure_gradient = value_and_gradient(loss, foreground(0, space, mode), target)
    wrong, wrong_gradient = value_and_gradient(loss, foreground(4, space, mode), target)
    less_wrong = loss(foreground(3.9, space, mode), target)
    assert 0 <= clean <= 1e-3
    assert clean + 1e-2 < unsure < wrong
    assert less_wrong < wrong
    assert unsure_gradient.abs().sum() >= 0.02
    p = torch.tensor(4.0).sigmoid()
    to_p = wrong_gradient / (p * (1 - p))
    assert to_p.isfinite().all()
    assert to_p.abs().max() >= 0.5 / voxels


@region_cases
@grids
def test_empty_target_with_several_foreground_classes(case, space):
    """Only the foreground is scored and none of it is there. (By voxel, `classes` drops the terms of other labels.)"""
    loss = case.build(classes=[1, 2])
    target = torch.zeros(1, *space, dtype=torch.long)
    z = torch.zeros(1, 3, *space, dtype=torch.float64)
    z[:, 1:] = -20
    assert 0 <= loss(z, target) <= 1e-3
    z[:, 1:] = 0
    unsure, gradient = value_and_gradient(loss, z, target)
    assert unsure > 0.1
    assert gradient.abs().sum() >= 0.02 / 9
    z[:, 1:] = 4
    wrong, gradient = value_and_gradient(loss, z, target)
    assert wrong > unsure
    assert gradient.isfinite().all()
    assert (gradient[:, 1:] > 0).all()


@every_case
@both_modes
@grids
def test_missed_object_has_a_gradient(case, mode, space):
    target = ball(space, 5)
    _, gradient = value_and_gradient(binary(case, mode), foreground(-4, space, mode), target)
    inside = (2 * target - 1)[:, None]
    along = (gradient[:, -1:] * inside).sum() - (gradient[:, :-1] * inside).sum()
    assert along < -1e-4
    assert (gradient[:, -1][target == 1] < 0).all()


@region_cases
@both_modes
def test_absent_channels_change_nothing(case, mode):
    logits, target = batch((6, 5), channels=2, mode=mode)
    more = torch.cat([logits, torch.full((3, 19, 6, 5), -20.0, dtype=torch.float64)], 1)
    torch.testing.assert_close(case.build(mode=mode)(more, target), case.build(mode=mode)(logits, target))


def test_one_of_many_classes_all_wrong_is_one():
    target = torch.full((2, 8, 8), 4)
    logits = margins(torch.full((2, 8, 8), 7), 21, 30.0, "softmax")
    for loss in (L.DiceLoss(), L.JaccardLoss(), L.TverskyLoss(), L.FocalTverskyLoss(), L.GeneralizedDiceLoss()):
        assert loss(logits, target).item() == pytest.approx(1, abs=1e-6)
    assert L.LogCoshDiceLoss()(logits, target).item() == pytest.approx(math.log(math.cosh(1)), abs=1e-6)


@every_case
@both_modes
@pytest.mark.parametrize("size", [4, 32, 200])
def test_perfect_prediction_with_absent_classes_is_zero(case, mode, size):
    target = torch.zeros(2, size, size, dtype=torch.long)
    target[:, size // 2 :] = 2
    target[1] = 0
    logits = margins(target, 5, 20.0, mode)
    for options in ({"absent": "skip"}, {"absent": "count"}) if case.region else ({},):
        assert 0 <= case.build(mode=mode, **options)(logits, target) < 1e-3


@region_cases
@both_modes
def test_nothing_scored_present_behaves_as_count(case, mode):
    logits, target = batch(mode=mode)
    target[:] = 0
    skip, count = (case.build(mode=mode, classes=[1, 2], absent=absent) for absent in ("skip", "count"))
    torch.testing.assert_close(
        value_and_gradient(skip, logits, target), value_and_gradient(count, logits, target), rtol=0, atol=0
    )
    assert skip(logits, target) > 0.05


@pytest.mark.parametrize("case", CASES + POWERS, ids=repr)
@both_modes
@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 1e4), (torch.float16, 6e4), (torch.bfloat16, 1e4)])
def test_extreme_logits(case, mode, dtype, size):
    logits, target = batch((6, 5), mode=mode)
    logits = logits.sign().to(dtype) * size
    perfect, empty = margins(target, 3, size, mode).to(dtype), torch.zeros_like(target)
    for z, y in ((logits, target), (perfect, target), (-perfect, target), (logits, empty), (perfect, empty)):
        value, gradient = value_and_gradient(case.build(mode=mode), z, y)
        assert value.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("case", DEFAULTS + POWERS, ids=repr)
@both_modes
@pytest.mark.parametrize("kind", ["labels", "dense"])
@pytest.mark.parametrize("margin", [8, 40, 1000])
def test_powers_at_a_perfect_prediction(case, mode, kind, margin):
    """(1 - p)^gamma and (1 - TI)^exponent have an infinite slope at 0 for exponents below 1."""
    for labels in (ball((8, 8), 2), torch.zeros(1, 8, 8, dtype=torch.long)):
        logits = margins(labels, 2, margin, mode).float()
        target = labels if kind == "labels" else margins(labels, 2, 1.0, "softmax").float()
        value, gradient = value_and_gradient(case.build(mode=mode), logits, target)
        assert 0 <= value < 0.05
        assert gradient.isfinite().all()
        assert margin < 1000 or not gradient.any()


@pytest.mark.parametrize("loss", [*(c.build() for c in CASES + POWERS), *SUMS], ids=repr)
@both_modes
@pytest.mark.parametrize("kind", ["labels", "dense"])
def test_impossible_logit_of_an_unused_class(loss, mode, kind):
    logits, labels = batch((6, 5))
    labels[labels == 2] = 1
    target = labels if kind == "labels" else margins(labels, 3, 1.0, "softmax")
    logits[:, 2] = -torch.inf
    value, gradient = value_and_gradient(in_mode(loss, mode), logits, target)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert not gradient[:, 2].any()
    assert gradient[:, :2].any()


@every_case
@both_modes
@grids
def test_better_predictions_cost_less(case, mode, space):
    radius = 2 if len(space) == 3 else 4
    target = ball(space, radius)
    loss = case.build(mode=mode)
    perfect, near, far = (
        loss(margins(ball(space, radius, shift), 2, 20.0, mode), target).item() for shift in (0, 1, 5)
    )
    inverted = loss(margins(1 - target, 2, 20.0, mode), target).item()
    assert 0 <= perfect < 1e-3
    assert perfect + 1e-3 < near < far < inverted
