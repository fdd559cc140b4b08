"""C2 and C3: empty targets, missed objects, absent classes."""

import math

import pytest
import torch

import delineate.losses as L
from losses.cases import (
    CASES,
    DEFAULTS,
    MODES,
    ball,
    batch,
    exempt_from,
    held_to,
    in_each_space,
    margins,
    policies,
    value_and_gradient,
)

GRIDS = {"1d": (24,), "2d": (16, 16), "3d": (12, 12, 12)}
IMAGES = {"1d": (40,), "2d": (32, 32), "3d": (4, 6, 5), "one row": (4, 1), "large": (120, 120)}
REGION = [c for c in CASES if c.region]

pytestmark = pytest.mark.filterwarnings("ignore:SoftClDiceLoss")  # wide objects are all that matters here
both_modes = pytest.mark.parametrize("mode", MODES)
region_cases = pytest.mark.parametrize("case", REGION, ids=repr)


def binary(case, mode):
    """The loss of one foreground class. Voxel parts in softmax mode score the background too: it is their negatives."""
    return case.build(mode=mode, classes=[1] if mode == "softmax" and case.region else None)


def foreground(value, space, mode):
    """Logits with the foreground at `value`, a number or a map, and in softmax mode the background at 0."""
    z = torch.zeros(1, 1, *space, dtype=torch.float64) + value
    return z if mode == "sigmoid" else torch.cat([torch.zeros_like(z), z], 1)


@pytest.mark.parametrize(("case", "space"), in_each_space(held_to("C2a"), GRIDS))
@both_modes
def test_c2a_clean_prediction_of_an_empty_target(case, space, mode):
    target = torch.zeros(1, *space, dtype=torch.long)
    loss = binary(case, mode)
    clean = loss(foreground(-case.margin, space, mode), target)
    best = case.best(target, 1 if mode == "sigmoid" else 2, mode, classes=loss.classes)
    assert -case.rounding(best) <= clean - best <= 1e-3


@pytest.mark.parametrize("case", exempt_from("C2a"), ids=repr)
@both_modes
def test_c2a_exemption_is_needed(case, mode):
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    clean = binary(case, mode)(foreground(-20, (4, 4), mode), target)
    assert clean > case.minimum + 0.5
    assert clean > binary(case, mode)(foreground(-2, (4, 4), mode), target), "which is what C2b would forbid"


@pytest.mark.parametrize(("case", "space"), in_each_space(held_to("C2b"), GRIDS))
@both_modes
def test_c2b_false_positives_on_an_empty_target(case, space, mode):
    """They cost something, and lowering them lowers the loss."""
    loss, target = binary(case, mode), torch.zeros(1, *space, dtype=torch.long)
    channels = 1 if mode == "sigmoid" else 2
    clean = loss(foreground(-20, space, mode), target)
    unsure, unsure_gradient = value_and_gradient(loss, foreground(0, space, mode), target)
    wrong, wrong_gradient = value_and_gradient(loss, foreground(4, space, mode), target)
    less_wrong = loss(foreground(3.9, space, mode), target)
    assert clean + 1e-2 < unsure < wrong
    assert less_wrong < wrong
    assert unsure_gradient.abs().sum() >= 0.02 / channels**2
    p = torch.tensor(4.0).sigmoid()
    to_p = wrong_gradient / (p * (1 - p))
    assert to_p.isfinite().all()
    assert to_p.abs().max() >= 0.5 / (channels * target.numel())


@pytest.mark.parametrize("case", held_to("C2b", REGION), ids=repr)
@pytest.mark.parametrize("space", GRIDS.values(), ids=GRIDS)
def test_c2_with_several_foreground_classes(case, space):
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
    background, p = z.softmax(1).flatten(2)[0, :2, 0]
    assert gradient.abs().max() >= 0.5 * p * background / z.numel(), "|dL/dp| of order 1 / (C V)"
    assert gradient[:, 1:].sum() > 1e-4
    z[:, 1:] = 3.9
    assert loss(z, target) < wrong


@pytest.mark.parametrize(("case", "space"), in_each_space(held_to("C2c"), GRIDS))
@both_modes
def test_c2c_missed_object_has_a_gradient(case, space, mode):
    target = ball(space, 5)
    _, gradient = value_and_gradient(binary(case, mode), foreground(-4, space, mode), target)
    inside = (2 * target - 1)[:, None]
    along = (gradient[:, -1:] * inside).sum() - (gradient[:, :-1] * inside).sum()
    assert along < -1e-4
    if not case.spatial:  # others have voxels that do not matter: on the boundary, or far from a skeleton
        assert (gradient[:, -1][target == 1] < 0).all()


def with_absent_channels(case, mode):
    logits, target = batch((6, 5), channels=2, mode=mode)
    more = torch.cat([logits, torch.full((3, 19, 6, 5), -20.0, dtype=torch.float64)], 1)
    return case.build(mode=mode)(more, target), case.build(mode=mode)(logits, target)


@pytest.mark.parametrize("case", [c for c in held_to("C3a") if c.pooled], ids=repr)
def test_c3a_absent_channels_change_nothing_in_softmax(case):
    torch.testing.assert_close(*with_absent_channels(case, "softmax"))


@pytest.mark.parametrize("case", [c for c in held_to("C3a") if c.region], ids=repr)
def test_c3a_absent_channels_change_nothing_in_sigmoid(case):
    """Of region losses. A mean over voxels and channels knows of more channels, and says so in its docstring."""
    torch.testing.assert_close(*with_absent_channels(case, "sigmoid"))


def test_c3a_one_of_many_classes_all_wrong_is_one():
    target = torch.full((2, 8, 8), 4)
    logits = margins(torch.full((2, 8, 8), 7), 21, 30.0, "softmax")
    expected = {L.LogCoshDiceLoss: math.log(math.cosh(1)), L.SensitivitySpecificityLoss: 0.05}  # of negatives: none
    for case in REGION:
        if case.leading and not case.spatial:
            value = case.build()(logits, target).item()
            assert value == pytest.approx(expected.get(case.cls, 1), abs=1e-6), case


@pytest.mark.parametrize(
    ("case", "space"),
    [pytest.param(c, s, id=f"{c}-{n}") for n, s in IMAGES.items() for c in held_to("C3b") if n == "2d" or c.leading],
)
@both_modes
def test_c3b_perfect_prediction_with_absent_classes_is_the_minimum(case, space, mode):
    target = torch.zeros(2, *space, dtype=torch.long)
    target[:, space[0] // 2 :] = 2
    target[1] = 0
    logits = margins(target, 5, case.margin, mode)
    for options in policies(case):
        best = case.best(target, 5, mode, **options)
        assert -case.rounding(best) <= case.build(mode=mode, **options)(logits, target) - best < 1e-3


@pytest.mark.parametrize("case", [c for c in exempt_from("C3b") if not c.spatial], ids=repr)
@both_modes
def test_c3b_exemption_is_needed(case, mode):
    target = torch.zeros(2, 4, 4, dtype=torch.long)
    assert case.build(mode=mode)(margins(target, 5, 20.0, mode), target) > case.minimum + 0.5


@pytest.mark.parametrize("case", [c for c in held_to("C3c") if c.pooled], ids=repr)
@both_modes
def test_c3c_nothing_scored_present_behaves_as_count(case, mode):
    logits, target = batch(mode=mode)
    target[:] = 0
    skip, count = (case.build(mode=mode, classes=[1, 2], absent=absent) for absent in ("skip", "count"))
    torch.testing.assert_close(
        value_and_gradient(skip, logits, target), value_and_gradient(count, logits, target), rtol=0, atol=0
    )
    assert case.relative or skip(logits, target) > case.minimum + 0.05


@pytest.mark.parametrize("case", [c for c in held_to("C3", DEFAULTS) if c.region], ids=repr)
@both_modes
def test_c3_policies_differ_where_a_class_is_absent(case, mode):
    logits, target = batch(mode=mode)
    target[target == 2] = 1
    skip, count = (case.build(mode=mode, absent=absent)(logits, target) for absent in ("skip", "count"))
    assert abs(skip - count) > 1e-3
