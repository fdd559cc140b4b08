"""C5 and C22: extreme logits, powers at a perfect prediction, and the order of better and worse predictions."""

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
    in_mode,
    margins,
    policies,
    value_and_gradient,
    variant,
)

GRIDS = {"1d": (24,), "2d": (16, 16), "3d": (12, 12, 12)}
RADIUS = {1: 4, 2: 4, 3: 2}
POWERS = [
    *(variant(L.FocalLoss, gamma=gamma) for gamma in (0.0, 1.0)),
    *(variant(L.PolyLoss, gamma=gamma, epsilon=-1.0) for gamma in (0.5, 1.0)),
    *(variant(L.FocalTverskyLoss, exponent=e) for e in (0.5, 1.33)),
    *(variant(L.UnifiedFocalLoss, gamma=gamma, asymmetric=False) for gamma in (0.0, 0.9)),
    *(variant(L.ExponentialLogarithmicLoss, dice_gamma=g, ce_gamma=1.33) for g in (0.5, 1.33)),
    variant(L.TverskyLoss, fp_weight=0.0, fn_weight=1.0),
    variant(L.TverskyLoss, fp_weight=1.0, fn_weight=0.0),
]
SUMS = [L.DiceLoss() + L.FocalLoss(), 0.5 * L.CrossEntropyLoss() + L.TopKLoss()]

both_modes = pytest.mark.parametrize("mode", MODES)


SIZES = {torch.float32: 1e4, torch.float16: 6e4, torch.bfloat16: 1e4}
"""Of logits, in each type."""


@pytest.mark.parametrize(
    ("case", "dtype"),
    [*((c, torch.float16) for c in CASES + POWERS), *((c, t) for c in DEFAULTS for t in SIZES if t != torch.float16)],
    ids=str,
)
@both_modes
def test_c5_extreme_logits(case, mode, dtype):
    size = SIZES[dtype]
    logits, target = batch((6, 5), mode=mode)
    logits = logits.sign().to(dtype) * size
    perfect, empty = margins(target, 3, size, mode).to(dtype), torch.zeros_like(target)
    for z, y in ((logits, target), (perfect, target), (-perfect, target), (logits, empty), (perfect, empty)):
        value, gradient = value_and_gradient(case.build(mode=mode), z, y)
        assert value.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("case", held_to("C2a", DEFAULTS + POWERS), ids=repr)
@both_modes
@pytest.mark.parametrize("kind", ["labels", "dense"])
def test_c5_powers_at_a_perfect_prediction(case, mode, kind):
    """(1 - p)^gamma and (1 - TI)^exponent have an infinite slope at 0 for exponents below 1."""
    for labels in (ball((8, 8), 2), torch.zeros(1, 8, 8, dtype=torch.long)):
        target = labels if kind == "labels" else margins(labels, 2, 1.0, "softmax").float()
        compound = case.pooled and not case.region  # small powers, which lift what is left at margin 8
        for margin in (8, 40, 1000):
            for options in policies(case):
                logits = margins(labels, 2, margin, mode).float()
                value, gradient = value_and_gradient(case.build(mode=mode, **options), logits, target)
                best = case.best(labels, 2, mode, **options)
                rounding = case.rounding(best)
                assert value >= best - rounding
                assert value - best < 0.05 or (margin == 8 and (compound or "C4" in case.exempt))
                assert gradient.isfinite().all()
                if margin == 1000:
                    assert value - best < 1e-6 + rounding
                    assert not gradient.any()


def impossible_class(loss, mode, kind):
    logits, labels = batch((6, 5))
    labels[labels == 2] = 1
    target = labels if kind == "labels" else margins(labels, 3, 1.0, "softmax")
    logits[:, 2] = -torch.inf
    return value_and_gradient(in_mode(loss, mode), logits, target)


@pytest.mark.parametrize("loss", [*(c.build() for c in held_to("C5", CASES + POWERS)), *SUMS], ids=repr)
@both_modes
@pytest.mark.parametrize("kind", ["labels", "dense"])
def test_c5_impossible_logit_of_an_unused_class(loss, mode, kind):
    value, gradient = impossible_class(loss, mode, kind)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert not gradient[:, 2].any()
    assert gradient[:, :2].any()


@pytest.mark.parametrize("case", [c for c in DEFAULTS if c.pooled], ids=repr)
@both_modes
@pytest.mark.parametrize("kind", ["labels", "dense"])
def test_c5_impossible_logit_of_an_absent_class_that_is_counted(case, mode, kind):
    value, gradient = impossible_class(case.build(absent="count"), mode, kind)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert not gradient[:, 2].any()


@pytest.mark.parametrize("case", exempt_from("C5"), ids=repr)
@both_modes
def test_c5_exemption_is_needed(case, mode):
    value, _ = impossible_class(case.build(), mode, "labels")
    assert value == torch.inf


def ordered(case, space, mode):
    """The loss of a perfect prediction, of ones shifted by 1 and by 5 voxels, and of the inverted one."""
    radius, margin = RADIUS[len(space)], case.margin
    target = ball(space, radius)
    predictions = [ball(space, radius, shift) for shift in (0, 1, 5)] + [1 - target]
    return [case.build(mode=mode)(margins(labels, 2, margin, mode), target).item() for labels in predictions]


@pytest.mark.parametrize(("case", "space"), in_each_space(held_to("C22"), GRIDS))
@both_modes
def test_c22_better_predictions_cost_less(case, space, mode):
    perfect, near, far, inverted = ordered(case, space, mode)
    best = case.best(ball(space, RADIUS[len(space)]), 2, mode)
    assert -1e-9 * case.relative <= perfect - best < 1e-3
    assert perfect + (1e-4 if case.spatial else 1e-3) < near < far < inverted


@pytest.mark.parametrize("case", exempt_from("C22"), ids=repr)
@both_modes
def test_c22_what_holds_of_exempt_rows(case, mode):
    """Either the perfect prediction is not the minimum, or the hardest voxels are all wrong before the others are."""
    perfect, near, far, inverted = ordered(case, (16, 16), mode)
    if case.spatial:
        assert perfect <= min(near, far, inverted)
        assert perfect + 1e-3 < max(far, inverted)
        return
    assert perfect < near <= far + 1e-12
    assert far <= inverted + 1e-12
    assert perfect > case.minimum + 0.5 or not near + 1e-9 < far + 1e-9 < inverted
