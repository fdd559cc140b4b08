"""Faults measured in other libraries (see `test_elsewhere.py`): precision, inputs, weights, tooling."""

import pytest
import torch
from torch.nn.functional import one_hot

import delineate.losses as L
from losses.cases import ball, batch, margins, value_and_gradient
from losses.test_elsewhere import REGION, VOID, both_modes, close, every_case, every_loss, minimum

NOT_FOR_SOFT_LABELS = (
    *("FocalLoss", "BalancedCrossEntropyLoss", "OHEMLoss", "PolyLoss", "LovaszLoss"),
    *("ExponentialLogarithmicLoss", "UnifiedFocalLoss"),
)

region = pytest.mark.parametrize("case", REGION, ids=repr)


# ------------------------------------------------------------------------------------------- precision, extremes


@every_loss
@both_modes
def test_monai_dice_overflows_and_smp_dice_is_nan_in_fp16(case, mode):
    """fp16: MONAI's class sum overflows from 257^2 on, that class scores 1; smp, toolbelt: NaN. bf16: below 0."""
    labels = torch.zeros(1, 272, 272, dtype=torch.long)
    labels[:, :2] = 1
    logits = margins(labels, 2, 6.0, mode) + torch.randn(1, 2, 272, 272)
    for dtype in (torch.float16, torch.bfloat16):
        z = logits.to(dtype)
        loss = case.build(mode=mode)
        value, gradient = value_and_gradient(lambda *of: 4096 * loss(*of), z, labels)  # noqa: B023
        expected, by_double = value_and_gradient(loss, z.double(), labels)
        assert value / 4096 == pytest.approx(expected.item(), abs=1e-4)
        assert value / 4096 >= minimum(case)
        stored = (4096 * by_double).to(dtype).double()
        assert (gradient.double() - stored).norm() <= 1e-2 * stored.norm()


def powers():
    found = [(L.FocalLoss, {"gamma": g}) for g in (0.25, 0.5)]
    found += [(L.FocalTverskyLoss, {"exponent": e}) for e in (0.5, 0.75)]
    for name, options in (
        ("PolyLoss", [{"gamma": 0.5}]),
        ("UnifiedFocalLoss", [{"gamma": 0.5}, {"gamma": 0.9}, {"gamma": 0.25, "asymmetric": False}]),
        ("ExponentialLogarithmicLoss", [{}, {"dice_gamma": 0.1, "ce_gamma": 0.1}]),
    ):
        found += [(getattr(L, name), own) for own in options if hasattr(L, name)]
    return found


@pytest.mark.parametrize(("cls", "own"), powers(), ids=str)
@both_modes
@pytest.mark.parametrize("margin", [30.0, 1e4])
def test_smp_tversky_gamma_below_one_and_torchvision_focal_are_nan(cls, own, mode, margin):
    """Powers below 1: smp Tversky at perfect and empty masks, every library's focal at saturated logits: NaN."""
    loss, disc = cls(mode=mode, **own), ball((8, 8), 2)
    for labels in (disc, torch.zeros_like(disc), torch.ones_like(disc)):
        for sign in (1, -1):
            for dtype in (torch.float32, torch.float64):
                logits = sign * margins(labels, 2, margin, mode).to(dtype)
                value, gradient = value_and_gradient(loss, logits, labels)
                assert value.isfinite()
                assert gradient.isfinite().all()
                assert value < 0.1 if sign > 0 else value > 0.2  # at margin 30, 1 - p is 1e-13, and its tenth root .05


@every_loss
@both_modes
def test_smp_focal_of_a_class_out_of_question_is_nan(case, mode):
    """MONAI Focal and NACL, smp and toolbelt Focal and CE: the logit -inf of a class that is not there gives NaN."""
    logits, target = batch((6, 5), mode=mode)
    target[target == 2] = 1
    far = logits.clone()
    far[:, 2], logits[:, 2] = -1e3, -torch.inf
    value, gradient = value_and_gradient(case.build(mode=mode), logits, target)
    close((value, gradient), value_and_gradient(case.build(mode=mode), far, target))
    assert not gradient[:, 2].any()


@every_loss
@both_modes
def test_smp_lovasz_float64_and_monai_focal_float32(case, mode):
    """smp, toolbelt Lovasz raise in float64 and fp16; MONAI Focal, nnU-Net Dice answer float64 in float32."""
    logits, target = batch((3, 3), samples=2, mode=mode)
    dtypes = {torch.float16: torch.float32, torch.float32: torch.float32, torch.float64: torch.float64}
    for given, answer in dtypes.items():
        z = logits.to(given).requires_grad_()
        value = case.build(mode=mode)(z, target)
        value.backward()
        assert value.dtype == answer
        assert z.grad.dtype == given
    assert torch.autograd.gradcheck(lambda z: case.build(mode=mode)(z, target), logits.requires_grad_(), fast_mode=True)


# -------------------------------------------------------------------------------------------- inputs, soft labels


@every_loss
@both_modes
def test_smp_dice_accepts_transposed_labels(case, mode):
    """smp and toolbelt overlap losses, MONAI GWDL: transposed labels and another batch size give a number."""
    z, y = torch.randn(2, 3, 4, 6), torch.zeros(2, 4, 6, dtype=torch.long)
    for target in (y.mT, y[:1], y.reshape(2, 24), one_hot(y, 3).movedim(-1, 1).mT.float()):
        with pytest.raises(ValueError, match="`target`"):
            case.build(mode=mode)(z, target)


@every_loss
def test_smp_focal_accepts_labels_out_of_range(case):
    """smp Focal, Lovasz, toolbelt Lovasz, all binary losses: labels C, 255, -1, 2 give a plausible number."""
    for mode, channels, wrong in (
        ("softmax", 3, (3, VOID, -1)),
        ("sigmoid", 3, (3, VOID, -1)),
        ("sigmoid", 1, (2, -1)),
    ):
        logits, target = batch(mode=mode, channels=channels)
        for label in wrong:
            target[1, 2, 1] = label
            with pytest.raises(ValueError, match=rf"labels must be in 0\.\.{max(channels - 1, 1)}"):
                case.build(mode=mode)(logits, target)


@every_case
@both_modes
def test_monai_dice_of_soft_labels_prefers_the_hardened_prediction(case, mode):
    """MONAI, topolosses Dice, MCC: the optimum of soft labels is their argmax; MONAI one_hot makes 0.9 a 0."""
    _, target = batch((6, 6), mode=mode, kind="soft")
    logits = target.log() if mode == "softmax" else target.logit()
    loss = case.build(mode=mode)
    if case.cls.__name__ == "LovaszLoss":
        with pytest.raises(ValueError, match="target"):
            loss(logits, target)
    if case.cls.__name__ in NOT_FOR_SOFT_LABELS or "label_smoothing" in case.own:
        return
    values = [loss(logits / t, target).item() for t in (0.05, 0.5, 0.95, 1.0, 1.05, 2.0, 20.0)]
    assert min(values[:3] + values[4:]) > values[3] + 1e-6


@every_loss
@both_modes
def test_smp_soft_ce_default_constructor_and_toolbelt_views(case, mode):
    """smp SoftCE() raises TypeError on its own defaults; toolbelt raises on inputs that are not contiguous."""
    logits, target = batch((6, 4), mode=mode)
    weight = torch.rand(3, 6, 4, dtype=torch.float64)
    assert case.default()(logits, target).isfinite()
    views = [t.mT.contiguous().mT for t in (logits, target, weight)]
    assert not any(t.is_contiguous() for t in views)
    loss = case.build(mode=mode)
    close(value_and_gradient(loss, *views), value_and_gradient(loss, logits, target, weight))


@every_loss
@both_modes
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_empty_batch_is_nan_in_48_of_76_configurations(case, mode, reduction):
    """N = 0: NaN in 48 of 76 configurations of the libraries, an exception in 21."""
    z = torch.zeros(0, 3, 5, 4, requires_grad=True)
    value = case.build(mode=mode, reduction=reduction)(z, torch.zeros(0, 5, 4, dtype=torch.long))
    close(value, torch.zeros(0 if reduction == "none" else ()), 0, 0)
    value.sum().backward()
    assert z.grad.shape == z.shape


# ----------------------------------------------------------------------------------- weights, reductions, tooling


@every_loss
@both_modes
def test_monai_dice_rewrites_its_weight(case, mode):
    """MONAI Dice: the buffer of class weights is overwritten by the first forward."""
    loss = case.build(mode=mode, class_weight=[1.0, 2.0, 4.0])
    logits, target = batch(mode=mode)
    first = loss(logits, target)
    loss(logits[:, :, :2], target[:, :2])
    assert loss.class_weight.tolist() == [1, 2, 4]
    close(loss(logits, target), first, 0, 0)


@region
@both_modes
def test_monai_dice_ce_balance_moves_with_the_scale_of_the_weights(case, mode):
    """MONAI Dice: weights are not normalised, so that ten times the weights is ten times Dice beside CE."""
    logits, target = batch(mode=mode)
    found = []
    for scale in (1.0, 10.0):
        common = {"mode": mode, "class_weight": [scale, 2 * scale, 4 * scale]}
        loss = case.build(**common) + L.CrossEntropyLoss(normalize="weight", **common)
        found.append(value_and_gradient(loss, logits, target))
    close(*found)


@every_loss
@both_modes
@pytest.mark.parametrize("samples", [2, 3])
def test_monai_softdicecldice_none_mixes_samples(case, mode, samples):
    """MONAI SoftDiceclDice, reduction="none": (B, C, 1, 1) + (B,) broadcasts, so that samples meet."""
    common = {"mode": mode, "reduction": "none"}
    logits, target = batch(samples=samples, mode=mode)
    loss = L.DiceLoss(**common) + case.build(**common) + L.CrossEntropyLoss(**common)
    value = loss(logits, target)
    close(value, torch.cat([loss(logits[n : n + 1], target[n : n + 1]) for n in range(samples)]))


@pytest.mark.parametrize("case", [c for c in REGION if c.cls in (L.DiceLoss, L.LovaszLoss)], ids=repr)
def test_monai_dice_breaks_the_graph(case):
    """MONAI Dice family, smp and toolbelt Lovasz: torch.compile(fullgraph=True) raises. (All of ours: test_c14_...)"""
    torch.compiler.reset()
    logits, target = batch(dtype=torch.float32)
    target[:, 0] = VOID
    loss = case.build(ignore_index=VOID)
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    close(value_and_gradient(compiled, logits, target), value_and_gradient(loss, logits, target), 1e-5, 1e-7)
    torch.compiler.reset()


# -------------------------------------------------------------------------------- still so in what is installed?


def still(fault, library):
    """Ours is what matters: a release that has mended its fault fails nothing here."""
    if not fault:
        pytest.skip(f"the installed {library} has mended it")


def test_monai_focal_ignore_index_as_installed():
    """MONAI Focal: `ignore_index` without such a voxel multiplies the loss by C."""
    M = pytest.importorskip("monai.losses")
    logits, target = batch(dtype=torch.float32)
    by_option = [M.FocalLoss(to_onehot_y=True, **o)(logits, target[:, None]) for o in ({}, {"ignore_index": VOID})]
    still(abs(by_option[1] / by_option[0] - 3) < 1e-4, "monai")


def test_monai_dice_ce_multilabel_as_installed():
    """MONAI DiceCE(sigmoid=True): three channels, all on and all found, cost 3 ln 3; ours 0."""
    M = pytest.importorskip("monai.losses")
    on = torch.ones(1, 3, 6, 6)
    ours = L.DiceLoss(mode="sigmoid") + L.CrossEntropyLoss(mode="sigmoid")
    assert ours(100 * on, on) < 1e-6
    still(M.DiceCELoss(sigmoid=True)(100 * on, on) > 1, "monai")


def test_smp_dice_on_an_empty_target_as_installed():
    """smp Dice, binary: everything is foreground, nothing should be: loss 0, gradient 0; ours 0.98 and 1 / voxels."""
    S = pytest.importorskip("segmentation_models_pytorch.losses")
    logits, empty = torch.full((1, 1, 8, 8), 4.0), torch.zeros(1, 1, 8, 8)
    value, gradient = value_and_gradient(L.DiceLoss(mode="sigmoid"), logits, empty[:, 0].long())
    assert value > 0.98
    close(gradient, torch.full_like(logits, 1 / 64) * value * (1 - value), 1e-4, 0)
    theirs, their_gradient = value_and_gradient(lambda z, y, _: S.DiceLoss("binary")(z, y), logits, empty)
    still(theirs == 0 and not their_gradient.any(), "smp")


def test_smp_lovasz_from_logits_as_installed():
    """smp Lovasz: `from_logits` changes nothing."""
    S = pytest.importorskip("segmentation_models_pytorch.losses")
    logits, target = batch(dtype=torch.float32)
    a, b = (S.LovaszLoss("multiclass", from_logits=flag)(logits, target) for flag in (True, False))
    still(a == b, "smp")
