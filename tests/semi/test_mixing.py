"""Boxes, partners, and plans that move everything of an image alike."""

import copy
import pickle

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from delineate.semi.mixing import MixPlan, draw_box, partners
from reference import semi as reference

SHARE, ASPECT = (0.02, 0.4), (0.3, 1 / 0.3)
SPACES = [(9,), (5, 7), (4, 3, 5)]
spaces = pytest.mark.parametrize("space", SPACES, ids=["1d", "2d", "3d"])


def boxes_of(space, samples=5):
    boxes = torch.stack([draw_box(space, probability=0.8, share=(0.1, 0.6)) for _ in range(samples)])
    boxes[0] = 0
    return boxes


def test_boxes_of_a_square_follow_the_published_procedure():
    """The distribution of every side and corner, against a plain loop."""
    random, side = np.random.default_rng(0), 64
    expected = np.array([reference.square_box(random, side, SHARE, ASPECT) for _ in range(3000)])
    boxes = torch.stack([draw_box((side, side), probability=1) for _ in range(3000)]).numpy()
    found = np.concatenate([boxes[:, 0], boxes[:, 1] - boxes[:, 0]], 1)
    for column in range(4):
        assert ks_2samp(found[:, column], expected[:, column]).pvalue > 0.01, column
    area = found[:, 2] * found[:, 3]
    assert ks_2samp(area, expected[:, 2] * expected[:, 3]).pvalue > 0.01
    assert ks_2samp(found[:, 2] / found[:, 3], expected[:, 2] / expected[:, 3]).pvalue > 0.01
    assert ks_2samp(found[:, 2], expected[:, 3]).pvalue < 1e-6  # height and width differ, and the test can tell


@pytest.mark.parametrize("size", [(300,), (100, 200), (128, 96, 32), (4, 1000)], ids=str)
def test_boxes_fit_and_have_the_share(size):
    extent = torch.tensor(size)
    for _ in range(100):
        box = draw_box(size, probability=1, share=(0.1, 0.3))
        assert box.shape == (2, len(size))
        assert box.dtype == torch.int64
        low, high = box
        assert (low >= 0).all()
        assert (high <= extent).all()
        assert (high > low).all()
        assert ((high - low) / extent).prod() <= 0.3 + 1e-6  # sides are rounded down, by less than a voxel
        assert ((high - low + 1) / extent).prod() > 0.1


@pytest.mark.parametrize("size", [(4000, 4000), (400, 400, 400)], ids=str)
def test_sides_have_the_aspect(size):
    """Each side but the last against the last."""
    for _ in range(20):
        low, high = draw_box(size, probability=1, share=(0.2, 0.2), aspect=(0.5, 0.6))
        ratio = (high - low)[:-1] / (high - low)[-1]
        assert (ratio > 0.49).all()
        assert (ratio < 0.61).all()


def test_boxes_come_with_the_probability():
    drawn = [bool(draw_box((20, 20), probability=0.3).any()) for _ in range(1000)]
    assert 0.25 < np.mean(drawn) < 0.35
    assert not any(draw_box((20, 20), probability=0).any() for _ in range(50))
    assert all(draw_box((20, 20), probability=1).any() for _ in range(50))


def test_boxes_of_tiny_images_are_not_empty():
    for size in ((1,), (1, 1), (3, 2), (2, 1, 2)):
        low, high = draw_box(size, probability=1)
        assert (high > low).all()


def test_boxes_are_those_of_the_global_random_state():
    torch.manual_seed(3)
    first = boxes_of((20, 30))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        assert torch.equal(boxes_of((20, 30)), first)
    assert not torch.equal(boxes_of((20, 30)), first)


@pytest.mark.parametrize("n", range(12))
def test_partners(n):
    found = partners(n)
    assert found.dtype == torch.int64
    assert sorted(found.tolist()) == list(range(n))
    if n > 1:
        assert (found != torch.arange(n)).all()
        pairs = n if n % 2 == 0 else n - 3
        assert torch.equal(found[found[:pairs]], torch.arange(pairs))


def test_blocks_of_a_batch_pair_as_the_batch_does():
    parts = [partners(n) + start for start, n in ((0, 4), (4, 2), (6, 5))]
    assert torch.equal(torch.cat(parts), partners(11))
    assert partners(1).tolist() == [0]
    assert partners(3).tolist() == [1, 2, 0]


@spaces
@pytest.mark.parametrize("samples", [1, 2, 5])
def test_everything_follows_the_image_voxel_for_voxel(space, samples):
    boxes = boxes_of(space, samples + 1)[1:]
    plan = MixPlan.of(boxes, space)
    labels = torch.arange(samples * int(np.prod(space))).view(samples, *space)
    expected = reference.mixed(labels.numpy(), plan.partner.tolist(), boxes.tolist())
    assert plan(labels).numpy().tolist() == expected.tolist()
    assert torch.equal(plan(labels % 3 == 0), plan(labels) % 3 == 0)
    assert torch.equal(plan(labels.to(torch.uint8)), plan(labels).to(torch.uint8))
    image = torch.stack([labels, -labels, labels + 0.5], 1)
    mixed = plan(image)
    assert mixed.dtype == image.dtype
    assert torch.equal(mixed, torch.stack([plan(labels), -plan(labels), plan(labels) + 0.5], 1))
    assert plan.inside.sum(tuple(range(1, plan.inside.ndim))).tolist() == [
        int((high - low).prod()) for low, high in boxes
    ]


def test_gradients_go_to_where_values_came_from():
    plan = MixPlan.of(torch.tensor([[[0], [2]], [[0], [0]]]), (3,))
    x = torch.randn(2, 1, 3, requires_grad=True)
    (grad,) = torch.autograd.grad((plan(x) * torch.tensor([[[1.0, 2, 3]], [[4, 5, 6]]])).sum(), x)
    assert grad.tolist() == [[[0, 0, 3]], [[5, 7, 6]]]


def test_inputs_stay_and_a_plan_without_boxes_changes_nothing():
    plan, x = MixPlan.of(torch.zeros(4, 2, 2, dtype=torch.int64), (5, 7)), torch.randn(4, 3, 5, 7)
    assert torch.equal(plan(x), x)
    plan = MixPlan.of(boxes_of((5, 7), 4), (5, 7))
    before = x.clone()
    plan(x).zero_()
    assert torch.equal(x, before)


def test_a_single_sample_stays_as_it_is():
    plan = MixPlan.of(torch.tensor([[[1, 1], [3, 3]]]), (4, 4))
    x = torch.randn(1, 2, 4, 4)
    assert torch.equal(plan(x), x)
    assert plan.same_content(MixPlan.of(torch.zeros(1, 2, 2, dtype=torch.int64), (4, 4))).all()


@spaces
@pytest.mark.parametrize("samples", [1, 4, 5])
def test_same_content_is_where_both_took_the_same_voxel(space, samples):
    one, other = (MixPlan.of(boxes_of(space, samples + 1)[1:], space) for _ in range(2))
    which = torch.arange(samples * int(np.prod(space))).view(samples, *space)
    same = one.same_content(other)
    assert torch.equal(same, one(which) == other(which))
    assert torch.equal(other.same_content(one), same)
    assert one.same_content(one).all()
    assert samples == 1 or not same.all()


def test_plans_are_copied_and_pickled():
    plan = MixPlan.of(boxes_of((5, 7)), (5, 7))
    for again in (copy.deepcopy(plan), pickle.loads(pickle.dumps(plan))):
        assert torch.equal(again.inside, plan.inside)
        assert plan.same_content(again).all()
    with pytest.raises(AttributeError):
        plan.partner = partners(5)


PLAN = MixPlan.of(torch.zeros(4, 2, 2, dtype=torch.int64), (5, 7))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: draw_box((4, 4), probability=1.2), "probability.*1.2"),
        (lambda: draw_box((4, 4), share=(0.5, 0.4)), r"share.*\(0.5, 0.4\)"),
        (lambda: draw_box((4, 4), share=(0, 0.4)), "share"),
        (lambda: draw_box((4, 4), aspect=(-1, 1)), "aspect"),
        (lambda: draw_box((0, 4)), r"size.*\(0, 4\)"),
        (lambda: draw_box((2, 2, 2, 2)), "size"),
        (lambda: draw_box((60, 60), probability=1, share=(0.9, 0.9), aspect=(2, 3)), "no box.*fits"),
        (lambda: partners(-1), "n.*-1"),
        (lambda: MixPlan.of(torch.zeros(4, 2, 3), (5, 7)), r"boxes.*\(N, 2, 2\).*\(4, 2, 3\)"),
        (lambda: MixPlan(partners(3), PLAN.inside), r"\(3,\) and \(4, 5, 7\)"),
        (lambda: PLAN(torch.zeros(4, 7, 5)), r"maps.*\(4, 5, 7\).*\(4, 7, 5\)"),
        (lambda: PLAN(torch.zeros(2, 3, 5, 7)), "maps"),
        (lambda: PLAN(torch.zeros(5, 7)), "maps"),
        (lambda: PLAN.same_content(MixPlan.of(torch.zeros(4, 2, 1), (5,))), "other"),
        (lambda: PLAN.same_content(MixPlan(torch.tensor([2, 3, 0, 1]), PLAN.inside)), "other partners"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert "\n" not in str(error.value)
