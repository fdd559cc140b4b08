"""Samples and batches for training in 2D."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.functional import pad
from torch.utils.data import Dataset
from torchvision import tv_tensors

from delineate.data.geometry import stack_geometry
from delineate.data.item import DataError
from delineate.data.source import Source

Sample = dict[str, Any]


class SegmentationDataset(Dataset[Sample]):
    """One split of a 2D source as samples.

    A sample holds `image`, a tv_tensors.Image uint8 (3, H, W); `mask`, a tv_tensors.Mask int64 (H, W), left out for an
    item without a mask; `id`; and `size`, the (H, W) of the picture. `transform` then takes and returns this dict.

    Raises DataError for volumes and for a split that the source lacks.
    """

    def __init__(self, source: Source, split: str, transform: Callable[[Sample], Sample] | None = None) -> None:
        if source.dims != 2:
            raise DataError(
                f"{source.root}: expected pictures; got {source.dims}D volumes. "
                "Use VolumeDataset of delineate.data.volumes for them."
            )
        self.source = source
        self.items = source.items(split)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        item = self.items[index]
        image = torch.from_numpy(self.source.read_image(item)).permute(2, 0, 1).contiguous()
        sample: Sample = {"image": tv_tensors.Image(image), "id": item.id, "size": tuple(image.shape[1:])}
        if item.mask is not None:
            labels = self.source.read_mask(item).astype("int64")
            sample["mask"] = tv_tensors.Mask(torch.from_numpy(labels))
        return self.transform(sample) if self.transform else sample


def collate(samples: Sequence[Sample], ignore_index: int, multiple: int = 32) -> Sample:
    """Stack samples, padded at the bottom and right to one size that `multiple` divides.

    Images are padded with 0 (the mean colour, once normalised), masks with `ignore_index`.

    Returns `image` float32 (N, 3, H, W); `mask` int64 (N, H, W), where the samples have one; `geometry`, a dict of
    tensors (N, ...), where `Prepare` put it into all samples, no later move left it behind and nothing was padded; `id`
    and `size` as lists.
    """
    height, width = (
        -(-max(sample["image"].shape[axis] for sample in samples) // multiple) * multiple for axis in (-2, -1)
    )

    def stack(key: str, value: float) -> torch.Tensor:
        tensors = [sample[key].as_subclass(torch.Tensor) for sample in samples]
        return torch.stack(
            [pad(t, (0, width - t.shape[-1], 0, height - t.shape[-2]), value=value) for t in tensors],
        )

    batch: Sample = {"image": stack("image", 0).float()}
    if all("mask" in sample for sample in samples):
        batch["mask"] = stack("mask", ignore_index).long()
    if all(sample["image"].shape[-2:] == (height, width) for sample in samples) and (found := stack_geometry(samples)):
        batch["geometry"] = found
    return batch | {key: [sample[key] for sample in samples] for key in ("id", "size")}
