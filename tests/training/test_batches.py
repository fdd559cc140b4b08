"""Which images make a step, on however many processes, and what augmentation is drawn from."""

from collections import Counter
from itertools import chain

import pytest
import torch

from delineate.training.batches import Batches, Parts, Seeded, Unpadded, collate_parts

SIZES = {"labelled": 5, "unlabelled": 24}
STEPS, PER_STEP = 6, 4


def batches(sizes=SIZES, steps=STEPS, seed=0, epoch=0, **places):
    found = Batches(sizes, PER_STEP, steps, seed, **places)
    found.set_epoch(epoch)
    return list(found)


def places(keys, part):
    return [place for name, _, place in keys if name == part]


def test_an_epoch_is_a_pass_over_the_unlabelled_images_and_many_over_the_labelled_ones():
    keys = list(chain(*batches()))
    assert sorted(places(keys, "unlabelled")) == list(range(24))
    labelled = places(keys, "labelled")
    assert len(labelled) == 24
    visits = [labelled[start : start + 5] for start in range(0, 24, 5)]
    for number, visit in enumerate(visits):
        assert {place // 5 for place in visit} == {number}
        assert len({place % 5 for place in visit}) == len(visit)
    assert len({tuple(place % 5 for place in visit) for visit in visits[:4]}) > 1  # orders are drawn anew


def test_batches_hold_as_many_of_each_part():
    for keys in batches():
        assert Counter(name for name, _, _ in keys) == {"labelled": PER_STEP, "unlabelled": PER_STEP}
        assert {epoch for _, epoch, _ in keys} == {0}
    assert len(batches()) == len(Batches(SIZES, PER_STEP, STEPS, 0)) == STEPS


def test_more_labelled_images_than_unlabelled_ones():
    keys = list(chain(*batches({"labelled": 40, "unlabelled": 9}, steps=2)))
    assert len(set(places(keys, "unlabelled"))) == len(set(places(keys, "labelled"))) == 8


@pytest.mark.parametrize("epoch", [0, 3])
@pytest.mark.parametrize(("ranks", "accumulate"), [(2, 1), (1, 2), (2, 2), (4, 1)])
def test_a_step_sees_the_same_images_however_it_is_shared(ranks, accumulate, epoch):
    whole = batches(epoch=epoch)
    shares = [batches(epoch=epoch, rank=rank, ranks=ranks, accumulate=accumulate) for rank in range(ranks)]
    assert {len(share) for share in shares} == {STEPS * accumulate}
    for step, keys in enumerate(whole):
        for part in SIZES:
            blocks = [places(share[step * accumulate + micro], part) for micro in range(accumulate) for share in shares]
            assert {len(block) for block in blocks} == {PER_STEP // (ranks * accumulate)}
            assert list(chain(*blocks)) == places(keys, part)  # consecutive blocks, in the order of the ranks


def test_orders_differ_by_epoch_seed_and_part():
    sizes = {"labelled": 24, "unlabelled": 24}
    orders = [batches(sizes, epoch=epoch, seed=seed) for epoch, seed in ((0, 0), (1, 0), (0, 1), (1, 1))]
    flat = [tuple(places(chain(*order), part)) for order in orders for part in sizes]
    assert len(set(flat)) == 8
    assert batches(sizes, epoch=1) == orders[1]


def test_what_was_drawn_before_does_not_matter():
    torch.manual_seed(1)
    found = Batches(SIZES, PER_STEP, STEPS, 0)
    list(found)
    torch.rand(3)
    state = torch.get_rng_state()
    found.set_epoch(2)
    assert list(found) == batches(epoch=2)
    assert torch.equal(torch.get_rng_state(), state)


def test_labelled_batches_do_not_depend_on_the_unlabelled_part():
    alone = [places(keys, "labelled") for keys in batches({"labelled": 5})]
    assert alone == [places(keys, "labelled") for keys in batches()]


@pytest.mark.parametrize(("count", "ranks"), [(1449, 4), (500, 8), (3, 4), (5, 1)])
def test_evaluation_covers_each_image_once(count, ranks):
    parts = [Unpadded(count, rank, ranks) for rank in range(ranks)]
    assert sum(map(len, parts)) == count
    assert sorted(chain(*parts)) == list(range(count))
    assert all(len(list(part)) == len(part) for part in parts)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


class Drawn:
    """Samples that tell what was drawn for them."""

    items = (None,) * 3

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return {"index": index, "drawn": torch.rand(2)}


def test_draws_depend_on_seed_epoch_and_place_alone():
    samples = Seeded(Drawn(), 5)
    torch.manual_seed(1)
    first = samples[2, 4]["drawn"]
    torch.rand(10)
    _ = samples[0, 0]
    assert torch.equal(Seeded(Drawn(), 5)[2, 4]["drawn"], first)
    others = [Seeded(Drawn(), 6)[2, 4], samples[3, 4], samples[2, 1], samples[2, 7]]
    assert all(not torch.equal(other["drawn"], first) for other in others)
    assert [sample["index"] for sample in others] == [1, 1, 1, 1]  # places beyond the last are further visits


def test_samples_say_which_part_they_are_of():
    parts = Parts({"labelled": Seeded(Drawn(), 0), "unlabelled": Seeded(Drawn(), 1)})
    assert len(parts) == 6
    one, other = parts["labelled", 2, 1], parts["unlabelled", 2, 1]
    assert (one["part"], other["part"]) == ("labelled", "unlabelled")
    assert not torch.equal(one["drawn"], other["drawn"])
    assert torch.equal(one["drawn"], Seeded(Drawn(), 0)[2, 1]["drawn"])


def test_views_are_stacked_beside_the_labelled_batch():
    def view(number):
        named = {"weak": 3, "strong": 4, "valid": 2, "boxes": 3}
        return {"part": "unlabelled", "id": f"u{number}", "draw": torch.tensor(number)} | {
            name: torch.full((2,) * dims, float(number)) for name, dims in named.items()
        }

    samples = [{"part": "labelled", "id": name} for name in "ab"]
    mixed = [samples[0], view(1), view(2), samples[1]]
    batch = collate_parts(mixed, lambda found: {"id": [sample["id"] for sample in found]})
    assert batch["id"] == ["a", "b"]
    assert batch["unlabelled"]["id"] == ["u1", "u2"]
    assert batch["unlabelled"]["draw"] == [1, 2]
    assert batch["unlabelled"]["strong"].shape == (2, 2, 2, 2, 2)
    assert (batch["unlabelled"]["weak"][1] == 2).all()
    assert "unlabelled" not in collate_parts(samples, lambda found: {"id": found})
