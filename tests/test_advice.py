"""Advice: each rule fires where its number says so and not short of it, and what it names can be trained."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from delineate.advice import EVIDENCE, MOST, RULES, advise, auto_losses
from delineate.data import open_source, statistics
from delineate.data.statistics import ClassStatistics, Statistics
from delineate.losses import parse

DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="real data not found at ../shared/data (seen from the project's root)"
)
NOTHING = ClassStatistics("", 0, 100, 0, (), 100, {"min": 1, "50%": 1, "max": 1}, None, None, None, None, None)


def figures(*shares, background=None, dims=2, void=0.0, spacing=None, maps=False, **of_last):
    """Figures of classes "a", "b", ... with these shares; the last class has the others given."""
    classes = [replace(NOTHING, name=chr(ord("a") + label), share=share) for label, share in enumerate(shares)]
    classes[-1] = replace(classes[-1], **of_last)
    present = [share for share in shares if share > 0]
    sides = spacing or (1.0,) * dims
    return Statistics(
        split="train",
        images=100,
        images_in_split=100,
        image_sizes={},
        spacing=sides,
        spacing_range={},
        classes=tuple(classes),
        void_share=void,
        imbalance=max(present) / min(present),
        connectivity=8 if dims == 2 else 26,
        background=background,
        empty_images=0,
        empty_ids=(),
        instances_from="maps" if maps else "components",
    )


def sizes(median, upper):
    return dict.fromkeys(("min", "5%", "25%", "50%"), median) | dict.fromkeys(("75%", "95%", "max"), upper)


def unequal(ratio):
    return figures(100 * ratio / (ratio + 1), 100 / (ratio + 1))


def with_background(ratio):
    return figures(100 * ratio / (ratio + 1), 100 / (ratio + 1), background=0)


def objects(median=100.0, ratio=5.0, an_image=2, dims=2):
    of_image = {"min": 1, "50%": an_image, "max": 9}
    ratios = dict.fromkeys(("50%", "95%", "max"), ratio)
    found = {"instances_per_image": of_image, "instance_sizes": sizes(median, median), "size_ratio": ratios}
    return figures(60, 40, background=0, dims=dims, **found)


CASES = {
    "similar classes": (unequal(2.99), unequal(3.01)),
    "unequal classes": (unequal(3.01), unequal(2.99)),
    "hard voxels of rare classes": (unequal(20.1), unequal(19.9)),
    "weights of rare classes": (unequal(20.1), unequal(19.9)),
    "easy background": (with_background(20.1), with_background(19.9)),
    "rare foreground": (figures(99.01, 0.99, background=0), figures(98.99, 1.01, background=0)),
    "absent classes": (figures(50, 50, absent=50), figures(50, 50, absent=49)),
    "unequal instances": (objects(ratio=10), objects(ratio=9.9)),
    "small instances": (objects(median=63), objects(median=64)),
    "touching instances": (
        figures(60, 40, background=0, maps=True, touching=5.0, components=97),
        figures(60, 40, background=0, maps=True, touching=4.9, components=97),
    ),
    "thin classes": (
        figures(60, 40, thinness=0.26, instance_sizes=sizes(100, 100)),
        figures(60, 40, thinness=0.25, instance_sizes=sizes(100, 100)),
    ),
    "much boundary": (figures(60, 40, background=0, boundary=25.0), figures(60, 40, background=0, boundary=24.9)),
    "large objects": (figures(60, 40, background=0, boundary=9.9), figures(60, 40, background=0, boundary=10.0)),
    "flat voxels": (figures(50, 50, spacing=(1.0, 1.0, 3.0)), figures(50, 50, spacing=(1.0, 1.0, 2.9))),
    "scenes": (figures(*[20] * 5), figures(*[25] * 4)),
    "ignored voxels": (figures(50, 50, void=1.0), figures(50, 50, void=0.9)),
}
"""Figures with which a rule fires, and with which it just does not."""


def fired(found):
    return [advice.rule for advice in advise(found, "DATA")]


def test_every_rule_has_its_case_and_is_complete():
    assert [rule.name for rule in RULES] == list(CASES)
    for rule in RULES:
        assert rule.evidence in EVIDENCE
        assert rule.measure.__doc__
        assert isinstance(rule.loss, str) or rule.loss.__doc__
        assert all(text.strip() for text in (rule.basis, rule.why, rule.fails, rule.source))


@pytest.mark.parametrize("name", CASES)
def test_a_rule_fires_where_its_number_passes_the_threshold(name):
    past, short = CASES[name]
    assert name in fired(past)
    assert name not in fired(short)


@pytest.mark.parametrize("name", CASES)
def test_an_advice_says_what_fired_and_how_to_try_it(name):
    found = CASES[name][0]
    advice = next(advice for advice in advise(found, "/a b/it's") if advice.rule == name)
    rule = next(rule for rule in RULES if rule.name == name)
    assert rule.fires(advice.value)
    assert any(digit in advice.figure for digit in "123456789")
    verb, data, *losses = shlex.split(advice.command)[1:]
    assert (verb, data, losses[0]) == ("compare", "/a b/it's", "--losses")
    assert advice.loss in losses
    assert len({parse(loss).expression() for loss in losses[1:]}) == len(losses[1:]) == 2
    assert set(losses[1:]) - {advice.loss} <= {"CE", "Dice + CE"}


@pytest.mark.parametrize("shape", [(24, 24), (16, 16, 16)])
@pytest.mark.parametrize("name", CASES)
def test_what_is_advised_can_be_trained(name, shape):
    found = CASES[name][0]
    advice = next(advice for advice in advise(found, "DATA") if advice.rule == name)
    classes = len(found.classes)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, classes, *shape, generator=generator, requires_grad=True)
    labels = torch.randint(classes, (2, *shape), generator=generator)
    labels[0, 0] = 255
    parse(advice.loss, ignore_index=255)(logits, labels).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad.any()


def test_losses_follow_the_figures():
    found = figures(80, 16, 3, 1)
    assert 'Dice + CE(class_weight=[1.0, 2.2, 5.2, 8.9], normalize="weight")' in [a.loss for a in advise(found, "D")]
    absent = figures(99, 1, 0)
    assert 'Dice + CE(class_weight=[1.0, 9.9, 9.9], normalize="weight")' in [a.loss for a in advise(absent, "D")]
    assert "Tversky(classes=[0, 1]) + CE" in [a.loss for a in advise(figures(0.4, 0.4, 99.2, background=2), "D")]
    tubes = figures(60, 40, dims=3, thinness=0.1, instance_sizes=sizes(400, 400))
    thin = next(advice for advice in advise(tubes, "D") if advice.rule == "thin classes")
    assert thin.loss == "Dice + CE + SkeletonRecall(classes=[1])"
    assert thin.value == pytest.approx(10**0.5)


def test_a_class_as_wide_as_long_is_not_thin():
    specks = figures(60, 40, thinness=1.0, instance_sizes=sizes(1, 1))
    assert "thin classes" not in fired(specks)


def test_instances_need_a_background_and_several_an_image():
    found = objects(median=1, ratio=1000)
    assert {"unequal instances", "small instances"} <= set(fired(found))
    for without in (replace(found, background=None), objects(median=1, ratio=1000, an_image=1)):
        assert not {"unequal instances", "small instances"} & set(fired(without))


def test_sides_are_those_of_a_cube_in_3d():
    value = next(a.value for a in advise(objects(median=125, dims=3), "D") if a.rule == "small instances")
    assert value == pytest.approx(5)


def test_components_that_are_close_are_not_merged():
    assert "touching instances" not in fired(figures(60, 40, background=0, touching=80.0))


def test_the_baseline_comes_first_and_the_rest_by_strength():
    rules = {rule.name: rule for rule in RULES}
    found = figures(99.5, 0.5, background=0, absent=90, boundary=60.0, void=5.0)
    first, *others = advise(found, "D")
    assert (first.rule, first.loss) == ("unequal classes", "Dice + CE")
    strengths = [rules[advice.rule].strength(advice.value) for advice in others]
    assert len(strengths) > 4
    assert strengths == sorted(strengths, reverse=True)


def test_strength_is_evidence_times_doublings():
    rules = {rule.name: rule for rule in RULES}
    assert rules["weights of rare classes"].strength(20) == pytest.approx(0.7)
    assert rules["weights of rare classes"].strength(80) == pytest.approx(0.7 * 3)
    assert rules["small instances"].strength(2) == pytest.approx(0.4 * 3)
    assert rules["large objects"].strength(0) == pytest.approx(0.7 * 11)


@pytest.mark.parametrize("found", [case for pair in CASES.values() for case in pair])
def test_auto_losses_are_few_different_and_begin_with_the_baseline(found):
    losses = auto_losses(found)
    assert losses[0] == ("Dice + CE" if found.imbalance >= 3 else "CE")
    assert 1 <= len(losses) <= MOST
    assert len({parse(loss).expression() for loss in losses}) == len(losses)


def test_auto_losses_are_four_where_more_are_advised():
    found = figures(99.5, 0.5, background=0, absent=90, boundary=60.0, void=5.0)
    assert len({advice.loss for advice in advise(found, "D")}) > len(auto_losses(found)) == MOST


@pytest.fixture(scope="module")
def real():
    """Advice of a real data set by rule, from a few images of train."""
    return lambda name, limit: {a.rule: a for a in advise(statistics(open_source(DATA / name), "train", limit), name)}


@needs_data
def test_street_scenes_are_told_of_their_rarest_class(real):
    found = real("camvid", 40)
    assert "road to bicyclist" in found["hard voxels of rare classes"].figure
    assert found["thin classes"].loss == "Dice + CE + SkeletonRecall(classes=[2])"
    assert "shown" in found["scenes"].fails
    assert not {"unequal instances", "small instances", "rare foreground"} & set(found)


@needs_data
def test_lesions_are_told_of_their_instances(real):
    found = real("Dataset103_MSLesionSemiSynth", 3)
    assert {"unequal instances", "small instances", "rare foreground", "easy background"} <= set(found)
    assert not {"thin classes", "touching instances", "absent classes"} & set(found)


@needs_data
def test_nuclei_are_warned_that_they_touch(real):
    found = real("nuclei", 30)
    assert "components of the mask" in found["touching instances"].figure
    assert not {"thin classes", "hard voxels of rare classes"} & set(found)


@needs_data
def test_one_piece_a_class_is_not_told_of_instances(real):
    found = real("Dataset004_Hippocampus", 5)
    assert not {"unequal instances", "small instances", "touching instances", "thin classes"} & set(found)
    assert "much boundary" in found
