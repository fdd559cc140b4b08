import warnings
from itertools import permutations

import numpy as np
import pytest

from delineate.metrics import lesions
from delineate.metrics.instance import Instances, Panoptic, detect, find_instances, match_pairs, panoptic
from delineate.metrics.lesions import SizeBin, cc_dice, cell_dice, recall_by_size


def mask(*rows):
    """A mask of rows of dots and other signs."""
    return np.array([[sign != "." for sign in row] for row in rows])


def random_masks(seed, shape=(9, 10, 8), density=0.06):
    """Small components, most of them shared, some moved, missed or invented."""
    rng = np.random.default_rng(seed)
    truth = rng.random(shape) < density
    prediction = (truth & (rng.random(shape) < 0.8)) | (rng.random(shape) < density / 3)
    return prediction, truth


def test_detection_by_hand():
    truth = mask("aaaa..bb..c...", "..............", "dd............")
    guess = mask("aa.aa.bb......", "..............", "....e...fff...")
    found = find_instances(guess, truth)
    detection = detect(found)
    assert found.true_sizes.tolist() == [4, 2, 1, 2]
    assert found.predicted_sizes.tolist() == [2, 2, 2, 1, 3]
    assert found.pairs.tolist() == [[0, 0], [0, 1], [1, 2]]
    assert found.shared.tolist() == [2, 1, 2]
    assert detection.found.tolist() == [True, True, False, False]
    assert detection.right.tolist() == [True, True, True, False, False]
    assert (detection.sensitivity, detection.precision, detection.false_positives) == (2 / 4, 3 / 5, 2)
    assert detection.f1 == pytest.approx(2 * 0.5 * 0.6 / 1.1)
    np.testing.assert_allclose(detection.dice, [2 * 3 / (4 + 4), 1, 0, 0])  # a with both of its components
    assert detection.found_dice == pytest.approx(1.75 / 2)
    assert detection.lesion_dice == pytest.approx(1.75 / (4 + 2))


def test_panoptic_by_hand():
    truth = mask("aaaa..bb..c...", "..............", "dd............")
    guess = mask("aa.aa.bb......", "..............", ".d............")
    found = find_instances(guess, truth)
    half = panoptic(found)  # IoU: a 2/4 and 1/5, b 1, d 1/2: only b is above a half
    assert (half.matched, half.false_positives, half.false_negatives) == (1, 3, 3)
    assert (half.sq, half.rq, half.pq) == (1.0, 1 / 4, 1 / 4)
    low = panoptic(found, threshold=0.4)
    assert (low.matched, low.false_positives, low.false_negatives) == (3, 1, 1)
    assert low.sq == pytest.approx(2 / 3)
    assert low.rq == pytest.approx(3 / 4)
    assert low.pq == pytest.approx(1 / 2)
    by_dice = panoptic(found, "dice", 0.6)  # Dice: a 2/3, b 1, d 2/3
    assert by_dice.iou.tolist() == [0.5, 1, 0.5]
    matched = detect(found, "iou", 0.4)
    assert matched.right.tolist() == [True, False, True, True]  # one to one
    np.testing.assert_allclose(matched.dice, [2 / 3, 1, 0, 2 / 3])
    assert matched.lesion_dice == pytest.approx((2 / 3 + 1 + 2 / 3) / (4 + 1))
    assert matched.f1 == pytest.approx(low.rq)


def test_empties():
    nothing, something = np.zeros((3, 4), bool), mask("..a.", "....", "b...")
    both, missed, invented = (
        find_instances(p, t) for p, t in ((nothing, nothing), (nothing, something), (something, nothing))
    )
    assert [detect(one).sensitivity for one in (both, missed, invented)] == [None, 0, None]
    assert [detect(one).precision for one in (both, missed, invented)] == [None, 0, 0]
    assert [detect(one).f1 for one in (both, missed, invented)] == [1, 0, 0]
    assert [detect(one).false_positives for one in (both, missed, invented)] == [0, 0, 2]
    assert [detect(one).lesion_dice for one in (both, missed, invented)] == [1, 0, 0]
    assert [detect(one).found_dice for one in (both, missed, invented)] == [None, None, None]
    assert [cc_dice(one, (1, 1)) for one in (both, missed, invented)] == [1, 0, 0]
    assert [panoptic(one).pq for one in (both, missed, invented)] == [None, 0, 0]
    assert [panoptic(one).rq for one in (both, missed, invented)] == [None, 0, 0]
    assert [panoptic(one).sq for one in (both, missed, invented)] == [None, None, None]


def test_connectivity():
    diagonal = mask("a..", ".a.", "..a")
    assert [find_instances(diagonal, diagonal, word).true_sizes.size for word in ("full", "edge", "face")] == [1, 1, 3]


def test_small_components_are_left_out_with_what_finds_them():
    truth = mask("a...bbb...c...", "..............", "..............")
    guess = mask("aaa.bbbbbbb...", "..............", ".d.....eee....")
    #             excused: touches only a        merges b and c: stays, less the voxel in c        d is too small
    found = find_instances(guess, truth, min_size=2)
    assert found.true_sizes.tolist() == [3]
    assert found.predicted_sizes.tolist() == [6, 3]
    assert found.shared.tolist() == [3]
    detection = detect(found)
    assert (detection.sensitivity, detection.precision, detection.false_positives) == (1, 1 / 2, 1)
    assert find_instances(guess, truth, min_size=1).predicted_sizes.tolist() == [3, 7, 1, 3]


def test_too_many_components_are_refused_and_small_ones_do_not_count(monkeypatch):
    monkeypatch.setattr("delineate.metrics.instance.MOST", 2)
    truth, guess = mask("aa.b.......", "...........", "c.........."), mask("aa...d.e.f.", "...........", "...........")
    with pytest.raises(ValueError, match="prediction: expected at most 2 connected components; got 4"):
        find_instances(guess, truth)
    with pytest.raises(ValueError, match="truth: expected at most 2 connected components; got 3"):
        find_instances(truth & False, truth)
    assert find_instances(guess, truth, min_size=2).shared.tolist() == [2]


def test_id_maps_may_have_gaps():
    found = Instances.from_ids(np.array([0, 9, 9, 2, 2, 0]), np.array([7, 7, 0, 7, 5, 0], np.uint8))
    assert found.predicted_sizes.tolist() == [2, 2]
    assert found.true_sizes.tolist() == [1, 3]  # 5 and 7
    assert dict(zip(map(tuple, found.pairs.tolist()), found.shared.tolist(), strict=True)) == {
        (0, 0): 1,
        (1, 0): 1,
        (1, 1): 1,
    }


def test_joint_histogram_equals_counting():
    found = find_instances(*random_masks(4))
    counted = {
        (t, p): np.count_nonzero((found.true_ids == t + 1) & (found.predicted_ids == p + 1))
        for t in range(found.true_sizes.size)
        for p in range(found.predicted_sizes.size)
    }
    joint = dict(zip(map(tuple, found.pairs.tolist()), found.shared.tolist(), strict=True))
    assert len(joint) > 5
    assert joint == {pair: count for pair, count in counted.items() if count}


def most_by_trying(table):
    """Largest total of a one-to-one choice in a small table, by all permutations."""
    table = table if table.shape[0] <= table.shape[1] else table.T
    return max(
        sum(table[i, j] for i, j in enumerate(choice)) for choice in permutations(range(table.shape[1]), len(table))
    )


@pytest.mark.parametrize("seed", range(5))
def test_matching_has_the_largest_total(seed):
    rng = np.random.default_rng(seed)
    found = Instances.from_ids(rng.integers(0, 6, 60), rng.integers(0, 5, 60))
    table = np.zeros((found.true_sizes.size, found.predicted_sizes.size))
    table[tuple(found.pairs.T)] = found.iou()
    rows = match_pairs(found, "iou", 0.05)
    for side in found.pairs[rows].T:
        assert np.unique(side).size == side.size
    assert found.iou()[rows].min() > 0.05
    assert found.iou()[rows].sum() == pytest.approx(most_by_trying(np.where(table > 0.05, table, 0)))


def test_greedy_matching_would_lose():
    found = Instances.from_ids(np.repeat([1, 1, 2, 0], [5, 4, 1, 2]), np.repeat([1, 2, 1, 2], [5, 4, 1, 2]))
    # true 1 of 6, true 2 of 6, predicted 1 of 9, 2 of 1: IoU (1,1) 5/10, (2,1) 4/11, (1,2) 1/6
    assert [found.pairs[row].tolist() for row in match_pairs(found, "iou", 0)] == [[0, 1], [1, 0]]
    assert [found.pairs[row].tolist() for row in match_pairs(found, "iou", 0.2)] == [[0, 0]]


def test_ties_go_to_the_larger_overlap():
    ids = np.repeat([1, 1, 2, 2], [6, 3, 2, 1]), np.repeat([1, 0, 1, 0], [6, 3, 2, 1])
    found = Instances(
        np.zeros(0), np.zeros(0), np.array([4, 8]), np.array([8]), np.array([[0, 0], [0, 1]]), np.array([3, 4])
    )
    assert found.iou().tolist() == [3 / 9, 4 / 12]
    assert match_pairs(found, "iou", 0.1).tolist() == [1]
    assert Instances.from_ids(*ids).shared.tolist() == [6, 2]


def test_equals_panoptica():
    pytest.importorskip("panoptica")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from panoptica import ConnectedComponentsInstanceApproximator, InputType, Panoptica_Evaluator
        from panoptica.instance_matcher import MaxBipartiteMatching, NaiveThresholdMatching
        from panoptica.metrics import Metric

        matchers = {
            ("iou", 0.5): NaiveThresholdMatching(matching_threshold=0.5, strict_threshold=True),
            ("iou", 0.2): MaxBipartiteMatching(matching_threshold=0.2, strict_threshold=True),
            ("dice", 0.1): MaxBipartiteMatching(Metric.DSC, matching_threshold=0.1, strict_threshold=True),
        }
        for (match, threshold), matcher in matchers.items():
            judge = Panoptica_Evaluator(
                expected_input=InputType.SEMANTIC,
                instance_approximator=ConnectedComponentsInstanceApproximator(),
                instance_matcher=matcher,
                instance_metrics=[Metric.IOU],
                global_metrics=[],
            )
            for seed in range(4):
                prediction, truth = random_masks(seed)
                theirs = judge.evaluate(prediction.astype(np.uint8), truth.astype(np.uint8))["ungrouped"]
                instances = find_instances(prediction, truth)
                ours = panoptic(instances, match, threshold)
                assert (ours.matched, ours.false_positives, ours.false_negatives) == (theirs.tp, theirs.fp, theirs.fn)
                assert instances.true_sizes.size == theirs.n_ref_instances > 10
                assert (ours.sq, ours.rq, ours.pq) == pytest.approx((theirs.sq, theirs.rq, theirs.pq))


def squared_distances(true_ids, spacing):
    """From each voxel to each true component."""
    every = np.argwhere(np.ones(true_ids.shape, bool)) * spacing
    components = [np.argwhere(true_ids == k + 1) * spacing for k in range(true_ids.max())]
    away = [((every[:, None] - voxels[None]) ** 2).sum(2).min(1) for voxels in components]
    return np.stack(away).reshape(-1, *true_ids.shape)


def cell_dice_by_hand(found, spacing):
    """Least and greatest Dice in the cell of each component: a voxel as near to another one may be in it or not."""
    away, predicted = squared_distances(found.true_ids, spacing), found.predicted_ids > 0
    for k in range(found.true_sizes.size):
        others = np.delete(away, k, 0).min(0)
        true = found.true_ids == k + 1
        cells = away[k] < others + 1e-9, away[k] < others - 1e-9
        yield [2 * (predicted & true).sum() / ((predicted & cell).sum() + true.sum()) for cell in cells]


@pytest.mark.parametrize("few", [0, 1], ids=["all", "one by one"])
@pytest.mark.parametrize(("shape", "spacing"), [((11, 12), (1.37, 0.91)), ((7, 8, 6), (2.83, 1.0, 0.71))])
def test_cells_equal_nearest_by_hand(shape, spacing, few, monkeypatch):
    monkeypatch.setattr(lesions, "FEW", few)
    rng = np.random.default_rng(7)
    truth = rng.random(shape) < 0.04
    prediction = (truth & (rng.random(shape) < 0.7)) | (rng.random(shape) < 0.2)
    found = find_instances(prediction, truth)
    least, greatest = np.array(list(cell_dice_by_hand(found, spacing))).T
    ours = cell_dice(found, spacing)
    assert (least == greatest).sum() >= 3  # no ties there
    assert ((ours >= least - 1e-12) & (ours <= greatest + 1e-12)).all()
    assert cc_dice(found, spacing) == pytest.approx(ours.mean())


@pytest.mark.parametrize("seed", [0, 3])
def test_cc_dice_equals_monai_where_no_voxel_is_between_two_cells(seed):
    import torch
    from monai.metrics.meandice import DiceMetric

    prediction, truth = random_masks(seed)
    near, next_to = np.sort(squared_distances(find_instances(prediction, truth).true_ids, (1, 1, 1)), 0)[:2]
    prediction &= near < next_to
    found = find_instances(prediction, truth)
    assert found.true_sizes.size > 10
    assert (prediction & ~truth).sum() > 5
    masks = (torch.from_numpy(np.stack([~mask, mask])[None]).float() for mask in (prediction, truth))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Voronoi computation is running on CPU")
        theirs = DiceMetric(include_background=False, per_component=True)(*masks)
    assert isinstance(theirs, torch.Tensor)
    assert cc_dice(found, (1, 1, 1)) == pytest.approx(theirs.item(), abs=1e-6)


def test_a_false_positive_is_paid_by_the_nearest_in_mm():
    truth, guess = mask("a....", ".....", "....b"), mask("a..x.", ".....", "....b")
    found = find_instances(guess, truth)
    np.testing.assert_allclose(cell_dice(found, (1, 1)), [1, 2 / 3])
    np.testing.assert_allclose(cell_dice(found, (9, 1)), [2 / 3, 1])


def test_recall_by_quartile_of_the_pooled_sizes():
    cases = [
        [(1.0, False), (8.0, True)],
        [],
        [(2.0, False), (3.0, True), (4.0, True)],
        [(5.0, True), (7.0, False), (6.0, True)],
    ]
    found = recall_by_size(cases)  # 1 to 8: quartiles 2.75, 4.5, 6.25
    assert found == [
        SizeBin(1.0, 2.75, 2, 0),
        SizeBin(2.75, 4.5, 2, 2),
        SizeBin(4.5, 6.25, 2, 2),
        SizeBin(6.25, 8.0, 2, 1),
    ]
    assert [one.recall for one in found] == [0, 1, 1, 0.5]


def test_recall_by_fixed_sizes_and_equal_quartiles():
    cases = [[(1.0, False)] * 3 + [(1.0, True)], [(20.0, True)]]
    assert [(one.lesions, one.recall) for one in recall_by_size(cases)] == [(4, 0.25), (0, None), (0, None), (1, 1)]
    fixed = recall_by_size(cases, bounds=(1.0, 100.0))
    assert fixed == [SizeBin(1.0, 1.0, 4, 1), SizeBin(1.0, 100.0, 1, 1), SizeBin(100.0, 100.0, 0, 0)]
    assert recall_by_size(cases, bounds=()) == [SizeBin(1.0, 20.0, 5, 2)]
    assert recall_by_size([[], []]) == []


MASK = np.zeros((4, 5), bool)
NONE = find_instances(MASK, MASK)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: find_instances(MASK, MASK[1:]), "prediction: expected the shape of truth"),
        (lambda: find_instances(MASK, MASK.astype(int)), "truth: expected a bool mask"),
        (lambda: find_instances(MASK, MASK, "26"), "connectivity: expected one of face, edge, full; got '26'"),
        (lambda: find_instances(MASK, MASK, min_size=0), "min_size: expected at least 1 voxel; got 0"),
        (lambda: Instances.from_ids(MASK.astype(float), MASK.astype(int)), "predicted_ids: expected integers"),
        (lambda: Instances.from_ids(MASK.astype(int), MASK.astype(int) - 1), "true_ids: expected integers from 0"),
        (lambda: detect(NONE, "centre"), "match: expected one of overlap, iou, dice; got 'centre'"),
        (lambda: panoptic(NONE, "overlap"), "match: expected one of iou, dice; got 'overlap'"),
        (lambda: panoptic(NONE, threshold=1), "threshold: expected 0 <= threshold < 1; got 1"),
        (lambda: cell_dice(NONE, (1,)), "spacing: expected 2 positive"),
        (lambda: recall_by_size([[(1.0, True)]], bounds=(3, 3)), "bounds: expected increasing sizes"),
    ],
)
def test_bad_arguments(call, words):
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_panoptic_of_counts():
    assert Panoptic(np.array([0.6, 0.8]), 1, 3).pq == pytest.approx(1.4 / 4)
