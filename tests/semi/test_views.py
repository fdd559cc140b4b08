"""Views: one geometry for weak, strong and valid, colours of their own, and draws from torch's random state alone."""

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from delineate.data.transforms import MEAN, OPERATIONS, STD, denormalise, strong_colours
from delineate.semi.views import LabelledView, UnlabelledViews, drawn
from delineate.semi.volume_views import UnlabelledVolumeViews

CROP = (32, 64)
VOLUME = (16, 32, 16)


def places(height=40, width=50):
    """A picture whose red says the row and whose green the column, and blue that it is no padding."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return tv_tensors.Image(torch.stack([5 * y, 5 * x, torch.full_like(x, 250)]).to(torch.uint8))


def noise(height=40, width=50):
    return tv_tensors.Image(torch.randint(0, 256, (3, height, width), dtype=torch.uint8))


def seeded(views, sample, seed):
    torch.manual_seed(seed)
    return views(sample)


def unchanged(monkeypatch):
    """Photometry off: strong views then show the geometry."""
    monkeypatch.setattr("delineate.semi.views.strong_colours", lambda operations: lambda image: image)


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in ("weak", "strong", "valid", "boxes", "draw"))


@pytest.mark.parametrize("scale", [(0.5, 2.0), (1.0, 1.0), (0.2, 0.3)])
def test_shapes_and_kinds(scale):
    found = UnlabelledViews(CROP, scale, 2)({"image": noise(), "id": "a"})
    shapes = {name: tuple(found[name].shape) for name in ("weak", "strong", "valid", "boxes", "draw")}
    assert shapes == {"weak": (3, *CROP), "strong": (2, 3, *CROP), "valid": CROP, "boxes": (2, 2, 2), "draw": ()}
    kinds = [found[name].dtype for name in shapes]
    assert kinds == [torch.float32, torch.float32, torch.bool, torch.int64, torch.int64]
    assert all(type(found[name]) is torch.Tensor for name in shapes)
    assert found["id"] == "a"
    assert ((found["boxes"][:, 0] >= 0) & (found["boxes"][:, 1] <= torch.tensor(CROP))).all()


@pytest.mark.parametrize("seed", range(6))
def test_one_geometry(monkeypatch, seed):
    unchanged(monkeypatch)
    found = seeded(UnlabelledViews(CROP, (0.5, 2.0), 3), {"image": places(), "id": "a"}, seed)
    for view in found["strong"]:
        assert torch.equal(view, found["weak"])
    row, column, inside = (255 * denormalise(found["weak"])).unbind()
    assert torch.equal(found["valid"], inside > 200)  # padding has the mean colour: blue 104
    valid = found["valid"]
    across, down = (steps[valid[:, 1:] & valid[:, :-1]] for steps in (column.diff(dim=1), row.diff(dim=1)))
    assert (across > -0.5).all() or (across < 0.5).all()  # flipped along rows or not
    assert down.abs().max() < 1.5
    assert (row.diff(dim=0)[valid[1:] & valid[:-1]] > -0.5).all()  # never upside down


def test_scales_crops_and_flips_all_happen():
    views = UnlabelledViews(CROP, (0.5, 2.0), 0)
    steps = []
    for _ in range(40):
        found = views({"image": places(), "id": "a"})
        valid = found["valid"]
        column = (255 * denormalise(found["weak"]))[1]
        steps.append(column.diff(dim=1)[valid[:, 1:] & valid[:, :-1]].median().item())
    steps = np.array(steps)
    assert (steps > 0).mean() == pytest.approx(0.5, abs=0.3)
    sizes = np.abs(steps)  # 5 grey values a pixel at scale 1
    assert sizes.min() < 3.5
    assert sizes.max() > 7
    assert ((sizes > 2) & (sizes < 11)).all()


def test_padding_is_the_mean_colour_and_not_valid():
    found = UnlabelledViews(CROP, (1.0, 1.0), 1)({"image": noise(20, 40), "id": "a"})
    assert found["valid"].sum() == 20 * 40
    outside = found["weak"][:, ~found["valid"]]
    assert outside.abs().max() < 0.5 / 255 / min(STD) + 1e-6  # 0, but for the rounding of the colour
    rows, columns = found["valid"].any(1).sum(), found["valid"].any(0).sum()
    assert (rows, columns) == (20, 40)


def test_all_is_valid_where_nothing_is_padded():
    found = UnlabelledViews(CROP, (1.0, 1.0), 1)({"image": noise(64, 80), "id": "a"})
    assert found["valid"].all()


def test_drawn_from_the_random_state_of_torch_alone():
    views, sample = UnlabelledViews(CROP, (0.5, 2.0), 2, 3), {"image": noise(), "id": "a"}
    for seed in range(8):
        first = seeded(views, sample, seed)
        np.random.seed(seed + 1)  # noqa: NPY002
        np.random.rand(seed)  # noqa: NPY002
        assert same(first, seeded(UnlabelledViews(CROP, (0.5, 2.0), 2, 3), sample, seed))
    assert not same(first, views(sample))


def test_strong_views_differ_from_each_other_and_from_the_weak_one():
    views = UnlabelledViews(CROP, (1.0, 1.0), 3)
    differences = []
    for _ in range(12):
        found = views({"image": noise(), "id": "a"})
        all_ = [found["weak"], *found["strong"]]
        differences += [not torch.equal(a, b) for k, a in enumerate(all_) for b in all_[:k]]
    assert np.mean(differences) > 0.85  # all three changes are left out with probability .2 * .8 * .5
    draws = [drawn(CROP, 1) for _ in range(40)]
    assert len({int(found["draw"]) for found in draws}) == 40
    empty = np.mean([not found["boxes"].any().item() for found in draws])
    assert 0.2 < empty < 0.8


def test_no_strong_views():
    found = UnlabelledViews(CROP, (1.0, 1.0), 0)({"image": noise(), "id": "a"})
    assert found["strong"].shape == (0, 3, *CROP)
    assert found["boxes"].shape == (0, 2, 2)


@pytest.mark.parametrize("place", range(len(OPERATIONS)))
@pytest.mark.parametrize("image", ["noise", "flat", "thin"])
def test_every_operation_keeps_shape_and_kind(place, image):
    picture = {"noise": noise(), "flat": tv_tensors.Image(torch.full((3, 20, 20), 7, dtype=torch.uint8))}
    picture["thin"] = noise(16, 33)
    for _ in range(4):
        changed = OPERATIONS[place](picture[image])
        assert changed.shape == picture[image].shape
        assert changed.dtype == torch.uint8


def test_eleven_operations_are_drawn_up_to_three_at_a_time(monkeypatch):
    assert len(OPERATIONS) == 11
    called = []
    watched = [lambda image, k=k, run=run: called.append(k) or run(image) for k, run in enumerate(OPERATIONS)]
    monkeypatch.setattr("delineate.data.transforms.OPERATIONS", watched)
    change, counts = strong_colours(3), []
    for _ in range(60):
        before = len(called)
        change(noise(16, 16))
        counts.append(len(called) - before)
    assert set(called) == set(range(11))
    assert set(counts) == {1, 2, 3}
    called.clear()
    for _ in range(10):
        strong_colours(0)(noise(16, 16))
    assert called == []


def test_views_with_operations():
    found = UnlabelledViews(CROP, (0.5, 2.0), 2, 3)({"image": noise(), "id": "a"})
    assert found["strong"].isfinite().all()
    assert found["strong"].shape == (2, 3, *CROP)


def test_labelled_view():
    view, image = LabelledView(CROP, 255, (0.5, 2.0)), places()
    mask = tv_tensors.Mask((image[0] // 5 % 7).to(torch.uint8))
    for seed in range(6):
        torch.manual_seed(seed)
        found = view({"image": image, "mask": mask, "id": "a"})
        assert found["image"].dtype == torch.float32
        assert (found["image"].shape, found["mask"].shape) == ((3, *CROP), CROP)
        torch.manual_seed(seed)  # the same geometry, and colours that stay
        weak = UnlabelledViews(CROP, (0.5, 2.0), 0)({"image": image, "id": "a"})
        assert torch.equal(weak["weak"], found["image"].as_subclass(torch.Tensor))
        assert torch.equal(weak["valid"], found["mask"].as_subclass(torch.Tensor) != 255)
    whole = LabelledView((32, 32), 255, (1.0, 1.0))({"image": image, "mask": mask, "id": "a"})
    row = (255 * denormalise(whole["image"]))[0] / 5
    assert torch.equal((row.round() % 7).long(), whole["mask"].as_subclass(torch.Tensor).long())
    assert torch.tensor(MEAN).max() < 1


def volume(size=(20, 40, 18), channels=2, padded=(20, 40, 18)):
    """Two channels: the first counts the voxels, the second is noise; padded behind."""
    image = torch.zeros(channels, *padded)
    place = tuple(slice(side) for side in size)
    image[(0, *place)] = torch.arange(1.0, 1 + np.prod(size)).view(size)
    image[(1, *place)] = torch.randn(size)
    return {"image": image, "size": size, "id": "v"}


def test_shapes_of_volumes():
    found = UnlabelledVolumeViews(VOLUME, 2)(volume())
    shapes = {name: tuple(found[name].shape) for name in ("weak", "strong", "valid", "boxes", "draw")}
    expected = {"weak": (2, *VOLUME), "strong": (2, 2, *VOLUME), "valid": VOLUME, "boxes": (2, 2, 3), "draw": ()}
    assert shapes == expected
    kinds = [found[name].dtype for name in shapes]
    assert kinds == [torch.float32, torch.float32, torch.bool, torch.int64, torch.int64]
    assert all(type(found[name]) is torch.Tensor for name in shapes)
    assert found["valid"].all()


def test_one_geometry_of_volumes(monkeypatch):
    views, flips, corners = UnlabelledVolumeViews(VOLUME, 2), set(), set()
    views.photometry.transforms = ()
    for seed in range(12):
        found = seeded(views, volume(), seed)
        assert all(torch.equal(view, found["weak"]) for view in found["strong"])
        voxels = found["weak"][0].long() - 1
        place = torch.stack([voxels // 720, voxels // 18 % 40, voxels % 18])
        steps = [place[axis].diff(dim=axis) for axis in range(3)]
        assert all(set(step.unique().tolist()) in ({1}, {-1}) for step in steps)  # a crop, flipped or not
        flips.add(tuple(int(step.flatten()[0]) for step in steps))
        corners.add(tuple(place.flatten(1).min(1).values.tolist()))
    assert all({flip[axis] for flip in flips} == {1, -1} for axis in range(3))
    assert len(corners) > 4


def test_padding_of_volumes_is_not_valid():
    sample = volume((10, 40, 12), padded=(16, 40, 16))
    for seed in range(6):
        found = seeded(UnlabelledVolumeViews(VOLUME, 1), sample, seed)
        assert torch.equal(found["valid"], found["weak"][0] > 0)
        assert found["valid"].sum() == 10 * 32 * 12


def test_volumes_are_drawn_from_the_random_state_of_torch_alone():
    sample = volume()
    for seed in range(4):
        first = seeded(UnlabelledVolumeViews(VOLUME, 2), sample, seed)
        np.random.seed(seed + 1)  # noqa: NPY002
        assert same(first, seeded(UnlabelledVolumeViews(VOLUME, 2), sample, seed))
    assert not same(first, UnlabelledVolumeViews(VOLUME, 2)(sample))


def test_strong_views_of_volumes_differ():
    found = UnlabelledVolumeViews(VOLUME, 3)(volume())
    all_ = [found["weak"], *found["strong"]]
    assert all(not torch.equal(a, b) for k, a in enumerate(all_) for b in all_[:k])
    assert found["strong"].isfinite().all()
