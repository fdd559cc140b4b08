"""Faults of code that accompanies papers and surveys, each with a test that ours does not have it.

The docstring of a test says what the other code does. Shown elsewhere in the tests:

    SegLossOdyssey Lovasz trainer: raw logits               test_elsewhere.py: test_smp_lovasz_value
    MONAI GDL, LIVIAETS: absent classes                     also test_contract_empty.py

Losses of distances and skeletons are in `test_elsewhere_geometry.py`, CMSSL and RMI in
`test_elsewhere_neighbourhoods.py`. Belongs to a loss not here yet: blob loss.
"""

import math

import pytest
import torch

import delineate.losses as L
from losses.cases import batch, margins, value_and_gradient
from losses.test_elsewhere import (
    COUNTED,
    REGION,
    VOID,
    both_modes,
    close,
    counted,
    every_loss,
    minimum,
)

JOINT = ("GeneralizedDiceLoss", "PenaltyGeneralizedDiceLoss")
"""One ratio over all classes, not a mean over them."""
BY_VOXEL = ("CrossEntropyLoss", "TopKLoss", "OHEMLoss", "FocalLoss", "PolyLoss")

region = pytest.mark.parametrize("case", REGION, ids=repr)


def soft_counts(logits, target):
    """By sample and class: true positives, false positives, misses; lists of lists of floats."""
    p = logits.softmax(1)
    on = torch.stack([target == c for c in range(logits.shape[1])], 1)
    tp, mass, count = ((t.flatten(2).sum(2)) for t in (p * on, p, on.double()))
    return tp, mass - tp, count - tp


def scene(samples=2, seed=0):
    """Random logits and labels of three uneven classes, all present in each sample."""
    logits, target = batch((6, 7), samples=samples, seed=seed)
    return logits, torch.where(target == 2, target * (torch.arange(7) > 3), target)


# ---------------------------------------------------------------------------------------------------------- region


def test_seglossodyssey_penalty_gdice_takes_minus_gd():
    """SegLossOdyssey, PenaltyGDice: x / (1 + k (1 - x)) is fed -GD; its trainer raises TypeError."""
    logits, target = scene()
    tp, fp, fn = soft_counts(logits, target)
    size = 1 / (tp + fn) ** 2
    gd = 2 * (size * tp).sum(1) / (size * (2 * tp + fp + fn)).sum(1)
    close(L.GeneralizedDiceLoss(reduction="none")(logits, target), 1 - gd)
    for k in (0.0, 2.5, 10.0):
        close(L.PenaltyGeneralizedDiceLoss(k=k, reduction="none")(logits, target), (1 - gd) / (1 + k * gd))
    close(L.PenaltyGeneralizedDiceLoss(reduction="none")(logits, target), (1 - gd) / (1 + 2.5 * gd))


@pytest.mark.parametrize("name", JOINT)
def test_boundary_loss_generalized_dice_of_empty_masks_is_minus_one(name):
    """LIVIAETS GeneralizedDice: both masks empty gives -1; an absent class weighs 1e20 and swamps the rest."""
    empty, loss = torch.zeros(1, 8, 8, dtype=torch.long), getattr(L, name)
    clean = margins(empty, 3, 40.0, "softmax")
    for absent in ("skip", "count"):
        assert loss(absent=absent, classes=[1, 2])(clean, empty).item() == pytest.approx(0, abs=1e-9)
    logits, target = batch(channels=3)
    target.clamp_max_(1)  # class 2 is absent
    without = loss(classes=[0, 1])(logits, target)
    close(loss()(logits, target), without)
    sure = margins(target, 3, 6.0, "softmax")  # 99.5 % right: the weight of the absent class must not make this 1
    assert loss(absent="count")(sure, target) < 0.05


def test_jadon_generalized_dice_is_plain_dice():
    """Jadon's GDL is plain Dice, and MONAI's weights cancelled (MONAI#369): no size of a class matters."""
    logits, target = scene()
    tp, fp, fn = soft_counts(logits, target)
    for weighting, power in (("square", 2), ("simple", 1), ("uniform", 0)):
        size = (tp + fn) ** -power
        gd = 2 * (size * tp).sum(1) / (size * (2 * tp + fp + fn)).sum(1)
        found = L.GeneralizedDiceLoss(weighting=weighting, reduction="none")(logits, target)
        close(found, 1 - gd)
        assert (found - L.DiceLoss(reduction="none")(logits, target)).abs().min() > 1e-4


@pytest.mark.parametrize("case", [c for c in COUNTED if c.cls.__name__ not in JOINT], ids=repr)
@both_modes
def test_smp_tversky_gamma_is_taken_after_the_class_mean(case, mode):
    """smp Tversky `gamma` (smp#734, #737): the power is of the mean over classes, not the mean of the powers."""
    own = {"ComboLoss": {"ce_weight": 0.0}, "UnifiedFocalLoss": {"focal_weight": 0.0}}
    own["ExponentialLogarithmicLoss"] = {"ce_weight": 0.0}
    logits, target = scene()
    common = {"mode": mode, **own.get(case.cls.__name__, {})}
    singly = [case.build(classes=[c], **common)(logits, target) for c in range(3)]
    close(case.build(**common)(logits, target), torch.stack(singly).mean())
    assert max(singly) - min(singly) > 1e-3  # else a mean of powers is the power of the mean


def test_focal_tversky_defaults_are_not_dice():
    """YilmazKadir's focal Tversky is Dice by default; smp's exponent is applied after the class mean."""
    logits, target = scene()
    tp, fp, fn = soft_counts(logits, target)
    wrong = 1 - tp / (tp + 0.3 * fp + 0.7 * fn)
    close(L.FocalTverskyLoss()(logits, target), (wrong**0.75).mean())
    close(L.FocalTverskyLoss(exponent=2)(logits, target), (wrong**2).mean())
    assert abs(L.FocalTverskyLoss()(logits, target) - L.DiceLoss()(logits, target)) > 1e-2


@counted
@both_modes
def test_seglossodyssey_soft_dice_v2_is_two_on_empty_masks(case, mode):
    """SegLossOdyssey, SoftDiceV2: an empty prediction of an empty target costs 2."""
    empty = torch.zeros(2, 6, 6, dtype=torch.long)
    for options in ({}, {"absent": "count"}, {"pool": "batch"}):
        value = case.build(mode=mode, **options)(margins(empty, 2, 40.0, mode), empty)
        assert value.item() == pytest.approx(minimum(case), abs=1e-4)


@region
@both_modes
def test_seglossodyssey_dist_binary_dice_weighs_the_numerator_only(case, mode):
    """SegLossOdyssey, DistBinaryDice: true positives are weighted above and not below, so that Dice exceeds 1."""
    logits, target = batch(mode=mode)
    weight = 10 * torch.rand(target.shape, dtype=torch.float64)
    loss = case.build(mode=mode)
    assert loss(margins(target, 3, 40.0, mode), target, weight).item() == pytest.approx(0, abs=1e-6)
    assert 0 < loss(margins(target, 3, 0.5, mode), target, weight) < 1
    close(loss(logits, target, 7 * weight), loss(logits, target, weight))


@pytest.mark.parametrize("r", [0.0, 0.05, 0.1, 1.0])
def test_niftynet_sensitivity_specificity_swaps_its_terms_names(r):
    """NiftyNet, SegLossOdyssey: the two terms have each other's name; r is .05 in one, .1 in the other."""
    logits, target = scene()
    p = logits.softmax(1)
    each = []
    for n in range(2):
        for c in range(3):
            on, error = target[n] == c, (p[n, c] - (target[n] == c).double()) ** 2
            each.append(r * error[on].mean() + (1 - r) * error[~on].mean())
    close(L.SensitivitySpecificityLoss(r=r)(logits, target), torch.stack(each).mean())
    logits, target = batch(channels=1, mode="sigmoid")
    _, gradient = value_and_gradient(L.SensitivitySpecificityLoss(mode="sigmoid", r=r), logits, target)
    misses, false_positives = gradient[:, 0][target == 1], gradient[:, 0][target == 0]
    assert (misses < 0).all() if r > 0 else not misses.any()
    assert (false_positives > 0).all() if r < 1 else not false_positives.any()


@every_loss
@both_modes
@pytest.mark.parametrize("label", [0, 1])
def test_lovasz_softmax_of_one_voxel_raises(case, mode, label):
    """bermanmaxim Lovasz: one valid pixel raises IndexError, all ignored is an empty tensor, no class the int 0."""
    for options in ({}, {"pool": "batch"}, {"absent": "count"}) if case in COUNTED else ({},):
        loss = case.build(mode=mode, ignore_index=VOID, **options)
        logits = 0.3 * torch.randn(1, 2, 3, 3, dtype=torch.float64)
        target = torch.full((1, 3, 3), VOID)
        target[0, 1, 1] = label
        value, gradient = value_and_gradient(loss, logits, target)
        assert value.shape == ()
        close(value, case.build(mode=mode, **options)(logits[:, :, 1:2, 1:2], target[:, 1:2, 1:2]))
        assert gradient[0, :, 1, 1].any()
        assert gradient.count_nonzero() == gradient[0, :, 1, 1].count_nonzero()


# ----------------------------------------------------------------------------------------- cross entropy, by voxel


@every_loss
@both_modes
def test_seglossodyssey_wce_weight_is_commented_out(case, mode):
    """SegLossOdyssey, WCE V2: the weight is an argument that nothing reads."""
    logits, target = scene()
    heavy = [1.0, 2.0, 8.0]
    plain, weighted = (value_and_gradient(case.build(mode=mode, class_weight=w), logits, target) for w in (None, heavy))
    assert abs(plain[0] - weighted[0]) > 1e-5
    assert (plain[1] - weighted[1]).abs().max() > 1e-5
    if mode == "softmax" and case.cls.__name__ in BY_VOXEL:
        by_voxel = torch.tensor(heavy, dtype=torch.float64)[target]
        close(weighted, value_and_gradient(case.build(), logits, target, by_voxel))
    if case in REGION:
        only = case.build(mode=mode, class_weight=[0.0, 3.0, 0.0])
        close(
            value_and_gradient(only, logits, target),
            value_and_gradient(case.build(mode=mode, classes=[1]), logits, target),
        )


@every_loss
@both_modes
@pytest.mark.parametrize("classes", [None, [1, 2]])
def test_monai_dice_ce_weight_lengths_clash(case, mode, classes):
    """MONAI DiceCE (MONAI#7729): without background Dice wants C - 1 weights and CE wants C."""
    common = {"mode": mode, "class_weight": [1.0, 2.0, 4.0], "classes": classes}
    logits, target = scene()
    alone = [loss(logits, target) for loss in (L.DiceLoss(**common), case.build(**common))]
    close((L.DiceLoss(**common) + case.build(**common))(logits, target), alone[0] + alone[1])


@pytest.mark.parametrize("name", [*BY_VOXEL, "BalancedCrossEntropyLoss"])
def test_monai_dice_ce_keeps_the_background_in_its_ce(name):
    """MONAI DiceCE(include_background=False) (MONAI#6855): the CE scores the background all the same."""
    logits, target = scene()
    loss = getattr(L, name)(classes=[1, 2])
    value, gradient = value_and_gradient(loss, logits, target)
    background = (target == 0)[:, None].expand_as(logits)
    assert not gradient[background].any()
    close(loss(torch.where(background, 3 * torch.randn_like(logits), logits), target), value, 0, 0)
    if name != "BalancedCrossEntropyLoss":  # its frequencies are those of the image
        close(value, getattr(L, name)(ignore_index=0)(logits, target))


@every_loss
@both_modes
def test_monai_focal_sum_averages_over_space(case, mode):
    """MONAI Focal: "sum" is first a mean over space, not the sum of what "none" returns."""
    logits, target = scene(samples=3)
    none, total = (case.build(mode=mode, reduction=r)(logits, target) for r in ("none", "sum"))
    assert none.shape == (3,)
    close(total, none.sum())


@pytest.mark.parametrize("kept", [0.1, 0.35, 1.0])
def test_yilmazkadir_top_k_is_never_used(kept):
    """YilmazKadir TopK: computes the k hardest and returns something else; samples broadcast to N x N."""
    logits, target = scene(samples=3)
    costs = -logits.log_softmax(1).gather(1, target[:, None]).flatten(1)
    pooled = sorted(costs.flatten().tolist(), reverse=True)[: int(kept * costs.numel())]
    close(L.TopKLoss(k=kept)(logits, target).item(), sum(pooled) / len(pooled))
    each = [sorted(row.tolist(), reverse=True)[: int(kept * 42)] for row in costs]
    expected = torch.tensor([sum(row) / len(row) for row in each], dtype=torch.float64)
    close(L.TopKLoss(k=kept, reduction="none")(logits, target), expected)


@every_loss
@both_modes
def test_yilmazkadir_focal_broadcasts_samples(case, mode):
    """YilmazKadir TopK, Focal: (N,) against (N, 1) makes N x N, and every sample meets every label."""
    logits, target = scene(samples=3)
    gradients = [value_and_gradient(case.build(mode=mode, reduction="none"), logits, target)[1]]
    other = torch.cat([target[:1], 2 - target[1:]])
    gradients.append(value_and_gradient(case.build(mode=mode, reduction="none"), logits, other)[1])
    close(gradients[0][0], gradients[1][0])
    assert not torch.allclose(gradients[0][1:], gradients[1][1:])


@every_loss
@both_modes
def test_nnunet_v1_focal_reshapes_logits_wrongly(case, mode):
    """nnU-Net v1 FocalLossMultiClass (nnUNet#705): (N, C, S) is reshaped to (N S, C) unmoved, and never trains."""
    logits, target = scene(samples=3)
    order = torch.randperm(42)
    shuffled = logits.flatten(2)[:, :, order], target.flatten(1)[:, order]
    value, gradient = value_and_gradient(case.build(mode=mode), logits, target)
    close(value_and_gradient(case.build(mode=mode), *shuffled), (value, gradient.flatten(2)[:, :, order]))
    assert case.build(mode=mode)(logits - 1e-2 * gradient / gradient.abs().max(), target) < value


def test_focal_value():
    """nnU-Net v1 and YilmazKadir: neither is the mean of (1 - p_y)^gamma (-log p_y) over the voxels."""
    logits, target = scene(samples=2)
    total = 0.0
    for n in range(2):
        for i in range(42):
            z, y = logits[n].flatten(1)[:, i].tolist(), target[n].flatten()[i].item()
            p = math.exp(z[y]) / sum(map(math.exp, z))
            total += (1 - p) ** 1.5 * -math.log(p)
    close(L.FocalLoss(gamma=1.5)(logits, target).item(), total / 84)


def test_jadon_balanced_ce_weighs_positives_down():
    """Jadon's code: pos_weight .25 / .75 lowers the price of the rare positives."""
    logits, target = torch.zeros(1, 1, 10, dtype=torch.float64), torch.tensor([[1, 0, 0, 0, 0, 0, 0, 0, 0, 0]])
    _, gradient = value_and_gradient(L.BalancedCrossEntropyLoss(mode="sigmoid"), logits, target)
    close(gradient[0, 0, 0].item(), -0.9 * 0.5 / 10)
    close(gradient[0, 0, 1:], torch.full((9,), 0.1 * 0.5 / 10, dtype=torch.float64))


@every_loss
@both_modes
def test_jadon_round_kills_gradients(case, mode):
    """Jadon's code rounds probabilities in its losses: no gradient, and a value in steps."""
    logits, target = scene()
    loss = case.build(mode=mode)
    value, gradient = value_and_gradient(loss, logits, target)
    step = 1e-4 * torch.randn_like(logits)
    moved = (loss(logits + step, target) - loss(logits - step, target)) / 2
    close(moved, (gradient * step).sum(), 1e-4, 1e-10)
    assert gradient.abs().max() > 1e-4
    assert loss(logits - gradient / gradient.abs().max() * 1e-3, target) < value


# -------------------------------------------------------------------------------------------------------- compound


def test_seglossodyssey_exp_log_has_no_power():
    """SegLossOdyssey, ExpLog: CE without power or frequency weights; Dice averaged before the log."""
    logits, target = scene()
    tp, fp, fn = soft_counts(logits, target)
    dice = (2 * tp + 1) / (2 * tp + fp + fn + 1)
    log_p = logits.log_softmax(1).gather(1, target[:, None])[:, 0]
    for own in ({}, {"dice_gamma": 1.5, "ce_gamma": 0.5}, {"dice_weight": 0.0, "ce_weight": 1.0}):
        a, b, g, h = (
            own.get(name, default)
            for name, default in (("dice_weight", 0.8), ("ce_weight", 0.2), ("dice_gamma", 0.3), ("ce_gamma", 0.3))
        )
        share = (tp + fn) / 42
        rare = (1 / share).sqrt()  # sqrt(sum_k f_k / f_c), and the shares f add up to 1
        by_voxel = torch.stack([rare[n][target[n]] * (-log_p[n]) ** h for n in range(2)])
        expected = a * ((-dice.log()) ** g).mean() + b * by_voxel.mean()
        close(L.ExponentialLogarithmicLoss(**own)(logits, target), expected)


@pytest.mark.parametrize("positive_weight", [0.5, 0.3])
@pytest.mark.parametrize("ce_weight", [0.5, 0.9])
def test_combo_loss_precedence_flips_the_background(positive_weight, ce_weight):
    """asgsaeid ComboLoss: operator precedence flips the sign of the background; YilmazKadir's has no CE at all."""
    b, a = positive_weight, ce_weight
    logits, target = batch(channels=1, mode="sigmoid")
    z, y = logits[:, 0], target.double()
    p = z.sigmoid()
    ce = -(b * y * p.log() + (1 - b) * (1 - y) * (1 - p).log()).mean()
    dice = (2 * (p * y).sum((1, 2)) + 1) / (p.sum((1, 2)) + y.sum((1, 2)) + 1)
    loss = L.ComboLoss(mode="sigmoid", ce_weight=a, positive_weight=b)
    value, gradient = value_and_gradient(loss, logits, target)
    close(value, a * ce - (1 - a) * dice.mean())
    assert (gradient[:, 0][target == 0] > 0).all()
    assert (gradient[:, 0][target == 1] < 0).all()


@every_loss
def test_combo_loss_falls_as_the_background_gets_worse(case):
    """asgsaeid ComboLoss falls as the background's p rises; ours rises with every p that is wrong."""
    g = torch.Generator().manual_seed(3)
    target = (torch.rand(2, 8, 8, generator=g) < 0.3).long()
    logits = (1.5 * (2 * target - 1) + torch.randn(2, 8, 8, generator=g, dtype=torch.float64) / 2)[:, None]
    _, gradient = value_and_gradient(case.build(mode="sigmoid"), logits, target)
    background, foreground = gradient[:, 0][target == 0], gradient[:, 0][target == 1]
    assert (background >= 0).all()
    assert (foreground <= 0).all()
    both = torch.zeros(2, 2, 8, 8, dtype=torch.float64)
    both[:, 1:] = logits
    _, gradient = value_and_gradient(case.build(), both, target)
    assert (gradient[:, 1][target == 0] >= 0).all()
    assert (gradient[:, 1][target == 1] <= 0).all()
    assert gradient.any()


@every_loss
@both_modes
def test_yilmazkadir_combo_divides_by_class_indices(case, mode):
    """YilmazKadir Combo: class indices enter the arithmetic, so that names of classes matter."""
    orders = [[0, 2, 1]] if case.cls.__name__ == "UnifiedFocalLoss" else [[0, 2, 1], [2, 0, 1]]  # class 0 is special
    logits, target = scene()
    value, gradient = value_and_gradient(case.build(mode=mode), logits, target)
    for order in orders:
        names = torch.tensor(order).argsort()
        found = value_and_gradient(case.build(mode=mode), logits[:, order], names[target])
        close(found, (value, gradient[:, order]))


@every_loss
@both_modes
def test_unified_focal_is_two_dimensional_only(case, mode):
    """mlyg unified-focal-loss cannot be imported, and slices channels in 2D only."""
    logits, target = batch((4, 6, 2), mode=mode)
    value, gradient = value_and_gradient(case.build(mode=mode), logits, target)
    for space in ((48,), (8, 6), (2, 3, 8)):
        z, y = logits.reshape(3, 3, *space), target.reshape(3, *space)
        close(value_and_gradient(case.build(mode=mode), z, y), (value, gradient.reshape(3, 3, *space)))


@pytest.mark.parametrize("asymmetric", [True, False])
@pytest.mark.parametrize(("gamma", "fn_weight", "focal_weight"), [(0.5, 0.6, 0.5), (0.2, 0.8, 0.3), (0.0, 0.6, 1.0)])
def test_monai_asymmetric_unified_focal_applies_no_activation(asymmetric, gamma, fn_weight, focal_weight):
    """MONAI AsymmetricUnifiedFocal: documented for logits, it uses them as probabilities."""
    logits, target = scene()
    tp, fp, fn = soft_counts(logits, target)
    fp_weight, wrong = 1 - fn_weight, torch.empty(2, 3, dtype=torch.float64)
    for c in range(3):
        index = tp[:, c] / (tp[:, c] + fn_weight * fn[:, c] + fp_weight * fp[:, c])
        wrong[:, c] = (1 - index) ** (1.0 if asymmetric and c == 0 else 1 - gamma)
    log_p = logits.log_softmax(1).gather(1, target[:, None])[:, 0]
    factor = (1 - log_p.exp()) ** gamma
    background, foreground = fp_weight * factor, fn_weight * (1 if asymmetric else factor)
    focal = (torch.where(target == 0, background, foreground) * -log_p).mean()
    own = {"gamma": gamma, "fn_weight": fn_weight, "focal_weight": focal_weight, "asymmetric": asymmetric}
    found = L.UnifiedFocalLoss(**own)(logits, target)
    close(found, focal_weight * focal + (1 - focal_weight) * wrong.mean())


@every_loss
def test_monai_asymmetric_unified_focal_of_one_channel_loses_the_graph(case):
    """MONAI AsymmetricUnifiedFocal: with one channel the result has no graph."""
    logits, target = batch(channels=1, mode="sigmoid")
    value, gradient = value_and_gradient(case.build(mode="sigmoid"), logits, target)
    assert value > minimum(case) + 1e-2
    both = torch.cat([torch.zeros_like(logits), logits], 1)
    assert gradient.any()
    if case.region == (case in COUNTED) and case.cls.__name__ != "LovaszLoss":  # not compound, and no hinge
        softmax = case.build(classes=[1] if case.region else None)
        expected, by_both = value_and_gradient(softmax, both, target)
        close((value, gradient), (expected, by_both[:, 1:]))
