"""What is accepted, in which layout, what is refused and with which words; soft targets; activations and `classes`."""

import inspect

import pytest
import torch

import delineate.losses as L
from losses.cases import CASES, DEFAULTS, MODES, batch, margins, value_and_gradient

LABEL_TYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32)
JOINT = (L.GeneralizedDiceLoss, L.TopKLoss)
"""One ratio over all classes; one choice over all channels: there a channel does reach the others."""
NOT_FOR_SOFT_LABELS = (L.FocalLoss, L.BalancedCrossEntropyLoss)

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
BAD_REGION_ARGUMENTS = {"pool": ("image", None), "absent": ("ignore",), "smooth": (-1, float("inf"), float("nan"), "1")}
BAD_OWN_ARGUMENTS = [
    (L.TopKLoss, "k", (0, 1.5, -0.1, None, True, [0.1], 10**400)),
    (L.FocalLoss, "gamma", (-1, float("inf"), 10**400, "2")),
    (L.CrossEntropyLoss, "normalize", ("mean",)),
    (L.DiceLoss, "squared", ("no", 1, None)),
    (L.TverskyLoss, "fp_weight", (-0.1, float("nan"))),
    (L.FocalTverskyLoss, "exponent", (0, -1)),
    (L.GeneralizedDiceLoss, "weighting", ("cube",)),
]


@every_loss
@pytest.mark.parametrize(("logits", "target", "weight", "word"), MISFITS.values(), ids=MISFITS)
def test_shapes_that_do_not_fit(case, logits, target, weight, word):
    for loss in (case.build(), case.build() + L.CrossEntropyLoss()):
        with pytest.raises(ValueError, match=word) as error:
            loss(logits, target, weight)
        assert type(loss).__name__ in str(error.value)
        assert "got" in str(error.value) or "is torch." in str(error.value)


@every_loss
def test_softmax_of_one_channel(case):
    with pytest.raises(ValueError, match='mode="sigmoid"'):
        case.build()(Z[:, :1], Y)


@every_loss
def test_arguments_outside_their_sets(case):
    bad = BAD_ARGUMENTS | (BAD_REGION_ARGUMENTS if case.region else {})
    for argument, values in bad.items():
        for value in values:
            if value is None and argument not in ("mode", "reduction", "pool"):
                continue
            with pytest.raises(ValueError, match=rf"{case.cls.__name__}: `{argument}` must be .*; got"):
                case.build(**{argument: value})


@pytest.mark.parametrize(("cls", "argument", "values"), BAD_OWN_ARGUMENTS)
def test_own_arguments_outside_their_sets(cls, argument, values):
    for value in values:
        with pytest.raises(ValueError, match=f"{cls.__name__}: `{argument}` must be .*; got"):
            cls(**{argument: value})


@every_case
@both_modes
def test_classes_and_class_weight_must_fit_the_channels(case, mode):
    for kind in ("labels", "soft"):
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
def test_labels_out_of_range(case, mode, bad):
    logits, target = batch(mode=mode)
    target[1, 2, 1] = bad
    for options in ({}, {"ignore_index": 100}):
        with pytest.raises(ValueError, match=rf"target: labels must be in 0\.\.2 .* got values from .*{bad}"):
            case.build(mode=mode, **options)(logits, target)


@every_case
def test_values_out_of_range(case):
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
            logits, soft = batch(mode=mode, kind="soft")
            soft[1, 1, 1, 1] = bad
            with pytest.raises(ValueError, match=r"a dense target must lie in \[0, 1\]; got"):
                case.build(mode=mode)(logits, soft)


@every_case
def test_dense_target_has_no_ignored_label(case):
    logits, target = batch(kind="soft")
    with pytest.raises(ValueError, match="Give ignored voxels weight 0"):
        case.build(ignore_index=255)(logits, target)


@every_case
@both_modes
def test_all_integer_types_and_a_channel_dim_are_equal(case, mode):
    logits, target = batch(channels=2, mode=mode)
    expected = value_and_gradient(case.build(mode=mode), logits, target)
    for dtype in (*LABEL_TYPES, torch.bool):
        for y in (target.to(dtype), target.to(dtype)[:, None]):
            torch.testing.assert_close(value_and_gradient(case.build(mode=mode), logits, y), expected, rtol=0, atol=0)


@every_case
@both_modes
@pytest.mark.parametrize("kind", ["labels", "soft"])
def test_depth_one_volume_equals_the_image(case, mode, kind):
    logits, target = batch(mode=mode, kind=kind)
    flat, gradient = value_and_gradient(case.build(mode=mode), logits, target)
    deep, deep_gradient = value_and_gradient(case.build(mode=mode), logits.unsqueeze(2), target.unsqueeze(-3))
    torch.testing.assert_close((deep, deep_gradient[:, :, 0]), (flat, gradient), rtol=0, atol=0)


@every_case
@both_modes
@pytest.mark.parametrize("kind", ["labels", "soft"])
def test_layout_in_memory_does_not_matter(case, mode, kind):
    """channels_last, transposed, strided and expanded inputs equal contiguous ones."""
    logits, target = batch((6, 4), mode=mode, kind=kind)
    weight = torch.rand(3, 6, 4, dtype=torch.float64)
    loss = case.build(mode=mode)
    expected = value_and_gradient(loss, logits, target, weight)

    def strided(t):
        return t.repeat_interleave(2, -1)[..., ::2]

    def transposed(t):
        return t.mT.contiguous().mT

    def channels_last(t):
        return t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t

    for change in (strided, transposed, channels_last):
        found = value_and_gradient(loss, change(logits), change(target), change(weight))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    wide = [t[:1].expand(3, *t.shape[1:]) for t in (logits, target, weight)]
    torch.testing.assert_close(
        value_and_gradient(loss, *wide), value_and_gradient(loss, *(t.contiguous() for t in wide)), rtol=1e-12, atol=0
    )


@every_case
@both_modes
def test_a_hundred_and_five_classes(case, mode):
    logits, target = batch((4, 5), samples=2, channels=105, mode=mode)
    torch.testing.assert_close(
        case.build(mode=mode)(logits, target), case.reference(logits, target, mode=mode), rtol=1e-9, atol=1e-11
    )


@every_case
@both_modes
def test_hard_dense_target_equals_labels(case, mode):
    logits, labels = batch(mode=mode)
    dense = margins(labels, 3, 1.0, "softmax")
    for options in ({}, {"classes": [0, 2]}, {"class_weight": [1.0, 2.0, 0.5], "reduction": "none"}):
        loss = case.build(mode=mode, **options)
        torch.testing.assert_close(
            value_and_gradient(loss, logits, labels), value_and_gradient(loss, logits, dense), rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("case", [c for c in CASES if c.cls not in NOT_FOR_SOFT_LABELS], ids=repr)
@both_modes
def test_optimum_of_soft_labels_is_the_labels_themselves(case, mode):
    """Not the hardened prediction: over p = activation(logit(t) / T) the minimum is at T = 1."""
    _, target = batch((6, 6), mode=mode, kind="soft")
    logits = target.log() if mode == "softmax" else target.logit()
    loss = case.build(mode=mode)
    temperatures = [1 / 20, 1 / 5, 1 / 2, 0.9, 1.0, 1.1, 2, 5, 20]
    values = [loss(logits / t, target).item() for t in temperatures]
    assert min(values) == values[4]
    assert min(values[:4] + values[5:]) > values[4] + 1e-6
    if case.region:
        assert values[4] == pytest.approx(0, abs=1e-6)


@every_case
@both_modes
def test_softmax_ignores_a_constant_and_sigmoid_does_not(case, mode):
    """Softmax stays softmax in every term: no loss is silently one-vs-rest."""
    logits, target = batch(mode=mode)
    shift = 1 + torch.rand(3, 1, 5, 4, dtype=torch.float64)
    for loss in (case.build(mode=mode), L.DiceLoss(mode=mode) + case.build(mode=mode)):
        before, after = (value_and_gradient(loss, z, target) for z in (logits, logits + shift))
        if mode == "softmax":
            torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-12)
        else:
            assert abs(after[0] - before[0]) > 1e-3


@pytest.mark.parametrize("case", [c for c in CASES if c.cls not in JOINT], ids=repr)
@pytest.mark.parametrize("kind", ["labels", "soft"])
def test_sigmoid_channels_do_not_reach_each_other(case, kind):
    logits, target = batch(mode="sigmoid", kind=kind)
    changed = logits.clone()
    changed[:, 1] = torch.randn(3, 5, 4, dtype=torch.float64)
    _, before = value_and_gradient(case.build(mode="sigmoid"), logits, target)
    _, after = value_and_gradient(case.build(mode="sigmoid"), changed, target)
    torch.testing.assert_close(after[:, [0, 2]], before[:, [0, 2]], rtol=1e-12, atol=1e-15)
    assert not torch.allclose(after[:, 1], before[:, 1])


@every_case
@pytest.mark.parametrize("kind", ["labels", "soft"])
def test_sigmoid_channels_that_are_not_scored_do_not_matter(case, kind):
    logits, target = batch(mode="sigmoid", kind=kind)
    loss = case.build(mode="sigmoid", classes=[0, 2])
    changed = logits.clone()
    changed[:, 1] = torch.randn(3, 5, 4, dtype=torch.float64)
    before, after = value_and_gradient(loss, logits, target), value_and_gradient(loss, changed, target)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert not before[1][:, 1].any()


@every_case
@pytest.mark.parametrize("kind", ["labels", "soft"])
def test_classes_act_after_the_softmax(case, kind):
    """Without the background among the scored classes, its channel still has a gradient and an effect."""
    logits, target = batch(kind=kind)
    loss = case.build(classes=[1, 2])
    value, gradient = value_and_gradient(loss, logits, target)
    assert gradient[:, 0].abs().max() > 1e-4
    changed = logits.clone()
    changed[:, 0] += 1
    assert abs(loss(changed, target) - value) > 1e-3


@every_case
def test_one_sigmoid_channel_equals_two_of_softmax(case):
    logits, target = batch(channels=1, mode="sigmoid")
    both = torch.cat([torch.zeros_like(logits), logits], 1)
    for options in ({}, {"reduction": "none"}):
        sigmoid = case.build(mode="sigmoid", **options)
        softmax = case.build(classes=[1] if case.region else None, **options)
        value, gradient = value_and_gradient(sigmoid, logits, target)
        value_2, gradient_2 = value_and_gradient(softmax, both, target)
        torch.testing.assert_close((value, gradient), (value_2, gradient_2[:, 1:]), rtol=1e-9, atol=1e-12)


@every_loss
def test_there_is_no_activation_flag(case):
    """Every loss takes logits."""
    found = set(inspect.signature(case.cls.forward).parameters)
    assert found == {"self", "logits", "target", "weight"}
    flags = {"from_logits", "sigmoid", "softmax", "activation", "apply_nonlin", "logits", "normalized"}
    from delineate.losses.loss import arguments

    assert not flags & set(arguments(case.cls))
