"""The references against each other and against facts known without them."""

import numpy as np
import pytest
import torch

from reference import compound as P
from reference import region as R
from reference import voxel as V
from reference.lovasz import extension, lovasz_loss
from reference.region import region_loss
from reference.samples import samples
from reference.voxel import voxel_loss

MODES = ("softmax", "sigmoid")
OPTIONS = (
    {},
    {"classes": [0, 2], "reduction": "none"},
    {"pool": "batch", "absent": "count", "class_weight": [0.5, 1.0, 3.0]},
)
VOID = 255


def scene(mode="softmax", kind="labels", seed=0):
    g = np.random.default_rng(seed)
    logits, weight = 2 * g.normal(size=(3, 3, 4, 5)), g.random((3, 4, 5))
    if kind == "labels":
        target = g.integers(0, 3, (3, 4, 5))
        target[0][target[0] == 2] = 1
        return logits, target, weight
    soft = g.random((3, 3, 4, 5))
    return logits, soft / soft.sum(1, keepdims=True) if mode == "softmax" else soft, weight


def hard(seed=0):
    """Logits of a prediction that is sure of one class everywhere, the classes it names, and other labels."""
    g = np.random.default_rng(seed)
    named, target = g.integers(0, 3, (2, 2, 6, 7))
    return np.moveaxis(100.0 * np.eye(3)[named], -1, 1), named, target


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["labels", "soft"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_asymmetric_similarity_is_tversky(mode, kind, options):
    for b in (0.5, 1.0, 1.5):
        ours = region_loss(R.asymmetric_similarity, *scene(mode, kind), mode=mode, beta=b, **options)
        fp, fn = 1 / (1 + b * b), b * b / (1 + b * b)
        other = region_loss(R.tversky, *scene(mode, kind), mode=mode, fp_weight=fp, fn_weight=fn, **options)
        np.testing.assert_allclose(ours, other, rtol=1e-12)
    dice = region_loss(R.dice, *scene(mode, kind), mode=mode, **options)
    f1 = region_loss(R.asymmetric_similarity, *scene(mode, kind), mode=mode, beta=1.0, **options)
    np.testing.assert_allclose(f1, dice, rtol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["labels", "soft"])
def test_poly_starts_from_cross_entropy_and_from_focal(mode, kind):
    batch = scene(mode, kind)
    ce = voxel_loss(V.cross_entropy, *batch, mode=mode)
    assert voxel_loss(V.poly, *batch, mode=mode, epsilon=0.0) == pytest.approx(ce, rel=1e-12)
    focal = voxel_loss(V.focal, *batch, mode=mode, gamma=2.0)
    assert voxel_loss(V.poly, *batch, mode=mode, epsilon=0.0, gamma=2.0) == pytest.approx(focal, rel=1e-12)


def test_poly_adds_the_probability_of_being_wrong():
    logits, target, _ = scene()
    p = torch.tensor(logits).softmax(1).gather(1, torch.tensor(target)[:, None])
    rest = voxel_loss(V.poly, logits, target, epsilon=-0.5) - voxel_loss(V.cross_entropy, logits, target)
    assert rest == pytest.approx(-0.5 * (1 - p).mean().item(), rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_label_smoothing_is_that_of_torch(smoothing):
    logits, target, _ = scene()
    target[:, 0] = VOID
    a = [0.5, 1.0, 3.0]
    for normalize, weight in (("weight", a), ("count", None)):
        expected = torch.nn.functional.cross_entropy(
            torch.tensor(logits),
            torch.tensor(target),
            weight=None if weight is None else torch.tensor(weight, dtype=torch.float64),
            ignore_index=VOID,
            label_smoothing=smoothing,
        ).item()
        common = {"normalize": normalize, "class_weight": weight, "ignore_index": VOID}
        ours = voxel_loss(V.cross_entropy, logits, target, label_smoothing=smoothing, **common)
        assert ours == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_label_smoothing_is_a_smoothed_target(mode):
    logits, soft, weight = scene(mode, "soft")
    flat = 1 / 3 if mode == "softmax" else 1 / 2
    ours = voxel_loss(V.cross_entropy, logits, soft, weight, mode=mode, label_smoothing=0.2)
    expected = voxel_loss(V.cross_entropy, logits, 0.8 * soft + 0.2 * flat, weight, mode=mode)
    assert ours == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_ohem_between_cross_entropy_and_topk(mode):
    logits, target, weight = scene(mode)
    ce = voxel_loss(V.cross_entropy, logits, target, weight, mode=mode)
    for own in ({"threshold": 1.0}, {"threshold": 1e-9, "min_kept": 10**6}):
        assert voxel_loss(V.ohem, logits, target, weight, mode=mode, **own) == pytest.approx(ce, rel=1e-12)
    terms = 60 if mode == "softmax" else 180
    hardest = voxel_loss(V.topk, logits, target, mode=mode, k=7 / terms)
    ours = voxel_loss(V.ohem, logits, target, mode=mode, threshold=1e-9, min_kept=7)
    assert ours == pytest.approx(hardest, rel=1e-12)


def test_ohem_shares_the_last_place():
    logits = np.zeros((1, 2, 4))
    weight = np.array([[1.0, 2.0, 3.0, 6.0]])
    ours = voxel_loss(V.ohem, logits, np.zeros((1, 4), int), weight, threshold=0.3, min_kept=1)
    assert ours == pytest.approx(3 * np.log(2))


@pytest.mark.parametrize("pool", ["sample", "batch"])
def test_lovasz_of_a_hard_prediction_is_jaccard(pool):
    logits, _, target = hard()
    weight = np.random.default_rng(1).random(target.shape)
    target[:, 0] = VOID
    common = {"pool": pool, "ignore_index": VOID, "class_weight": [0.5, 1.0, 3.0], "reduction": "none"}
    ours, expected = (f(logits, target, weight, **common) for f in (lovasz_loss, jaccard))
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


def jaccard(*batch, **common):
    return region_loss(R.jaccard, *batch, **common)


def test_lovasz_hinge_of_a_sure_prediction():
    """At margin m a wrong voxel has the error 1 + m, a right one 0: (1 + m) times the Jaccard loss."""
    _, named, target = hard()
    sure = np.where(np.moveaxis(np.eye(3)[named], -1, 1) > 0, 4.0, -4.0)
    expected = 5 * jaccard(100 * sure, target, mode="sigmoid")
    assert lovasz_loss(sure, target, mode="sigmoid") == pytest.approx(expected, rel=1e-12)
    assert lovasz_loss(100 * sure, target, mode="sigmoid", errors="probability") == pytest.approx(expected / 5)


def test_lovasz_of_few_voxels():
    """By hand: errors .7 (a miss), .4 (false), .1 (a miss); Jaccard losses 1/2, 2/3, 1."""
    y, one = np.array([1.0, 0.0, 1.0]), np.ones(3)
    assert extension(np.array([0.1, 0.4, 0.7]), y, one) == pytest.approx(0.7 / 2 + 0.4 / 6 + 0.1 / 3)
    assert extension(np.array([0.2, 0.9, 0.5]), np.zeros(3), one) == pytest.approx(0.9)
    assert extension(np.array([0.2, 0.9, 0.5]), np.zeros(3), np.array([1.0, 0.0, 1.0])) == pytest.approx(0.5)
    assert extension(np.zeros(0), np.zeros(0), np.zeros(0)) == 0


def test_lovasz_of_weights_is_lovasz_of_repeated_voxels():
    g = np.random.default_rng(3)
    errors, y, times = g.random(9), g.integers(0, 2, 9).astype(float), g.integers(0, 4, 9)
    repeated = extension(np.repeat(errors, times), np.repeat(y, times), np.ones(times.sum()))
    assert extension(errors, y, times.astype(float)) == pytest.approx(repeated, rel=1e-12)


def test_mcc_of_a_hard_prediction_is_the_correlation():
    logits, named, target = hard()
    for c in range(3):
        ours = region_loss(R.mcc, logits, target, classes=[c], reduction="none")
        expected = [
            1 - np.corrcoef((n == c).ravel(), (t == c).ravel())[0, 1] for n, t in zip(named, target, strict=True)
        ]
        np.testing.assert_allclose(ours, expected, rtol=1e-10)


def test_mcc_at_zero_margins():
    full, empty = np.ones((1, 6), int), np.zeros((1, 6), int)
    z = np.array([[[100.0, 100.0, 100.0, 100.0, -100.0, -100.0]]])
    assert region_loss(R.mcc, z, full, mode="sigmoid") == pytest.approx(2 / 6)
    assert region_loss(R.mcc, z, empty, mode="sigmoid") == pytest.approx(4 / 6)
    some = np.array([[1, 1, 0, 0, 0, 0]])
    for sure in (1000.0, -1000.0):  # all or none predicted, exactly
        assert region_loss(R.mcc, np.full((1, 1, 6), sure), some, mode="sigmoid") == 1
    assert region_loss(R.mcc, 1000.0 - 2000 * some[:, None], some, mode="sigmoid") == 2


def test_sensitivity_specificity_of_a_hard_prediction_mixes_two_rates():
    logits, named, target = hard()
    n, t = named == 1, target == 1
    for r in (0.05, 0.5):
        ours = region_loss(R.sensitivity_specificity, logits, target, classes=[1], pool="batch", r=r)
        assert ours == pytest.approx(r * (1 - n[t].mean()) + (1 - r) * n[~t].mean(), rel=1e-10)


@pytest.mark.parametrize("mode", MODES)
def test_penalty_generalized_dice(mode):
    batch = scene(mode)
    for own in ({}, {"weighting": "simple"}):
        common = {"mode": mode, "reduction": "none"}
        x = region_loss(R.generalized_dice, *batch, **common, **own)
        np.testing.assert_allclose(region_loss(R.penalty_generalized_dice, *batch, k=0.0, **common, **own), x)
        ours = region_loss(R.penalty_generalized_dice, *batch, **common, **own)
        np.testing.assert_allclose(ours, x / (1 + 2.5 * (1 - x)), rtol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["labels", "soft"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_unified_focal_with_gamma_0_is_half_a_cross_entropy_and_tversky(mode, kind, options):
    batch = scene(mode, kind)
    voxels = {name: value for name, value in options.items() if name not in ("pool", "absent")}
    ce = voxel_loss(V.cross_entropy, *batch, mode=mode, **voxels)
    tversky = region_loss(R.tversky, *batch, mode=mode, fp_weight=0.5, fn_weight=0.5, **options)
    for asymmetric in (True, False):
        own = {"gamma": 0.0, "fn_weight": 0.5, "asymmetric": asymmetric, "focal_weight": 0.3}
        ours = P.unified_focal_loss(*batch, mode=mode, **own, **options)
        np.testing.assert_allclose(ours, 0.3 * 0.5 * ce + 0.7 * tversky, rtol=1e-12)


def test_unified_focal_by_hand():
    """Two voxels of softmax: p = .9 of background on background, p = .6 of foreground on foreground."""
    logits = np.log([[[0.9, 0.4], [0.1, 0.6]]])
    f = (0.4 * 0.1**0.5 * -np.log(0.9) + 0.6 * -np.log(0.6)) / 2
    back, fore = 0.9 / (0.9 + 0.6 * 0.1 + 0.4 * 0.4), 0.6 / (0.6 + 0.6 * 0.4 + 0.4 * 0.1)
    expected = (f + ((1 - back) + (1 - fore) ** 0.5) / 2) / 2
    assert P.unified_focal_loss(logits, np.array([[0, 1]])) == pytest.approx(expected, rel=1e-12)


def test_combo_by_hand():
    logits, y = np.log([[[0.9 / 0.1, 0.4 / 0.6, 0.2 / 0.8]]]), np.array([[1, 1, 0]])
    ce = -(0.7 * np.log(0.9 * 0.4) + 0.3 * np.log(0.8)) / 3
    coefficient = (2 * 1.3 + 1) / (1.5 + 2 + 1)
    for one in (
        P.combo_loss(logits, y, mode="sigmoid", ce_weight=0.4, positive_weight=0.7),
        P.combo_loss(logits, y[:, None].astype(float), mode="sigmoid", ce_weight=0.4, positive_weight=0.7),
    ):
        assert one == pytest.approx(0.4 * ce - 0.6 * coefficient, rel=1e-12)
    two = np.concatenate([0 * logits, logits], 1)
    back = (2 * 0.8 + 1) / (1.5 + 1 + 1)
    ours = P.combo_loss(two, y, ce_weight=0.4, positive_weight=0.7)
    assert ours == pytest.approx(0.4 * ce - 0.6 * (coefficient + back) / 2, rel=1e-12)


def test_combo_at_a_perfect_prediction():
    _, named, _ = hard()
    perfect = np.moveaxis(100.0 * np.eye(3)[named], -1, 1)
    assert P.combo_loss(perfect, named, ce_weight=0.3) == pytest.approx(-0.7)
    assert P.combo_loss(np.full((1, 1, 8), -100.0), np.zeros((1, 8), int), mode="sigmoid") == pytest.approx(-0.5)


def test_exponential_logarithmic_by_hand():
    """Shares 2/3 and 1/3 of the classes; in sigmoid mode on 2/3, off 1/3."""
    z, y = np.log([[[0.9 / 0.1, 0.4 / 0.6, 0.2 / 0.8]]]), np.array([[1, 1, 0]])
    fore, back = (2 * 1.3 + 1) / (1.5 + 2 + 1), (2 * 0.8 + 1) / (1.5 + 1 + 1)
    on, off = 1.5**0.5, 3**0.5
    voxels = (on * (-np.log(0.9)) ** 0.3 + on * (-np.log(0.4)) ** 0.3 + off * (-np.log(0.8)) ** 0.3) / 3
    one = P.exponential_logarithmic_loss(z, y, mode="sigmoid")
    assert one == pytest.approx(0.8 * (-np.log(fore)) ** 0.3 + 0.2 * voxels, rel=1e-12)
    two = P.exponential_logarithmic_loss(np.concatenate([0 * z, z], 1), y)
    classes = ((-np.log(fore)) ** 0.3 + (-np.log(back)) ** 0.3) / 2
    assert two == pytest.approx(0.8 * classes + 0.2 * voxels, rel=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_exponential_logarithmic_with_class_weight_and_powers_of_1_is_cross_entropy(mode):
    batch = scene(mode)
    common = {"mode": mode, "class_weight": [0.5, 1.0, 3.0], "ignore_index": 1}
    ours = P.exponential_logarithmic_loss(*batch, dice_weight=0.0, ce_weight=1.0, ce_gamma=1.0, **common)
    assert ours == pytest.approx(voxel_loss(V.cross_entropy, *batch, **common), rel=1e-12)


@pytest.mark.parametrize("loss", [P.combo_loss, P.exponential_logarithmic_loss, P.unified_focal_loss])
@pytest.mark.parametrize("mode", MODES)
def test_an_ignored_sample_of_a_compound_is_zero_and_left_out(loss, mode):
    logits, target, weight = scene(mode)
    kept = loss(logits[1:], target[1:], weight[1:], mode=mode, ignore_index=VOID)
    target[0] = VOID
    assert loss(logits, target, weight, mode=mode, ignore_index=VOID) == pytest.approx(kept, rel=1e-12)
    assert loss(logits, target, weight, mode=mode, ignore_index=VOID, reduction="none")[0] == 0


def test_counts_of_soft_labels():
    """The sum over the smaller of p and y; the four counts add up to all weights."""
    (s,) = samples(*(a[:1] for a in scene(kind="soft")))
    tp, fp, fn, tn = R.counts(s, 1)
    assert tp == pytest.approx((s.w * np.minimum(s.p[1], s.y[1])).sum())
    assert tp + fp + fn + tn == pytest.approx(s.w.sum())
