"""The references by instance against values worked out by hand and facts known without them."""

import math

import numpy as np
import pytest
from scipy.special import expit, logit

from reference import region as R
from reference import voxel as V
from reference.instance import (
    REGION,
    VOXEL,
    bidirectional_component_loss,
    blob_loss,
    component_loss,
    inverse_size_weights,
)
from reference.region import region_loss
from reference.voxel import voxel_loss

VOID = 255
SCOPES = ("shared", "split", "voronoi")
CELLS = (component_loss, bidirectional_component_loss)
CELL_INNERS = [inner for inner in REGION + VOXEL if inner != "topk"]
PLAIN_REGION = {
    "dice": (R.dice, {}),
    "squared_dice": (R.dice, {"squared": True}),
    "jaccard": (R.jaccard, {}),
    "tversky": (R.tversky, {"fp_weight": 0.2, "fn_weight": 0.9}),
    "focal_tversky": (R.focal_tversky, {"exponent": 0.6}),
}
PLAIN_VOXEL = {
    "ce": (V.cross_entropy, {"normalize": "weight"}),
    "focal": (V.focal, {"alpha": 0.3}),
    "poly": (V.poly, {"epsilon": 2.0}),
    "topk": (V.topk, {"k": 0.2}),
}
TWO = [1, 1, 0, 0, 0, 1]
UNSURE = [1, 0.5, 0, 0, 1, 0.5]  # a false positive next to the second blob


def line(labels, p):
    """Samples of one channel: logits of p, and the labels."""
    return np.clip(logit(np.array(p, dtype=float)), -1e4, 1e4).reshape(-1, 1, len(p)), np.array([labels])


def scene(mode="sigmoid", channels=1, seed=0):
    """Two samples of 6 x 7 with a blob of 2 x 3 and one of 1 x 1 in every class, and random logits and weights."""
    g = np.random.default_rng(seed)
    labels = np.zeros((2, 6, 7), dtype=int)
    for name in range(1, max(2, channels)):
        labels[:, 3 * name - 3 : 3 * name - 1, :3], labels[:, 3 * name - 2, 5] = name, name
    return 2 * g.normal(size=(2, channels, 6, 7)), labels, 0.5 + g.random((2, 6, 7))


def one_blob():
    logits, labels, weight = scene()
    labels[:, :, 4:] = 0
    return logits, labels, weight


def perfect(labels, margin=1e3):
    return np.where(labels[:, None] == 1, margin, -margin).astype(float)


@pytest.mark.parametrize(("inner", "plain"), PLAIN_REGION.items(), ids=PLAIN_REGION)
def test_one_blob_is_the_plain_region_loss(inner, plain):
    formula, own = plain
    expected = region_loss(formula, *one_blob(), mode="sigmoid", smooth=0.3, **own)
    own = {name: value for name, value in own.items() if name != "squared"} | {"mode": "sigmoid", "smooth": 0.3}
    for scope in SCOPES:
        assert blob_loss(*one_blob(), inner=inner, fp_scope=scope, **own) == pytest.approx(expected, rel=1e-12)
    assert component_loss(*one_blob(), inner=inner, **own) == pytest.approx(expected, rel=1e-12)
    assert abs(blob_loss(*scene(), inner=inner, **own) - expected) > 1e-3


@pytest.mark.parametrize(("inner", "plain"), PLAIN_VOXEL.items(), ids=PLAIN_VOXEL)
def test_one_blob_is_the_plain_voxel_loss(inner, plain):
    kind, own = plain
    common = {"mode": "sigmoid", "class_weight": [3.0], "reduction": "none", **own}
    expected = voxel_loss(kind, *one_blob(), **common)
    for scope in SCOPES:
        np.testing.assert_allclose(blob_loss(*one_blob(), inner=inner, fp_scope=scope, **common), expected, rtol=1e-12)
    if inner != "topk":
        np.testing.assert_allclose(component_loss(*one_blob(), inner=inner, **common), expected, rtol=1e-12)


@pytest.mark.parametrize("normalize", ["count", "weight"])
def test_blob_cross_entropy_lowers_the_weight_of_the_foreground(normalize):
    z, y, w = scene()
    lowered = np.where(y == 1, w / 2, w)
    expected = voxel_loss(V.cross_entropy, z, y, lowered, mode="sigmoid", reduction="none")
    if normalize == "weight":
        expected = expected * 42 / w.sum((1, 2))
    value = blob_loss(z, y, w, inner="ce", normalize=normalize, mode="sigmoid", reduction="none")
    np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_split_cross_entropy_is_the_plain_one_over_the_blobs():
    value = blob_loss(*scene(), inner="ce", fp_scope="split", mode="sigmoid")
    assert value == pytest.approx(voxel_loss(V.cross_entropy, *scene(), mode="sigmoid") / 2, rel=1e-12)


@pytest.mark.parametrize("inner", REGION + VOXEL)
def test_a_perfect_prediction_costs_nothing(inner):
    _, y, w = scene()
    for scope in SCOPES:
        assert blob_loss(perfect(y), y, w, inner=inner, fp_scope=scope, mode="sigmoid") == pytest.approx(0, abs=1e-9)
    if inner != "topk":
        for loss in CELLS:
            assert loss(perfect(y), y, w, inner=inner, mode="sigmoid") == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("inner", "shared", "split", "voronoi"),
    [
        ("dice", (1 / 3 + 3 / 5) / 2, (1 / 4 + 1 / 2) / 2, (1 / 7 + 3 / 5) / 2),
        ("jaccard", (1 / 2 + 3 / 4) / 2, (1 - 1.5 / 2.5 + 1 - 0.5 / 1.5) / 2, (1 / 4 + 3 / 4) / 2),
        ("squared_dice", (1 - 3 / 4.25 + 1 - 1 / 2.25) / 2, (1 - 3 / 3.75 + 1 - 1 / 1.75) / 2, (1 / 13 + 5 / 9) / 2),
    ],
)
def test_two_blobs_and_a_false_positive(inner, shared, split, voronoi):
    for scope, expected in zip(SCOPES, (shared, split, voronoi), strict=True):
        value = blob_loss(*line(TWO, UNSURE), inner=inner, fp_scope=scope, mode="sigmoid")
        assert value == pytest.approx(expected)
    assert component_loss(*line(TWO, UNSURE), inner=inner, mode="sigmoid") == pytest.approx(voronoi)


def test_tversky_and_focal_tversky_of_two_blobs():
    costs = (1 - 1.5 / (1.5 + 0.3 + 0.35), 1 - 0.5 / (0.5 + 0.3 + 0.35))
    value = blob_loss(*line(TWO, UNSURE), inner="tversky", mode="sigmoid")
    assert value == pytest.approx(sum(costs) / 2)
    value = blob_loss(*line(TWO, UNSURE), inner="focal_tversky", mode="sigmoid")
    assert value == pytest.approx(sum(cost**0.75 for cost in costs) / 2)


def test_voxel_costs_of_two_blobs():
    batch = line(TWO, [0.5, 1, 0, 0.75, 0, 0.25])
    behind, first, second = math.log(4), math.log(2), math.log(4)
    value = blob_loss(*batch, inner="ce", mode="sigmoid")
    assert value == pytest.approx((behind + first + behind + second) / 6 / 2)
    value = blob_loss(*batch, inner="ce", fp_scope="voronoi", mode="sigmoid")
    assert value == pytest.approx((behind + first + second) / 6 / 2)
    value = component_loss(*batch, inner="ce", mode="sigmoid")
    assert value == pytest.approx(((behind + first) / 4 + second / 2) / 2)
    value = blob_loss(*batch, inner="topk", k=0.5, mode="sigmoid")
    assert value == pytest.approx(((behind + first) / 3 + (behind + second) / 3) / 2)
    value = blob_loss(*batch, inner="topk", mode="sigmoid")
    assert value == pytest.approx((behind + behind) / 2)
    value = blob_loss(*batch, inner="topk", k=1, mode="sigmoid")
    assert value == pytest.approx((2 * behind + first + second) / 6 / 2)  # masked voxels cost 0
    value = blob_loss(*batch, inner="focal", alpha=0.3, mode="sigmoid")
    lost = [0.7 * 0.75**2 * behind, 0.3 * 0.25 * first, 0.3 * 0.75**2 * second]
    assert value == pytest.approx((2 * lost[0] + lost[1] + lost[2]) / 6 / 2)
    value = blob_loss(*batch, inner="poly", epsilon=2.0, mode="sigmoid")
    assert value == pytest.approx((2 * behind + 3 + first + 1 + second + 1.5) / 6 / 2)


def test_weights_of_a_cell_divide_it():
    weight = np.array([[2.0, 1, 1, 4, 3, 1]])
    batch = (*line(TWO, [0.5, 1, 0, 0.75, 0, 0.25]), weight)
    value = component_loss(*batch, inner="ce", normalize="weight", class_weight=[5.0], mode="sigmoid")
    assert value == pytest.approx(((4 * math.log(4) + 2 * math.log(2)) / 8 + math.log(4) / 4) / 2)
    value = blob_loss(*batch, inner="ce", normalize="weight", mode="sigmoid")
    assert value == pytest.approx((4 * math.log(4) * 2 + 2 * math.log(2) + math.log(4)) / 12 / 2)
    value = blob_loss(*batch, inner="ce", normalize="weight", fp_scope="split", mode="sigmoid")
    assert value == pytest.approx((4 * math.log(4) + 2 * math.log(2) + math.log(4)) / 12 / 2)


def test_predicted_cells():
    value = bidirectional_component_loss(*line(TWO, UNSURE), inner="dice", mode="sigmoid", predicted_weight=1.0)
    assert value == pytest.approx((1 / 7 + 3 / 5) / 2)  # cells of voxels 0 and 4: three voxels each
    batch = line([1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0.75, 0.25])
    without_truth = (0.75**2 + 0.25**2) / 1
    for a in (0.0, 0.25, 1.0):
        value = bidirectional_component_loss(*batch, inner="dice", mode="sigmoid", predicted_weight=a)
        assert value == pytest.approx((1 - a) * (1 / 3) + a * (0 + without_truth) / 2)
    value = bidirectional_component_loss(*line(TWO, [0.5] * 6), inner="dice", mode="sigmoid", predicted_weight=1.0)
    assert value == pytest.approx(1 - 3 / 6)  # nothing predicted: the whole image
    far = bidirectional_component_loss(*line([0, 0, 0, 0, 0, 0], UNSURE), inner="dice", mode="sigmoid")
    assert far == pytest.approx(0.5)  # no true component: the mean probability, 3 / 6


def test_predicted_cells_follow_the_largest_class():
    p = np.array([[0.3, 0.5, 0.35, 0.2], [0.3, 0.3, 0.25, 0.3], [0.4, 0.2, 0.4, 0.5]])
    common = {"inner": "dice", "classes": [2], "predicted_weight": 1.0}
    value = bidirectional_component_loss(np.log(p)[None], np.array([[2, 0, 0, 0]]), **common)
    assert value == pytest.approx((1 - 0.8 / 1.6 + (0.16 + 0.25) / 0.9) / 2)
    p = np.array([[1, 0.5, 0.6, 0.25], [0, 0.5, 0.4, 0.75]])
    z = np.maximum(np.log(np.maximum(p, 1e-300)), -600)[None]
    common = {"inner": "dice", "classes": [0], "predicted_weight": 1.0, "ignore_index": VOID}
    value = bidirectional_component_loss(z, np.array([[0, VOID, 0, 1]]), **common)
    assert value == pytest.approx((0 + 1 - 1.2 / 1.85) / 2)  # an ignored voxel joins nothing


def test_pooled_predicted_cells_come_from_samples_with_true_components():
    z = np.concatenate([line(TWO, UNSURE)[0], line(TWO, [1, 0, 0, 0.75, 0, 0])[0]])
    labels = np.array([TWO, [0] * 6])
    common = {"inner": "dice", "mode": "sigmoid", "pool": "batch", "predicted_weight": 1.0}
    value = bidirectional_component_loss(z, labels, **common)
    assert value == pytest.approx((1 / 7 + 3 / 5) / 2)


def test_ties_belong_to_the_first_component_and_spacing_moves_cells():
    value = component_loss(*line([1, 0, 1], [0.5, 1, 1]), inner="dice", mode="sigmoid")
    assert value == pytest.approx((1 - 1 / 2.5 + 0) / 2)
    labels = np.array([[[1, 0, 0], [0, 0, 0], [0, 0, 1]]])
    z = np.full((1, 1, 3, 3), -1e4)
    z[0, 0, 0, 0] = z[0, 0, 2, 2] = z[0, 0, 2, 0] = 1e4
    z[0, 0, 2, 2] = 0
    for spacing, expected in [((1, 1), 1 / 3 + 1 / 3), ((3, 1), 1 - 1 / 2.5), ((1, 3), 1 / 3 + 1 / 3)]:
        value = component_loss(z, labels, inner="dice", spacing=spacing, mode="sigmoid")
        assert value == pytest.approx(expected / 2)


@pytest.mark.parametrize(
    ("step", "joined"),
    [
        ((0, 1), ("full", "edge", "face")),
        ((1, 1), ("full", "edge")),
        ((0, 0, 1), ("full", "edge", "face")),
        ((0, 1, 1), ("full", "edge")),
        ((1, 1, 1), ("full",)),
    ],
    ids=str,
)
def test_neighbours(step, joined):
    labels = np.zeros((1, *[2] * len(step)), dtype=int)
    labels[(0, *[0] * len(step))] = labels[(0, *step)] = 1
    z = perfect(labels)
    z[(0, 0, *step)] = logit(0.5)
    for connectivity in ("full", "edge", "face"):
        value = blob_loss(z, labels, inner="dice", connectivity=connectivity, mode="sigmoid")
        expected = 1 - 3 / 3.5 if connectivity in joined else (0 + 1 - 1 / 1.5) / 2
        assert value == pytest.approx(expected)


def test_small_components_are_in_no_region():
    z, labels = line([1, 1, 0, 1, 0], [0.5, 1, 0.25, 0.5, 0.75])
    hidden = np.array([[1, 1, 0, VOID, 0]])
    for inner in REGION:
        value = blob_loss(z, labels, inner=inner, min_size=2, mode="sigmoid")
        assert value == pytest.approx(blob_loss(z, hidden, inner=inner, ignore_index=VOID, mode="sigmoid"))
        assert abs(value - blob_loss(z, labels, inner=inner, mode="sigmoid")) > 1e-3
    value = blob_loss(z, labels, inner="ce", min_size=2, mode="sigmoid")
    hidden_value = blob_loss(z, hidden, inner="ce", ignore_index=VOID, mode="sigmoid")
    assert value == pytest.approx(hidden_value * 4 / 5)  # a masked voxel is counted, an ignored one is not
    for loss in CELLS:
        value = loss(z, labels, inner="ce", min_size=2, mode="sigmoid")
        assert value == pytest.approx(loss(z, hidden, inner="ce", ignore_index=VOID, mode="sigmoid"))
    assert blob_loss(z, labels, inner="dice", min_size=3, mode="sigmoid") == pytest.approx((0.25 + 0.75) / 2)
    weight = np.array([[1.0, 1, 1, 0, 1]])
    value = blob_loss(z, labels, weight, inner="dice", mode="sigmoid")
    assert value == pytest.approx(blob_loss(z, labels, inner="dice", min_size=2, mode="sigmoid"))


def test_ignored_voxels_cut_components():
    z, labels = line([1, VOID, 1, 0], [1, 0.5, 0.5, 0])
    value = blob_loss(z, labels, inner="dice", ignore_index=VOID, mode="sigmoid")
    assert value == pytest.approx((0 + 1 - 1 / 1.5) / 2)


def test_samples_without_blobs_and_ignored_ones():
    z = np.concatenate([line(TWO, UNSURE)[0], line(TWO, [0.25] * 6)[0], line(TWO, [0.5] * 6)[0]])
    labels = np.array([TWO, [0, 0, 0, 0, 0, VOID], [VOID] * 6])
    common = {"inner": "dice", "ignore_index": VOID, "mode": "sigmoid"}
    first = (1 / 3 + 3 / 5) / 2
    np.testing.assert_allclose(blob_loss(z, labels, reduction="none", **common), [first, 0.25, 0])
    assert blob_loss(z, labels, reduction="sum", **common) == pytest.approx(first + 0.25)
    assert blob_loss(z, labels, **common) == pytest.approx(first)
    assert blob_loss(z[1:], labels[1:], **common) == pytest.approx(0.25)
    assert blob_loss(z[2:], labels[2:], **common) == 0
    for loss in CELLS:
        rows = np.asarray(loss(z, labels, reduction="none", **common))
        assert rows[1] == pytest.approx(0.25)
    soft = np.full((1, 1, 6), 0.4)
    assert blob_loss(z[:1], soft, inner="dice", mode="sigmoid") == pytest.approx((0.6 * 2 + 0.1 * 2) / 3.6)


def test_pooling_takes_every_blob_alike():
    z = np.concatenate([line(TWO, UNSURE)[0], line(TWO, [0.5] * 6)[0], line(TWO, [0.25] * 6)[0]])
    labels = np.array([TWO, [1, 0, 0, 0, 0, 0], [VOID] * 6])
    common = {"inner": "dice", "pool": "batch", "ignore_index": VOID, "mode": "sigmoid"}
    expected = (1 / 3 + 3 / 5 + 1 - 1 / 4) / 3
    assert blob_loss(z, labels, **common) == pytest.approx(expected)
    np.testing.assert_allclose(blob_loss(z, labels, reduction="none", **common), [expected, expected, 0])
    assert blob_loss(z, labels, reduction="sum", **common) == pytest.approx(2 * expected)
    empty = np.where(labels == 1, 0, labels)
    assert blob_loss(z, empty, **common) == pytest.approx((3 + 3) / 12)
    assert blob_loss(z[2:], labels[2:], **common) == 0


def test_classes_are_scored_one_against_the_rest():
    """Two voxels of class 1, one of class 2, three of class 0; class 3 is absent."""
    p = np.array([[0, 0, 0.5, 1, 0.5, 0], [0.5, 1, 0, 0, 0.5, 0], [0.5, 0, 0, 0, 0, 1], [0, 0, 0.5, 0, 0, 0]])
    with np.errstate(divide="ignore"):
        z = np.maximum(np.log(p), -1e4)[None]
    labels = np.array([[1, 1, 0, 0, 0, 2]])
    first, second, absent = 1 - 3 / 4, 1 - 2 / 2.5, 0.5 / 6
    assert blob_loss(z, labels, inner="dice") == pytest.approx((first + second) / 2)
    assert blob_loss(z, labels, inner="dice", absent="count") == pytest.approx((first + second + absent) / 3)
    assert blob_loss(z, labels, inner="dice", classes=[2, 3]) == pytest.approx(second)
    assert blob_loss(z, labels, inner="dice", classes=[3]) == pytest.approx(absent)
    weighted = blob_loss(z, labels, inner="dice", absent="count", class_weight=[9, 1, 2, 3])
    assert weighted == pytest.approx((first + 2 * second + 3 * absent) / 6)
    behind = np.array([0, 0, math.log(2), 0, math.log(2), 0]).sum()  # label 0, whatever `classes` says
    value = blob_loss(z, labels, inner="ce", classes=[1], class_weight=[3, 5, 7, 9])
    assert value == pytest.approx((3 * behind + 5 * math.log(2)) / 6)
    value = blob_loss(z, labels, inner="ce", classes=[2], class_weight=[3, 5, 7, 9], normalize="weight")
    assert value == pytest.approx((3 * behind + 5 * math.log(2)) / (3 * 3 + 5 * 2 + 7))
    value = blob_loss(np.zeros((1, 3, 4)), np.array([[1, 0, 1, 2]]), inner="ce", class_weight=[1, 5, 7])
    assert value == pytest.approx((13 + 18) / 2 * math.log(3) / 4)  # a plain mean over classes


@pytest.mark.parametrize("inner", CELL_INNERS)
@pytest.mark.parametrize("loss", [blob_loss, *CELLS])
def test_dense_targets_and_two_channels_agree_with_labels(loss, inner):
    z, y, w = scene("softmax", 3)
    dense = np.moveaxis(np.eye(3)[y], -1, 1)
    for mode in ("softmax", "sigmoid"):
        common = {"inner": inner, "mode": mode, "class_weight": [2.0, 1, 3]}
        assert loss(z, dense, w, **common) == pytest.approx(loss(z, y, w, **common), rel=1e-12)
    z, y, w = scene()
    both = np.concatenate([np.zeros_like(z), z], 1)
    assert loss(both, y, w, inner=inner) == pytest.approx(loss(z, y, w, inner=inner, mode="sigmoid"), rel=1e-10)


@pytest.mark.parametrize("loss", [blob_loss, *CELLS])
def test_order_of_samples_classes_and_axes_is_free(loss):
    z, y, w = scene("softmax", 3, seed=1)
    for inner in ("dice", "ce"):
        plain = loss(z, y, w, inner=inner, reduction="none", spacing=(1, 1.3))
        back = loss(*(x[::-1] for x in (z, y, w)), inner=inner, reduction="none", spacing=(1, 1.3))
        np.testing.assert_allclose(back, plain[::-1])
        if loss is not bidirectional_component_loss:  # whose ties go by raster order
            turned = (x.swapaxes(-1, -2) for x in (z, y, w))
            np.testing.assert_allclose(loss(*turned, inner=inner, reduction="none", spacing=(1.3, 1)), plain)
        renamed = z[:, [0, 2, 1]], np.array([0, 2, 1])[y], w
        np.testing.assert_allclose(loss(*renamed, inner=inner, reduction="none", spacing=(1, 1.3)), plain)


def test_masked_logits_would_fail_a_perfect_prediction():
    """Logits multiplied by the mask, then the sigmoid: a known fault elsewhere. Every masked voxel gets p = 1/2."""
    labels = np.zeros((1, 24), dtype=int)
    labels[0, ::2] = 1
    z, mask = perfect(labels)[0, 0], labels[0] == 1
    costs = []
    for i in np.flatnonzero(mask):
        blob = np.arange(24) == i
        p = expit(z * (blob | ~mask))
        costs.append(1 - 2 * p[blob].sum() / (p.sum() + 1))
    np.testing.assert_allclose(costs, 1 - 2 / (2 + 0.5 * 11))
    assert np.mean(costs) > 0.7
    assert blob_loss(z[None, None], labels, inner="dice", mode="sigmoid") == 0


def test_inverse_sizes():
    labels = np.array([TWO, [0] * 6, [1, 1, VOID, 0, 0, 1]])
    common = {"mode": "sigmoid", "ignore_index": VOID}
    weights = inverse_size_weights(labels, 1, **common)
    np.testing.assert_allclose(weights[0], [0.75, 0.75, 1, 1, 1, 1.5])
    np.testing.assert_allclose(weights[1], 1)
    assert weights[0][labels[0] == 1].sum() == pytest.approx(3)
    weights = inverse_size_weights(labels, 1, weighting="volume", **common)
    np.testing.assert_allclose(weights[0], [1, 1, 2 / 3, 2 / 3, 2 / 3, 2])
    np.testing.assert_allclose(weights[2], [5 / 6, 5 / 6, 1, 5 / 6, 5 / 6, 5 / 3])
    clipped = inverse_size_weights(labels, 1, weighting="volume", clip=(1, 1.5), **common)
    np.testing.assert_allclose(clipped[0], [1, 1, 1, 1, 1, 1.5])


def test_inverse_sizes_of_several_classes():
    labels = np.array([[1, 1, 2, 0, 0, 1]])
    np.testing.assert_allclose(inverse_size_weights(labels, 3), [[2 / 3, 2 / 3, 4 / 3, 1, 1, 4 / 3]])
    np.testing.assert_allclose(inverse_size_weights(labels, 3, classes=[1]), [[0.75, 0.75, 1, 1, 1, 1.5]])
    overlap = np.array([[[1, 1, 1, 0.0], [0, 0, 1, 0]]])
    for order in ([0, 1], [1, 0]):
        weights = inverse_size_weights(overlap[:, order], 2, mode="sigmoid")
        np.testing.assert_allclose(weights, [[0.5, 0.5, 1.5, 1]])


def test_what_has_no_formula_is_refused():
    with pytest.raises(ValueError, match="topk"):
        component_loss(*scene(), inner="topk", mode="sigmoid")
    with pytest.raises(ValueError, match="pool"):
        blob_loss(*scene(), inner="ce", pool="batch", mode="sigmoid")
    with pytest.raises(ValueError, match="normalize"):
        blob_loss(*scene(), inner="focal", normalize="weight", mode="sigmoid")
