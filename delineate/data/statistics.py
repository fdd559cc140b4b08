"""Figures of a data set that decide which loss fits it: shares, absent classes, instances and their sizes."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import cc3d
import numpy as np

from delineate.data.item import Item
from delineate.data.source import Source

QUANTILES = {"min": 0.0, "5%": 0.05, "25%": 0.25, "50%": 0.5, "75%": 0.75, "95%": 0.95, "max": 1.0}
Connectivity = Literal[4, 6, 8, 26]
_NEIGHBOURS: dict[tuple[str, int], Connectivity] = {("full", 2): 8, ("face", 2): 4, ("full", 3): 26, ("face", 3): 6}


@dataclass(frozen=True)
class ClassStatistics:
    """Figures of one class.

    Args:
        name: name of the class.
        share: percent of the labelled pixels.
        absent: number of images without the class.
        absent_ids: ids of the first of them, five at most.
        instances: number of connected components over all images.
        instances_per_image: their "min", "50%" and "max" over all images, those without the class included.
        instance_sizes: quantiles of their size in pixels or voxels ("min", "5%", ... "max"); None without instances.
    """

    name: str
    share: float
    absent: int
    absent_ids: tuple[str, ...]
    instances: int
    instances_per_image: dict[str, float]
    instance_sizes: dict[str, float] | None


@dataclass(frozen=True)
class Statistics:
    """Figures of one split.

    Args:
        split: its name.
        images: number of images looked at, of `images_in_split`.
        image_sizes: "min", "median" and "max" of each axis, (H, W) or *S.
        spacing: median distance of voxels along each axis, in mm (3D) or pixels (2D).
        classes: figures of each class, in order of the label.
        void_share: percent of all pixels that are ignored.
        imbalance: largest share over smallest, among classes that occur.
        connectivity: neighbours that make one instance: 8 or 4 in 2D, 26 or 6 in 3D.
    """

    split: str
    images: int
    images_in_split: int
    image_sizes: dict[str, tuple[float, ...]]
    spacing: tuple[float, ...]
    classes: tuple[ClassStatistics, ...]
    void_share: float
    imbalance: float
    connectivity: int

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain dicts, lists and numbers, ready for JSON."""
        return asdict(self)


def statistics(
    source: Source,
    split: str,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    connectivity: Literal["full", "face"] = "full",
) -> Statistics:
    """Read the masks of a split and count.

    Args:
        limit: look at this many images only, spread evenly over the split.
        progress: called with (done, total) after each image.
        connectivity: "full" joins pixels that touch at a corner into one instance, "face" only those that share a side.

    Raises:
        DataError: for a split that is missing, and for the first mask that cannot be read.
        ValueError: for another `connectivity`.
    """
    if connectivity not in ("full", "face"):
        raise ValueError(f"statistics: `connectivity` must be 'full' or 'face'; got {connectivity!r}.")
    neighbours = _NEIGHBOURS[connectivity, source.dims]
    held = source.items(split)
    items = _spread(held, limit)
    sizes: list[list[np.ndarray]] = []
    shapes: list[tuple[int, ...]] = []
    void = 0
    for done, item in enumerate(items, start=1):
        labels = source.read_mask(item)
        shapes.append(labels.shape)
        sizes.append(instance_sizes(labels, len(source.classes), neighbours))
        void += labels.size - int(sum(of_class.sum() for of_class in sizes[-1]))
        if progress is not None:
            progress(done, len(items))
    pixels = np.array([[of_class.sum() for of_class in of_image] for of_image in sizes], dtype=np.int64)
    total = pixels.sum(axis=0)
    present = total[total > 0]
    return Statistics(
        split=split,
        images=len(items),
        images_in_split=len(held),
        image_sizes=_size_range(shapes),
        spacing=tuple(np.median([source.spacing(item) for item in items], axis=0).tolist()),
        classes=tuple(_class_statistics(source, items, sizes, pixels, label) for label in range(len(source.classes))),
        void_share=100 * void / (void + int(total.sum())),
        imbalance=float(present.max() / present.min()) if present.size else 1.0,
        connectivity=neighbours,
    )


def instance_sizes(labels: np.ndarray, classes: int, connectivity: Connectivity) -> list[np.ndarray]:
    """Sizes of the connected components of each class, in one pass over the labels; other labels are left out."""
    valid = (labels >= 0) & (labels < classes)
    shifted = np.where(valid, labels, -1).astype(np.int32) + 1
    components = np.asarray(cc3d.connected_components(shifted, connectivity=connectivity)).ravel()
    counts = np.bincount(components)
    label_of = np.zeros(len(counts), dtype=np.int64)
    label_of[components] = shifted.ravel()
    return [counts[label_of == label + 1] for label in range(classes)]


def _class_statistics(
    source: Source, items: tuple[Item, ...], sizes: list[list[np.ndarray]], pixels: np.ndarray, label: int
) -> ClassStatistics:
    per_image = np.array([len(of_image[label]) for of_image in sizes])
    pooled = np.concatenate([of_image[label] for of_image in sizes])
    absent = [item.id for item, count in zip(items, pixels[:, label], strict=True) if count == 0]
    quantiles = None if not pooled.size else {k: float(np.quantile(pooled, q)) for k, q in QUANTILES.items()}
    return ClassStatistics(
        name=source.classes[label],
        share=100 * float(pixels[:, label].sum()) / max(int(pixels.sum()), 1),
        absent=len(absent),
        absent_ids=tuple(absent[:5]),
        instances=int(per_image.sum()),
        instances_per_image={k: float(np.quantile(per_image, QUANTILES[k])) for k in ("min", "50%", "max")},
        instance_sizes=quantiles,
    )


def _spread(items: tuple[Item, ...], limit: int | None) -> tuple[Item, ...]:
    """At most `limit` items, evenly spread."""
    if limit is None or limit >= len(items):
        return items
    return tuple(items[index] for index in np.linspace(0, len(items) - 1, max(limit, 1)).round().astype(int))


def _size_range(sizes: list[tuple[int, ...]]) -> dict[str, tuple[float, ...]]:
    reduced = {"min": np.min(sizes, axis=0), "median": np.median(sizes, axis=0), "max": np.max(sizes, axis=0)}
    return {name: tuple(value.tolist()) for name, value in reduced.items()}
