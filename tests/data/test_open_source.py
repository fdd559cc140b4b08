"""The layout is found by looking, and everything wrong with a folder is said in one line."""

import subprocess
import sys
from pathlib import Path

import pytest
from data_files import DATA, needs_data, write_folder, write_nnunet, write_voc

from delineate.data import DataError, open_source


@pytest.mark.parametrize(("write", "layout"), [(write_voc, "voc"), (write_folder, "folder"), (write_nnunet, "nnunet")])
def test_layout_is_found(tmp_path: Path, write, layout):
    source = open_source(str(write(tmp_path / "set")))
    assert source.layout == layout
    assert {"train", "val"} <= source.splits.keys()
    assert source.palette.shape == (len(source.classes), 3)


def test_one_line_errors_for_folders_that_are_none(tmp_path: Path):
    with pytest.raises(DataError, match=r"gone: expected a folder.*nothing there. Check the path"):
        open_source(tmp_path / "gone")
    (tmp_path / "set.zip").write_bytes(b"")
    with pytest.raises(DataError, match=r"set\.zip: expected a folder.*a file. Unpack it"):
        open_source(tmp_path / "set.zip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: expected JPEGImages/.*the folder is empty.*check the path") as caught:
        open_source(tmp_path / "empty")
    assert "\n" not in str(caught.value)


def test_unknown_layout_lists_what_was_looked_for_and_what_is_there(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "pics").mkdir()
    with pytest.raises(DataError, match=r"images/ and masks/.*imagesTr/.*holds notes\.txt, pics/\. Arrange"):
        open_source(tmp_path)


def test_a_known_layout_one_folder_below_is_suggested(tmp_path: Path):
    write_voc(tmp_path / "VOC2012")
    with pytest.raises(DataError, match=r"Did you mean .*VOC2012\?"):
        open_source(tmp_path)


def test_train_list_replaces_train_and_keeps_val(tmp_path: Path):
    root = write_voc(tmp_path / "set")
    listed = tmp_path / "few.txt"
    listed.write_text("JPEGImages/v1.jpg SegmentationClass/v1.png\n")
    source = open_source(root, train_list=listed)
    assert [item.id for item in source.items("train")] == ["v1"]
    assert [item.id for item in source.items("val")] == ["v3", "v4"]
    assert "train split replaced by the 1 images" in source.notes[-1]


def test_lists_of_volumes_replace_both_splits(tmp_path: Path):
    root = write_nnunet(tmp_path / "set", n=5)
    for split, cases in (("train", "c1 c4"), ("val", "c0 c2")):
        lines = [f"imagesTr/{case}_0000.nii.gz labelsTr/{case}.nii.gz" for case in cases.split()]
        (tmp_path / f"{split}.txt").write_text("\n".join(lines))
    source = open_source(root, tmp_path / "train.txt", tmp_path / "val.txt")
    assert [[item.id for item in source.items(split)] for split in ("train", "val")] == [["c1", "c4"], ["c0", "c2"]]
    assert len(source.notes) == 2  # that both were replaced, and no more that images were set aside
    (tmp_path / "labels.txt").write_text("imagesTr/c0_0000.nii.gz labelsTr/c0.nii.gz\n")
    alone = open_source(root, val_list=tmp_path / "labels.txt")
    assert [item.id for item in alone.items("val")] == ["c0"]
    assert any(note.startswith("no validation split given") for note in alone.notes)


def test_train_list_keeps_the_ids_of_volumes(tmp_path: Path):
    root = write_nnunet(tmp_path / "set")
    (tmp_path / "few.txt").write_text("imagesTr/c1_0000.nii.gz labelsTr/c1.nii.gz\n")
    assert open_source(root, tmp_path / "few.txt").items("train")[0].id == "c1"


def test_training_on_validation_images_is_noted(tmp_path: Path):
    root = write_voc(tmp_path / "set")
    (tmp_path / "leak.txt").write_text("JPEGImages/v3.jpg SegmentationClass/v3.png\n")
    assert "train and val share images, so val scores flatter: v3" in open_source(root, tmp_path / "leak.txt").notes


def test_unknown_split_names_those_there_are(tmp_path: Path):
    with pytest.raises(DataError, match=r"split 'test'; got none. Its splits are: train \(3\), val \(2\)"):
        open_source(write_voc(tmp_path / "set")).items("test")


def test_import_pulls_in_no_training_engine():
    code = "import sys, delineate.data; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"lightning", "segmentation_models_pytorch"} & set(done.stdout.split())


@needs_data
def test_real_sets():
    camvid = open_source(DATA / "camvid")
    assert (camvid.layout, camvid.ignore_index, len(camvid.classes)) == ("voc", 255, 11)
    assert (len(camvid.items("train")), len(camvid.items("val"))) == (367, 101)
    assert camvid.palette[:2].tolist() == [[128, 128, 128], [128, 0, 0]]
    few = open_source(DATA / "camvid", DATA / "camvid" / "splits" / "1_16" / "labeled.txt")
    assert len(few.items("train")) == 23
    nuclei = open_source(DATA / "nuclei")
    assert (nuclei.layout, nuclei.ignore_index, nuclei.relabel) == ("folder", None, {})
    assert (len(nuclei.items("train")), len(nuclei.items("val"))) == (140, 40)


@needs_data
def test_real_volumes_with_their_traps():
    source = open_source(DATA / "Dataset004_Hippocampus")
    assert source.classes == ("background", "Anterior", "Posterior")
    items = {item.id: item for split in source.splits.values() for item in split}
    assert len(items) == 80
    labels = source.read_mask(items["hippocampus_003"])  # stored as float32
    assert labels.dtype.kind == "i"
    assert set(labels.ravel().tolist()) == {0, 1, 2}
    image = source.read_image(items["hippocampus_003"])
    assert image.dtype == "float32"
    assert image.shape == (1, *labels.shape)
    assert source.spacing(items["hippocampus_003"]) == (1.0, 1.0, 1.0)
