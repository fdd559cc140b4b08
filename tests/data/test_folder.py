"""Plain folders of images and masks."""

from pathlib import Path

import pytest
from data_files import striped, write_folder, write_mask, write_picture

from delineate.data import DataError, list_images, open_source


def test_a_split_is_made_from_folders_at_the_root(tmp_path: Path):
    source = open_source(write_folder(tmp_path, n=10))
    assert (len(source.items("train")), len(source.items("val"))) == (8, 2)
    assert "no validation split given: 2 of 10 images" in source.notes[0]
    assert (source.classes, source.ignore_index, source.pad_label) == (("background", "foreground"), None, 255)


def test_splits_of_their_own_folders(tmp_path: Path):
    for name, n in (("train", 3), ("val", 2), ("test", 1)):
        write_folder(tmp_path / name, n)
    (tmp_path / "test" / "masks" / "p0.png").unlink()
    (tmp_path / "test" / "masks").rmdir()
    source = open_source(tmp_path)
    assert {name: len(items) for name, items in source.splits.items()} == {"train": 3, "val": 2, "test": 1}
    assert source.items("test")[0].mask is None


def test_a_single_image_trains_without_validation(tmp_path: Path):
    source = open_source(write_folder(tmp_path, n=1))
    assert len(source.items("train")) == 1
    with pytest.raises(DataError, match="split 'val'; got none"):
        source.items("val")


def test_zero_and_255_alone_are_two_classes(tmp_path: Path):
    source = open_source(write_folder(tmp_path, values=(0, 255)))
    assert (source.classes, source.ignore_index) == (("background", "foreground"), None)
    assert source.read_mask(source.items("train")[0]).tolist() == striped(0, 1).tolist()
    assert any("value 255 read as class 1" in note for note in source.notes)
    (tmp_path / "classes.txt").write_text("tissue\ncell\n")
    assert open_source(tmp_path).classes == ("tissue", "cell")


def test_255_beside_other_values_is_ignored(tmp_path: Path):
    source = open_source(write_folder(tmp_path, values=(0, 1, 3, 255)))
    assert (len(source.classes), source.ignore_index) == (4, 255)
    assert "value 255 of the masks is ignored" in source.notes
    assert "no classes.txt: 4 classes found in the masks, 1 of them unused" in source.notes


def test_255_can_be_a_class_of_many(tmp_path: Path):
    root = write_folder(tmp_path, values=(0, 1, 255))
    (root / "classes.txt").write_text("\n".join(f"c{label}" for label in range(256)))
    source = open_source(root)
    assert (source.ignore_index, source.pad_label) == (None, -1)


def test_masks_of_one_class_have_nothing_to_learn(tmp_path: Path):
    with pytest.raises(DataError, match=r"expected masks with two classes or more; every mask holds only \[0\]"):
        open_source(write_folder(tmp_path, values=(0,)))


def test_unpaired_files_are_named_and_counted(tmp_path: Path):
    root = write_folder(tmp_path, n=6)
    for index in range(4):
        (root / "masks" / f"p{index}.png").unlink()
    with pytest.raises(DataError, match=r"pairs of one stem; no mask for p0, p1, p2 \.\.\. \(4 in all\)\. Add"):
        open_source(root)


def test_a_mask_without_image_is_named(tmp_path: Path):
    write_mask(write_folder(tmp_path) / "masks" / "extra.png", striped(0, 1))
    with pytest.raises(DataError, match=r"no image for extra\. Add the missing images or remove these masks"):
        open_source(tmp_path)


def test_missing_and_empty_folders(tmp_path: Path):
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match=r"masks: expected a folder of masks beside images/; it is missing"):
        open_source(tmp_path)
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError, match=r"images: expected pictures \(\.png, .*got none\. Put the images there"):
        open_source(tmp_path)


def test_images_for_prediction(tmp_path: Path):
    path = write_picture(tmp_path / "b.png")
    write_picture(tmp_path / "a.jpg")
    assert [(item.id, item.mask) for item in list_images(tmp_path)] == [("a", None), ("b", None)]
    assert [item.image for item in list_images(path)] == [path]
    with pytest.raises(DataError, match=r"gone: expected a picture or a folder of pictures"):
        list_images(tmp_path / "gone")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"none: expected pictures .*got none"):
        list_images(tmp_path / "none")
