import math

import numpy as np
import pytest

from delineate.metrics import (
    Conventions,
    assd,
    boundary_iou,
    case_scores,
    cc_dice,
    detect,
    find_instances,
    hausdorff,
    nsd,
    panoptic,
    surface_distances,
)

NAMES = ["background", "organ", "lesion"]
KEYS = {
    "dice", "iou", "precision", "recall", "specificity", "volume_error", "hd", "hd95", "nsd", "assd", "lesion_f1",
    "lesion_sensitivity", "lesion_precision", "lesions", "found", "predicted_lesions", "false_positives", "lesion_dice",
    "found_dice", "pq", "sq", "rq", "matched", "cc_dice",
}  # fmt: skip


def scores_of(prediction, truth, **options):
    """Of the class 1 in maps of 0 and 1."""
    truth = np.asarray(truth)
    options = {"spacing": (1.0,) * truth.ndim} | options
    return case_scores(np.asarray(prediction), truth, ["nothing", "lesion"], **options)["lesion"]


def random_case(seed=0, shape=(9, 11, 10)):
    rng = np.random.default_rng(seed)
    truth = np.where(rng.random(shape) < 0.1, rng.integers(1, 3, shape), 0)
    return np.where(rng.random(shape) < 0.1, rng.integers(0, 3, shape), truth), truth


TRUTH = np.zeros((6, 9), int)
TRUTH[1:3, 1:4], TRUTH[5, 8], TRUTH[5, 0] = 1, 1, 1  # of 6, 1 and 1 pixels
GUESS = np.zeros((6, 9), int)
GUESS[1:3, 2:5], GUESS[5, 0], GUESS[0, 8] = 1, 1, 1  # moved by 1, found, false


def test_values_by_hand():
    found = scores_of(GUESS, TRUTH, spacing=(2.0, 0.5))
    expected = {
        "dice": 2 * 5 / (8 + 8),
        "iou": 5 / 11,
        "precision": 5 / 8,
        "recall": 5 / 8,
        "specificity": 43 / 46,
        "volume_error": 0,
        "area_difference_mm2": 0,
        "hd": 4.0,  # from (5, 8) to (5, 0), 8 columns of 0.5 mm; (0, 8) is nearer to (1, 3)
        "lesions": 3,
        "found": 2,
        "predicted_lesions": 3,
        "false_positives": 1,
        "lesion_sensitivity": 2 / 3,
        "lesion_precision": 2 / 3,
        "lesion_f1": 2 / 3,
        "found_dice": (2 / 3 + 1) / 2,
        "lesion_dice": (2 / 3 + 1) / 4,
        "matched": 1,  # the moved one has an IoU of exactly a half
        "sq": 1,
        "rq": 1 / 3,
        "pq": 1 / 3,
    }
    assert {key: found.values[key] for key in expected} == pytest.approx(expected)
    assert found.lesions == [(6.0, True), (1.0, True), (1.0, False)]
    assert found.false_positive_sizes == [1.0]
    assert [found.truth_empty, found.prediction_empty, found.both_empty] == [False] * 3


def test_volume_in_ml():
    truth, prediction = np.zeros((2, 10, 10, 10), int)
    truth[:5], prediction[:4] = 1, 1
    found = scores_of(prediction, truth, spacing=(2.0, 1.0, 0.5)).values
    assert found["volume_error"] == pytest.approx(-0.2)
    assert found["volume_difference_ml"] == pytest.approx(0.1)
    assert scores_of(prediction, truth, spacing=(2.0, 1.0, 0.5)).lesions == [(500.0, True)]


@pytest.mark.parametrize(
    ("shape", "spacing"), [((9, 11, 10), (3.0, 1.0, 0.5)), ((20, 25), (1.5, 1.0)), ((60,), (0.5,))]
)
def test_equals_the_metrics_of_the_whole_masks(shape, spacing):
    prediction, truth = random_case(1, shape)
    conventions = Conventions(connectivity="face", hd_percentile=90, nsd_tolerance=1.2, boundary_share=0.03)
    found = case_scores(prediction, truth, NAMES, spacing=spacing, conventions=conventions)
    assert list(found) == NAMES[1:]
    for label, name in enumerate(NAMES[1:], start=1):
        masks, values = (prediction == label, truth == label), found[name].values
        distances, instances = surface_distances(*masks, spacing), find_instances(*masks, "face")
        assert values["hd90"] == hausdorff(distances, 90)
        assert values["hd"] == hausdorff(distances, 100)
        assert values["nsd"] == nsd(distances, 1.2)
        assert values["assd"] == assd(distances)
        assert values["lesion_f1"] == detect(instances).f1
        assert values["pq"] == panoptic(instances).pq
        assert values["cc_dice"] == pytest.approx(cc_dice(instances, spacing))
        assert ("boundary_iou" in values) == (len(shape) == 2)
        if len(shape) == 2:
            assert values["boundary_iou"] == boundary_iou(*masks, 1)


def test_band_of_boundary_iou_is_a_share_of_the_diagonal_of_the_image():
    truth, prediction = np.zeros((2, 30, 40), int)
    truth[5:25, 5:25], prediction[8:25, 5:25] = 1, 1
    found = [
        scores_of(prediction, truth, conventions=Conventions(boundary_share=share)).values["boundary_iou"]
        for share in (0.02, 0.06)
    ]
    assert found == [boundary_iou(prediction == 1, truth == 1, width) for width in (1, 3)]
    assert found[0] != found[1]


def test_keys_do_not_depend_on_what_is_there():
    nothing, something = np.zeros((2, 5, 6, 7), int)
    something[1:3, 2:4, 2:4] = 1
    for pair in ((nothing, nothing), (nothing, something), (something, nothing), (something, something)):
        assert set(scores_of(*pair).values) == KEYS | {"volume_difference_ml"}
    assert set(scores_of(GUESS, TRUTH).values) == KEYS | {"area_difference_mm2", "boundary_iou"}


def test_empties():
    nothing, something = np.zeros((2, 30, 40), int)
    something[3:5, 6:9], something[20, 20] = 1, 1
    both, missed, invented = scores_of(nothing, nothing), scores_of(nothing, something), scores_of(something, nothing)
    ones = ("dice", "iou", "nsd", "lesion_f1", "lesion_dice", "cc_dice", "boundary_iou")
    for key in ones:
        assert [one.values[key] for one in (both, missed, invented)] == [1, 0, 0], key
    for key in ("hd", "hd95", "assd"):
        assert [one.values[key] for one in (both, missed, invented)] == [0, 50, 50], key
    for key, expected in {
        "precision": [None, None, 0],
        "recall": [None, 0, None],
        "volume_error": [None, -1, None],
        "lesion_sensitivity": [None, 0, None],
        "lesion_precision": [None, 0, 0],
        "false_positives": [0, 0, 2],
        "pq": [None, 0, 0],
        "area_difference_mm2": [0, 7, 7],
        "specificity": [1, 1, 1 - 7 / 1200],
    }.items():
        assert [one.values[key] for one in (both, missed, invented)] == expected, key
    assert [one.truth_empty for one in (both, missed, invented)] == [True, False, True]
    assert [one.prediction_empty for one in (both, missed, invented)] == [True, True, False]
    assert [one.both_empty for one in (both, missed, invented)] == [True, False, False]
    assert invented.false_positive_sizes == [6.0, 1.0]
    infinite = scores_of(nothing, something, conventions=Conventions(empty="inf")).values
    assert infinite["hd95"] == infinite["assd"] == math.inf


def test_ignored_voxels_are_in_neither_map():
    truth, prediction = (labels.astype(np.uint8) for labels in (TRUTH, GUESS))
    ignored = np.zeros(truth.shape, bool)
    ignored[:, 3:5], ignored[0, 8] = True, True
    truth[ignored], prediction[0, 3] = 255, 77
    found = scores_of(prediction, truth, ignore_index=255)
    without = scores_of(np.where(ignored, 0, GUESS), np.where(ignored, 0, TRUTH))
    changed = {"specificity"}  # of the voxels that count
    assert {k: v for k, v in found.values.items() if k not in changed} == {
        k: v for k, v in without.values.items() if k not in changed
    }
    assert found.values["false_positives"] == 0
    assert found.values["dice"] == 2 * 3 / (6 + 3)
    assert found.values["specificity"] == 1
    # ignored voxels are not of class 0 either
    background = case_scores(prediction, truth, ["nothing", "lesion"], spacing=(1, 1), ignore_index=255, foreground=[0])
    assert list(background) == ["nothing"]
    assert background["nothing"].values["dice"] == 2 * 35 / (35 + 38)


def test_foreground_says_what_is_scored():
    prediction, truth = random_case()
    some = case_scores(prediction, truth, NAMES, spacing=(1, 1, 1), foreground=[2, 0])
    assert list(some) == ["lesion", "background"]
    assert some["lesion"] == case_scores(prediction, truth, NAMES, spacing=(1, 1, 1))["lesion"]


def test_match_decides_what_is_found():
    by_iou = scores_of(GUESS, TRUTH, conventions=Conventions(match="iou", panoptic_threshold=0.5))
    assert by_iou.lesions == [(6.0, False), (1.0, True), (1.0, False)]
    assert by_iou.values["lesion_f1"] == pytest.approx(by_iou.values["rq"])
    by_dice = scores_of(GUESS, TRUTH, conventions=Conventions(match="dice", panoptic_threshold=0.5))
    assert by_dice.lesions[0] == (6.0, True)
    assert by_dice.values["matched"] == 2


def test_min_size_leaves_small_lesions_out():
    found = scores_of(GUESS, TRUTH, conventions=Conventions(min_size=2))
    assert found.lesions == [(6.0, True)]
    assert found.values["false_positives"] == 0
    assert found.values["dice"] == scores_of(GUESS, TRUTH).values["dice"]


def test_inputs_are_left_alone_and_may_be_of_any_integer_type():
    prediction, truth = random_case()
    expected = case_scores(prediction, truth, NAMES, spacing=(1, 1, 1))
    for dtype in (np.uint8, np.int16, np.uint64):
        pair = prediction.astype(dtype), truth.astype(dtype)
        assert case_scores(*pair, NAMES, spacing=(1, 1, 1)) == expected
        assert (pair[0] == prediction).all()
        assert (pair[1] == truth).all()
    assert scores_of(GUESS.astype(bool), TRUTH.astype(bool)) == scores_of(GUESS, TRUTH)
    assert scores_of(GUESS.T[::-1], TRUTH.T[::-1]).values["hd"] == scores_of(GUESS, TRUTH).values["hd"]


def test_sentences_state_the_conventions():
    said = {dims: " ".join(Conventions().sentences(dims)) for dims in (1, 2, 3)}
    assert "26 neighbours" in said[3]
    assert "6 face neighbours" in said[3]
    assert "mm^3" in said[3]
    assert "8 neighbours" in said[2]
    assert "4 face neighbours" in said[2]
    assert "mm^2" in said[2]
    assert ["Boundary IoU" in said[dims] for dims in (1, 2, 3)] == [False, True, False]
    changed = Conventions("face", 99, "pooled", 2.5, "inf", "dice", 0.1, 4, 0.05)
    text = " ".join(changed.sentences(2))
    for words in (
        '4 neighbours ("face")',
        "HD99: the 99th percentile",
        "interpolated linearly, of the distances of both",
        "within 2.5 mm",
        "distances are infinite",
        "Dice > 0.1",
        "fewer than 4 voxels",
        "5 % of the diagonal",
    ):
        assert words in text
        assert words not in said[2]
    assert not any(sentence.endswith(" ") or "\n" in sentence for sentence in changed.sentences(3))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"connectivity": "26"}, "connectivity: expected one of face, edge, full; got '26'"),
        ({"hd_percentile": 0}, "hd_percentile: expected a percentile above 0, at most 100; got 0"),
        ({"hd_definition": "surfel"}, "hd_definition: expected one of max, pooled"),
        ({"nsd_tolerance": -1}, "nsd_tolerance: expected a distance in mm, at least 0; got -1"),
        ({"empty": "skip"}, "empty: expected one of diagonal, inf; got 'skip'"),
        ({"match": "best"}, "match: expected one of overlap, iou, dice"),
        ({"panoptic_threshold": 1.0}, "panoptic_threshold: expected 0 <= threshold < 1"),
        ({"min_size": 0}, "min_size: expected a whole number from 1; got 0"),
        ({"min_size": 1.5}, "min_size: expected a whole number from 1; got 1.5"),
        ({"boundary_share": 0}, "boundary_share: expected a share above 0"),
    ],
)
def test_conventions_are_checked(options, words):
    with pytest.raises(ValueError, match=words) as caught:
        Conventions(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prediction": GUESS[1:]}, r"prediction: expected the shape of truth, \(6, 9\); got \(5, 9\)"),
        ({"prediction": GUESS * 2}, r"prediction: expected labels 0..1, of 2 classes; got values from 0 to 2"),
        ({"truth": TRUTH - 1}, r"truth: expected labels 0..1, of 2 classes; got values from -1 to 0"),
        ({"truth": TRUTH.astype(float)}, "truth: expected integer labels 0..1; got float64"),
        ({"spacing": (1, 1, 1)}, "spacing: expected 2 positive numbers"),
        ({"spacing": (1, -1)}, "spacing: expected 2 positive numbers"),
        ({"foreground": [2]}, r"foreground: expected different labels from 0 to 1; got \[2\]"),
        ({"foreground": [1, 1]}, "foreground: expected different labels"),
        ({"classes": ["a", "a"]}, "classes: expected a name of its own"),
    ],
)
def test_bad_arguments(change, words):
    options = {"prediction": GUESS, "truth": TRUTH, "classes": ["a", "b"], "spacing": (1, 1)} | change
    with pytest.raises(ValueError, match=words) as caught:
        case_scores(**options)
    assert "\n" not in str(caught.value)
