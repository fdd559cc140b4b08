"""The target: what it derives, how often, for which shapes and spacings, and what it refuses."""

import copy
import pickle

import pytest
import torch

import delineate.target
from delineate.ops.components import cells, components
from delineate.ops.contour import contour_sizes
from delineate.ops.distance import squared_distances, squared_label_distances
from delineate.ops.skeleton import skeletons, tubes
from delineate.target import KINDS, Geometry, Target

SHAPE = (2, 3, 5, 6)
SPACINGS = {
    "none": None,
    "list": [3.0, 1.0],
    "by sample": [[3.0, 1.0], [0.7, 2.5]],
    "tensor": torch.tensor([0.7, 2.5]),
}
NOT_POSITIVE = [[0.0, 1.0], [1.0, -1.0], [float("nan"), 1.0], [float("inf"), 1.0]]
kinds = pytest.mark.parametrize("kind", KINDS)


def labels(void=None):
    y = torch.randint(0, SHAPE[1], (SHAPE[0], *SHAPE[2:]))
    return y if void is None else y.masked_fill(torch.rand(y.shape) < 0.2, void)


def one_hot(y):
    return torch.nn.functional.one_hot(y, SHAPE[1]).movedim(-1, 1).float()


def rows(spacing):
    return None if spacing is None else torch.as_tensor(spacing).double().expand(SHAPE[0], 2)


def expected(kind, y, ignored=None, spacing=None):
    if kind == "label_distances":
        return squared_label_distances(y, ignored, rows(spacing))
    return {
        "distances": lambda: squared_distances(y, 3, ignored, rows(spacing)),
        "contour_sizes": lambda: contour_sizes(y, 3, ignored),
        "skeletons": lambda: skeletons(y, 3, ignored),
        "tubes": lambda: tubes(y, 3, ignored, True),
        "channel_tubes": lambda: tubes(y, 3, ignored, False),
        "components": lambda: components(y, 3, ignored, "full", 1, False),
        "all_components": lambda: components(y, 3, ignored, "full", 1, True),
        "cells": lambda: cells(components(y, 3, ignored, "full", 1, False), y, 3, ignored, rows(spacing), False),
        "all_cells": lambda: cells(components(y, 3, ignored, "full", 1, True), y, 3, ignored, rows(spacing), True),
    }[kind]()


@pytest.fixture
def calls(monkeypatch):
    """Kinds that were derived, one after the other."""
    made = []
    for kind, derive in delineate.target._DERIVED.items():
        monkeypatch.setitem(
            delineate.target._DERIVED, kind, lambda *args, k=kind, of=derive: made.append(k) or of(*args)
        )
    return made


@kinds
@pytest.mark.parametrize("spacing", SPACINGS.values(), ids=SPACINGS)
@pytest.mark.parametrize("void", [None, 255, -1])
def test_derives_what_the_ops_say(kind, spacing, void):
    y = labels(void)
    target = Target(y, ignore_index=void, spacing=spacing)
    found = target.find(Geometry(kind), SHAPE)
    assert torch.equal(found, expected(kind, y, None if void is None else y == void, spacing))


@kinds
def test_every_form_of_labels_is_the_same(kind):
    y = labels()
    found = Target(y).find(Geometry(kind), SHAPE)
    numbered = "components" in kind or "cells" in kind  # of a map channel by channel, with other numbers
    maps = () if numbered else (one_hot(y), 0.8 * one_hot(y).double())
    for same in (y[:, None], y.to(torch.uint8), y.int()[:, None], *maps):
        before = same.clone()
        assert torch.equal(Target(same).find(Geometry(kind), SHAPE), found)
        assert torch.equal(same, before)


@kinds
def test_negative_labels_are_ignored_and_those_of_uint8_too(kind):
    y = labels(-1)
    found = [
        Target(same, ignore_index=void).find(Geometry(kind), SHAPE)
        for same, void in ((y, -1), (y.to(torch.int8), -1), (y.masked_fill(y < 0, 255).to(torch.uint8), 255))
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@kinds
def test_binary_labels_have_one_channel(kind):
    y, shape = torch.randint(0, 2, (2, 5, 6)), (2, 1, 5, 6)
    found = Target(y).find(Geometry(kind), shape)
    assert torch.equal(Target(y.bool()).find(Geometry(kind), shape), found)
    assert torch.equal(Target(y.bool()[:, None]).find(Geometry(kind), shape), found)


def test_nothing_is_derived_before_it_is_asked_for_and_then_once(calls):
    target = Target(labels())
    assert calls == []
    for _ in range(3):
        found = {kind: target.find(Geometry(kind), SHAPE) for kind in KINDS}
    assert calls == list(KINDS)
    assert target.found() == {Geometry(kind): found[kind] for kind in KINDS}
    target.found().clear()
    assert len(target.found()) == len(KINDS)


def test_what_was_prepared_is_not_derived(calls):
    first = Target(labels(), spacing=[3.0, 1.0])
    prepared = {Geometry(kind): first.find(Geometry(kind), SHAPE) for kind in KINDS}
    calls.clear()
    second = Target(first.labels, spacing=[3.0, 1.0], prepared=prepared)
    for kind in KINDS:
        assert second.find(Geometry(kind), SHAPE) is prepared[Geometry(kind)]
    assert calls == []
    second.find(Geometry("distances", (3.0, 1.0)), SHAPE)
    assert calls == ["distances"]
    assert len(prepared) == len(KINDS)


@kinds
def test_what_was_prepared_must_fit(kind):
    y = labels()
    wrong = Target(y[..., :4]).find(Geometry(kind), (2, 4, 5, 4))
    with pytest.raises(
        ValueError, match=rf"`prepared` {kind} must be \(2, .*to match logits \(2, 3, 5, 6\); got \(2, "
    ):
        Target(y, prepared={Geometry(kind): wrong}).find(Geometry(kind), SHAPE)


@kinds
def test_moves_and_copies_take_everything_along(calls, kind):
    target = Target(labels(255), ignore_index=255, spacing=[[3.0, 1.0], [0.7, 2.5]])
    found = target.find(Geometry(kind), SHAPE)
    calls.clear()
    for same in (target.to("cpu"), copy.deepcopy(target), pickle.loads(pickle.dumps(target)), copy.copy(target)):
        assert torch.equal(same.labels, target.labels)
        assert torch.equal(same.spacing, target.spacing)
        assert same.ignore_index == 255
        assert torch.equal(same.find(Geometry(kind), SHAPE), found)
    assert calls == []
    there = target.to("meta")
    assert there.labels.device.type == there.found()[Geometry(kind)].device.type == "meta"


def test_copies_are_apart():
    target = Target(labels())
    for other in (target.to("cpu"), copy.deepcopy(target), pickle.loads(pickle.dumps(target))):
        other.find(Geometry("tubes"), SHAPE)
    assert target.found() == {}


def test_the_spacing_of_a_loss_stands_for_that_of_the_target():
    y = labels()
    asked = Geometry("distances", (3.0, 0.5))
    found = Target(y).find(asked, SHAPE)
    assert torch.equal(found, expected("distances", y, spacing=[3.0, 0.5]))
    for agreed in ([3.0, 0.5], [[3.0, 0.5]] * 2):
        assert torch.equal(Target(y, spacing=agreed).find(asked, SHAPE), found)
    both = Target(y)
    assert not torch.equal(both.find(Geometry("distances"), SHAPE), both.find(asked, SHAPE))


@pytest.mark.parametrize(
    ("spacing", "asked"),
    [
        ([3, 1], (1.0, 1.0)),
        ([[3, 1], [1, 1]], (3.0, 1.0)),
        ([3, 1, 1], (3.0, 1.0)),
        ([1, 1], (1.0,)),
        (1.0, (1.0, 1.0)),
    ],
    ids=str,
)
def test_two_spacings_must_agree(spacing, asked):
    with pytest.raises(ValueError, match=r"a loss was given .* and the Target .* Give it to one of them") as error:
        Target(labels(), spacing=spacing).find(Geometry("distances", asked), SHAPE)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "spacing",
    [[1.0], [1.0] * 3, 2.0, [[1.0, 1.0]], [[1.0, 1.0]] * 3, [[1.0], [1.0]], *NOT_POSITIVE],
    ids=str,
)
def test_spacings_that_do_not_fit(spacing):
    with pytest.raises(ValueError, match="spacing: expected the size of a voxel along each of 2 axes") as error:
        Target(labels(), spacing=spacing).find(Geometry("distances"), SHAPE)
    assert "\n" not in str(error.value)
    if not isinstance(spacing, float) and not isinstance(spacing[0], list):
        with pytest.raises(ValueError, match="spacing: expected"):
            Target(labels()).find(Geometry("distances", tuple(spacing)), SHAPE)


def test_a_failed_request_leaves_no_trace():
    target = Target(labels(), spacing=[1.0])
    with pytest.raises(ValueError, match="spacing"):
        target.find(Geometry("distances"), SHAPE)
    assert target.found() == {}


def test_sizes_of_voxels():
    target = Target(labels(), spacing=[3, 1])
    assert target.voxel_size(None, 2, 2).tolist() == [[3, 1], [3, 1]]
    assert target.voxel_size(None, 2, 2).dtype == torch.float64
    assert target.voxel_size((3.0, 1.0), 2, 2).tolist() == [[3, 1], [3, 1]]
    assert Target(labels()).voxel_size(None, 2, 2) is None
    assert Target(labels()).voxel_size((2.0, 4.0), 2, 2).tolist() == [[2, 4], [2, 4]]


@kinds
@pytest.mark.parametrize("shape", [(0, 3, 5, 6), (2, 3, 0, 6)])
def test_nothing_to_derive(kind, shape):
    y = torch.zeros(shape[0], *shape[2:], dtype=torch.long)
    found = Target(y, ignore_index=255, spacing=[1.0, 2.0]).find(Geometry(kind), shape)
    of_map = Target(torch.zeros(shape)).find(Geometry(kind), shape)
    assert found.shape == (of_map[:, 0] if "components" in kind else of_map).shape
    assert found.shape[0] == shape[0]
