"""C16, C17 and C23: distances, skeletons, and what losses share of a target."""

import copy
import pickle

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

import delineate.losses as L
import delineate.target
from delineate.target import Geometry, Target
from losses.cases import DEFAULTS, MODES, ball, batch, in_mode, margins, value_and_gradient

VOID = 255
NEEDY = [c for c in DEFAULTS if any(isinstance(need, Geometry) for need in c.build().needs)]
BY_DISTANCE = [c for c in NEEDY if "spacing" in L.loss.arguments(c.cls) and c.cls is not L.BlobLoss]  # shared scope
SCALE_FREE = [c for c in NEEDY if "scale_free" in L.loss.arguments(c.cls)]

needy = pytest.mark.parametrize("case", NEEDY, ids=repr)
by_distance = pytest.mark.parametrize("case", BY_DISTANCE, ids=repr)
both_modes = pytest.mark.parametrize("mode", MODES)


def close(a, b, **tolerance):
    torch.testing.assert_close(a, b, **({"rtol": 1e-12, "atol": 1e-14} | tolerance))


@pytest.fixture
def derived(monkeypatch):
    """The names of what is derived from targets, in order."""
    names = []

    def counted(kind, derive):
        def run(*args):
            names.append(kind)
            return derive(*args)

        return run

    table = {kind: counted(kind, derive) for kind, derive in delineate.target._DERIVED.items()}
    monkeypatch.setattr(delineate.target, "_DERIVED", table)
    return names


def test_the_losses_of_these_families_are_here():
    assert {c.cls for c in NEEDY} >= {L.BoundaryLoss, L.SoftClDiceLoss, L.SkeletonRecallLoss, L.BoundaryDoULoss}
    assert {c.cls for c in BY_DISTANCE} >= {L.DistancePenalizedCELoss, L.ShapeAwareLoss, L.GeneralizedSurfaceLoss}


@pytest.mark.parametrize("case", DEFAULTS, ids=repr)
@both_modes
def test_c23_target_in_place_of_labels(case, mode):
    """Also a second time, when everything has been derived; with ignored voxels and with a channel dim."""
    logits, labels = batch((6, 5), mode=mode)
    labels[:, 0] = VOID
    loss = case.build(mode=mode, ignore_index=VOID)
    expected = value_and_gradient(loss, logits, labels)
    for given in (labels, labels[:, None]):
        target = Target(given, ignore_index=VOID)
        for _ in range(2):
            close(value_and_gradient(loss, logits, target), expected, rtol=0, atol=0)
    dense = batch((6, 5), mode=mode, kind=case.soft)[1]
    loss = case.build(mode=mode)
    close(value_and_gradient(loss, logits, Target(dense)), value_and_gradient(loss, logits, dense), rtol=0, atol=0)


@needy
@both_modes
def test_c23_needs_list_exactly_what_is_derived(case, mode, derived):
    loss = in_mode(case.build(), mode) if mode == "softmax" else case.build(mode=mode)
    logits, labels = batch((6, 5), mode=mode)
    loss(logits, labels)
    assert sorted(derived) == sorted(need.kind for need in loss.needs if isinstance(need, Geometry))


def test_c23_terms_of_a_sum_derive_everything_once(derived):
    """Also inside a schedule. Terms that ignore another label have a target of their own."""
    logits, labels = batch((6, 5))
    loss = L.parse("Dice + Boundary + 0.5*HausdorffDT + AverageHausdorff + Schedule(GeneralizedSurface, SoftClDice,"
                   " start=[1, 0], end=[0, 1], epochs=3) + ShapeAware + DistancePenalizedCE")  # fmt: skip
    value_and_gradient(loss, logits, labels)
    assert sorted(derived) == ["distances", "label_distances", "skeletons"]
    derived.clear()
    target = Target(labels)
    for _ in range(3):
        loss(logits, target)
    assert sorted(derived) == ["distances", "label_distances", "skeletons"]
    derived.clear()
    (L.BoundaryLoss() + L.BoundaryLoss(ignore_index=1))(logits, labels)
    assert derived == ["distances", "distances"]
    derived.clear()
    L.DiceLoss()(logits, target)
    assert not derived


def test_c23_ignored_label_of_target_and_loss_must_agree():
    logits, labels = batch((6, 5))
    with pytest.raises(ValueError, match="BoundaryLoss: `ignore_index` is None, and that of the Target 1"):
        L.BoundaryLoss()(logits, Target(labels, ignore_index=1))


@needy
def test_c23_copies_of_a_target(case):
    logits, labels = batch((6, 5))
    target, loss = Target(labels), case.build()
    expected = loss(logits, target)
    for twin in (copy.deepcopy(target), pickle.loads(pickle.dumps(target)), target.to("cpu")):
        assert twin.found().keys() == target.found().keys()
        close(loss(logits, twin), expected, rtol=0, atol=0)


@by_distance
def test_c16a_spacing_is_that_of_the_axes(case):
    """Given to the loss, to the target, or to each sample, it is the same, and it matters."""
    logits, labels = batch((6, 5))
    plain = case.build()(logits, labels)
    close(case.build(spacing=[1.0, 1.0])(logits, labels), plain)
    by_loss = case.build(spacing=[3.0, 1.0])(logits, labels)
    close(case.build()(logits, Target(labels, spacing=[3.0, 1.0])), by_loss)
    close(case.build()(logits, Target(labels, spacing=[[3.0, 1.0]] * 3)), by_loss)
    close(case.build(spacing=[3.0, 1.0])(logits, Target(labels, spacing=[3.0, 1.0])), by_loss)
    assert abs(by_loss - plain) > (1e-4 if case.inner is None else 1e-5)  # spacing moves a few voxels between cells
    each = case.build(reduction="none")(logits, Target(labels, spacing=[[3.0, 1.0], [1.0, 1.0], [1.0, 1.0]]))
    sizes = [[3.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
    alone = [case.build(spacing=size)(logits[n : n + 1], labels[n : n + 1]) for n, size in enumerate(sizes)]
    close(each, torch.stack(alone))


@by_distance
@pytest.mark.parametrize("bad", [[1.0], [1.0, 1.0, 1.0], [0.0, 1.0], [-1.0, 1.0], "ab", 2.0, [float("nan"), 1.0], []])
def test_c16_spacing_that_does_not_fit(case, bad):
    logits, labels = batch((6, 5))
    with pytest.raises(ValueError, match=r"`?spacing`?:? .*got"):
        case.build(spacing=bad)(logits, labels)


def test_c16_spacing_of_loss_and_target_must_agree():
    logits, labels = batch((6, 5))
    with pytest.raises(ValueError, match=r"spacing: a loss was given \[2.0, 1.0\] and the Target \[1.0, 1.0\]"):
        L.BoundaryLoss(spacing=[2, 1])(logits, Target(labels, spacing=[1, 1]))


@pytest.mark.parametrize("spacing", [None, (3.0, 1.0, 1.0)])
def test_c16a_boundary_loss_by_hand(spacing):
    """phi of scipy: what the loss is the mean of, volumes as volumes and not slice by slice."""
    logits, labels = batch((4, 6, 5), channels=2)
    p = logits.softmax(1)[:, 1].numpy()
    on = labels.numpy() == 1
    phi = np.stack([
        distance_transform_edt(~one, sampling=spacing) - distance_transform_edt(one, sampling=spacing) + one
        for one in on
    ])  # fmt: skip
    expected = (phi * p).reshape(3, -1).mean(1).mean()
    assert L.BoundaryLoss(classes=[1], spacing=spacing)(logits, labels).item() == pytest.approx(expected, rel=1e-7)


def cost_of_a_false_strip(case, size, **options):
    """A strip of a sixteenth of the image is found, and another one at the opposite side is made up."""
    labels = torch.zeros(1, size, size, dtype=torch.long)
    labels[..., : size // 16] = 1
    wrong = labels.clone()
    wrong[..., -(size // 16) :] = 1
    loss = case.build(classes=[1] if case.region else None, **options)
    right, wrong = (margins(y, 2, 9.0, "softmax").float() for y in (labels, wrong))
    return (loss(wrong, labels) - loss(right, labels)).item()


@pytest.mark.parametrize("case", SCALE_FREE, ids=repr)
def test_c16c_scale_free_losses_are_those_of_any_size(case):
    """The same relative error at 32, 64 and 128 voxels: within 5 %, where the plain loss grows with the size."""
    free = [cost_of_a_false_strip(case, size, scale_free=True) for size in (32, 64, 128)]
    assert 0 < max(free) < 1.05 * min(free)
    plain = [cost_of_a_false_strip(case, size) for size in (32, 64, 128)]
    if case.cls is L.GeneralizedSurfaceLoss:  # a ratio: free of the scale by itself
        assert plain == pytest.approx(free, rel=1e-5)
    else:
        assert plain[1] > 1.9 * plain[0]
        assert plain[2] > 1.9 * plain[1]


@pytest.mark.parametrize("case", [c for c in BY_DISTANCE if c.region], ids=repr)
@both_modes
def test_c16b_empty_and_full_masks_are_finite(case, mode):
    """An object that fills the image is as good as any; and what fills it by mistake costs."""
    for filled in (0, 1):
        labels = torch.full((1, 6, 6), filled)
        loss = case.build(mode=mode, classes=[1], absent="count")
        right, wrong = margins(labels, 2, 20.0, mode), margins(1 - labels, 2, 20.0, mode)
        (good, _), (bad, gradient) = (value_and_gradient(loss, z, labels) for z in (right, wrong))
        assert good.isfinite()
        assert bad.isfinite()
        assert good + 0.1 < bad
        _, gradient = value_and_gradient(loss, 0 * right, labels)
        assert gradient.isfinite().all()
        assert gradient.any()


def test_boundary_loss_is_least_at_the_perfect_prediction():
    """Negative there, and above for any other prediction."""
    labels = ball((16, 16), 5)
    loss = L.BoundaryLoss(classes=[1])
    best = loss(margins(labels, 2, 1e3, "softmax"), labels)
    inside = distance_transform_edt(labels[0].numpy())
    assert best.item() == pytest.approx(-(inside - 1).clip(0).sum() / 256)
    for seed in range(20):
        torch.manual_seed(seed)
        assert loss(margins(labels, 2, 5.0, "softmax") + 4 * torch.randn(1, 2, 16, 16), labels) > best + 1e-3


def test_hausdorff_losses_cost_far_errors_more():
    """One false voxel, near and far: by distance it costs more and more, where Dice sees no difference."""
    labels = ball((32, 32), 5)

    def with_false_voxel(loss, column):
        wrong = labels.clone()
        wrong[0, 16, column : column + 2] = 1
        return loss(margins(wrong, 2, 20.0, "softmax"), labels).item()

    near, far = 23, 30
    for loss in (L.HausdorffDTLoss(classes=[1]), L.AverageHausdorffLoss(classes=[1]), L.BoundaryLoss(classes=[1])):
        assert with_false_voxel(loss, far) > with_false_voxel(loss, near) + 1e-3
    dice = L.DiceLoss(classes=[1])
    assert with_false_voxel(dice, far) == pytest.approx(with_false_voxel(dice, near))


@pytest.mark.filterwarnings("ignore:SoftClDiceLoss")
@pytest.mark.parametrize("width", [1, 2, 3, 5, 9, 16, 25])
@pytest.mark.parametrize("cls", [L.SoftClDiceLoss, L.SkeletonRecallLoss])
@both_modes
def test_c17_bars_of_any_width(cls, width, mode):
    """Missed, broken and perfect cost less and less, and the first two have a gradient. With 3 iterations."""
    labels = torch.zeros(1, 40, 64, dtype=torch.long)
    labels[:, 5 : 5 + width] = 1
    broken, missed = labels.clone(), torch.zeros_like(labels)
    broken[..., 24:36] = 0
    loss = cls(mode=mode, classes=[1], **({"iterations": 3} if cls is L.SoftClDiceLoss else {}))
    found = [value_and_gradient(loss, margins(y, 2, 4.0, mode), labels) for y in (missed, broken, labels)]
    (missed_value, missed_gradient), (broken_value, broken_gradient), (perfect, _) = found
    assert missed_value > broken_value + 0.03 > perfect + 0.06
    for gradient, gap in ((missed_gradient, slice(0, 64)), (broken_gradient, slice(24, 36))):
        along = gradient[:, -1, 5 : 5 + width, gap].sum()
        assert along < -1e-5, "raising the foreground where it is missed lowers the loss"


def test_c17_warns_of_targets_wider_than_the_iterations_reach():
    labels = torch.zeros(1, 40, 40, dtype=torch.long)
    labels[:, 8:31] = 1
    logits = margins(labels, 2, 4.0, "softmax")
    with pytest.warns(UserWarning, match=r"iterations=3, and the target has structures 11 layers deep"):
        L.SoftClDiceLoss(iterations=3, classes=[1])(logits, labels)
    thin = torch.zeros(1, 40, 40, dtype=torch.long)
    thin[:, 18:21] = 1
    L.SoftClDiceLoss(iterations=3, classes=[1])(logits, thin)  # no warning, though the background is wide


def test_schedule_of_the_authors_for_the_boundary_loss():
    loss = L.parse("DiceBoundary(classes=[1])")
    assert isinstance(loss, L.Schedule)
    assert loss.factors().tolist() == pytest.approx([1, 0.01])
    for epoch in (1, 30, 90):
        loss.set_epoch(epoch)
        assert loss.factors().tolist() == pytest.approx([1 - 0.01 * epoch, 0.01 + 0.01 * epoch])
    loss.set_epoch(200)
    assert loss.factors().tolist() == pytest.approx([0.1, 0.91])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_balanced_brings_the_first_loss_to_the_size_of_the_second(reduction):
    logits, labels = batch((6, 5))
    terms = [L.DiceLoss(reduction=reduction), L.HausdorffDTLoss(reduction=reduction)]
    loss = L.Balanced(*terms)
    (dice, dice_gradient), (far, far_gradient) = (value_and_gradient(term, logits, labels) for term in terms)
    factor = far.sum() / dice.sum()
    close(
        value_and_gradient(loss, logits, labels),
        (factor * dice + far, factor * dice_gradient + far_gradient),
        rtol=1e-9,
    )
    assert L.parse(loss.expression()).expression() == loss.expression()
    assert loss.needs == terms[1].needs
    perfect = margins(labels, 3, 1e3, "softmax")
    assert not loss(perfect, labels).any(), "no factor of 0 by 0"
    with pytest.raises(ValueError, match="expected two losses; got 1"):
        L.Balanced(terms[0])
