"""Batches for Lightning, the same ones for every loss: order and augmentation depend on seed, epoch and image only."""

from collections.abc import Iterator
from functools import partial

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from torchvision.transforms import v2

from delineate.data import Prepare, SegmentationDataset, Source, collate, default_crop, eval_transform, train_transform
from delineate.data.dataset import Sample
from delineate.training.settings import Settings

SEED_STRIDE = 100_003
"""Orders are drawn from seed * stride + epoch, so that no epoch of one seed has the order of another's."""


class EpochSampler(DistributedSampler):
    """A new order every epoch, split over ranks, whose items are (epoch, index): what `Seeded` draws from.

    Lightning announces the epoch by `set_epoch`, also when it continues from a checkpoint.
    """

    def __iter__(self) -> Iterator[tuple[int, int]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ((self.epoch, index) for index in super().__iter__())


class Seeded(Dataset[Sample]):
    """A dataset whose augmentation of an image is drawn from (seed, epoch, index), in whatever process it runs."""

    def __init__(self, dataset: SegmentationDataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: tuple[int, int]) -> Sample:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(hash((self.seed, *place)) % 2**63)
            return self.dataset[place[1]]


class DataModule(LightningDataModule):
    """Train and evaluation batches of a 2D source.

    Args:
        source: the data set.
        settings: batch size, crop and workers are taken from it.
        seed: of batch order and augmentation.
        split: the split that validation runs on.
        prepare: what the workers derive for the loss, after all augmentation.
    """

    def __init__(
        self, source: Source, settings: Settings, seed: int, split: str = "val", prepare: Prepare | None = None
    ):
        super().__init__()
        self.source, self.settings, self.seed = source, settings, seed
        self.eval_set = SegmentationDataset(source, split, eval_transform())
        self.crop = settings.crop or default_crop(source)
        augment = train_transform(self.crop, source.pad_label)
        self.train_set = SegmentationDataset(source, "train", v2.Compose([augment, prepare]) if prepare else augment)
        if len(self.train_set) < settings.batch_size:
            raise ValueError(
                f"--batch_size {settings.batch_size}: the train split of {source.root} holds {len(self.train_set)} "
                "images, not one full batch. Choose a smaller batch."
            )

    def train_dataloader(self) -> DataLoader:
        """Shuffled batches, the last incomplete one dropped."""
        ranks, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        images = Seeded(self.train_set, self.seed)
        order = EpochSampler(images, ranks, rank, seed=self.seed * SEED_STRIDE)
        return self._loader(images, sampler=order, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        """The whole images of the split, padded to a multiple of 32."""
        return self._loader(self.eval_set)

    def samples(self, ids: list[str]) -> Iterator[Sample]:
        """Batches of one of the evaluation images with these ids, in this order."""
        places = {item.id: place for place, item in enumerate(self.eval_set.items)}
        for name in ids:
            yield collate([self.eval_set[places[name]]], self.source.pad_label)

    def _loader(self, dataset: Dataset[Sample], **options) -> DataLoader:
        return DataLoader(
            dataset,
            batch_size=self.settings.batch_size,
            num_workers=self.settings.workers,
            collate_fn=partial(collate, ignore_index=self.source.pad_label),
            pin_memory=torch.cuda.is_available(),
            **options,
        )
