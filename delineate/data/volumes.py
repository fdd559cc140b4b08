"""Samples for training in 3D: volumes turned to RAS, resampled to one spacing, z-scored, and crops of them."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.croppad.dictionary import RandCropByLabelClassesd
from monai.transforms.intensity.dictionary import RandScaleIntensityd, RandShiftIntensityd
from monai.transforms.spatial.array import SpatialResample
from monai.transforms.spatial.dictionary import RandFlipd, Spacingd
from monai.transforms.transform import MapTransform
from torch import Tensor
from torch.utils.data import Dataset

from delineate.data.dataset import Sample
from delineate.data.geometry import stack_geometry
from delineate.data.grid import from_ras, read_affine, to_ras
from delineate.data.item import DataError, Item
from delineate.data.source import Source

HELD = 2 * 2**30
"""Bytes of prepared volumes kept in memory at most; those beyond are prepared anew for every crop."""
CENTRES = 10_000
"""Voxels of each class of a volume, drawn once, that crops are centred on."""


class ZScored(MapTransform):
    """Each channel minus the mean of its voxels that are not 0, over their standard deviation; all-0 channels stay."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        found = dict(data)
        for key in self.key_iterator(data):
            for channel in found[key]:
                scanned = channel[channel != 0].double()
                if scanned.numel():
                    deviation = scanned.std(correction=0).item()
                    channel -= scanned.mean().item()
                    channel /= deviation if deviation > 0 else 1.0
        return found


class Volumes:
    """The volumes of a data set as a network takes them, and its output back in the geometry of the file.

    Args:
        source: a 3D data set.
        spacing: distance of voxels along the axes of RAS, in mm.
        crop: smallest size; a smaller volume is padded behind its last voxel, with its minimum and `pad_label`.
        held: bytes of prepared volumes that are kept.
    """

    def __init__(self, source: Source, spacing: tuple[float, ...], crop: tuple[int, ...], held: int = HELD):
        self.source, self.spacing, self.crop = source, spacing, crop
        self.room, self.full = held, False
        self.kept: dict[Item, Sample] = {}

    def read(self, item: Item) -> Sample:
        """The prepared volume: `image` float32 (channels, *S); `mask` integer (1, *S), where there is one, and
        `centres`, voxels of each class; `id`; `size`, its shape before it was padded; `affine` (4, 4).

        Raises:
            DataError: for files that cannot be read, do not fit each other, or hold NaN.
        """
        if item in self.kept:
            return self.kept[item]
        sample = self._prepare(item)
        needed = sum(value.nbytes for value in sample.values() if isinstance(value, Tensor))
        self.full = self.full or needed > self.room
        if not self.full:
            self.room -= needed
            self.kept[item] = sample
        return sample

    def fill(self, items: Sequence[Item]) -> None:
        """Prepare items ahead, until what is kept has no room for the next."""
        for item in items:
            if self.full:
                return
            self.read(item)

    def restore(self, logits: Tensor, sample: Sample, item: Item) -> np.ndarray:
        """Labels in the geometry of the item's file, integer (*S).

        Args:
            logits: (C, *S) for the prepared volume; resampled linearly before the classes are compared.
            sample: what `read` gave for the item.
        """
        affine = read_affine(self.source, item)
        empty, ras = to_ras(np.empty((1, *self.source.size(item)), dtype=np.uint8), affine)
        logits = logits[(slice(None), *(slice(side) for side in sample["size"]))].float().cpu()
        if sample["size"] == empty.shape[1:] and np.allclose(sample["affine"], ras, atol=1e-3):
            labels = logits.argmax(0)
        else:
            labels = _resampled_argmax(
                MetaTensor(logits, affine=torch.as_tensor(sample["affine"])), ras, empty.shape[1:]
            )
        return from_ras(labels.numpy(), affine)

    def check(self, item: Item) -> None:
        """Read all files of an item, and raise DataError as `read` would."""
        read_affine(self.source, item)
        self._image(item)
        if item.mask is not None:
            self.source.read_mask(item)

    def _prepare(self, item: Item) -> Sample:
        affine = read_affine(self.source, item)
        loaded = {"image": self._image(item)}
        if item.mask is not None:
            loaded["mask"] = self.source.read_mask(item)[None]
        turned = {key: to_ras(array, affine) for key, array in loaded.items()}
        prepared: Any = _preparation(tuple(loaded), self.spacing)(
            {
                key: MetaTensor(torch.from_numpy(np.ascontiguousarray(array, np.float32)), affine=torch.as_tensor(ras))
                for key, (array, ras) in turned.items()
            }
        )
        image = prepared["image"]
        sample: Sample = {"id": item.id, "size": tuple(image.shape[1:]), "affine": image.affine.numpy()}
        sample["image"] = _padded(image.as_tensor(), self.crop, image.min().item())
        if "mask" in prepared:
            labels = _padded(prepared["mask"].as_tensor(), self.crop, self.source.pad_label)
            small = len(self.source.classes) <= 256 and 0 <= self.source.pad_label < 256
            sample["mask"] = labels.to(torch.uint8 if small else torch.int32)
            sample["centres"] = _centres(labels, len(self.source.classes))
        return sample

    def _image(self, item: Item) -> np.ndarray:
        image = self.source.read_image(item)
        if len(image) != self.source.channels:
            raise DataError(
                f"{item.image}: expected {self.source.channels} channels, as dataset.json says; got {len(image)} "
                "files, _0000 and on. Add the files, or correct dataset.json."
            )
        if not np.isfinite(image).all():
            raise DataError(f"{item.image}: expected finite intensities; got NaN or infinity. Mend or remove the case.")
        return image


@lru_cache(maxsize=1)
def open_volumes(source: Source, spacing: tuple[float, ...], crop: tuple[int, ...]) -> Volumes:
    """The volumes of a source; asked again for the same, as by every run of a comparison, what they keep is shared."""
    return Volumes(source, spacing, crop)


class VolumeDataset(Dataset[Sample]):
    """One split as samples: what `Volumes.read` gives, then `transform`, then plain tensors with `mask` int64 (*S)."""

    def __init__(self, volumes: Volumes, split: str, transform: Callable[[Sample], Sample] | None = None):
        self.volumes, self.items = volumes, volumes.source.items(split)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        sample = dict(self.volumes.read(self.items[index]))
        sample = self.transform(sample) if self.transform else sample
        if "mask" in sample and sample["mask"].ndim == 4:
            sample["mask"] = sample["mask"][0].long()
        return {key: value for key, value in sample.items() if key not in ("centres", "affine")}


class RandomCrop:
    """A random crop, flipped along each axis by chance, its contrast and brightness changed by a tenth at most.

    Half of the crops are centred on background, the others on each other class that the volume has equally often.
    What is drawn follows the random state of torch.

    Args:
        crop: size of the crop; the volume must be as large.
        classes: number of classes.
    """

    def __init__(self, crop: tuple[int, ...], classes: int):
        both = ("image", "mask")
        self.draw = Compose(
            [
                RandCropByLabelClassesd(
                    both,
                    label_key="mask",
                    indices_key="centres",
                    spatial_size=crop,
                    num_classes=classes,
                    ratios=[classes - 1, *[1] * (classes - 1)],
                    warn=False,
                ),
                *(RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(3)),
                RandScaleIntensityd("image", factors=0.1, prob=1.0),
                RandShiftIntensityd("image", offsets=0.1, prob=1.0),
            ]
        )

    def __call__(self, sample: Sample) -> Sample:
        self.draw.set_random_state(seed=int(torch.randint(2**31, ())))
        drawn: Any = self.draw(sample)
        [drawn] = drawn
        return drawn | {
            "image": drawn["image"].as_tensor().contiguous(),
            "mask": drawn["mask"].as_tensor()[0].long(),
        }


def collate_volumes(samples: Sequence[Sample]) -> Sample:
    """Stack samples of one size: `image` (N, channels, *S), `mask` (N, *S), `geometry`, and lists `id` and `size`."""
    batch: Sample = {
        key: torch.stack([sample[key] for sample in samples]) for key in ("image", "mask") if key in samples[0]
    }
    if found := stack_geometry(samples):
        batch["geometry"] = found
    return batch | {key: [sample[key] for sample in samples] for key in ("id", "size")}


def _preparation(keys: tuple[str, ...], spacing: tuple[float, ...]) -> Compose:
    modes = ("bilinear", "nearest")[: len(keys)]
    resample = Spacingd(keys, pixdim=spacing, mode=modes, padding_mode="border", dtype=np.float32)
    return Compose([resample, ZScored("image")])


def _padded(volume: Tensor, smallest: tuple[int, ...], value: float) -> Tensor:
    """A volume (channels, *S) of at least a size, padded behind its last voxel along each axis."""
    missing = [max(least - side, 0) for side, least in zip(volume.shape[1:], smallest, strict=True)]
    behind = [amount for side in reversed(missing) for amount in (0, side)]
    return torch.nn.functional.pad(volume, behind, value=value)


def _centres(labels: Tensor, classes: int) -> list[Tensor]:
    """Flat indices of some voxels of each class; where all are ignored, the middle stands for background."""
    draw, found = torch.Generator().manual_seed(0), []
    for label in range(classes):
        places = (labels.flatten() == label).nonzero()[:, 0]
        if len(places) > CENTRES:
            places = places[torch.randint(len(places), (CENTRES,), generator=draw)]
        found.append(places)
    if not any(len(places) for places in found):
        found[0] = torch.tensor([labels.numel() // 2])
    return found


def _resampled_argmax(logits: MetaTensor, affine: np.ndarray, size: tuple[int, ...]) -> Tensor:
    """The class of the highest logit on another grid, class by class so that one map more is held, not C."""
    resample = SpatialResample(mode="bilinear", padding_mode="border", dtype=np.float32)
    best, labels = torch.full(size, -torch.inf), torch.zeros(size, dtype=torch.int64)
    for label in range(len(logits)):
        found = resample(logits[label : label + 1], dst_affine=torch.as_tensor(affine), spatial_size=size)
        found = torch.as_tensor(found).as_subclass(Tensor)[0]
        higher = found > best
        best, labels = torch.where(higher, found, best), torch.where(higher, label, labels)
    return labels
