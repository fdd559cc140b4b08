"""Cityscapes trees."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from data_files import write_mask
from trees import STREET_TRAIN_IDS, cityscapes_tree

from delineate.data import DataError, open_source, read_split_list
from delineate.data.cityscapes import CLASSES, TRAIN_ID
from delineate.data.picture import read_labels

FIRST = "aachen_000000_000019"


def test_ids_splits_and_classes(tmp_path: Path):
    source = open_source(cityscapes_tree(tmp_path, test=2))
    assert (source.layout, source.dims, source.ignore_index, len(source.classes)) == ("cityscapes", 2, 255, 19)
    assert {name: len(items) for name, items in source.splits.items()} == {"train": 6, "val": 2, "test": 2}
    assert source.items("train")[0].id == FIRST
    assert [item.mask for item in source.items("test")] == [None, None]
    assert source.palette.shape == (19, 3)
    assert source.palette[CLASSES.index("car")].tolist() == [0, 0, 142]


def test_label_ids_are_mapped_to_train_ids(tmp_path: Path):
    source = open_source(cityscapes_tree(tmp_path))
    item = source.items("train")[0]
    expected = np.vectorize(STREET_TRAIN_IDS.get)(read_labels(item.mask))
    assert np.array_equal(source.read_mask(item), expected)
    assert set(np.unique(expected)) == {0, 2, 10, 13, 255}
    assert "masks are the labelIds files, mapped to the 19 train ids when read" in source.notes


def test_every_label_id_has_its_train_id():
    trained = {label: c for label, c in TRAIN_ID.items() if c != 255}
    assert sorted(TRAIN_ID) == list(range(34))
    assert sorted(trained.values()) == list(range(19))
    assert list(trained) == sorted(trained)  # train ids are numbered in the order of the label ids
    assert [CLASSES[TRAIN_ID[label]] for label in (7, 17, 20, 24, 31, 33)] == [
        *("road", "pole", "traffic sign", "person", "train", "bicycle")
    ]
    assert {label for label, c in TRAIN_ID.items() if c == 255} == {*range(7), 9, 10, 14, 15, 16, 18, 29, 30}


def test_train_ids_are_read_as_they_are(tmp_path: Path):
    mapped = open_source(cityscapes_tree(tmp_path / "a", labels="labelTrainIds"))
    stored = open_source(cityscapes_tree(tmp_path / "b"))
    for left, right in zip(mapped.items("val"), stored.items("val"), strict=True):
        assert np.array_equal(mapped.read_mask(left), stored.read_mask(right))
    assert "masks are the labelTrainIds files" in mapped.notes


def test_label_ids_are_taken_where_some_train_ids_are_missing(tmp_path: Path):
    root = cityscapes_tree(tmp_path, labels="labelTrainIds")
    cityscapes_tree(tmp_path)
    assert open_source(root).items("train")[0].mask.name.endswith("_labelTrainIds.png")
    mask = root / "gtFine" / "val" / "lindau" / "lindau_000000_000019_gtFine_labelTrainIds.png"
    mask.unlink()
    assert {item.mask.name.split("_")[-1] for items in open_source(root).splits.values() for item in items} == {
        "labelIds.png"
    }


def test_without_val_some_of_train_is_set_aside(tmp_path: Path):
    root = cityscapes_tree(tmp_path, train=10, val=0)
    source = open_source(root)
    assert (len(source.items("train")), len(source.items("val"))) == (8, 2)
    assert source.notes[0].startswith("no validation split given: 2 of 10")


@pytest.mark.parametrize(
    ("value", "labels", "message"),
    [
        (40, "labelIds", r"labelIds\.png: expected labels 0\.\.33 or 255 \(ignored\); got 40\. Correct the mask"),
        (19, "labelTrainIds", r"TrainIds\.png: expected labels 0\.\.18 or 255 \(ignored\); got 19\. Correct the mask"),
    ],
)
def test_values_that_are_no_label(tmp_path: Path, value: int, labels: str, message: str):
    source = open_source(cityscapes_tree(tmp_path, labels=labels))
    item = source.items("train")[0]
    write_mask(item.mask, np.full(source.size(item), value))
    with pytest.raises(DataError, match=message):
        source.read_mask(item)


def test_missing_files_and_folders(tmp_path: Path):
    root = cityscapes_tree(tmp_path / "set")
    mask = root / "gtFine" / "train" / "aachen" / f"{FIRST}_gtFine_labelIds.png"
    kept = mask.rename(tmp_path / "kept.png")
    with pytest.raises(DataError, match=rf"gtFine/train: expected CITY/.* for every image; none for {FIRST}\. Unpack"):
        open_source(root)
    kept.rename(mask)
    image = root / "leftImg8bit" / "val" / "lindau" / "lindau_000000_000019_leftImg8bit.png"
    image.unlink()
    with pytest.raises(DataError, match=r"gtFine/val: expected an image .* none for lindau_000000_000019\. Unpack"):
        open_source(root)
    shutil.rmtree(root / "gtFine")
    with pytest.raises(DataError, match=r"gtFine/train: expected this folder of a Cityscapes tree; it is missing"):
        open_source(root)
    shutil.rmtree(root / "leftImg8bit" / "train")
    (root / "leftImg8bit" / "train").mkdir()
    (root / "gtFine" / "train").mkdir(parents=True)
    with pytest.raises(DataError, match=r"leftImg8bit/train: expected pictures CITY/\*_leftImg8bit\.png; got none"):
        open_source(root)


def test_published_lists_name_train_ids(tmp_path: Path):
    root = cityscapes_tree(tmp_path)
    path = tmp_path / "labeled.txt"
    city = "train/aachen/aachen_000000_000019"
    path.write_text(f"leftImg8bit/{city}_leftImg8bit.png gtFine/{city}_gtFine_labelTrainIds.png\n")
    assert read_split_list(path, root)[0].mask == root / f"gtFine/{city}_gtFine_labelIds.png"
    source = open_source(root, train_list=path)
    assert source.items("train") == open_source(root).items("train")[:1]
