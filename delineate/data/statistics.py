"""Figures of a data set that decide which loss fits it: shares, absent classes, instances, thinness, boundaries."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from delineate.data.instances import Connectivity, Instances, components, from_map, instance_maps, read_ids
from delineate.data.item import Item
from delineate.data.shape import boundary_voxels, skeleton_voxels
from delineate.data.source import Source

QUANTILES = {"min": 0.0, "5%": 0.05, "25%": 0.25, "50%": 0.5, "75%": 0.75, "95%": 0.95, "max": 1.0}
SHOWN = 5
"""Ids that are named of images with something in common."""
_NEIGHBOURS: dict[tuple[str, int], Connectivity] = {("full", 2): 8, ("face", 2): 4, ("full", 3): 26, ("face", 3): 6}


@dataclass(frozen=True)
class ClassStatistics:
    """Figures of one class.

    Args:
        name: name of the class.
        share: percent of the labelled pixels.
        images: number of images that hold the class.
        absent: number of images without it.
        absent_ids: ids of the first of them, five at most.
        instances: number of instances over all images.
        instances_per_image: their "min", "50%" and "max" over all images, those without the class included.
        instance_sizes: quantiles of their size in pixels or voxels ("min", "5%", ... "max"); None without instances.
        size_ratio: "50%", "95%" and "max" of the largest to the smallest instance of an image, over the images with two
            or more; None without such images, and for the background.
        touching: percent of the instances that are next to another of the class: with a border in common where they
            come from maps, with one voxel or less between where they are components; None without instances, and for
            the background.
        thinness: voxels of the skeleton over voxels of the class, all images together; 1 is a line one voxel wide. None
            for a class that does not occur, and for the background.
        boundary: percent of the voxels of the class with a face to another class. Ignored voxels and the edge of the
            image are no class. None for a class that does not occur.
        components: number of connected components, where the instances come from maps; None where they are the same.
    """

    name: str
    share: float
    images: int
    absent: int
    absent_ids: tuple[str, ...]
    instances: int
    instances_per_image: dict[str, float]
    instance_sizes: dict[str, float] | None
    size_ratio: dict[str, float] | None
    touching: float | None
    thinness: float | None
    boundary: float | None
    components: int | None = None


@dataclass(frozen=True)
class Statistics:
    """Figures of one split.

    Args:
        split: its name.
        images: number of images looked at, of `images_in_split`.
        image_sizes: "min", "median" and "max" of each axis, (H, W) or *S.
        spacing: median distance of voxels along each axis, in mm (3D) or pixels (2D).
        spacing_range: "min", "median" and "max" of it.
        classes: figures of each class, in order of the label.
        void_share: percent of all pixels that are ignored.
        imbalance: largest share over smallest, among classes that occur.
        connectivity: neighbours that make one instance: 8 or 4 in 2D, 26 or 6 in 3D.
        background: label that is background: 0 in nnU-Net raw, else the class of that name; None where every label is a
            class.
        empty_images: number of images in which nothing but background or ignored pixels is labelled.
        empty_ids: ids of the first of them, five at most.
        instances_from: "maps" where each image has a map of instances, which then holds for the classes it covers; else
            "components".
    """

    split: str
    images: int
    images_in_split: int
    image_sizes: dict[str, tuple[float, ...]]
    spacing: tuple[float, ...]
    spacing_range: dict[str, tuple[float, ...]]
    classes: tuple[ClassStatistics, ...]
    void_share: float
    imbalance: float
    connectivity: int
    background: int | None
    empty_images: int
    empty_ids: tuple[str, ...]
    instances_from: Literal["components", "maps"]

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain dicts, lists and numbers, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Counts:
    """What is kept of one image: numbers by class (C,), and its instances' sizes and how many touch, by class."""

    size: tuple[int, ...]
    voxels: np.ndarray
    boundary: np.ndarray
    skeleton: np.ndarray
    components: list[tuple[np.ndarray, int]]
    mapped: list[tuple[np.ndarray, int]]


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
    maps = instance_maps(source, items)
    maps = maps if len(maps) == len(items) else {}
    counts = []
    for done, item in enumerate(items, start=1):
        counts.append(_count(source, item, maps.get(item.image), neighbours))
        if progress is not None:
            progress(done, len(items))
    return _summary(source, split, items, counts, neighbours, len(held), bool(maps))


def shares(source: Source, split: str, limit: int | None = None) -> tuple[dict[str, float], int]:
    """Percent of the labelled pixels by class, and the number of masks that were read for it, `limit` at most."""
    items = _spread(source.items(split), limit)
    total = sum(_voxels(source.read_mask(item), len(source.classes)) for item in items)
    percent = 100 * np.asarray(total) / max(int(np.sum(total)), 1)
    return dict(zip(source.classes, percent.tolist(), strict=True)), len(items)


def sample(source: Source, limit: int | None) -> Source:
    """The source with at most `limit` items of each split, evenly spread."""
    return replace(source, splits={split: _spread(items, limit) for split, items in source.splits.items()})


def _spread(items: tuple[Item, ...], limit: int | None) -> tuple[Item, ...]:
    if limit is None or limit >= len(items):
        return items
    return tuple(items[index] for index in np.linspace(0, len(items) - 1, max(limit, 1)).round().astype(int))


def background_of(source: Source) -> int | None:
    """The label that is background: 0 in nnU-Net raw, else the class of that name; None where every label is a class.

    >>> from types import SimpleNamespace as Like
    >>> background_of(Like(layout="folder", classes=("Background", "cell"))), background_of(
    ...     Like(layout="voc", classes=("sky", "road"))
    ... )
    (0, None)
    """
    if source.layout == "nnunet":
        return 0
    return next((label for label, name in enumerate(source.classes) if name.lower() == "background"), None)


def _voxels(labels: np.ndarray, classes: int) -> np.ndarray:
    """Voxels of each class (C,)."""
    return np.bincount(labels[(labels >= 0) & (labels < classes)].astype(np.int64), minlength=classes)


def _count(source: Source, item: Item, ids: Path | None, connectivity: Connectivity) -> _Counts:
    """The numbers of one image. `ids` is the file of its map of instances."""
    labels, classes, background = source.read_mask(item), len(source.classes), background_of(source)
    voxels = _voxels(labels, classes)
    mapped = from_map(read_ids(ids, labels.shape), labels, classes, background, connectivity) if ids else None
    objects = [label for label in range(classes) if voxels[label] and label != background]
    skeleton = np.zeros(classes, dtype=np.int64)
    skeleton[objects] = [skeleton_voxels(labels == label) for label in objects]
    return _Counts(
        labels.shape,
        voxels,
        boundary_voxels(labels, classes),
        skeleton,
        _sizes_and_touching(components(labels, classes, connectivity), classes, background),
        _sizes_and_touching(mapped, classes, background) if mapped else [],
    )


def _sizes_and_touching(found: Instances, classes: int, background: int | None) -> list[tuple[np.ndarray, int]]:
    """Of each class."""
    touching = [0 if label == background else found.touching(label) for label in range(classes)]
    return [(found.sizes_of(label), touching[label]) for label in range(classes)]


def _summary(
    source: Source,
    split: str,
    items: tuple[Item, ...],
    counts: list[_Counts],
    connectivity: int,
    held: int,
    mapped: bool,
) -> Statistics:
    background = background_of(source)
    voxels = np.array([count.voxels for count in counts])
    labelled, pixels = voxels.sum(axis=0), int(sum(np.prod(count.size) for count in counts))
    present = labelled[labelled > 0]
    objects = voxels if background is None else np.delete(voxels, background, axis=1)
    empty = [item.id for item, count in zip(items, objects.sum(axis=1), strict=True) if count == 0]
    spacing = _range([source.spacing(item) for item in items])
    return Statistics(
        split=split,
        images=len(items),
        images_in_split=held,
        image_sizes=_range([count.size for count in counts]),
        spacing=spacing["median"],
        spacing_range=spacing,
        classes=tuple(_class_statistics(source, items, counts, label) for label in range(len(source.classes))),
        void_share=100 * (pixels - int(labelled.sum())) / pixels,
        imbalance=float(present.max() / present.min()) if present.size else 1.0,
        connectivity=connectivity,
        background=background,
        empty_images=len(empty),
        empty_ids=tuple(empty[:SHOWN]),
        instances_from="maps" if mapped else "components",
    )


def _class_statistics(source: Source, items: tuple[Item, ...], counts: list[_Counts], label: int) -> ClassStatistics:
    voxels = np.array([count.voxels[label] for count in counts])
    total, everything = int(voxels.sum()), int(sum(count.voxels.sum() for count in counts))
    absent = [item.id for item, count in zip(items, voxels, strict=True) if count == 0]
    covered = any(count.mapped and count.mapped[label][0].size for count in counts)
    found = [(count.mapped if covered else count.components)[label] for count in counts]
    per_image, pooled = np.array([len(sizes) for sizes, _ in found]), np.concatenate([sizes for sizes, _ in found])
    foreground = label != background_of(source)
    skeleton, boundary = np.sum([(count.skeleton[label], count.boundary[label]) for count in counts], axis=0).tolist()
    return ClassStatistics(
        name=source.classes[label],
        share=100 * total / max(everything, 1),
        images=len(items) - len(absent),
        absent=len(absent),
        absent_ids=tuple(absent[:SHOWN]),
        instances=len(pooled),
        instances_per_image=_quantiles(per_image, ("min", "50%", "max")),
        instance_sizes=_quantiles(pooled, QUANTILES) if pooled.size else None,
        size_ratio=_size_ratio([sizes for sizes, _ in found]) if foreground else None,
        touching=100 * sum(touching for _, touching in found) / len(pooled) if pooled.size and foreground else None,
        thinness=skeleton / total if total and foreground else None,
        boundary=100 * boundary / total if total else None,
        components=sum(len(count.components[label][0]) for count in counts) if covered else None,
    )


def _size_ratio(sizes: list[np.ndarray]) -> dict[str, float] | None:
    """Quantiles of the largest to the smallest instance of an image; None where no image has two."""
    ratios = np.array([of_image.max() / of_image.min() for of_image in sizes if len(of_image) > 1])
    return _quantiles(ratios, ("50%", "95%", "max")) if ratios.size else None


def _quantiles(values: np.ndarray, names: Sequence[str] | dict[str, float]) -> dict[str, float]:
    return {name: float(np.quantile(values, QUANTILES[name])) for name in names}


def _range(rows: Sequence[tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
    """Smallest, median and largest of each column."""
    reduced = {"min": np.min(rows, axis=0), "median": np.median(rows, axis=0), "max": np.max(rows, axis=0)}
    return {name: tuple(value.tolist()) for name, value in reduced.items()}
