"""Batches for Lightning, the same ones for every loss: order and augmentation depend on seed, epoch and image only."""

from collections.abc import Iterator
from functools import partial

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from delineate.data import SegmentationDataset, Source, collate, default_crop, eval_transform, train_transform
from delineate.data.dataset import Sample
from delineate.training.settings import Settings


class Seeded(Dataset[Sample]):
    """A dataset whose augmentation of image i is drawn from (seed, epoch, i), in whatever process it runs."""

    def __init__(self, dataset: SegmentationDataset, seed: int, epoch: int):
        self.dataset, self.seed, self.epoch = dataset, seed, epoch

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(hash((self.seed, self.epoch, index)) % 2**63)
            return self.dataset[index]


class DataModule(LightningDataModule):
    """Train and evaluation batches of a 2D source.

    Args:
        source: the data set.
        settings: batch size, crop and workers are taken from it.
        seed: of batch order and augmentation.
        split: the split that validation runs on.
    """

    def __init__(self, source: Source, settings: Settings, seed: int, split: str = "val"):
        super().__init__()
        self.source, self.settings, self.seed = source, settings, seed
        self.eval_set = SegmentationDataset(source, split, eval_transform())
        self.crop = settings.crop or default_crop(source)
        self.train_set = SegmentationDataset(source, "train", train_transform(self.crop, source.pad_label))
        if len(self.train_set) < settings.batch_size:
            raise ValueError(
                f"--batch_size {settings.batch_size}: the train split of {source.root} holds {len(self.train_set)} "
                "images, not one full batch. Choose a smaller batch."
            )

    def train_dataloader(self) -> DataLoader:
        """Batches of the current epoch, the last incomplete one dropped. Called anew for every epoch."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        order = torch.Generator().manual_seed(hash((self.seed, epoch)) % 2**63)
        return self._loader(Seeded(self.train_set, self.seed, epoch), shuffle=True, generator=order, drop_last=True)

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
