"""Which images make the batches of an epoch, and samples drawn from (seed, epoch, place) alone.

Whatever the number of processes or the size of the steps they accumulate, a step sees the same images in the same
views. So a run on two devices is the run on one, and a run continued from its last epoch is the run never stopped.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch.utils.data import Dataset, Sampler

from delineate.data import DataError, Item
from delineate.data.dataset import Sample
from delineate.semi.views import VIEWS

Key = tuple[str, int, int]
"""Part ("labelled" or "unlabelled"), epoch, place."""
Collate = Callable[[Sequence[Sample]], Sample]


class Samples(Protocol):
    """A split as samples, one for each of its items."""

    items: tuple[Item, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


class Seeded(Dataset[Sample]):
    """A dataset whose augmentation of an image is drawn from (seed, epoch, place), in whatever process it runs.

    Places beyond the last image are further visits of the same images, each drawn anew.

    Args:
        skip: take the next image that can be read for one that cannot, and say so in the sample's entry `skipped`.
    """

    def __init__(self, dataset: Samples, seed: int, skip: bool = False):
        self.dataset, self.seed, self.skip = dataset, seed, skip

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: tuple[int, int]) -> Sample:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(hash((self.seed, *place)) % 2**63)
            return self._readable(place[1])

    def _readable(self, place: int) -> Sample:
        skipped = []
        for index in range(place, place + len(self.dataset)):
            try:
                sample = self.dataset[index % len(self.dataset)]
            except DataError as error:
                if not self.skip:
                    raise
                skipped.append(str(error))
            else:
                return sample | {"skipped": skipped} if skipped else sample
        raise DataError(f"{skipped[0]} No image of the split can be read.")


class Parts(Dataset[Sample]):
    """Samples of several parts, by `Key`; each says in `part` where it is from."""

    def __init__(self, parts: dict[str, Seeded]):
        self.parts = parts

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))

    def __getitem__(self, key: Key) -> Sample:
        part, *place = key
        return {**self.parts[part][place[0], place[1]], "part": part}


class Batches(Sampler[list[Key]]):
    """The keys of every batch of an epoch, for one process.

    Each part is visited in orders drawn anew for every epoch, one after the other until all steps are filled. The
    images of a step lie next to each other in that order and are dealt out to processes in blocks.

    Args:
        sizes: number of images of each part.
        per_step: images of each part in a step, over all processes and accumulated batches.
        steps: steps of an epoch.
        seed: of the orders.
        rank, ranks: which process of how many.
        accumulate: batches of a process that make a step.
    """

    def __init__(
        self,
        sizes: dict[str, int],
        per_step: int,
        steps: int,
        seed: int,
        *,
        rank: int = 0,
        ranks: int = 1,
        accumulate: int = 1,
    ):
        self.sizes, self.steps, self.seed, self.epoch = sizes, steps, seed, 0
        self.rank, self.ranks, self.accumulate = rank, ranks, accumulate
        self.per_step, self.size = per_step, per_step // (ranks * accumulate)
        self.sampler = self
        """Where Lightning looks for `set_epoch`."""

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of every epoch, also when it continues from a checkpoint."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.accumulate

    def __iter__(self) -> Iterator[list[Key]]:
        orders = {part: self._order(number, size) for number, (part, size) in enumerate(self.sizes.items())}
        for batch in range(len(self)):
            first = (batch * self.ranks + self.rank) * self.size
            yield [
                (part, self.epoch, place)
                for part, order in orders.items()
                for place in order[first : first + self.size]
            ]

    def _order(self, number: int, size: int) -> list[int]:
        draw = torch.Generator().manual_seed(hash((self.seed, self.epoch, number)) % 2**63)
        visits = -(-self.steps * self.per_step // size)
        return [
            visit * size + place for visit in range(visits) for place in torch.randperm(size, generator=draw).tolist()
        ]


class Unpadded(Sampler[int]):
    """Every image once over all processes, none twice: what evaluation needs."""

    def __init__(self, count: int, rank: int, ranks: int):
        self.places = range(rank, count, ranks)

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[int]:
        return iter(self.places)


def collate_parts(samples: Sequence[Sample], together: Collate) -> dict[str, Any]:
    """A batch of the labelled samples, with views of the unlabelled ones, stacked, in its entry `unlabelled`."""
    labelled = [sample for sample in samples if sample["part"] == "labelled"]
    views = [sample for sample in samples if sample["part"] == "unlabelled"]
    batch: dict[str, Any] = together(labelled)
    if skipped := [message for sample in samples for message in sample.get("skipped", ())]:
        batch["skipped"] = skipped
    if views:
        stacked: dict[str, Any] = {name: torch.stack([view[name] for view in views]) for name in VIEWS}
        stacked["draw"] = stacked["draw"].tolist()  # stays on the CPU, where channels are drawn
        batch["unlabelled"] = stacked | {"id": [view["id"] for view in views]}
    return batch
