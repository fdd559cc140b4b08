"""Volumes as networks take them: orientation, spacing, intensities, crops, and back to the geometry of the file."""

import gzip
import itertools
import json

import nibabel
import nibabel.orientations as orientations
import numpy as np
import pytest
import torch

from delineate.data import DataError, open_source
from delineate.data.grid import default_grid, from_ras, to_ras
from delineate.data.volumes import RandomCrop, VolumeDataset, Volumes, collate_volumes

LAS = np.array([[-1.0, 0, 0, 9], [0, 1.0, 0, -4], [0, 0, 2.5, 3], [0, 0, 0, 1]])
CODES = ["".join(code) for axes in itertools.permutations(("LR", "AP", "IS")) for code in itertools.product(*axes)]


def ball(size, radius=3.0, label=1):
    away = [(np.arange(side) - side * 0.4) ** 2 for side in size]
    return (label * (sum(np.meshgrid(*away, indexing="ij")) < radius**2)).astype(np.uint8)


def write_case(root, name, channels, labels, affine=LAS, label_affine=None):
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number, voxels in enumerate(channels):
        path = root / "imagesTr" / f"{name}_{number:04d}.nii.gz"
        nibabel.Nifti1Image(voxels, affine).to_filename(path)
    found = nibabel.Nifti1Image(labels, affine if label_affine is None else label_affine)
    found.to_filename(root / "labelsTr" / f"{name}.nii.gz")


def describe(root, channels=1, ignore=False):
    labels = {"background": 0, "lesion": 1} | ({"ignore": 2} if ignore else {})
    names = {str(number): f"mr{number}" for number in range(channels)}
    (root / "dataset.json").write_text(json.dumps({"channel_names": names, "labels": labels}))
    return open_source(root)


def scan(labels, scale=100.0):
    noise = np.random.default_rng(0).uniform(0.5, 1, labels.shape)
    return ((noise + 2 * (labels == 1)) * scale).astype(np.float32)


@pytest.fixture
def source(tmp_path):
    """Three cases of 10 x 14 x 8 voxels of 1 x 1 x 2.5 mm, in LAS."""
    labels = ball((10, 14, 8))
    for number in range(3):
        write_case(tmp_path, f"c{number}", [scan(labels, 10.0**number)], labels)
    return describe(tmp_path)


@pytest.fixture
def item(source):
    return source.items("train")[0]


@pytest.mark.parametrize("code", CODES)
def test_turning_to_ras_and_back_is_exact(code):
    affine = orientations.inv_ornt_aff(orientations.axcodes2ornt(tuple(code)), (2, 3, 4))
    volume = np.arange(24).reshape(1, 2, 3, 4)
    turned, after = to_ras(volume, affine)
    assert nibabel.aff2axcodes(after) == ("R", "A", "S")
    place = np.argwhere(turned[0] == 13)[0]
    assert np.allclose(after[:3] @ [*place, 1], affine[:3] @ [*np.argwhere(volume[0] == 13)[0], 1])
    assert np.array_equal(from_ras(turned[0], affine), volume[0])


def test_labels_come_back_voxel_by_voxel_without_resampling(source, item):
    volumes = Volumes(source, (1.0, 1.0, 2.5), (32, 32, 32))
    sample = volumes.read(item)
    assert sample["image"].shape == (1, 32, 32, 32)
    assert sample["size"] == (10, 14, 8)
    truth = source.read_mask(item)
    assert np.array_equal(sample["mask"][0, :10, :14, :8].numpy(), truth[::-1])  # LAS: the first axis runs left
    logits = torch.nn.functional.one_hot(sample["mask"][0].clamp(max=1).long(), 2).movedim(-1, 0)
    assert np.array_equal(volumes.restore(logits, sample, item), truth)


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 1.25), (1.3, 0.8, 2.0)])
def test_labels_come_back_where_they_were_after_resampling(source, item, spacing):
    volumes = Volumes(source, spacing, (16, 16, 16))
    sample = volumes.read(item)
    expected = [side * step / new for side, step, new in zip((10, 14, 8), (1, 1, 2.5), spacing, strict=True)]
    assert np.abs(np.array(sample["size"]) - expected).max() <= 1
    bright = sample["image"][0]
    found = volumes.restore(torch.stack([torch.zeros_like(bright), bright - 0.75]), sample, item)
    truth = source.read_mask(item)
    assert found.shape == truth.shape
    assert 2 * (found * truth).sum() / (found.sum() + truth.sum()) > 0.9
    away = np.argwhere(found).mean(0) - np.argwhere(truth).mean(0)
    assert np.abs(away).max() < 0.15


def test_intensities_are_z_scored_case_by_case(source):
    volumes = Volumes(source, (1.0, 1.0, 2.5), (16, 16, 16))
    first, second = (volumes.read(item)["image"][:, :10, :14, :8] for item in source.items("train"))
    assert torch.allclose(first, second, atol=1e-4)  # a factor of 10 or more apart in the files
    assert first.mean().abs() < 1e-5
    assert first.std(correction=0) == pytest.approx(1, abs=1e-5)


def test_voxels_that_were_never_scanned_do_not_count_in_the_mean(tmp_path):
    labels = ball((10, 14, 8))
    image = scan(labels)
    image[:, 7:] = 0
    write_case(tmp_path, "a", [image, np.zeros_like(image)], labels)
    write_case(tmp_path, "b", [image, image], labels)
    source = describe(tmp_path, channels=2)
    item = next(item for items in source.splits.values() for item in items if item.id == "a")
    found = Volumes(source, (1.0, 1.0, 2.5), (10, 14, 8)).read(item)["image"]
    scanned = found[0, :, :7]
    assert scanned.mean().abs() < 1e-5
    assert scanned.std(correction=0) == pytest.approx(1, abs=1e-5)
    assert found[0, :, 7:].unique().numel() == 1
    assert found[0, 0, 9, 0] < scanned.min()
    assert not found[1].any()


def test_padding_and_ignored_voxels_keep_their_labels(tmp_path):
    labels = ball((10, 14, 8))
    labels[:, :2] = 2
    for name in ("a", "b"):
        write_case(tmp_path, name, [scan(labels)], labels)
    source = describe(tmp_path, ignore=True)
    item = source.items("train")[0]
    sample = Volumes(source, (0.5, 1.0, 2.5), (32, 32, 16)).read(item)
    inside = sample["mask"][0, :20, :14, :8]
    assert set(inside.unique().tolist()) == {0, 1, 2}
    assert (inside[:, :2] == 2).all()
    assert (sample["mask"][0, 20:] == 2).all()
    assert (sample["mask"][0, :, :, 8:] == 2).all()
    assert (sample["image"][0, 20:] == sample["image"].min()).all()
    assert all((sample["mask"].flatten()[places] == label).all() for label, places in enumerate(sample["centres"]))


def test_what_does_not_fit_in_memory_is_prepared_again(source, item):
    args = source, (1.0, 1.0, 2.5), (16, 16, 16)
    held, none = Volumes(*args), Volumes(*args, held=0)
    held.fill(source.items("train"))
    none.fill(source.items("train"))
    assert held.read(item) is held.read(item)
    assert none.read(item) is not none.read(item)
    assert torch.equal(held.read(item)["image"], none.read(item)["image"])
    assert (len(held.kept), len(none.kept)) == (2, 0)
    one = Volumes(*args, held=held.read(item)["image"].nbytes * 2)
    one.fill(source.items("train"))
    assert len(one.kept) == 1


def test_crops_keep_image_and_mask_together_and_follow_the_seed(tmp_path):
    labels = ball((20, 24, 20), radius=2)
    for name in ("a", "b"):
        write_case(tmp_path, name, [labels.astype(np.float32) + 1], labels)
    source = describe(tmp_path)
    train = VolumeDataset(Volumes(source, (1.0, 1.0, 2.5), (8, 8, 8)), "train", RandomCrop((8, 8, 8), 2))

    def draw(seed):
        torch.manual_seed(seed)
        return train[0]

    with_lesion, seen = 0, []
    for seed in range(24):
        sample = draw(seed)
        assert (sample["image"].dtype, sample["mask"].dtype) == (torch.float32, torch.int64)
        assert (sample["image"].shape, sample["mask"].shape) == ((1, 8, 8, 8), (8, 8, 8))
        levels = [sample["image"][0][sample["mask"] == label] for label in (0, 1)]
        with_lesion += len(levels[1]) > 0
        seen += [level.unique().numel() for level in levels if len(level)]
    assert set(seen) == {1}
    assert with_lesion >= 8  # of 24; a lesion is 33 of 9600 voxels
    assert torch.equal(draw(3)["image"], draw(3)["image"])
    assert not torch.equal(draw(3)["image"], draw(4)["image"])
    assert type(draw(0)["image"]) is torch.Tensor


def test_cases_without_lesions_and_cases_ignored_throughout_give_crops(tmp_path):
    for name, value in (("a", 0), ("b", 2), ("c", 0), ("d", 2)):
        labels = np.full((10, 14, 8), value, dtype=np.uint8)
        write_case(tmp_path, name, [scan(labels)], labels)
    source = describe(tmp_path, ignore=True)
    train = VolumeDataset(Volumes(source, (1.0, 1.0, 2.5), (16, 16, 16)), "train", RandomCrop((16, 16, 16), 2))
    assert {0, 2} == {value for place in range(len(train)) for value in train[place]["mask"].unique().tolist()}


def test_batches(source):
    volumes = Volumes(source, (1.0, 1.0, 2.5), (16, 16, 16))
    batch = collate_volumes([VolumeDataset(volumes, "train")[place] for place in range(2)])
    assert batch.keys() == {"image", "mask", "id", "size"}
    assert (batch["image"].shape, batch["mask"].shape) == ((2, 1, 16, 16, 16), (2, 16, 16, 16))
    assert batch["size"] == [(10, 14, 8)] * 2


def test_default_spacing_and_crop(tmp_path, source):
    assert default_grid(source) == ((1.0, 1.0, 2.5), (32, 32, 32))
    assert default_grid(source, (0.2, 0.1, 0.5))[1] == (48, 64, 48)  # 50 x 140 x 40 voxels
    turned = np.array([[0, 0, 3.0, 0], [0.5, 0, 0, 0], [0, -2.0, 0, 0], [0, 0, 0, 1]])
    for name in ("a", "b"):
        write_case(tmp_path / "turned", name, [np.ones((4, 5, 6), np.float32)], np.zeros((4, 5, 6), np.uint8), turned)
    assert default_grid(describe(tmp_path / "turned"))[0] == (3.0, 0.5, 2.0)


def shift(affine, by):
    moved = affine.copy()
    moved[0, 3] += by
    return moved


def test_label_and_channels_must_lie_on_the_grid_of_the_image(tmp_path):
    labels = ball((10, 14, 8))
    for name, by in (("a", 0.5), ("b", 0.01)):
        write_case(tmp_path, name, [scan(labels), scan(labels)], labels, label_affine=shift(LAS, by))
    source = describe(tmp_path, channels=2)
    items = {item.id: item for split in source.splits.values() for item in split}
    volumes = Volumes(source, (1.0, 1.0, 2.5), (16, 16, 16))
    assert volumes.read(items["b"])["size"] == (10, 14, 8)
    with pytest.raises(DataError, match=r"labelsTr/a\.nii\.gz: expected the affine of a_0000\.nii\.gz; .* 0\.5 voxels"):
        volumes.read(items["a"])
    second = tmp_path / "imagesTr" / "b_0001.nii.gz"
    nibabel.Nifti1Image(scan(labels), shift(LAS, 3)).to_filename(second)
    with pytest.raises(DataError, match=r"b_0001\.nii\.gz: expected the affine of b_0000.* 3\.0 voxels.*Resample"):
        volumes.check(items["b"])


def test_bad_volumes_are_named(source, item):
    volumes = Volumes(source, (1.0, 1.0, 2.5), (16, 16, 16))
    extra = item.image.with_name(f"{item.id}_0001.nii.gz")
    extra.write_bytes(item.image.read_bytes())
    with pytest.raises(DataError, match=r"expected 1 channels, as dataset\.json says; got 2"):
        volumes.read(item)
    extra.unlink()
    image = source.read_image(item)[0]
    image[0, 0, 0] = np.nan
    nibabel.Nifti1Image(image, LAS).to_filename(item.image)
    with pytest.raises(DataError, match=rf"{item.image.name}: expected finite intensities"):
        volumes.read(item)
    header = bytearray(gzip.decompress(item.image.read_bytes()))
    header[312:328] = bytes(16)  # the last row of the sform
    item.image.write_bytes(gzip.compress(header))
    with pytest.raises(DataError, match=rf"{item.image.name}: expected an affine that gives every voxel its place"):
        volumes.read(item)
    other = source.items("train")[1]
    assert other.mask is not None
    other.mask.write_bytes(other.mask.read_bytes()[:100])
    with pytest.raises(DataError, match=rf"{other.mask.name}: expected a readable NIfTI volume"):
        volumes.check(other)
