"""nnU-Net raw data sets and the NIfTI files in them."""

from pathlib import Path

import numpy as np
import pytest
from data_files import write_nnunet, write_volume

from delineate.data import DataError, open_source
from delineate.data.nifti import read_image, read_labels


def test_volumes_channels_labels_and_spacing(tmp_path: Path):
    source = open_source(write_nnunet(tmp_path, n=5, channels=2))
    assert (source.dims, source.classes, source.ignore_index) == (3, ("background", "lesion"), None)
    assert (len(source.items("train")), len(source.items("val"))) == (4, 1)
    item = next(item for split in source.splits.values() for item in split if item.id == "c3")
    image, labels = source.read_image(item), source.read_mask(item)
    assert (image.dtype, image.shape, labels.shape) == (np.float32, (2, 4, 5, 6), (4, 5, 6))
    assert image[:, 0, 0, 0].tolist() == [3, 13]
    assert labels.sum() == 9
    assert source.spacing(item) == (1.0, 1.0, 1.5)
    assert source.size(item) == (4, 5, 6)


def test_version_1_description(tmp_path: Path):
    description = {"labels": {"0": "air", "1": "bone"}, "modality": {"0": "CT"}}
    assert open_source(write_nnunet(tmp_path, description=description)).classes == ("air", "bone")


def test_ignore_label_of_version_2(tmp_path: Path):
    description = {"labels": {"background": 0, "lesion": 1, "ignore": 2}}
    source = open_source(write_nnunet(tmp_path, description=description))
    assert (source.classes, source.ignore_index) == (("background", "lesion"), 2)


def test_test_cases_may_lack_labels(tmp_path: Path):
    root = write_nnunet(tmp_path)
    write_volume(root / "imagesTs" / "t0_0000.nii.gz", np.zeros((2, 2, 2), dtype=np.uint8))
    assert open_source(root).items("test")[0].mask is None


def test_float_labels_with_whole_values_are_read_and_others_refused(tmp_path: Path):
    whole = np.array([[[0.0, 2.0]]], dtype=np.float32)
    labels = read_labels(write_volume(tmp_path / "whole.nii.gz", whole))
    assert (labels.dtype, labels.tolist()) == (np.int32, [[[0, 2]]])
    for bad in (0.5, np.nan, np.inf):
        with pytest.raises(DataError, match=r"bad\.nii\.gz: expected whole labels; got float32.*nearest neighbour"):
            read_labels(write_volume(tmp_path / "bad.nii.gz", whole + np.float32(bad)))


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"labels": None}, r'dataset\.json: expected an entry "labels".*Add it'),
        ({"labels": {"background": 0, "lesion": 2}}, r"dataset\.json: expected labels 0, 1, 2.*without gaps.*Renumber"),
        (
            {"labels": {"background": 0, "whole": [1, 2]}},
            r"dataset\.json: expected one whole number per label.*Regions",
        ),
        ({"file_ending": ".png"}, r"dataset\.json: expected file_ending .*'\.png'.*Convert"),
        ({"file_ending": ".nii"}, r"imagesTr: expected volumes named CASE_0000\.nii; got none.*file_ending"),
        ({"channel_names": {"0": "a", "1": "b"}}, r"expected 2 channels a case.*no _0001\.nii\.gz for c0, c1, c2"),
    ],
)
def test_bad_descriptions(tmp_path: Path, description: dict[str, object], message: str):
    with pytest.raises(DataError, match=message):
        open_source(write_nnunet(tmp_path, description=description))


def test_missing_or_broken_description(tmp_path: Path):
    path = write_nnunet(tmp_path) / "dataset.json"
    for damage in (lambda: path.write_text("{"), path.unlink):
        damage()
        with pytest.raises(DataError, match=r"dataset\.json: expected a JSON file.*Write or correct it"):
            open_source(tmp_path)


def test_unpaired_cases(tmp_path: Path):
    root = write_nnunet(tmp_path)
    (root / "labelsTr" / "c1.nii.gz").unlink()
    with pytest.raises(DataError, match=r"labelsTr: expected a file for every case; none for c1\. Add"):
        open_source(root)
    for name in ("imagesTr/c1_0000.nii.gz", "imagesTr/c2_0000.nii.gz"):
        (root / name).unlink()
    with pytest.raises(DataError, match=r"imagesTr: expected a file for every case; none for c2\. Add"):
        open_source(root)


def test_broken_volumes_are_named(tmp_path: Path):
    source = open_source(write_nnunet(tmp_path))
    item = source.items("train")[0]
    assert item.mask is not None
    whole = item.mask.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:20], b"text", b""):
        item.mask.write_bytes(content)
        with pytest.raises(DataError, match=rf"{item.mask.name}: expected a readable NIfTI volume.*restore it"):
            source.read_mask(item)
    item.image.unlink()
    with pytest.raises(DataError, match=rf"{item.image.name}: expected a readable NIfTI volume"):
        source.size(item)


def test_shapes_that_do_not_fit(tmp_path: Path):
    root = write_nnunet(tmp_path, channels=2)
    source = open_source(root)
    item = source.items("train")[0]
    assert item.mask is not None
    write_volume(item.mask, np.zeros((4, 5, 7), dtype=np.uint8))
    with pytest.raises(DataError, match=r"expected the size of its image .*\(4, 5, 6\); got \(4, 5, 7\)"):
        source.read_mask(item)
    write_volume(root / "imagesTr" / f"{item.id}_0001.nii.gz", np.zeros((4, 5, 7), dtype=np.uint8))
    with pytest.raises(DataError, match=r"_0001\.nii\.gz: expected the shape of channel 0.*Resample"):
        read_image(item.image)
    write_volume(item.image, np.zeros((4, 5, 6, 2), dtype=np.uint8))
    with pytest.raises(DataError, match=r"_0000\.nii\.gz: expected a volume of 3 axes; got shape \(4, 5, 6, 2\)"):
        source.read_image(item)


def test_labels_out_of_range_point_to_the_description(tmp_path: Path):
    source = open_source(write_nnunet(tmp_path))
    item = source.items("train")[0]
    assert item.mask is not None
    write_volume(item.mask, np.full((4, 5, 6), -3, dtype=np.int16))
    with pytest.raises(DataError, match=r"expected labels 0\.\.1; got -3\. .*dataset\.json"):
        source.read_mask(item)
