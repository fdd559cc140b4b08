import math

import pytest
import torch

from delineate.metrics import ConfusionMatrix


def by_hand(prediction, truth, c):
    """tp, fp, fn of class c by counting pixels one at a time."""
    pairs = list(zip(prediction.flatten().tolist(), truth.flatten().tolist(), strict=True))
    return (
        sum(p == c and t == c for p, t in pairs),
        sum(p == c and t != c for p, t in pairs),
        sum(p != c and t == c for p, t in pairs),
    )


def test_equals_counting_by_hand():
    g = torch.Generator().manual_seed(0)
    prediction, truth = torch.randint(0, 4, (2, 3, 7, 5), generator=g).unbind(0)
    matrix = ConfusionMatrix(4)
    for p, t in zip(prediction, truth, strict=True):
        matrix.update(p, t)
    scores = matrix.scores()
    for c in range(4):
        tp, fp, fn = by_hand(prediction, truth, c)
        assert scores.iou[c].item() == pytest.approx(tp / (tp + fp + fn))
        assert scores.dice[c].item() == pytest.approx(2 * tp / (2 * tp + fp + fn))
        assert scores.precision[c].item() == pytest.approx(tp / (tp + fp))
        assert scores.recall[c].item() == pytest.approx(tp / (tp + fn))
    assert scores.miou == pytest.approx(scores.iou.mean().item())
    assert scores.pixel_accuracy == pytest.approx((prediction == truth).float().mean().item())


def test_ignored_pixels_take_no_part():
    truth = torch.tensor([[0, 1, 255], [1, 255, 0]])
    prediction = torch.tensor([[0, 1, 0], [0, 1, 0]])
    matrix = ConfusionMatrix(2, ignore_index=255)
    matrix.update(prediction, truth)
    assert matrix.counts.tolist() == [[2, 0], [1, 1]]


def test_absent_class_is_left_out_and_a_hallucinated_one_scores_zero():
    matrix = ConfusionMatrix(4)
    matrix.update(torch.tensor([0, 0, 2]), torch.tensor([0, 0, 0]))  # 1, 3 nowhere; 2 only predicted
    scores = matrix.scores()
    assert math.isnan(scores.iou[1])
    assert scores.iou[2] == 0
    assert scores.miou == pytest.approx((2 / 3 + 0) / 2)
    assert scores.to_dict(("a", "b", "c", "d"))["iou"] == {"a": 0.666667, "b": None, "c": 0.0, "d": None}


def test_nothing_added_is_undefined():
    assert ConfusionMatrix(2).scores().to_dict(("a", "b"))["miou"] is None


@pytest.mark.parametrize(
    ("prediction", "truth", "word"),
    [([0, 1], [0, 2], "target"), ([0, 5], [0, 1], "prediction"), ([0, 1, 0], [0, 1], "one shape")],
)
def test_bad_labels(prediction, truth, word):
    with pytest.raises(ValueError, match=word):
        ConfusionMatrix(2).update(torch.tensor(prediction), torch.tensor(truth))
