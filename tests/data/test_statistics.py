"""Figures of a data set, by hand on small masks and against the figures published with the real sets."""

import json
from pathlib import Path

import numpy as np
import pytest
from data_files import DATA, needs_data, write_folder, write_mask, write_nnunet, write_picture, write_volume
from PIL import Image

from delineate.data import DataError, open_source, sample, shares, statistics
from delineate.data.instances import Connectivity, components
from delineate.data.shape import boundary_voxels, skeleton_voxels

FIRST = [
    [1, 0, 0, 255],
    [0, 1, 0, 255],
    [0, 0, 0, 2],
]
SECOND = [
    [0, 0, 1, 1, 1],
    [0, 0, 1, 1, 1],
]


@pytest.fixture
def source(tmp_path: Path):
    for index, labels in enumerate([FIRST, SECOND]):
        write_mask(tmp_path / "train" / "masks" / f"{index}.png", labels)
        write_picture(tmp_path / "train" / "images" / f"{index}.png", (len(labels), len(labels[0])))
    write_folder(tmp_path / "val", n=1)
    return open_source(tmp_path)


def test_counts_by_hand(source):
    found = statistics(source, "train")
    assert (found.images, found.images_in_split, found.connectivity) == (2, 2, 8)
    assert found.image_sizes == {"min": (2, 4), "median": (2.5, 4.5), "max": (3, 5)}
    assert found.void_share == pytest.approx(100 * 2 / 22)
    background, first, second = found.classes
    assert [c.share for c in found.classes] == pytest.approx([100 * 11 / 20, 100 * 8 / 20, 100 * 1 / 20])
    assert found.imbalance == pytest.approx(11)
    assert (first.instances, first.absent, first.instance_sizes and first.instance_sizes["50%"]) == (2, 0, 4)
    assert (second.absent, second.absent_ids, second.instances) == (1, ("1",), 1)
    assert second.instances_per_image == {"min": 0, "50%": 0.5, "max": 1}
    assert background.instances == 2  # corners join
    assert [c.images for c in found.classes] == [2, 2, 1]
    assert (found.background, found.instances_from, found.empty_images) == (None, "components", 0)
    assert first.size_ratio is None  # one piece in each image


def test_faces_part_what_corners_join(source):
    found = statistics(source, "train", connectivity="face")
    assert found.connectivity == 4
    assert found.classes[1].instances == 3
    with pytest.raises(ValueError, match=r"`connectivity` must be 'full' or 'face'; got 'edge'"):
        statistics(source, "train", connectivity="edge")  # pyright: ignore[reportArgumentType]


def test_components_equal_scipy_class_by_class():
    ndimage = pytest.importorskip("scipy.ndimage")
    labels = np.random.default_rng(0).integers(0, 3, (9, 8, 7)).astype(np.uint8)
    labels[0, 0, 0] = 255
    cases: list[tuple[Connectivity, np.ndarray | None]] = [(26, np.ones((3, 3, 3))), (6, None)]
    for connectivity, structure in cases:
        found = components(labels, 3, connectivity)
        for label in range(3):
            pieces, count = ndimage.label(labels == label, structure)
            assert sorted(found.sizes_of(label)) == sorted(np.bincount(pieces.ravel())[1:])
            assert len(found.sizes_of(label)) == count


def disc(radius: int) -> np.ndarray:
    y, x = np.mgrid[-radius - 2 : radius + 3, -radius - 2 : radius + 3]
    return (x**2 + y**2 <= radius**2).astype(np.uint8)


def folder_of(root: Path, *masks: np.ndarray, classes: str = "background\nthing\n"):
    """Train of plain folders with these masks, and a val split that is not looked at."""
    for index, labels in enumerate(masks):
        write_mask(root / "train" / "masks" / f"{index}.png", labels)
        write_picture(root / "train" / "images" / f"{index}.png", (labels.shape[0], labels.shape[1]), seed=index)
    write_folder(root / "val", n=1)
    (root / "classes.txt").write_text(classes)
    return open_source(root)


def test_thinness_of_a_line_and_of_a_disc(tmp_path: Path):
    line = np.zeros((21, 30), np.uint8)
    line[4, 3:25] = line[10:20, 8] = 1
    assert skeleton_voxels(line > 0) == np.count_nonzero(line)
    found = statistics(folder_of(tmp_path / "line", line), "train").classes
    assert (found[1].thinness, found[0].thinness) == (1, None)
    round_ = statistics(folder_of(tmp_path / "disc", disc(10)), "train").classes[1]
    assert round_.thinness is not None
    assert 0 < round_.thinness < 0.05


def test_thinness_is_of_all_images_together(tmp_path: Path):
    line = np.zeros((25, 30), np.uint8)
    line[4, 3:25] = 1
    found = statistics(folder_of(tmp_path, line, disc(10)), "train").classes[1]
    skeleton = skeleton_voxels(disc(10) > 0)
    assert found.thinness == pytest.approx((22 + skeleton) / (22 + disc(10).sum()))


def test_boundary_by_hand(tmp_path: Path):
    labels = np.array([[0, 0, 0, 255], [0, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1]], np.uint8)
    assert boundary_voxels(labels, 2).tolist() == [5, 4]  # void and the edge of the image are no class
    found = statistics(folder_of(tmp_path, labels), "train").classes
    assert [c.boundary for c in found] == pytest.approx([100 * 5 / 6, 100 * 4 / 9])
    volume = np.zeros((5, 5, 5), np.uint8)
    volume[1:4, 1:4, 1:4] = 1
    assert boundary_voxels(volume, 2).tolist() == [54, 26]


def brute_touching(labels: np.ndarray, label: int, ids: np.ndarray, reach: int, full: bool) -> int:
    """How many instances have a voxel from which another is reached in this many steps, voxel by voxel."""
    mine = {value: np.argwhere((ids == value) & (labels == label)) for value in np.unique(ids[labels == label])}
    touching = 0
    for value, voxels in mine.items():
        others = np.concatenate([found for other, found in mine.items() if other != value] or [np.full((1, 2), 99)])
        apart = np.abs(voxels[:, None] - others)
        touching += bool(((apart.max(-1) if full else apart.sum(-1)) <= reach).any())
    return touching


@pytest.mark.parametrize("connectivity", [8, 4])
@pytest.mark.parametrize("seed", range(4))
def test_touching_components_equal_pairs_voxel_by_voxel(connectivity, seed):
    labels = (np.random.default_rng(seed).random((24, 30)) < 0.06).astype(np.uint8)
    found = components(labels, 2, connectivity)
    assert 1 < found.touching(1) < len(found.sizes_of(1))
    assert found.touching(1) == brute_touching(labels, 1, found.ids, 2, connectivity == 8)


def test_touching_takes_one_voxel_between_and_the_same_class(tmp_path: Path):
    labels = np.zeros((5, 14), np.uint8)
    labels[2, [1, 3, 6, 9]] = 1  # one between, then two
    labels[2, 11] = 2
    found = statistics(folder_of(tmp_path, labels, classes="background\na\nb\n"), "train").classes
    assert [c.touching for c in found] == [None, 50, 0]


def test_size_ratio_is_within_an_image(tmp_path: Path):
    first, second, third = (np.zeros((6, 12), np.uint8) for _ in range(3))
    first[0, :8] = first[3, 0] = 1  # 8 : 1
    second[0, :4] = second[3, :2] = second[5, :3] = 1  # 4 : 2
    third[:, :5] = 1  # one instance
    found = statistics(folder_of(tmp_path, first, second, third), "train").classes[1]
    assert found.size_ratio == {"50%": 5, "95%": pytest.approx(7.7), "max": 8}
    assert found.instances == 6


def test_images_without_an_object(tmp_path: Path):
    blank, void, thing = np.zeros((6, 8), np.uint8), np.full((6, 8), 255, np.uint8), np.eye(6, 8, dtype=np.uint8)
    found = statistics(folder_of(tmp_path / "a", blank, thing, void), "train")
    assert (found.background, found.empty_images, found.empty_ids) == (0, 2, ("0", "2"))
    streets = statistics(folder_of(tmp_path / "b", blank, thing, void, classes="sky\nroad\n"), "train")
    assert (streets.background, streets.empty_images, streets.empty_ids) == (None, 1, ("2",))
    assert streets.classes[0].thinness is not None


def write_ids(path: Path, ids: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids.astype(np.uint16)).save(path)


def test_maps_of_instances_replace_components_of_the_classes_they_cover(tmp_path: Path):
    labels = np.zeros((8, 12), np.uint8)
    labels[1:5, 1:9] = 1
    labels[7, [0, 2]] = 2
    ids = np.zeros_like(labels)
    ids[1:5, 1:3], ids[1:5, 3:9] = 250, 7
    write_ids(tmp_path / "train" / "instances" / "0.png", ids)
    source = folder_of(tmp_path, labels, classes="background\ncell\nspeck\n")
    found = statistics(source, "train")
    _, cell, speck = found.classes
    assert found.instances_from == "maps"
    assert (cell.instances, cell.components, cell.touching) == (2, 1, 100)
    assert cell.instance_sizes is not None
    assert (cell.instance_sizes["min"], cell.instance_sizes["max"]) == (8, 24)
    assert cell.size_ratio is not None
    assert cell.size_ratio["max"] == 3
    assert (speck.instances, speck.components, speck.touching) == (2, None, 100)


def test_maps_of_some_images_are_not_taken(tmp_path: Path):
    labels = np.eye(6, 8, dtype=np.uint8)
    write_ids(tmp_path / "train" / "instances" / "0.png", labels)
    found = statistics(folder_of(tmp_path, labels, labels), "train")
    assert (found.instances_from, found.classes[1].components) == ("components", None)


def test_shares_are_those_of_the_statistics(source):
    found, masks = shares(source, "train")
    assert masks == 2
    assert list(found.values()) == pytest.approx([c.share for c in statistics(source, "train").classes])
    assert shares(source, "train", limit=1)[1] == 1


def test_a_class_that_never_occurs(tmp_path: Path):
    root = write_folder(tmp_path, n=8)
    (root / "classes.txt").write_text("a\nb\nghost\n")
    found = statistics(open_source(root), "train")
    ghost = found.classes[2]
    assert (ghost.share, ghost.absent, len(ghost.absent_ids), ghost.instances, ghost.instance_sizes) == (
        0,
        6,
        5,
        0,
        None,
    )
    assert (ghost.thinness, ghost.boundary, ghost.touching, ghost.size_ratio) == (None, None, None, None)
    assert found.imbalance == 1


def test_void_alone(tmp_path: Path):
    root = write_folder(tmp_path, n=4, values=(0, 1, 255))
    for path in (root / "masks").iterdir():
        write_mask(path, np.full((8, 10), 255))
    (root / "classes.txt").write_text("a\nb\nc\n")
    found = statistics(open_source(root), "train")
    assert (found.void_share, found.imbalance, found.classes[0].share) == (100, 1, 0)


def test_limit_and_progress(tmp_path: Path):
    source = open_source(write_folder(tmp_path, n=10))
    calls: list[tuple[int, int]] = []
    found = statistics(source, "train", limit=3, progress=lambda done, total: calls.append((done, total)))
    assert (found.images, found.images_in_split) == (3, 8)
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert statistics(source, "train", limit=100).images == 8
    assert {split: len(items) for split, items in sample(source, 3).splits.items()} == {"train": 3, "val": 2}


def test_volumes_and_json(tmp_path: Path):
    found = statistics(open_source(write_nnunet(tmp_path)), "train")
    lesion = found.classes[1]
    assert (found.connectivity, found.spacing, found.image_sizes["max"]) == (26, (1.0, 1.0, 1.5), (4, 5, 6))
    assert (lesion.instances, lesion.instance_sizes and lesion.instance_sizes["max"]) == (4, 8)
    assert found.background == 0
    assert json.loads(json.dumps(found.to_dict()))["classes"][1]["name"] == "lesion"


def test_a_bad_mask_and_a_missing_split_are_named(source):
    write_mask(source.items("train")[1].mask, np.full((2, 5), 9))
    with pytest.raises(DataError, match=r"1\.png: expected labels 0\.\.2 or 255"):
        statistics(source, "train")
    with pytest.raises(DataError, match="split 'test'; got none"):
        statistics(source, "test")


def test_range_of_spacing(tmp_path: Path):
    root = write_nnunet(tmp_path, n=5)
    for case in range(5):
        write_volume(root / "imagesTr" / f"c{case}_0000.nii.gz", np.zeros((4, 5, 6), np.float32), (1, 1, case + 1.0))
    found = statistics(open_source(root), "train")
    assert found.spacing == found.spacing_range["median"]
    assert found.spacing_range["max"][2] - found.spacing_range["min"][2] >= 3


SHARES = [17.44, 24.19, 1.02, 33.10, 4.67, 10.11, 1.22, 1.17, 6.11, 0.67, 0.30]


@needs_data
def test_camvid():
    source = open_source(DATA / "camvid")
    found, masks = shares(source, "train")
    assert [round(share, 2) for share in found.values()] == SHARES
    assert (masks, round(max(found.values()) / min(found.values()))) == (367, 109)
    some = statistics(source, "train", limit=20)
    thinness = {c.name: c.thinness or 0 for c in some.classes}
    assert max(thinness, key=lambda name: thinness[name]) == "pole"
    assert (some.background, some.instances_from, some.images_in_split) == (None, "components", 367)


@needs_data
@pytest.mark.slow
def test_all_of_camvid():
    found = statistics(open_source(DATA / "camvid"), "train")
    assert [round(c.share, 2) for c in found.classes] == SHARES
    assert [c.absent for c in found.classes] == [1, 2, 1, 0, 18, 48, 16, 194, 7, 50, 166]
    assert (round(found.void_share, 2), round(found.imbalance)) == (3.96, 109)
    assert found.classes[2].instances_per_image["50%"] == 18
    assert found.image_sizes["min"] == found.image_sizes["max"] == (180, 240)


@needs_data
def test_nuclei():
    source = open_source(DATA / "nuclei")
    train, val = statistics(source, "train"), statistics(source, "val")
    cells = (train.classes[1], val.classes[1])
    assert [c.instances for c in cells] == [4472, 1190]
    assert sum(c.components or 0 for c in cells) == 4652
    assert [c.instances_per_image for c in cells] == [
        {"min": 3, "50%": 26, "max": 117},
        {"min": 1, "50%": 23.5, "max": 90},
    ]
    sizes, ratio = cells[0].instance_sizes or {}, cells[0].size_ratio or {}
    assert [round(sizes[key]) for key in ("min", "5%", "50%", "95%", "max")] == [21, 38, 196, 1980, 6040]
    assert [round(ratio[key]) for key in ("50%", "95%", "max")] == [14, 95, 188]
    assert (round(train.classes[1].share, 1), round(val.classes[1].share, 1)) == (16.6, 14.5)
    assert (train.image_sizes["min"], train.image_sizes["max"]) == ((256, 256), (360, 360))


@needs_data
@pytest.mark.parametrize(("connectivity", "lesions"), [(26, 1946), (6, 3047)])
def test_multiple_sclerosis_lesions(connectivity, lesions: int):
    source = open_source(DATA / "Dataset103_MSLesionSemiSynth")
    masks = [source.read_mask(item) for split in ("train", "val") for item in source.items(split)]
    assert sum(len(components(labels, 2, connectivity).sizes_of(1)) for labels in masks) == lesions


@needs_data
def test_hippocampus_is_one_piece_per_class():
    found = statistics(open_source(DATA / "Dataset004_Hippocampus"), "train", limit=20)
    for c in found.classes[1:]:
        assert (c.instances, c.size_ratio, c.touching) == (20, None, 0)
        assert c.boundary is not None
        assert 35 < c.boundary < 50
