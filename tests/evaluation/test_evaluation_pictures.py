"""The worst cases: which they are, which plane is shown, and in which colours."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from delineate.evaluation import Case, Worst
from delineate.evaluation.pictures import BLUE, BOTH, ORANGE, draw, view
from delineate.metrics import ClassScores

RAS = np.diag([1.0, 1.0, 3.0, 1.0])


def case(name, prediction, truth, spacing, affine=None, image=None):
    return Case(name, prediction, truth, spacing, affine, Path(name), image)


def scores(dice, f1=None):
    return ClassScores({"dice": dice, "lesion_f1": f1}, [], [], False, False)


def flat(errors):
    """Truth and a prediction with so many wrong pixels."""
    truth = np.zeros((8, 8), np.uint8)
    truth[0, :errors] = 1
    return np.zeros_like(truth), truth


def colours(picture):
    packed = np.unique(np.asarray(picture, np.uint32) @ np.array([65536, 256, 1], np.uint32))
    return {(value >> 16, value >> 8 & 255, value & 255) for value in packed.tolist()}


def test_the_lowest_of_both_rankings_are_kept_and_of_equal_ones_the_most_wrong(tmp_path):
    worst = Worst(2)
    given = {"good": (0.9, 0.1, 1), "bad": (0.2, 0.9, 2), "worse": (0.1, 0.8, 3), "missed": (0.0, None, 1)}
    given |= {"missed much": (0.0, None, 5), "perfect": (1.0, 1.0, 0)}
    for name, (dice, f1, errors) in given.items():
        worst.add(case(name, *flat(errors), (1, 1)), 1, "a/b", scores(dice, f1), None)
    names = worst.save(tmp_path / "worst")
    assert names == [
        f"a%2Fb-{rank}-{name}.png" for rank, name in enumerate(("missed much", "missed", "good", "worse"), 1)
    ]
    assert len(worst) == 4
    assert sorted(path.name for path in (tmp_path / "worst").iterdir()) == sorted(names)
    with Image.open(tmp_path / "worst" / names[0]) as picture:
        assert picture.mode == "RGB"


def test_images_are_read_for_the_worst_alone():
    read = []
    worst = Worst(1)
    for name, dice in (("a", 0.5), ("b", 0.7), ("c", 0.3)):
        image = lambda name=name: read.append(name) or np.zeros((8, 8))  # noqa: E731
        worst.add(case(name, *flat(2), (1, 1), image=image), 1, "x", scores(dice), None)
    assert read == ["a", "c"]


def test_none_are_kept_of_none(tmp_path):
    worst = Worst(0)
    worst.add(case("a", *flat(3), (1, 1)), 1, "x", scores(0.0), None)
    assert worst.save(tmp_path / "worst") == []
    assert not (tmp_path / "worst").exists()


def test_ignored_pixels_are_no_errors():
    prediction, truth = flat(3)
    truth[4:], prediction[4:] = 255, 1
    worst = Worst(1)
    worst.add(case("a", prediction, truth, (1, 1)), 1, "x", scores(0.0), 255)
    assert not worst._views["x", "a"].prediction.any()


def test_missed_is_blue_and_false_is_orange():
    truth, prediction = np.zeros((2, 9, 9), bool)
    truth[1:8, 1:5], prediction[1:8, 3:8] = True, True
    shown = view(case("a", prediction, truth, (1, 1)), truth, prediction, "a")
    assert {BLUE, ORANGE, BOTH} <= colours(draw(shown))
    none = np.zeros_like(truth)
    only = view(case("a", none, truth, (1, 1)), truth, none, "a")
    errors = np.asarray(draw(only))[45:400, 440:]
    assert (errors.reshape(-1, 3) == BLUE).all(1).sum() > 5000
    assert ORANGE not in colours(errors)


def test_the_image_lies_under_the_outlines():
    prediction, truth = (labels > 0 for labels in flat(2))
    image = np.linspace(0, 1, 64).reshape(8, 8)
    with_image = draw(view(case("a", prediction, truth, (1, 1), image=lambda: image), truth, prediction, "a"))
    assert len(colours(with_image)) > len(
        colours(draw(view(case("a", prediction, truth, (1, 1)), truth, prediction, "a")))
    )


def test_the_slice_with_most_errors_and_the_projection_of_all():
    truth, prediction = np.zeros((2, 6, 7, 5), bool)
    truth[1, 2, 1] = prediction[5, 6, 1] = True
    truth[0, :3, 3] = True
    shown = view(case("a", prediction, truth, (1, 1, 3), RAS), truth, prediction, "a")
    assert shown.caption == "a; slice 4 of 5 from below"
    assert shown.truth.shape == (7, 6)
    assert np.argwhere(shown.truth).tolist() == [[4, 5], [5, 5], [6, 5]]  # x = 0 is patient left: the right-hand column
    assert shown.through is not None
    assert (shown.through[0].sum(), shown.through[1].sum()) == (4, 1)


@pytest.mark.parametrize("flip", [(0,), (0, 1), (2,)])
def test_a_volume_looks_the_same_however_it_is_stored(flip):
    generator = np.random.default_rng(0)
    truth, prediction, image = generator.random((3, 6, 7, 5)) > 0.7
    straight = view(case("a", prediction, truth, (1, 1, 3), RAS, lambda: image * 1.0), truth, prediction, "a")
    affine = RAS.copy()
    for axis in flip:
        affine[axis] *= -1
    stored = [np.moveaxis(np.flip(volume, flip), 2, 0) for volume in (truth, prediction, image)]
    turned = case("a", stored[1], stored[0], (3, 1, 1), affine[:, [2, 0, 1, 3]], lambda: stored[2] * 1.0)
    found = view(turned, stored[0], stored[1], "a")
    assert found.caption == straight.caption
    assert found.sides == straight.sides
    for name in ("truth", "prediction", "image"):
        assert np.array_equal(getattr(found, name), getattr(straight, name)), name


def test_right_and_left_of_the_patient_are_marked():
    nothing = np.zeros((6, 7, 5), bool)
    shown = {
        affine is None: draw(view(case("a", nothing, nothing, (1, 1, 1), affine), nothing, nothing, "a"))
        for affine in (RAS, None)
    }
    marks = (np.asarray(shown[False]) != np.asarray(shown[True])).any(2)
    width = (shown[False].width - 4 * 10) // 3
    panels = [marks[:, 10 + k * (width + 10) : 10 + k * (width + 10) + width] for k in range(3)]
    assert all(panel[:, :20].any() and panel[:, -20:].any() and not panel[:, 20:-20].any() for panel in panels)
    assert marks.sum() == sum(panel.sum() for panel in panels)


def test_the_caption_holds_the_distance_that_was_asked_for():
    volume = np.ones((2, 2, 2), bool)
    for shape, words in ((volume, "lesion F1 0.5, HD90 3"), (volume[0], "object F1 0.5, HD90 3")):
        worst = Worst(1, "hd90")
        values = ClassScores({"dice": 0.25, "lesion_f1": 0.5, "hd90": 3.0, "hd": 9.0}, [], [], False, False)
        worst.add(case("a", ~shape, shape, (1,) * shape.ndim), 1, "x", values, None)
        assert worst._views["x", "a"].caption.startswith(f"a, x: Dice 0.25, {words}")


def test_proportions_follow_the_spacing():
    truth, prediction = np.zeros((2, 10, 20), bool)
    picture = draw(view(case("a", prediction, truth, (4.0, 1.0)), truth, prediction, "a"))
    assert picture.height == 420 + 80
    assert picture.width == max(10 + 2 * (210 + 10), 350)
