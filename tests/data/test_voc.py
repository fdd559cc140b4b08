"""PASCAL VOC trees."""

from pathlib import Path

import numpy as np
import pytest
from data_files import striped, write_mask, write_picture, write_voc
from trees import voc_tree

from delineate.data import DataError, open_source


def test_lists_masks_and_void(tmp_path: Path):
    source = open_source(write_voc(tmp_path))
    assert [item.id for item in source.items("train")] == ["v0", "v1", "v2"]
    assert (source.ignore_index, source.pad_label) == (255, 255)
    item = source.items("val")[0]
    assert source.read_image(item).shape == (8, 10, 3)
    assert source.read_mask(item).tolist() == striped(0, 1, 255).tolist()
    assert source.spacing(item) == (1.0, 1.0)


def test_names_without_classes_txt(tmp_path: Path):
    standard = open_source(write_voc(tmp_path / "a"))
    assert standard.classes[15] == "person"
    assert any("21 of PASCAL VOC" in note for note in standard.notes)
    many = open_source(write_voc(tmp_path / "b", values=(0, 24, 255)))
    assert many.classes == tuple(f"class_{label}" for label in range(25))
    assert many.palette.shape == (25, 3)


def test_a_palette_of_its_own_is_kept_and_contradicts_the_voc_names(tmp_path: Path):
    root = write_voc(tmp_path)
    colours = np.zeros((256, 3))
    colours[:3] = [(0, 0, 200), (200, 0, 0), (90, 90, 0)]
    for index in range(5):
        write_mask(root / "SegmentationClass" / f"v{index}.png", striped(0, 1, 2), colours)
    source = open_source(root)
    assert source.classes == ("class_0", "class_1", "class_2")
    assert np.array_equal(source.palette, colours[:3])


def test_classes_txt_names_the_classes(tmp_path: Path):
    root = write_voc(tmp_path)
    (root / "classes.txt").write_text("\ufeffroad\nsky\n\n", encoding="utf-8")
    assert open_source(root).classes == ("road", "sky")
    for text, found in (("road\n", "road"), ("road\nroad\n", "road, road"), ("", "an empty file")):
        (root / "classes.txt").write_text(text)
        with pytest.raises(
            DataError, match=rf"classes\.txt: expected two or more.*got {found}\. Correct it, or delete"
        ):
            open_source(root)


def test_labels_beyond_classes_txt_are_refused_when_read(tmp_path: Path):
    root = write_voc(tmp_path, values=(0, 5, 255))
    (root / "classes.txt").write_text("road\nsky\n")
    source = open_source(root)
    with pytest.raises(DataError, match=r"v0\.png: expected labels 0\.\.1 or 255 \(ignored\); got 5\. .*classes\.txt"):
        source.read_mask(source.items("train")[0])


def test_a_split_is_made_where_val_is_missing(tmp_path: Path):
    root = write_voc(tmp_path, train=10, val=0)
    source = open_source(root)
    assert (len(source.items("train")), len(source.items("val"))) == (8, 2)
    assert "2 of 10 images" in source.notes[0]
    for path in (root / "ImageSets" / "Segmentation").iterdir():
        path.unlink()
    assert open_source(root).items("val") == source.items("val")


def test_train_is_what_val_leaves_where_its_list_is_missing(tmp_path: Path):
    root = write_voc(tmp_path)
    (root / "ImageSets" / "Segmentation" / "train.txt").unlink()
    source = open_source(root)
    assert [item.id for item in source.items("train")] == ["v0", "v1", "v2"]
    assert [item.id for item in source.items("val")] == ["v3", "v4"]
    assert "no train list: the 3 labelled images outside val are train" in source.notes


def test_images_of_the_test_list_may_lack_masks(tmp_path: Path):
    root = write_voc(tmp_path)
    write_picture(root / "JPEGImages" / "t0.jpg")
    (root / "ImageSets" / "Segmentation" / "test.txt").write_text("t0\n")
    assert open_source(root).items("test")[0].mask is None


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("JPEGImages/v1.jpg", r"train\.txt, line 2: expected an image JPEGImages/v1\.jpg.*Restore the image or remove"),
        ("SegmentationClass/v4.png", r"val\.txt, line 2: expected a mask SegmentationClass/v4\.png.*remove the line"),
    ],
)
def test_a_missing_file_names_the_list_and_its_line(tmp_path: Path, broken: str, message: str):
    (write_voc(tmp_path) / broken).unlink()
    with pytest.raises(DataError, match=message):
        open_source(tmp_path)


def test_an_id_listed_twice_is_refused(tmp_path: Path):
    path = write_voc(tmp_path) / "ImageSets" / "Segmentation" / "train.txt"
    path.write_text("v0\nv1\nv0\n")
    with pytest.raises(DataError, match=r"train\.txt, line 3: expected each id once; 'v0'.*Remove one"):
        open_source(tmp_path)


def test_missing_folders_and_pairs(tmp_path: Path):
    (tmp_path / "JPEGImages").mkdir()
    with pytest.raises(DataError, match=r"SegmentationClass: expected this folder.*missing. Add it"):
        open_source(tmp_path)
    (tmp_path / "SegmentationClass").mkdir()
    with pytest.raises(DataError, match=r"got 0 masks and 0 images without a pair. Add the missing"):
        open_source(tmp_path)


def test_masks_of_sbd_make_train_larger(tmp_path: Path):
    root = voc_tree(tmp_path, train=6, val=2, fine=2)
    source = open_source(root)
    assert {name: len(items) for name, items in source.splits.items()} == {"train": 6, "val": 2, "fine": 2}
    assert {item.mask.parent.name for item in source.items("train")} == {"SegmentationClassAug"}
    assert {item.mask.parent.name for item in source.items("val")} == {"SegmentationClass"}
    assert source.items("fine") == source.items("train")[:2]


def test_a_mask_that_sbd_lacks_is_the_original_one(tmp_path: Path):
    root = voc_tree(tmp_path, train=6, val=2, fine=2)
    (root / "SegmentationClassAug" / "2008_000001.png").unlink()
    masks = [item.mask.parent.name for item in open_source(root).items("train")]
    assert masks == ["SegmentationClassAug", "SegmentationClass", *["SegmentationClassAug"] * 4]


def test_without_its_list_train_is_what_sbd_holds_outside_val(tmp_path: Path):
    root = voc_tree(tmp_path, train=6, val=2, fine=2)
    (root / "ImageSets" / "Segmentation" / "train_aug.txt").unlink()
    held = open_source(root)
    write_mask(root / "SegmentationClassAug" / f"{held.items('val')[0].id}.png", np.zeros((32, 40)))
    source = open_source(root)
    assert source.splits == held.splits
    assert len(source.items("train")) == 6
    assert any(note.startswith("no train_aug list: the 6 images of SegmentationClassAug") for note in source.notes)


def test_sbd_masks_alone_are_a_tree(tmp_path: Path):
    root = voc_tree(tmp_path, train=10, val=0, fine=0)
    (root / "SegmentationClass").rmdir()
    (root / "ImageSets" / "Segmentation" / "train.txt").unlink()
    source = open_source(root)
    assert {name: len(items) for name, items in source.splits.items()} == {"train": 8, "val": 2}
