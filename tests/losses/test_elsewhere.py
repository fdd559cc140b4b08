"""Faults measured in other libraries, each with a test that ours does not have it; its docstring says what they do.

Releases: MONAI 1.6.1, smp (segmentation_models.pytorch) 0.6.0, kornia 0.9.0, toolbelt (pytorch-toolbelt) 0.8.0,
topolosses 0.2.0, nnU-Net v2, torch, torchvision. Those of papers' code are in `test_elsewhere_papers.py`. Shown where
the rest of the contract is:

    torch, MONAI, smp: compiled label out of range aborts    test_contract_tooling.py: ..._ends_no_process
    smp, MONAI focal: whole sweep of extreme logits          test_contract_empty.py: test_extreme_logits

Losses of distances and skeletons are in `test_elsewhere_geometry.py`. Have tests of their own: deep supervision,
statistics over several ranks.
"""

import inspect

import pytest
import torch
from torch.nn.functional import one_hot

import delineate.losses as L
from delineate.losses.loss import arguments
from losses.cases import MODES, ball, batch, margins, value_and_gradient
from losses.cases import PLAIN as CASES
from losses.cases import PLAIN_DEFAULTS as DEFAULTS

VOID = 255

COUNTED = [case for case in DEFAULTS if "absent" in arguments(case.cls)]
"""Those with counts by class: the region losses and the compound ones."""
REGION = [case for case in DEFAULTS if case.region]

every_case = pytest.mark.parametrize("case", CASES, ids=repr)
every_loss = pytest.mark.parametrize("case", DEFAULTS, ids=repr)
counted = pytest.mark.parametrize("case", COUNTED, ids=repr)
both_modes = pytest.mark.parametrize("mode", MODES)


def minimum(case):
    """The value at a perfect prediction: Combo subtracts a coefficient."""
    return -0.5 if case.cls.__name__ == "ComboLoss" else 0.0


def pools(case):
    return ({"pool": "sample"}, {"pool": "batch"}) if "absent" in arguments(case.cls) else ({},)


def close(a, b, rtol=1e-9, atol=1e-12):
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def lovasz(errors, on):
    """The Lovasz extension of the Jaccard loss as the integral over thresholds t of the loss of {errors >= t}."""
    value, below, objects = 0.0, 0.0, on.sum().item()
    for t in errors.unique().tolist():  # ascending
        wrong = errors >= t
        value += (t - below) * wrong.sum().item() / (objects + (wrong & ~on).sum().item())
        below = t
    return value


# ----------------------------------------------------------------------------------------------- ignored voxels


@every_case
@both_modes
def test_monai_focal_ignore_index_multiplies_by_c(case, mode):
    """MONAI Focal: `ignore_index` without such a voxel multiplies the loss by C."""
    logits, target = batch(mode=mode)
    expected = value_and_gradient(case.build(mode=mode), logits, target)
    close(value_and_gradient(case.build(mode=mode, ignore_index=VOID), logits, target), expected, 0, 0)


@every_case
@both_modes
def test_smp_soft_ce_kornia_focal_nnunet_topk_dilute_by_ignored_voxels(case, mode):
    """smp SoftCE and BCE, kornia Focal, nnU-Net TopK, MONAI UnifiedFocal: ignored voxels stay in the divisor."""
    logits, labels = batch((40,), samples=2, mode=mode)
    kept = torch.stack([torch.randperm(40)[:20].sort().values for _ in range(2)])
    fewer = torch.stack([z[:, k] for z, k in zip(logits, kept, strict=True)]), labels.gather(1, kept)
    target = torch.full_like(labels, VOID).scatter(1, kept, fewer[1])
    for options in pools(case):
        value, gradient = value_and_gradient(case.build(mode=mode, ignore_index=VOID, **options), logits, target)
        expected, by_kept = value_and_gradient(case.build(mode=mode, **options), *fewer)
        embedded = torch.zeros_like(logits).scatter(2, kept[:, None].expand(-1, 3, -1), by_kept)
        close((value, gradient), (expected, embedded))


@every_loss
@both_modes
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_torch_ce_of_an_ignored_batch_is_nan(case, mode, reduction):
    """All ignored: torch CE, smp Focal NaN; smp Lovasz shape (0, C); toolbelt Lovasz raises; kornia 1, nnU-Net -1."""
    logits, target = batch(mode=mode)
    for options in pools(case):
        loss = case.build(mode=mode, ignore_index=VOID, reduction=reduction, **options)
        z = logits.clone().requires_grad_()
        value = loss(z, torch.full_like(target, VOID))
        value.sum().backward()
        close(value, torch.zeros(3 if reduction == "none" else (), dtype=torch.float64), 0, 0)
        close(z.grad, torch.zeros_like(logits), 0, 0)


@every_loss
@both_modes
def test_monai_dice_counts_an_ignored_sample(case, mode):
    """MONAI, nnU-Net, kornia Dice and Tversky: a fully ignored sample enters the mean as 0 or 1."""
    logits, target = batch(mode=mode)
    kept = value_and_gradient(case.build(mode=mode), logits[1:], target[1:].clone())
    target[0] = VOID
    value, gradient = value_and_gradient(case.build(mode=mode, ignore_index=VOID), logits, target)
    close((value, gradient[1:]), kept)
    assert not gradient[0].any()


@every_loss
@both_modes
def test_monai_masked_loss_scores_masked_voxels_as_class_0(case, mode):
    """MONAI MaskedDice, MaskedLoss: masked voxels become label 0 or logit 0, and are scored."""
    logits, target = batch((6, 5), mode=mode)
    weight = torch.rand(3, 6, 5, dtype=torch.float64)
    weight[:, 1:4] = 0
    other_logits, other_target = logits.clone(), target.clone()
    other_logits[:, :, 1:4] = torch.randn(3, 3, 3, 5, dtype=torch.float64)
    other_target[:, 1:4] = 2 - target[:, 1:4]
    if case.cls.__name__ != "OHEMLoss":  # a voxel of weight 0 can be among the hardest, and is then counted
        found = [
            value_and_gradient(case.build(mode=mode), z, y, weight)
            for z, y in ((logits, target), (other_logits, other_target))
        ]
        close(*found)
        assert not found[0][1][:, :, 1:4].any()
    target[:, 1:4] = other_target[:, 1:4] = VOID
    loss = case.build(mode=mode, ignore_index=VOID)
    close(value_and_gradient(loss, logits, target), value_and_gradient(loss, other_logits, other_target), 0, 0)


@every_loss
@both_modes
def test_paddleseg_dice_ignores_in_place(case, mode):
    """PaddleSeg Dice: ignored labels are set to 0 in the caller's tensor, and the next term sees class 0."""
    logits, target = batch(mode=mode)
    target[:, 1:3] = VOID
    common = {"mode": mode, "ignore_index": VOID}
    first, second = case.build(**common), L.CrossEntropyLoss(**common)
    alone = [value_and_gradient(loss, logits.clone(), target.clone()) for loss in (first, second)]
    expected = tuple(a + b for a, b in zip(*alone, strict=True))
    before, writes = target.clone(), target._version
    for loss in (first + second, second + first):
        close(value_and_gradient(loss, logits, target), expected)
    assert torch.equal(target, before)
    assert target._version == writes


@every_loss
@both_modes
def test_mmsegmentation_dice_ignore_index_drops_a_channel(case, mode):
    """mmsegmentation Dice: `ignore_index=1` drops channel 1 instead of the voxels labelled 1."""
    logits, target = batch(mode=mode)
    options = {"absent": "count"} if case in COUNTED else {}
    loss = case.build(mode=mode, ignore_index=1, **options)
    value, gradient = value_and_gradient(loss, logits, target)
    moved = torch.where(target == 1, VOID, target)
    by_void = value_and_gradient(case.build(mode=mode, ignore_index=VOID, **options), logits, moved)
    close((value, gradient), by_void, 0, 0)
    assert not gradient[(target == 1)[:, None].expand_as(logits)].any()
    logits[:, 1] += 8  # false positives of the channel whose label is ignored
    assert loss(logits, target) > value + 0.05


# ------------------------------------------------------------------------------------------------- activation


@every_loss
def test_monai_focal_softmax_after_slicing_off_the_background(case):
    """MONAI Focal without background: the softmax is taken of what is left; background logits have no effect."""
    logits, target = batch()
    loss = case.build(classes=[1, 2])
    value, gradient = value_and_gradient(loss, logits, target)
    assert gradient[:, 0].abs().max() > 1e-3
    close(gradient.sum(1), torch.zeros(3, 5, 4, dtype=torch.float64), 0, 1e-12)  # one softmax over all channels
    logits[:, 0] += 8  # everything is background now, whatever the other two logits say to each other
    assert abs(loss(logits, target) - value) > 1e-3


@every_loss
def test_monai_dice_ce_multilabel_is_softmax_ce(case):
    """MONAI DiceCE(sigmoid=True): the CE is a softmax's: perfect overlap scores ln C, an all-negative target 0."""
    loss = L.DiceLoss(mode="sigmoid") + case.build(mode="sigmoid")
    target = (torch.rand(2, 3, 6, 6) > 0.4).double()
    target[:, 2] = target[:, 0] * target[:, 1]
    assert loss((2 * target - 1) * 100, target).item() == pytest.approx(minimum(case), abs=1e-4)
    value, gradient = value_and_gradient(loss, torch.zeros(2, 3, 6, 6).double(), torch.zeros_like(target))
    assert value > minimum(case) + 0.5
    assert (gradient >= 0).all()
    assert (gradient.sum((2, 3)) > 0.01).all()


@every_case
def test_smp_focal_multiclass_is_one_vs_rest(case):
    """smp Focal multiclass: a sigmoid of each channel, so that a constant on all logits changes it."""
    logits, target = batch()
    shift = 3 * torch.rand(3, 1, 5, 4, dtype=torch.float64)
    loss = case.build()
    close(value_and_gradient(loss, logits + shift, target), value_and_gradient(loss, logits, target))
    close(loss(logits.log_softmax(1), target), loss(logits, target))


@every_loss
def test_monai_dice_focal_softmax_stays_sigmoid(case):
    """MONAI DiceFocal(softmax=True): the focal part stays a sigmoid; a class that is out of question gives NaN."""
    logits, target = batch()
    target[target == 2] = 0
    shifted = logits + 5
    logits[:, 2] = shifted[:, 2] = -torch.inf
    loss = L.DiceLoss() + case.build()
    value, gradient = value_and_gradient(loss, logits, target)
    close(value_and_gradient(loss, shifted, target), (value, gradient))
    assert value.isfinite()
    assert gradient.isfinite().all()


@every_loss
def test_smp_lovasz_from_logits(case):
    """smp Lovasz ignores `from_logits`; MONAI Dice(), smp MCC, toolbelt Lovasz take probabilities unless told."""
    flags = {"from_logits", "sigmoid", "softmax", "activation", "apply_nonlin", "logits", "normalized"}
    assert not flags & set(arguments(case.cls))
    assert list(inspect.signature(case.cls.forward).parameters) == ["self", "logits", "target", "weight"]
    logits, target = batch()
    for z, mode in ((logits, "softmax"), (logits[:, :1], "sigmoid")):
        y = target if mode == "softmax" else target.clamp_max(1)
        p = z.softmax(1) if mode == "softmax" else z.sigmoid()
        assert abs(case.build(mode=mode)(z, y) - case.build(mode=mode)(p, y)) > 1e-3
        assert case.build(mode=mode)(-50 * z.abs(), y).isfinite()


def test_smp_lovasz_value():
    """toolbelt Lovasz and the survey's trainer feed logits to Lovasz-Softmax: the value is of no probability."""
    logits, target = batch(samples=2)
    p = logits.softmax(1)
    by_class = [[lovasz((p[n, c] - (y == c).double()).abs(), y == c) for c in range(3)] for n, y in enumerate(target)]
    close(L.LovaszLoss()(logits, target), torch.tensor(by_class, dtype=torch.float64).mean())
    signs = 2.0 * one_hot(target, 3).movedim(-1, 1) - 1
    for name, errors in (("hinge", (1 - signs * logits).relu()), ("probability", (signs * logits).neg().sigmoid())):
        by_class = [[lovasz(errors[n, c], y == c) for c in range(3)] for n, y in enumerate(target)]
        found = L.LovaszLoss(mode="sigmoid", errors=name)(logits, target)
        close(found, torch.tensor(by_class, dtype=torch.float64).mean())


# ------------------------------------------------------------------------------------------------ absent classes


POLICIES = [
    (case, o) for case in DEFAULTS for o in ({}, {"pool": "batch"}, {"absent": "count"}) if not o or case in COUNTED
]


@pytest.mark.parametrize(("case", "options"), POLICIES, ids=str)
def test_smp_dice_gives_no_gradient_on_an_empty_target(case, options):
    """smp Dice, Jaccard, Tversky, MONAI GDL and MCC, balanced BCE: false positives on an empty target are free."""
    logits = 4 + 0.1 * torch.rand(2, 1, 8, 8, dtype=torch.float64)
    target = torch.zeros(2, 8, 8, dtype=torch.long)
    loss = case.build(mode="sigmoid", **options)
    value, gradient = value_and_gradient(loss, logits, target)
    p = logits.sigmoid()
    assert (gradient >= 0).all()
    assert (gradient / (p * (1 - p))).sum() > 0.25
    assert loss(logits - 0.1, target) < value
    assert loss(logits - 100, target).item() == pytest.approx(minimum(case), abs=1e-6)


FOREGROUND = [case for case in COUNTED if case.cls.__name__ != "ComboLoss"]
"""Combo keeps its paper's formula for an absent class, a constant nearly; its price is in the cross entropy."""


@pytest.mark.parametrize("case", FOREGROUND, ids=repr)
def test_monai_dice_without_background_is_constant_on_an_empty_target(case):
    """MONAI, nnU-Net Dice without background: the loss is constant, its gradient 1e-6 and less."""
    logits = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    logits[:, 1:] += 4
    target = torch.zeros(2, 8, 8, dtype=torch.long)
    loss = case.build(classes=[1, 2])
    value, gradient = value_and_gradient(loss, logits, target)
    assert (gradient[:, 0] <= 0).all()
    assert (gradient[:, 0] / logits.softmax(1)[:, 0]).sum() < -0.1  # to p_0; to z it fades with saturation
    logits[:, 0] += 100
    assert loss(logits, target).item() == pytest.approx(0, abs=1e-6)
    assert value > 0.2


@counted
@both_modes
@pytest.mark.parametrize("absent", ["skip", "count"])
@pytest.mark.parametrize("size", [4, 32, 128])
def test_monai_dice_smooth_makes_an_absent_class_cost_one(case, mode, absent, size):
    """MONAI Dice with its smooth of 1e-5, smp MCC: an absent class predicted right costs nearly 1."""
    target = ball((size, size), 1 + size // 4)
    loss = case.build(mode=mode, absent=absent)
    assert loss(margins(target, 4, 30.0, mode), target).item() == pytest.approx(minimum(case), abs=1e-3)
    empty = torch.zeros_like(target)
    assert loss(margins(empty, 4, 30.0, mode), empty).item() == pytest.approx(minimum(case), abs=1e-3)


@every_loss
def test_smp_dice_multiclass_is_divided_by_all_classes(case):
    """smp Dice multiclass: absent classes enter its mean as 0; with 1 of 21 present all wrong costs 1 / 21."""
    logits, target = batch((6, 5), channels=2)
    more = torch.cat([logits, torch.full((3, 19, 6, 5), -30.0, dtype=torch.float64)], 1)
    close(case.build()(more, target), case.build()(logits, target), 1e-6, 1e-9)
    if case in REGION and case.cls.__name__ not in ("LogCoshDiceLoss", "SensitivitySpecificityLoss"):
        target = torch.full((2, 8, 8), 4)
        wrong = margins(torch.full((2, 8, 8), 7), 21, 40.0, "softmax")
        assert case.build()(wrong, target).item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("name", ["DiceLoss", "JaccardLoss", "TverskyLoss", "AsymmetricSimilarityLoss"])
def test_mmsegmentation_dice_merges_all_classes(name):
    """mmsegmentation Dice: all classes are flattened into one ratio, which a lost small one hardly changes."""
    target = torch.zeros(1, 16, 16, dtype=torch.long)
    target[0, :8], target[0, 12, 3:7] = 1, 2
    seen = torch.where(target == 2, 0, target)  # the small class of 4 voxels is lost to the background of 124
    background = {"DiceLoss": 4 / 252, "JaccardLoss": 4 / 128, "TverskyLoss": 0.3 * 4 / (124 + 0.3 * 4)}
    background["AsymmetricSimilarityLoss"] = 4 / (3.25 * 124 + 4)
    value = getattr(L, name)()(margins(seen, 3, 40.0, "softmax"), target).item()
    assert value == pytest.approx((background[name] + 0 + 1) / 3, abs=1e-9)
