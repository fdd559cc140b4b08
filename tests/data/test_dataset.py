"""Samples, batches and augmentation."""

from functools import partial
from pathlib import Path

import pytest
import torch
from data_files import striped, write_folder, write_mask, write_nnunet, write_picture
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from delineate.data import (
    DataError,
    SegmentationDataset,
    collate,
    default_crop,
    denormalise,
    eval_transform,
    open_source,
    train_transform,
)
from delineate.data.transforms import MEAN, STD


@pytest.fixture
def source(tmp_path: Path):
    return open_source(write_folder(tmp_path / "set", values=(0, 1, 2), size=(40, 70)))


def test_sample_before_a_transform(source):
    sample = SegmentationDataset(source, "train")[0]
    assert sample.keys() == {"image", "mask", "id", "size"}
    assert isinstance(sample["image"], tv_tensors.Image)
    assert isinstance(sample["mask"], tv_tensors.Mask)
    assert (sample["image"].dtype, sample["image"].shape) == (torch.uint8, (3, 40, 70))
    assert (sample["mask"].dtype, sample["mask"].shape) == (torch.int64, (40, 70))
    assert (sample["id"], sample["size"]) == (source.items("train")[0].id, (40, 70))


def test_items_without_a_mask_give_samples_and_batches_without_one(tmp_path: Path):
    for name in ("train", "val"):
        write_folder(tmp_path / name, n=1)
    write_picture(tmp_path / "test" / "images" / "a.png")
    dataset = SegmentationDataset(open_source(tmp_path), "test", eval_transform())
    assert "mask" not in dataset[0]
    assert collate([dataset[0]], ignore_index=255).keys() == {"image", "id", "size"}


def test_volumes_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"expected pictures; got 3D volumes.*VolumeDataset"):
        SegmentationDataset(open_source(write_nnunet(tmp_path)), "train")


def test_crop_pads_small_images_and_keeps_image_and_mask_together(source):
    transform = train_transform((64, 64), ignore_index=255, jitter=0)
    torch.manual_seed(0)
    for _ in range(8):
        sample = SegmentationDataset(source, "train", transform)[0]
        assert (sample["image"].dtype, sample["image"].shape) == (torch.float32, (3, 64, 64))
        assert (sample["mask"].dtype, sample["mask"].shape) == (torch.int64, (64, 64))
        padded = sample["mask"] == 255
        assert padded.sum() == 24 * 64
        assert sample["image"][:, padded].abs().max() < 0.02  # the mean colour
        assert sample["size"] == (40, 70)


def test_flip_moves_the_mask_with_the_image(tmp_path: Path):
    labels = striped(*[0] * 16, *[1] * 16, size=(32, 32))
    for index in range(2):
        write_mask(tmp_path / "images" / f"{index}.png", labels * 200)
        write_mask(tmp_path / "masks" / f"{index}.png", labels)
    transform = train_transform((32, 32), ignore_index=255, flip=1.0)
    sample = SegmentationDataset(open_source(tmp_path), "train", transform)[0]
    assert sample["mask"][0].tolist() == [1] * 16 + [0] * 16
    assert (sample["image"][0, sample["mask"] == 1] > sample["image"][0, sample["mask"] == 0].max()).all()


def test_normalisation_and_back(source):
    raw, sample = SegmentationDataset(source, "val")[0], SegmentationDataset(source, "val", eval_transform())[0]
    colours = raw["image"].float() / 255
    expected = (colours - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    assert torch.allclose(sample["image"], expected, atol=1e-6)
    assert torch.allclose(denormalise(sample["image"]), colours, atol=1e-6)
    assert denormalise(sample["image"][None]).shape == (1, 3, 40, 70)
    assert torch.equal(sample["mask"], raw["mask"])


def test_collate_pads_to_a_common_multiple():
    def sample(name, height, width):
        image = tv_tensors.Image(torch.ones(3, height, width))
        return {"image": image, "mask": tv_tensors.Mask(torch.ones(height, width).long()), "id": name, "size": (9, 9)}

    batch = collate([sample("a", 30, 33), sample("b", 20, 64)], ignore_index=7)
    assert batch["image"].shape == (2, 3, 32, 64)
    assert batch["mask"].shape == (2, 32, 64)
    assert (type(batch["image"]), batch["image"].dtype) == (torch.Tensor, torch.float32)
    assert (type(batch["mask"]), batch["mask"].dtype) == (torch.Tensor, torch.int64)
    assert (batch["id"], batch["size"]) == (["a", "b"], [(9, 9), (9, 9)])
    inside = torch.zeros(32, 64, dtype=torch.bool)
    inside[:30, :33] = True
    assert (batch["image"][0, :, inside] == 1).all()
    assert (batch["image"][0, :, ~inside] == 0).all()
    assert (batch["mask"][0] == torch.where(inside, 1, 7)).all()
    assert collate([sample("a", 30, 33)], ignore_index=7, multiple=1)["image"].shape == (1, 3, 30, 33)


def test_loader_with_workers(source):
    dataset = SegmentationDataset(source, "train", eval_transform())
    together = partial(collate, ignore_index=source.pad_label)
    for workers in (0, 1):
        batch = next(iter(DataLoader(dataset, batch_size=4, collate_fn=together, num_workers=workers)))
        assert batch["image"].shape == (4, 3, 64, 96)


@pytest.mark.parametrize(("size", "crop"), [((40, 70), (32, 64)), ((20, 31), (32, 32)), ((600, 514), (512, 512))])
def test_default_crop(tmp_path: Path, size: tuple[int, int], crop: tuple[int, int]):
    assert default_crop(open_source(write_folder(tmp_path, n=2, size=size))) == crop


def test_default_crop_fits_the_smallest_image(tmp_path: Path):
    for index, size in enumerate([(64, 100), (100, 40), (100, 100)]):
        write_picture(tmp_path / "train" / "images" / f"{index}.png", size)
        write_mask(tmp_path / "train" / "masks" / f"{index}.png", striped(0, 1, size=size))
    write_folder(tmp_path / "val", n=1)
    assert default_crop(open_source(tmp_path)) == (64, 32)
