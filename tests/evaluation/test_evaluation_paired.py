"""Scores as sums over cases, and the test of two losses over cases and seeds: by hand, by simulation, by its limits."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import t as student
from scipy.stats import ttest_1samp

from delineate.evaluation import (
    CaseCounts,
    Objects,
    case_dice,
    class_iou,
    count_case,
    estimate,
    groups_of,
    holm,
    measure_of,
    miou,
    object_f1,
    paired,
    paired_difference,
    recall_of_sizes,
    size_bounds,
)
from delineate.evaluation.paired import Difference, _difference
from delineate.metrics import ConfusionMatrix, Conventions, case_scores

CLASSES = ["rest", "a", "b"]


def draw(seed, cases=6, good=0.7):
    """Label maps with void (255), and predictions that agree with them this often."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, (cases, 12, 14))
    truth[:, :2] = 255
    drawn = np.random.default_rng(seed + 1000)
    prediction = np.where(drawn.random(truth.shape) < good, np.where(truth == 255, 0, truth), 2)
    return truth, prediction


def counted(truth, prediction, scored=(1, 2)):
    return [
        count_case(f"case{k}", p, t, CLASSES, ignore_index=255, spacing=(1, 1), scored=scored)
        for k, (t, p) in enumerate(zip(truth, prediction, strict=True))
    ]


@pytest.fixture(scope="module")
def maps():
    return draw(0)


@pytest.fixture(scope="module")
def cases(maps):
    return counted(*maps)


def test_scores_are_those_of_the_metrics(maps, cases):
    truth, prediction = maps
    matrix = ConfusionMatrix(3, 255)
    matrix.update(torch.from_numpy(prediction), torch.from_numpy(truth))
    scores = matrix.scores()
    assert miou(3).of(cases) == pytest.approx(scores.miou)
    assert class_iou(CLASSES, "b").of(cases) == pytest.approx(scores.iou[2].item())
    by_case = [
        case_scores(p, t, CLASSES, spacing=(1, 1), ignore_index=255, conventions=Conventions())
        for t, p in zip(truth, prediction, strict=True)
    ]
    for measure, key in ((case_dice([1, 2]), "dice"), (object_f1(["a", "b"], "object"), "lesion_f1")):
        expected = np.mean([[scores[name].values[key] for name in ("a", "b")] for scores in by_case])
        assert measure.of(cases) == pytest.approx(expected)


def test_counts_go_through_a_file(cases):
    again = [CaseCounts.from_dict(json.loads(json.dumps(case.to_dict()))) for case in cases]
    assert again == cases


def test_pseudovalues_of_a_mean_are_the_values_and_average_to_near_the_score(cases):
    dice = case_dice([1])
    assert dice.pseudovalues(cases) == pytest.approx([dice.of([case]) for case in cases])
    assert miou(3).pseudovalues(cases).mean() == pytest.approx(miou(3).of(cases), abs=5e-3)
    without = [miou(3).of(cases[:k] + cases[k + 1 :]) for k in range(6)]
    assert miou(3).pseudovalues(cases) == pytest.approx(6 * miou(3).of(cases) - 5 * np.array(without))


def test_a_class_that_one_case_alone_holds_can_be_left_out():
    truth, prediction = draw(3)
    truth[1:][truth[1:] == 1] = 0
    prediction[1:][prediction[1:] == 1] = 0
    cases = counted(truth, prediction)
    values = class_iou(CLASSES, "a").pseudovalues(cases)
    assert np.isfinite(values).all()
    assert values[0] == pytest.approx(class_iou(CLASSES, "a").of(cases))


def test_a_class_that_occurs_nowhere_is_undefined():
    truth, prediction = draw(4)
    cases = counted(np.where(truth == 1, 0, truth), np.where(prediction == 1, 0, prediction))
    assert np.isnan(class_iou(CLASSES, "a").of(cases))
    assert miou(3).of(cases) == pytest.approx(np.mean([class_iou(CLASSES, n).of(cases) for n in ("rest", "b")]))


def with_objects(*of_cases):
    return [
        CaseCounts(str(k), (0, 0), (0, 0), (0, 0), {"x": Objects(tuple(sizes), tuple(found), 0, 0)})
        for k, (sizes, found) in enumerate(of_cases)
    ]


def test_recall_of_a_size_counts_the_objects_of_all_cases():
    cases = with_objects(([1, 2, 9], [False, True, True]), ([2, 3], [True, False]))
    assert recall_of_sizes("x", 0, 2, "object").of(cases) == pytest.approx(2 / 3)
    assert recall_of_sizes("x", 2, 9, "object").of(cases) == pytest.approx(1 / 2)
    assert np.isnan(recall_of_sizes("x", 9, 20, "object").of(cases))


def test_size_bounds_are_quartiles_that_are_sizes():
    cases = with_objects((range(1, 9), [True] * 8), ([], []))
    assert size_bounds(cases, "x") == [0, 2, 4, 6, 8]
    assert size_bounds(with_objects(([1] * 7 + [5], [True] * 8)), "x") == [0, 1, 5]
    assert size_bounds(with_objects(([1, 2], [True] * 2)), "x") == []


def test_no_count_of_objects_leaves_their_measures_undefined(cases):
    lost = [
        *cases[:-1],
        CaseCounts("case5", *(cases[-1].__getattribute__(k) for k in ("tp", "truth", "predicted")), None),
    ]
    assert estimate(object_f1(["a"], "object"), [lost, lost]).p is None
    assert estimate(miou(3), [lost, lost]).error is not None


def test_measures_by_name():
    keys = [measure_of(metric, CLASSES, ["a", "b"], "object").key for metric in ("miou", "dice", "f1")]
    assert keys == ["miou", "dice", "f1"]


def test_one_seed_is_the_paired_t_test_over_cases():
    first, second = counted(*draw(5, 20)), counted(draw(5, 20)[0], draw(6, 20, 0.6)[1])
    dice = case_dice([1, 2])
    apart = dice.pseudovalues(first) - dice.pseudovalues(second)
    found, expected = paired(dice, [first], [second]), ttest_1samp(apart, 0)
    assert found.mean == pytest.approx(apart.mean())
    assert found.p == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval()))
    assert (found.seeds, found.cases) == (1, 20)
    assert found.mean == pytest.approx(paired_difference(apart.tolist(), [0.0] * 20).mean)


def test_variance_by_hand():
    """S = 2, n = 2: seeds have the means 2 and 4, cases 1 and 5; MS_seed 4, MS_case 16, the rest is 0."""
    table = np.array([[0.0, 4.0], [2.0, 6.0]])
    found = _difference([2.0, 4.0], table)
    assert found.mean == 3
    assert found.error == pytest.approx(np.sqrt((4 + 16) / 4))
    assert found.freedom == pytest.approx(3)  # (20 / 4)^2 / 1 = 25, bounded by S n - 1


def test_seeds_alone_decide_where_all_cases_agree():
    table = np.array([[0.1, 0.1], [0.3, 0.3], [0.5, 0.5]])
    found = _difference([0.1, 0.3, 0.5], table)
    expected = ttest_1samp([0.1, 0.3, 0.5], 0)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.freedom == pytest.approx(2)


@pytest.mark.parametrize(
    ("seeds", "cases", "of_seed", "of_case"),
    [(1, 20, 0, 1), (3, 7, 0.2, 1), (3, 100, 0, 1), (3, 100, 1, 1), (5, 50, 0.05, 1)],
)
def test_equal_losses_are_told_apart_about_once_in_twenty(seeds, cases, of_seed, of_case):
    rng, draws = np.random.default_rng(seeds * cases), 1500
    found = [
        _difference(
            table.mean(1),
            table,
        ).p
        < 0.05
        for table in (
            rng.normal(0, np.sqrt(of_seed), (seeds, 1))
            + rng.normal(0, np.sqrt(of_case), (1, cases))
            + rng.normal(size=(seeds, cases))
            for _ in range(draws)
        )
    ]
    assert 0.02 < np.mean(found) < 0.095


def test_a_detectable_difference_is_found_four_times_in_five():
    rng, found, sizes = np.random.default_rng(8), 0, []
    for _ in range(1500):
        table = 1.0 + rng.normal(0, 0.35, (6, 1)) + rng.normal(0, 1, (1, 60)) + rng.normal(size=(6, 60))
        one = _difference(table.mean(1), table)
        found += one.p < 0.05
        sizes.append(one.detectable())
    assert found / 1500 == pytest.approx(student_power(1.0, np.median(sizes)), abs=0.12)


def test_more_tests_need_a_larger_difference():
    one = Difference(0.0, 1.0, 10, 3, 5)
    assert one.detectable(6) - one.detectable() == pytest.approx(
        student.ppf(1 - 0.025 / 6, 10) - student.ppf(0.975, 10)
    )


def student_power(true, detectable, freedom=20):
    """Power at a true difference, where 0.8 is reached at the detectable one."""
    tails = student.ppf(0.975, freedom) + student.ppf(0.8, freedom)
    return 1 - student.cdf(student.ppf(0.975, freedom) - true / detectable * tails, freedom)


def test_losses_that_are_equal_in_everything_do_not_differ(cases):
    found = paired(miou(3), [cases, cases], [cases, cases])
    assert (found.mean, found.p, found.interval, found.detectable()) == (0, 1, (0, 0), None)


def test_cases_of_a_group_are_left_out_together(cases):
    groups = ["a", "b", "a", "c", "b", "a"]
    merged = [
        np.sum([[case.tp, case.truth, case.predicted] for case, of in zip(cases, groups, strict=True) if of == name], 0)
        for name in "abc"
    ]
    merged = [CaseCounts(str(k), *map(tuple, counts.tolist()), {}) for k, counts in enumerate(merged)]
    assert miou(3).pseudovalues(cases, groups) == pytest.approx(miou(3).pseudovalues(merged))
    assert miou(3).pseudovalues(cases, list("uvwxyz")) == pytest.approx(miou(3).pseudovalues(cases))


def test_copies_of_cases_tell_no_more_once_they_are_grouped():
    first, second = counted(*draw(5)), counted(draw(5)[0], draw(6, 6, 0.6)[1])
    twice = [[case for case in cases for _ in range(2)] for cases in (first, second)]
    once, copied = paired(miou(3), [first], [second]), paired(miou(3), *([cases] for cases in twice))
    grouped = paired(miou(3), *([cases] for cases in twice), groups=[case.id for case in twice[0]])
    assert copied.error < 0.8 * once.error
    assert (grouped.mean, grouped.error, grouped.cases) == pytest.approx((once.mean, once.error, 6))


@pytest.mark.parametrize(
    ("pattern", "message"), [("x(", "expected a regular expression"), ("z", "a has none"), ("", "all belong to")]
)
def test_patterns_that_make_no_groups_are_refused(pattern, message):
    with pytest.raises(ValueError, match=message):
        groups_of(pattern, ["a", "b"])
    assert groups_of("(.).", ["ab", "ac", "bb"]) == ["a", "a", "b"]


def test_other_cases_cannot_be_paired(cases):
    with pytest.raises(ValueError, match="same cases"):
        paired(miou(3), [cases], [cases[:-1]])


def test_one_case_and_one_seed_say_nothing(cases):
    found = estimate(miou(3), [cases[:1]])
    assert (found.error, found.interval, found.p) == (None, None, None)


def test_holm_steps_down_and_never_turns_the_order():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, None, 0.9]) == [1.0, None, 1.0]


def test_interval_widens_with_few_degrees_of_freedom():
    ends = [Difference(0.0, 1.0, freedom, 3, 5).interval[1] for freedom in (2, 30)]
    assert ends == pytest.approx([4.303, 2.042], abs=1e-3)
