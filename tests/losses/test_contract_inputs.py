"""C7 and C13: what is accepted, in which layout, what is refused and with which words."""

import pytest
import torch

import delineate.losses as L
from delineate.losses.loss import arguments
from losses.cases import CASES, DEFAULTS, MODES, SPACES, batch, value_and_gradient

LABEL_TYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32)
every_case = pytest.mark.parametrize("case", CASES, ids=repr)
every_loss = pytest.mark.parametrize("case", DEFAULTS, ids=repr)
both_modes = pytest.mark.parametrize("mode", MODES)

Z = torch.zeros(2, 3, 4, 6)
Y = torch.zeros(2, 4, 6, dtype=torch.long)
MISFITS = {
    "transposed height and width": (Z, Y.mT, None, "target"),
    "transposed dense map": (Z, Z.mT, None, "target"),
    "other batch size": (Z, Y[:1], None, "target"),
    "other number of channels": (Z, Z[:, :2], None, "target"),
    "missing dim": (Z, Y[0], None, "target"),
    "flat logits": (Z[:, :, 0, 0], Y, None, "logits"),
    "four spatial dims": (Z[..., None, None], Y[..., None, None], None, "logits"),
    "integer logits": (Z.long(), Y, None, "logits"),
    "float labels": (Z, Y.float(), None, r"target\.long\(\)"),
    "float labels with a channel": (Z, Y[:, None].float(), None, r"target\.long\(\)"),
    "integer dense map": (Z, Z.long(), None, r"target\.float\(\)"),
    "transposed weight": (Z, Y, torch.ones(2, 6, 4), "weight"),
    "weight with a channel": (Z, Y, torch.ones(2, 1, 4, 6), "weight"),
    "weight of classes": (Z, Y, torch.ones(3), "class_weight"),
    "integer weight": (Z, Y, Y, r"weight\.float\(\)"),
}
BAD_ARGUMENTS = {
    "mode": ("logits", "Softmax", None),
    "reduction": ("avg", "elementwise_mean", None),
    "ignore_index": (1.5, "255", True),
    "class_weight": ([-1.0, 1.0], [0.0, 0.0], [[1.0, 2.0]], [float("nan"), 1.0], "ab", 2.0, [[1.0], [1.0, 2.0]]),
    "classes": ([], [0, 0], [-1], [0.5], 1, "12", [True]),
}
BAD_POOL_ARGUMENTS = {"pool": ("image", None), "absent": ("ignore",)}
BAD_SMOOTH = {"smooth": (-1, float("inf"), float("nan"), "1")}
HAUSDORFF = (L.HausdorffDTLoss, L.HausdorffErosionLoss, L.HausdorffConvLoss)
STRUCTURE = (L.StructuralSimilarityLoss, L.RMILoss)
BAD_OWN_ARGUMENTS = [
    (L.TopKLoss, "k", (0, 1.5, -0.1, None, True, [0.1], 10**400)),
    (L.FocalLoss, "gamma", (-1, float("inf"), 10**400, "2")),
    (L.CrossEntropyLoss, "normalize", ("mean",)),
    (L.DiceLoss, "squared", ("no", 1, None)),
    (L.TverskyLoss, "fp_weight", (-0.1, float("nan"))),
    (L.FocalTverskyLoss, "exponent", (0, -1)),
    (L.GeneralizedDiceLoss, "weighting", ("cube",)),
    (L.CrossEntropyLoss, "label_smoothing", (-0.1, 1, None)),
    (L.OHEMLoss, "threshold", (0, 1.01, "0.5")),
    (L.OHEMLoss, "min_kept", (0, -3, 2.5, True, 0.0, -0.1, float("nan"))),
    (L.PolyLoss, "epsilon", (-1.01, float("nan"))),
    (L.PolyLoss, "gamma", (-0.5,)),
    (L.AsymmetricSimilarityLoss, "beta", (0, -1)),
    (L.PenaltyGeneralizedDiceLoss, "k", (-0.1, float("inf"))),
    (L.PenaltyGeneralizedDiceLoss, "weighting", (None,)),
    (L.SensitivitySpecificityLoss, "r", (-0.1, 1.1)),
    (L.LovaszLoss, "errors", ("Hinge", True, "hinge")),  # hinge: not in softmax mode
    (L.ComboLoss, "ce_weight", (-0.1, 1.1)),
    (L.ComboLoss, "positive_weight", (-0.1, 1.1)),
    (L.ExponentialLogarithmicLoss, "dice_weight", (-1,)),
    (L.ExponentialLogarithmicLoss, "ce_gamma", (0,)),
    (L.ExponentialLogarithmicLoss, "dice_gamma", (0, -0.3)),
    (L.UnifiedFocalLoss, "focal_weight", (1.5,)),
    (L.UnifiedFocalLoss, "fn_weight", (-0.1, 1.1)),
    (L.UnifiedFocalLoss, "fp_weight", (-0.1,)),
    (L.UnifiedFocalLoss, "gamma", (1, -0.1)),
    (L.UnifiedFocalLoss, "asymmetric", ("yes", 1)),
    (L.BoundaryLoss, "inside", ("Official", None, True)),
    (L.BoundaryLoss, "scale_free", (1, None, "yes")),
    *((cls, "alpha", (0, -1, float("inf"), "2", None, True)) for cls in HAUSDORFF),
    (L.HausdorffDTLoss, "one_sided", (1, "no", None)),
    (L.HausdorffErosionLoss, "erosions", (0, -1, 2.5, True, None, "3")),
    (L.HausdorffErosionLoss, "rescale", (0, None, "yes")),
    (L.HausdorffConvLoss, "radii", ([], 3, None, "36", {3, 6}, [0], [3, -1], [float("nan")], [float("inf")], ["3"])),
    (L.WeightedHausdorffLoss, "exponent", (0, 1, float("-inf"), float("nan"), "-1", None, True)),
    (L.WeightedHausdorffLoss, "max_points", (0, -1, 10.0, True, None)),
    (L.AverageHausdorffLoss, "combine", ("average", None, True)),
    (L.AverageHausdorffLoss, "balanced", (1, "yes", None)),
    (L.SoftClDiceLoss, "iterations", (-1, 2.5, True, None, "3")),
    *((cls, "ce_weight", (-0.1, 1.1, float("nan"), "0.5", None, True)) for cls in STRUCTURE),
    (L.StructuralSimilarityLoss, "threshold", (-0.1, 1, 1.5, float("nan"), None, True)),
    (L.StructuralSimilarityLoss, "threshold_scope", ("class", None)),
    (L.StructuralSimilarityLoss, "stabilizer", (0, -0.01, float("inf"), None)),
    (L.StructuralSimilarityLoss, "window_size", (0, -1, 2, 4, 3.0, True, None, "3")),
    (L.StructuralSimilarityLoss, "window_sigma", (0, -1, float("inf"), float("nan"), None)),
    (L.StructuralSimilarityLoss, "padding", ("replicate", None, 1)),
    (L.StructuralSimilarityLoss, "ignored", ("keep", None)),
    (L.StructuralSimilarityLoss, "detach_weight", (1, "yes", None)),
    (L.RMILoss, "radius", (0, -1, 2.5, True, None)),
    (L.RMILoss, "downsample", (0, -2, 0.5, True, None)),
    (L.RMILoss, "downsample_mode", ("nearest", None)),
]
TOGETHER = [
    (L.TverskyLoss, {"fp_weight": 0, "fn_weight": 0}),
    (L.FocalTverskyLoss, {"fp_weight": 0, "fn_weight": 0}),
    (L.ExponentialLogarithmicLoss, {"dice_weight": 0, "ce_weight": 0}),
    (L.FocalLoss, {"alpha": 0.25}),
    (L.FocalLoss, {"alpha": [1.0, 2.0], "class_weight": [1.0, 2.0]}),
]


@every_loss
@pytest.mark.parametrize(("logits", "target", "weight", "word"), MISFITS.values(), ids=MISFITS)
def test_c7a_shapes_that_do_not_fit(case, logits, target, weight, word):
    for loss in (case.build(), case.build() + L.CrossEntropyLoss()):
        with pytest.raises(ValueError, match=word) as error:
            loss(logits, target, weight)
        assert type(loss).__name__ in str(error.value)
        assert "got" in str(error.value) or "is torch." in str(error.value)


@every_loss
def test_c7a_softmax_of_one_channel(case):
    with pytest.raises(ValueError, match='mode="sigmoid"'):
        case.build(mode="softmax")(Z[:, :1], Y)


@every_loss
def test_c7a_arguments_outside_their_sets(case):
    bad = BAD_ARGUMENTS | BAD_POOL_ARGUMENTS | BAD_SMOOTH
    assert case.pooled == ("pool" in arguments(case.told))
    for argument, values in bad.items():
        if argument not in arguments(case.told):
            continue
        for value in values:
            if value is None and argument not in ("mode", "reduction", "pool"):
                continue
            with pytest.raises(ValueError, match=rf"{case.told.__name__}: `{argument}` must be .*; got"):
                case.build(**{argument: value})


@pytest.mark.parametrize(("cls", "argument", "values"), BAD_OWN_ARGUMENTS)
def test_c7a_own_arguments_outside_their_sets(cls, argument, values):
    for value in values:
        with pytest.raises(ValueError, match=f"{cls.__name__}: `{argument}` must be .*; got"):
            cls(**{argument: value})


@pytest.mark.parametrize(("cls", "own"), TOGETHER)
def test_c7a_own_arguments_that_do_not_go_together(cls, own):
    with pytest.raises(ValueError, match=cls.__name__):
        cls(**own)


@every_case
@both_modes
def test_c7a_c10e_classes_and_class_weight_must_fit_the_channels(case, mode):
    for kind in ("labels", case.soft):
        logits, target = batch(mode=mode, kind=kind)
        with pytest.raises(ValueError, match=r"`classes` must be in 0\.\.2 .* got \[1, 3\]"):
            case.build(mode=mode, classes=[1, 3])(logits, target)
        for wrong in ([1.0, 2.0], [1.0, 2.0, 3.0, 4.0]):
            with pytest.raises(
                ValueError, match=f"`class_weight` must have one value per channel, 3; got {len(wrong)}"
            ):
                case.build(mode=mode, class_weight=wrong, classes=[1, 2])(logits, target)


@every_case
@both_modes
@pytest.mark.parametrize("bad", [3, -1, 255])
def test_c7b_labels_out_of_range(case, mode, bad):
    logits, target = batch(mode=mode)
    target[1, 2, 1] = bad
    for options in ({}, {"ignore_index": 100}):
        with pytest.raises(ValueError, match=rf"target: labels must be in 0\.\.2 .* got values from .*{bad}"):
            case.build(mode=mode, **options)(logits, target)


@every_case
def test_c7b_values_out_of_range(case):
    logits, target = batch(channels=1, mode="sigmoid")
    target[0, 0, 0] = 2
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.1"):
        case.build(mode="sigmoid")(logits, target)
    for mode in MODES:
        logits, target = batch(mode=mode)
        weight = torch.ones(target.shape)
        for bad in (-0.5, torch.nan):
            weight[2, 1, 1] = bad
            with pytest.raises(ValueError, match="weights must be at least 0; got"):
                case.build(mode=mode)(logits, target, weight)
        for bad in (1.5, -0.25, torch.nan):
            logits, soft = batch(mode=mode, kind=case.soft)
            soft[1, 1, 1, 1] = bad
            with pytest.raises(ValueError, match=r"a dense target must lie in \[0, 1\]; got"):
                case.build(mode=mode)(logits, soft)


@every_case
def test_c7_dense_target_has_no_ignored_label(case):
    logits, target = batch(kind=case.soft)
    with pytest.raises(ValueError, match="Give ignored voxels weight 0"):
        case.build(ignore_index=255)(logits, target)


@every_loss
@both_modes
def test_c7c_all_integer_types_and_a_channel_dim_are_equal(case, mode):
    logits, target = batch(channels=2, mode=mode)
    expected = value_and_gradient(case.build(mode=mode), logits, target)
    labels = [target.to(dtype) for dtype in (*LABEL_TYPES, torch.bool)]
    for y in (*labels, target[:, None], target.to(torch.uint8)[:, None]):
        torch.testing.assert_close(value_and_gradient(case.build(mode=mode), logits, y), expected, rtol=0, atol=0)


@every_loss
@both_modes
def test_c13_depth_one_volume_equals_the_image(case, mode):
    for kind in ("labels", case.soft):
        logits, target = batch(mode=mode, kind=kind)
        flat, gradient = value_and_gradient(case.build(mode=mode), logits, target)
        deep, deep_gradient = value_and_gradient(case.build(mode=mode), logits.unsqueeze(2), target.unsqueeze(-3))
        torch.testing.assert_close((deep, deep_gradient[:, :, 0]), (flat, gradient), rtol=0, atol=0)


def strided(t):
    return t.repeat_interleave(2, -1)[..., ::2]


def transposed(t):
    return t.mT.contiguous().mT


def channels_last(t):
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return t.contiguous(memory_format=formats[t.ndim]) if t.ndim in formats else t


@every_loss
@both_modes
@pytest.mark.parametrize("dims", ["2d", "3d"])
def test_c13_layout_in_memory_does_not_matter(case, mode, dims):
    """channels_last, transposed, strided and expanded inputs equal contiguous ones."""
    loss, space = case.build(mode=mode), SPACES[dims]
    for kind in ("labels", case.soft) if dims == "2d" else ("labels",):
        logits, target = batch(space, mode=mode, kind=kind)
        weight = torch.rand(3, *space, dtype=torch.float64)
        expected = value_and_gradient(loss, logits, target, weight)
        for change in (strided, transposed, channels_last):
            found = value_and_gradient(loss, change(logits), change(target), change(weight))
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
        wide = [t[:1].expand(3, *t.shape[1:]) for t in (logits, target, weight)]
        narrow = [t.contiguous() for t in wide]
        torch.testing.assert_close(
            value_and_gradient(loss, *wide), value_and_gradient(loss, *narrow), rtol=1e-12, atol=0
        )


@every_loss
@both_modes
def test_c13_a_hundred_and_five_classes(case, mode):
    logits, target = batch((4, 5), samples=2, channels=105, mode=mode)
    torch.testing.assert_close(
        case.build(mode=mode)(logits, target), case.reference(logits, target, mode=mode), rtol=1e-9, atol=1e-11
    )
