"""Batches for Lightning, the same ones for every loss: order and augmentation depend on seed, epoch and image only."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from delineate.data import Prepare, SegmentationDataset, Source, collate, eval_transform, train_transform
from delineate.data.dataset import Sample
from delineate.semi import parse_method
from delineate.semi.views import LabelledView, UnlabelledViews
from delineate.training.batches import Batches, Collate, Parts, Samples, Seeded, Unpadded, collate_parts
from delineate.training.settings import Settings, complete

UNLABELLED_SEED = 2**31
"""Added to the seed of what is drawn for unlabelled images."""
Sets = tuple[Samples, Samples | None, Samples, Collate]
"""Train set, unlabelled set, evaluation set, and what makes batches."""


class DataModule(LightningDataModule):
    """Train and evaluation batches of a source: crops of pictures or volumes, and whole ones.

    A method of few labels finds views of as many unlabelled images in every batch, as `unlabelled`, and an epoch is a
    pass over these.

    Args:
        source: the data set; of few labels what `few_labels` made of it.
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
        sets = _of_pictures if source.dims == 2 else _of_volumes
        self.train_set, self.unlabelled_set, self.eval_set, self.together = sets(source, self.settings, split, prepare)
        counted = source.items("unlabelled" if self.settings.semi else "train")
        self.steps = self.repeats * len(counted) // self.batch_size
        """Steps of an epoch."""
        if not self.steps:
            raise ValueError(
                f"--batch_size {self.batch_size}: the {'unlabelled' if self.settings.semi else 'train'} split of "
                f"{source.root} holds {len(counted)} images, --crops_per_image is {self.repeats}: not one full batch. "
                "Choose a smaller batch."
            )

    def train_dataloader(self) -> DataLoader:
        """Shuffled batches, the last incomplete one dropped."""
        rank, ranks = self._ranks()
        skip = self.settings.bad_images == "skip"
        parts = {"labelled": Seeded(self.train_set, self.seed, skip)}
        if self.unlabelled_set is not None:
            parts["unlabelled"] = Seeded(self.unlabelled_set, self.seed + UNLABELLED_SEED, skip)
        batches = Batches(
            {part: len(images) for part, images in parts.items()},
            self.batch_size,
            self.steps,
            self.seed,
            rank=rank,
            ranks=ranks,
            accumulate=self.settings.accumulate,
        )
        return self._loader(Parts(parts), partial(collate_parts, together=self.together), batch_sampler=batches)

    def val_dataloader(self) -> DataLoader:
        """The whole images of the split, each once: pictures of one size in batches, others and volumes one by one."""
        rank, ranks = self._ranks()
        order = Unpadded(len(self.eval_set), rank, ranks)
        return self._loader(self.eval_set, self.together, batch_size=self._eval_batch(), sampler=order)

    def samples(self, ids: list[str]) -> Iterator[Sample]:
        """Batches of one of the evaluation images with these ids, in this order."""
        places = {item.id: place for place, item in enumerate(self.eval_set.items)}
        for name in ids:
            yield self.together([self.eval_set[places[name]]])

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _eval_batch(self) -> int:
        """1 unless all pictures have one size: a batch is padded to the largest, which moves the borders of others."""
        one_size = self.source.dims == 2 and len({self.source.size(item) for item in self.eval_set.items}) == 1
        return max(self.batch_size // self.settings.processes, 1) if one_size else 1

    def _loader(self, dataset: Any, together: Collate, **options) -> DataLoader:
        return DataLoader(
            dataset,
            num_workers=self.settings.workers,
            collate_fn=together,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # or the loader draws from the random state of the network
            **options,
        )


def _of_pictures(source: Source, settings: Settings, split: str, prepare: Prepare | None) -> Sets:
    crop, scale, unlabelled = _pair(settings.crop), _pair(settings.scale), None
    if settings.semi:
        augment = LabelledView(crop, source.pad_label, scale)
        method = parse_method(settings.semi)
        views = UnlabelledViews(crop, scale, len(method.strong), settings.strong_operations)
        unlabelled = SegmentationDataset(source, "unlabelled", views) if method.streams else None
    else:
        augment = train_transform(crop, source.pad_label)
    train_set = SegmentationDataset(source, "train", v2.Compose([augment, prepare]) if prepare else augment)
    together = partial(collate, ignore_index=source.pad_label)
    return train_set, unlabelled, SegmentationDataset(source, split, eval_transform()), together


def _pair(values: Any) -> Any:
    """Two numbers; (1, 1) where there are none."""
    return tuple(values or (1, 1))


def _of_volumes(source: Source, settings: Settings, split: str, prepare: Prepare | None) -> Sets:
    """The same in 3D; volumes are prepared here, not in the workers, so that all epochs share what is kept."""
    from delineate.data import volumes as v  # imports MONAI: seconds, and of no use in 2D

    crop, spacing, unlabelled = settings.crop or (), settings.spacing or (), None
    augment = v.RandomCrop(crop, len(source.classes))
    prepared = v.open_volumes(source, spacing, crop)
    train_set = v.VolumeDataset(prepared, "train", v2.Compose([augment, prepare]) if prepare else augment)
    eval_set = v.VolumeDataset(prepared, split)
    if settings.semi and (method := parse_method(settings.semi)).streams:
        from delineate.semi.volume_views import UnlabelledVolumeViews

        unlabelled = v.VolumeDataset(prepared, "unlabelled", UnlabelledVolumeViews(crop, len(method.strong)))
    prepared.fill(train_set.items + (unlabelled.items if unlabelled else ()) + eval_set.items)
    return train_set, unlabelled, eval_set, v.collate_volumes
