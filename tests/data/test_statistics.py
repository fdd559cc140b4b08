"""Figures of a data set, by hand on small masks and against the figures published with the real sets."""

import json
from pathlib import Path

import numpy as np
import pytest
from data_files import DATA, needs_data, write_folder, write_mask, write_nnunet, write_picture

from delineate.data import DataError, open_source, statistics
from delineate.data.statistics import Connectivity, instance_sizes

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
        write_picture(tmp_path / "train" / "images" / f"{index}.png", np.shape(labels))
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
        for label, sizes in enumerate(instance_sizes(labels, 3, connectivity)):
            components, count = ndimage.label(labels == label, structure)
            assert sorted(sizes) == sorted(np.bincount(components.ravel())[1:])
            assert len(sizes) == count


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


def test_volumes_and_json(tmp_path: Path):
    found = statistics(open_source(write_nnunet(tmp_path)), "train")
    lesion = found.classes[1]
    assert (found.connectivity, found.spacing, found.image_sizes["max"]) == (26, (1.0, 1.0, 1.5), (4, 5, 6))
    assert (lesion.instances, lesion.instance_sizes and lesion.instance_sizes["max"]) == (4, 8)
    assert json.loads(json.dumps(found.to_dict()))["classes"][1]["name"] == "lesion"


def test_a_bad_mask_and_a_missing_split_are_named(source):
    write_mask(source.items("train")[1].mask, np.full((2, 5), 9))
    with pytest.raises(DataError, match=r"1\.png: expected labels 0\.\.2 or 255"):
        statistics(source, "train")
    with pytest.raises(DataError, match="split 'test'; got none"):
        statistics(source, "test")


@needs_data
def test_camvid():
    found = statistics(open_source(DATA / "camvid"), "train")
    shares = [17.44, 24.19, 1.02, 33.10, 4.67, 10.11, 1.22, 1.17, 6.11, 0.67, 0.30]
    assert [round(c.share, 2) for c in found.classes] == shares
    assert [c.absent for c in found.classes] == [1, 2, 1, 0, 18, 48, 16, 194, 7, 50, 166]
    assert (round(found.void_share, 2), round(found.imbalance)) == (3.96, 109)
    assert found.classes[2].instances_per_image["50%"] == 18
    assert found.image_sizes["min"] == found.image_sizes["max"] == (180, 240)


@needs_data
def test_nuclei():
    source = open_source(DATA / "nuclei")
    train, val = statistics(source, "train"), statistics(source, "val")
    assert train.classes[1].instances + val.classes[1].instances == 4652
    assert (round(train.classes[1].share, 1), round(val.classes[1].share, 1)) == (16.6, 14.5)
    assert (train.image_sizes["min"], train.image_sizes["max"]) == ((256, 256), (360, 360))


@needs_data
@pytest.mark.parametrize(("connectivity", "lesions"), [("full", 1946), ("face", 3047)])
def test_multiple_sclerosis_lesions(connectivity, lesions: int):
    source = open_source(DATA / "Dataset103_MSLesionSemiSynth")
    found = [statistics(source, split, connectivity=connectivity).classes[1] for split in ("train", "val")]
    assert sum(c.instances for c in found) == lesions


@needs_data
def test_hippocampus_is_one_piece_per_class():
    source = open_source(DATA / "Dataset004_Hippocampus")
    for split, cases in (("train", 64), ("val", 16)):
        assert [c.instances for c in statistics(source, split).classes[1:]] == [cases, cases]
