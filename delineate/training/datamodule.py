"""Batches for Lightning, the same ones for every loss: order and augmentation depend on seed, epoch and image only."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from torchvision.transforms import v2

from delineate.data import Item, Prepare, SegmentationDataset, Source, collate, eval_transform, train_transform
from delineate.data.dataset import Sample
from delineate.training.settings import Settings, complete

SEED_STRIDE = 100_003
"""Orders are drawn from seed * stride + epoch, so that no epoch of one seed has the order of another's."""


class Samples(Protocol):
    """A split as samples, one for each of its items."""

    items: tuple[Item, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


Sets = tuple[Samples, Samples, Callable[[Sequence[Sample]], Sample]]


class EpochSampler(DistributedSampler):
    """A new order every epoch, split over ranks, whose items are (epoch, index): what `Seeded` draws from.

    Lightning announces the epoch by `set_epoch`, also when it continues from a checkpoint.
    """

    def __iter__(self) -> Iterator[tuple[int, int]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ((self.epoch, index) for index in super().__iter__())


class Seeded(Dataset[Sample]):
    """A dataset whose augmentation of an image is drawn from (seed, epoch, index), in whatever process it runs.

    With `repeats` every image comes as often in an epoch, each time drawn anew.
    """

    def __init__(self, dataset: Samples, seed: int, repeats: int = 1):
        self.dataset, self.seed, self.repeats = dataset, seed, repeats

    def __len__(self) -> int:
        return self.repeats * len(self.dataset)

    def __getitem__(self, place: tuple[int, int]) -> Sample:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(hash((self.seed, *place)) % 2**63)
            return self.dataset[place[1] % len(self.dataset)]


class DataModule(LightningDataModule):
    """Train and evaluation batches of a source: crops of pictures or volumes, and whole ones.

    Args:
        source: the data set.
        settings: batch size, crop, spacing and workers are taken from it; what is left open follows from the data.
        seed: of batch order and augmentation.
        split: the split that validation runs on.
        prepare: what the workers derive for the loss, after all augmentation.
    """

    def __init__(
        self, source: Source, settings: Settings, seed: int, split: str = "val", prepare: Prepare | None = None
    ):
        super().__init__()
        self.source, self.settings, self.seed = source, complete(settings, source), seed
        self.crop = self.settings.crop or ()
        self.batch_size, self.repeats = self.settings.batch_size or 1, self.settings.crops_per_image or 1
        if source.dims == 2:
            self.train_set, self.eval_set, self.together = _of_pictures(source, self.crop, split, prepare)
        else:
            self.train_set, self.eval_set, self.together = _of_volumes(source, self.settings, split, prepare)
        self.steps = self.repeats * len(self.train_set) // self.batch_size
        """Steps of an epoch."""
        if not self.steps:
            raise ValueError(
                f"--batch_size {self.batch_size}: the train split of {source.root} holds {len(self.train_set)} "
                f"images, --crops_per_image is {self.repeats}: not one full batch. Choose a smaller batch."
            )

    def train_dataloader(self) -> DataLoader:
        """Shuffled batches, the last incomplete one dropped."""
        ranks, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        images = Seeded(self.train_set, self.seed, self.repeats)
        order = EpochSampler(images, ranks, rank, seed=self.seed * SEED_STRIDE)
        return self._loader(images, self.batch_size, sampler=order, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        """The whole images of the split: pictures padded to a multiple of 32, volumes one by one."""
        return self._loader(self.eval_set, self.batch_size if self.source.dims == 2 else 1)

    def samples(self, ids: list[str]) -> Iterator[Sample]:
        """Batches of one of the evaluation images with these ids, in this order."""
        places = {item.id: place for place, item in enumerate(self.eval_set.items)}
        for name in ids:
            yield self.together([self.eval_set[places[name]]])

    def _loader(self, dataset: Any, batch_size: int, **options) -> DataLoader:
        return DataLoader(
            dataset,
            batch_size=batch_size,
            num_workers=self.settings.workers,
            collate_fn=self.together,
            pin_memory=torch.cuda.is_available(),
            **options,
        )


def _of_pictures(source: Source, crop: tuple[int, ...], split: str, prepare: Prepare | None) -> Sets:
    """Train set, evaluation set, and what makes batches."""
    height, width = crop
    augment = train_transform((height, width), source.pad_label)
    train_set = SegmentationDataset(source, "train", v2.Compose([augment, prepare]) if prepare else augment)
    together = partial(collate, ignore_index=source.pad_label)
    return train_set, SegmentationDataset(source, split, eval_transform()), together


def _of_volumes(source: Source, settings: Settings, split: str, prepare: Prepare | None) -> Sets:
    """The same in 3D; volumes are prepared here, not in the workers, so that all epochs share what is kept."""
    from delineate.data import volumes as v  # imports MONAI: seconds, and of no use in 2D

    crop, spacing = settings.crop or (), settings.spacing or ()
    augment = v.RandomCrop(crop, len(source.classes))
    prepared = v.open_volumes(source, spacing, crop)
    train_set = v.VolumeDataset(prepared, "train", v2.Compose([augment, prepare]) if prepare else augment)
    eval_set = v.VolumeDataset(prepared, split)
    prepared.fill(train_set.items + eval_set.items)
    return train_set, eval_set, v.collate_volumes
