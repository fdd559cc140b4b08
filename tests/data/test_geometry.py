"""Geometry derived ahead: the same loss, however the sample is moved afterwards and wherever it was derived."""

import pickle
from collections import Counter
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import _utils

from delineate import target as targets
from delineate.data import Prepare, collate
from delineate.data.geometry import Derived, DerivedMap, DerivedSizes
from delineate.losses import BoundaryLoss, parse
from delineate.target import KINDS, Geometry, Target

TEXTS = [
    "2*Dice + Boundary + SoftClDice(classes=[1])",
    "HausdorffDT",
    "SkeletonRecall",
    "DistancePenalizedCE(spacing=[2.0, 1.0])",
    "Schedule(Dice, BoundaryDoU, start=[1, 0], end=[0, 1], epochs=2) + GeneralizedSurface",
]
VOID, CLASSES = 255, 3
JITTER = v2.ColorJitter(0.2, 0.2, 0.2)


def labels(*size, seed=0):
    """Blobs of all classes with some ignored voxels, int64."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, CLASSES, *[max(2, side // 4) for side in size], generator=draw)
    found = F.interpolate(coarse, size).argmax(1)[0]
    return torch.where(torch.rand(size, generator=draw) < 0.02, VOID, found)


def sample(seed=0, size=(32, 64)):
    image = tv_tensors.Image(torch.rand(3, *size[-2:], generator=torch.Generator().manual_seed(seed)))
    return {"image": image, "mask": tv_tensors.Mask(labels(*size, seed=seed)), "id": f"s{seed}", "size": size}


class Samples(Dataset):
    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.transform(sample(index))


def loss_of(text, void=VOID):
    return parse(text, ignore_index=void)


def asking(*needs, ignore_index=VOID):
    """All that `Prepare` looks at of a loss."""
    return SimpleNamespace(needs=needs, ignore_index=ignore_index)


def refuse(*args):
    raise AssertionError("derived once more")


def count_derived(monkeypatch):
    """A counter of what is derived from now on in this process."""
    counter = Counter()

    def counting(kind, derive):
        def derived(*args):
            counter[kind] += 1
            return derive(*args)

        return derived

    for kind, derive in targets._DERIVED.items():
        monkeypatch.setitem(targets._DERIVED, kind, counting(kind, derive))
    return counter


@pytest.mark.parametrize("text", TEXTS)
def test_a_loader_brings_all_that_the_loss_needs_and_its_value_is_the_same(text, monkeypatch):
    loss = loss_of(text)
    prepare = Prepare(loss, CLASSES)
    transform = v2.Compose([v2.RandomHorizontalFlip(), JITTER, prepare])
    loader = DataLoader(Samples(transform), 2, num_workers=2, collate_fn=partial(collate, ignore_index=VOID))
    for batch in list(loader):
        logits = torch.randn(2, CLASSES, 32, 64)
        expected = loss(logits, batch["mask"])
        assert set(batch["geometry"]) == {need for need in loss.needs if isinstance(need, Geometry)} != set()
        with monkeypatch.context() as patch:
            for kind in KINDS:
                patch.setitem(targets._DERIVED, kind, refuse)
            assert torch.equal(loss(logits, prepare.target(batch)), expected)


@pytest.mark.parametrize("text", [*TEXTS, "CE + Dice", "SkeletonRecall(mode='sigmoid')"])
def test_needs_list_exactly_what_is_computed_once_for_each_batch_or_sample(text, monkeypatch):
    loss, given = loss_of(text), sample()
    counter = count_derived(monkeypatch)
    loss(torch.randn(1, CLASSES, 32, 64), given["mask"][None])
    by_loss = Counter(counter)
    counter.clear()
    prepared = Prepare(loss, CLASSES)(given)
    assert counter == by_loss == Counter(need.kind for need in loss.needs if isinstance(need, Geometry))
    assert list(prepared.get("geometry", {})) == [need for need in loss.needs if isinstance(need, Geometry)]


@pytest.mark.parametrize("size", [(9, 11, 10), (20, 30)])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_derived_is_what_a_target_finds(kind, size):
    need, given = Geometry(kind), sample(size=size)
    found = Prepare(asking(need), CLASSES)(given)["geometry"][need]
    expected = Target(given["mask"][None], ignore_index=VOID).find(need, (1, CLASSES, *size))[0]
    assert isinstance(found, Derived)
    assert torch.equal(found, expected)


def test_spacing_of_the_data():
    loss, given = loss_of("Boundary"), sample()
    prepare = Prepare(loss, CLASSES, spacing=[3.0, 0.7])
    logits = torch.randn(1, CLASSES, 32, 64)
    expected = loss(logits, Target(given["mask"][None], ignore_index=VOID, spacing=[3.0, 0.7]))
    for moved in (prepare(given), v2.Resize((32, 64))(prepare(given))):  # kept, and derived again
        assert torch.equal(loss(logits, prepare.target(collate([moved], VOID))), expected)
    assert not torch.equal(loss(logits, given["mask"][None]), expected)


def test_samples_without_a_mask_and_losses_without_geometry_change_nothing():
    given = sample()
    assert Prepare(loss_of("Dice + CE"), CLASSES)(given) is given
    bare = {key: value for key, value in given.items() if key != "mask"}
    prepare = Prepare(loss_of("Boundary"), CLASSES)
    assert prepare(bare) is bare
    assert "geometry" not in collate([bare, bare], VOID)
    prepare(given)
    assert "geometry" not in given


def test_it_can_be_sent_to_another_process():
    prepare = pickle.loads(pickle.dumps(Prepare(loss_of(TEXTS[0]), CLASSES, spacing=[1.0, 2.0])))
    assert set(prepare(sample())["geometry"]) == {Geometry("distances"), Geometry("skeletons")}


# moves after `Prepare`


def alike(numbers, others, ties):
    """Whether two maps divide voxels alike, whatever the numbers; of cells but for voxels as near to several."""
    numbers, others = numbers.flatten().tolist(), others.flatten().tolist()
    pairs = Counter(zip(numbers, others, strict=True))
    commonest = {one: max((n, other) for (a, other), n in pairs.items() if a == one)[1] for one in set(numbers)}
    wrong = sum(commonest[one] != other for one, other in zip(numbers, others, strict=True))
    return wrong <= (0.1 * len(numbers) if ties else 0) and commonest.get(0, 0) == 0


@pytest.mark.parametrize("spacing", [None, (2.0, 0.3)])
@pytest.mark.parametrize("flip", [v2.RandomHorizontalFlip(1), v2.RandomVerticalFlip(1)], ids=["left", "up"])
@pytest.mark.parametrize("kind", KINDS)
def test_flipping_what_was_derived_is_deriving_from_what_was_flipped(kind, flip, spacing):
    need = Geometry(kind)
    prepare = Prepare(asking(need), CLASSES, spacing)
    for seed in range(4):
        moved = flip(prepare(sample(seed)))["geometry"][need]
        if "tubes" in kind:
            assert not moved.numel()
        else:
            assert isinstance(moved, DerivedSizes if kind == "contour_sizes" else DerivedMap)
            again = prepare(flip(sample(seed)))["geometry"][need]
            numbered = "components" in kind or "cells" in kind
            assert alike(moved, again, "cells" in kind) if numbered else torch.equal(moved, again)


@pytest.mark.parametrize("dim", [-1, -2])
@pytest.mark.parametrize("kind", ["distances", "label_distances", "skeletons", "contour_sizes"])
def test_flips_are_exact_in_3d(kind, dim):
    need = Geometry(kind)
    prepare, given = Prepare(asking(need), CLASSES, (3.0, 0.7, 0.9)), sample(size=(7, 12, 15))
    flip = v2.functional.horizontal_flip if dim == -1 else v2.functional.vertical_flip
    again = prepare({"mask": tv_tensors.Mask(given["mask"].flip(dim))})["geometry"][need]
    assert torch.equal(flip(prepare(given)["geometry"][need]), again)


def test_thinning_does_not_commute_with_flips():
    """Why `tubes` are left behind."""
    need, found = Geometry("tubes"), []
    for seed in range(4):
        given = sample(seed)["mask"][None]
        one, other = (
            Target(y, ignore_index=VOID).find(need, (1, CLASSES, 32, 64)) for y in (given.flip(-1), given + 0)
        )
        found.append(torch.equal(one, other.flip(-1)))
    assert not all(found)


FILL = {tv_tensors.Image: 0, tv_tensors.Mask: VOID}
MOVES = {
    "crop": v2.RandomCrop((32, 32)),
    "crop and pad": v2.RandomCrop((64, 64), pad_if_needed=True, fill=dict(FILL)),
    "centre crop": v2.CenterCrop((32, 32)),
    "resized crop": v2.RandomResizedCrop((32, 32)),
    "resize": v2.Resize((64, 96)),
    "resize to the same": v2.Resize((32, 64)),
    "pad": v2.Pad(16, dict(FILL)),
    "zoom out": v2.RandomZoomOut(dict(FILL), p=1),
    "affine": v2.RandomAffine(20, fill=dict(FILL)),
    "rotation": v2.RandomRotation(20, fill=dict(FILL)),
    "perspective": v2.RandomPerspective(p=1, fill=dict(FILL)),
    "elastic": v2.ElasticTransform(fill=dict(FILL)),
    "flip of a crop": v2.Compose([v2.CenterCrop((32, 32)), v2.RandomVerticalFlip(1), v2.RandomHorizontalFlip(1)]),
    "crop of a flip": v2.Compose([v2.RandomVerticalFlip(1), v2.CenterCrop((32, 32))]),
}


@pytest.mark.parametrize("move", MOVES)
def test_any_other_move_leaves_it_behind_and_the_loss_derives_it_again(move):
    torch.manual_seed(0)
    loss = loss_of(TEXTS[0])
    prepare = Prepare(loss, CLASSES)
    moved = MOVES[move](prepare(sample()))
    assert [found.numel() for found in moved["geometry"].values()] == [0, 0]
    batch = collate([moved], VOID)
    assert "geometry" not in batch
    logits = torch.randn(1, CLASSES, *batch["mask"].shape[1:])
    assert torch.equal(loss(logits, prepare.target(batch)), loss(logits, batch["mask"]))


def test_every_move_of_masks_has_a_kernel():
    """Torchvision passes by what it has no kernel for: a move that is not named would go unnoticed."""
    moves = {f for f, kernels in _utils._KERNEL_REGISTRY.items() if tv_tensors.Mask in kernels}
    moves -= {v2.functional.to_dtype, v2.functional.get_size}
    assert {f for f, kernels in _utils._KERNEL_REGISTRY.items() if Derived in kernels} == moves


def test_colours_and_types_leave_it_as_it_is():
    prepared = Prepare(loss_of(TEXTS[0]), CLASSES)(sample())
    others = [JITTER, v2.GaussianBlur(3), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.2] * 3)]
    after = v2.Compose([*others, v2.ToPureTensor()])(prepared)
    assert list(after["geometry"]) == list(prepared["geometry"])
    for need, found in prepared["geometry"].items():
        assert torch.equal(after["geometry"][need], found)


# batches


def test_a_batch_has_what_all_samples_have():
    prepare = Prepare(loss_of("Boundary + SkeletonRecall"), CLASSES)
    one, other = prepare(sample(0)), v2.RandomHorizontalFlip(1)(prepare(sample(1)))
    assert set(collate([one, one], VOID)["geometry"]) == {Geometry("distances"), Geometry("tubes")}
    found = collate([one, other], VOID)["geometry"]
    assert set(found) == {Geometry("distances")}
    assert type(found[Geometry("distances")]) is torch.Tensor
    assert found[Geometry("distances")].shape == (2, CLASSES, 32, 64)
    assert "geometry" not in collate([one, sample(2)], VOID)
    assert "geometry" not in collate([sample(2), one], VOID)


@pytest.mark.parametrize("sizes", [[(30, 64)], [(32, 64), (32, 32)]])
def test_padding_drops_it(sizes):
    loss = loss_of(TEXTS[0])
    prepare = Prepare(loss, CLASSES)
    batch = collate([prepare(sample(size=size)) for size in sizes], VOID)
    assert "geometry" not in batch
    logits = torch.randn(len(sizes), CLASSES, 32, 64)
    assert torch.equal(loss(logits, prepare.target(batch)), loss(logits, batch["mask"]))


# errors


def test_labels_that_are_no_class():
    given = sample()
    prepare = Prepare(loss_of("Boundary"), classes=2)
    with pytest.raises(ValueError, match=r"labels in `mask` of s0 must be in 0..1 .*ignore_index=255; got \[2\]"):
        prepare(given)
    with pytest.raises(ValueError, match=r"ignore_index=None; got \[255\]"):
        Prepare(BoundaryLoss(), CLASSES)(given)
    with pytest.raises(ValueError, match=r"in 0..1 to match classes=1"):
        Prepare(BoundaryLoss(mode="sigmoid"), 1)({"mask": torch.tensor([[2]])})
    with pytest.raises(ValueError, match=r"`mask` must be labels .* got torch.float32 \(3, 4\)"):
        Prepare(BoundaryLoss(), CLASSES)({"mask": torch.zeros(3, 4)})
    with pytest.raises(ValueError, match=r"spacing: expected .* each of 2 axes"):
        Prepare(loss_of("Boundary"), CLASSES, [1.0, 1.0, 1.0])(given)


def test_terms_agree_on_the_ignored_label():
    loss = parse("Boundary(ignore_index=7) + SkeletonRecall")
    with pytest.raises(ValueError, match=r"the same `ignore_index`; got \[7, None\]. Construct them alike"):
        Prepare(loss, CLASSES)
    assert Prepare(parse("Boundary(ignore_index=7) + Dice"), CLASSES).ignore_index == 7  # Dice needs no geometry
    assert Prepare(loss_of(TEXTS[-1]), CLASSES).ignore_index == VOID


@pytest.mark.parametrize("classes", [0, 2.0, None])
def test_classes_is_a_number(classes):
    with pytest.raises(ValueError, match=r"`classes` must be a whole number"):
        Prepare(BoundaryLoss(), classes)


def test_what_is_no_loss():
    with pytest.raises(ValueError, match=r"`loss` must be a loss.*got Linear"):
        Prepare(torch.nn.Linear(1, 1), CLASSES)


def test_what_was_prepared_for_other_logits():
    loss = BoundaryLoss()
    prepare = Prepare(loss, 2)
    batch = collate([prepare({**sample(), "mask": torch.zeros(32, 64, dtype=torch.long)})], VOID)
    with pytest.raises(ValueError, match=r"`prepared` distances must be \(1, 3, 32, 64\) .* got \(1, 2, 32, 64\)"):
        loss(torch.zeros(1, 3, 32, 64), prepare.target(batch))
