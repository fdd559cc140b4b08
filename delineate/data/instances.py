"""Instances of each class in a label map: connected components, or the objects of a map of ids beside the mask."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cc3d
import numpy as np
from scipy import ndimage

from delineate.data import picture
from delineate.data.item import DataError, Item
from delineate.data.source import Source

Connectivity = Literal[4, 6, 8, 26]
FULL = (8, 26)
FOLDER = "instances"


@dataclass(frozen=True)
class Instances:
    """The instances of one image.

    Args:
        ids: (*S), 0 outside, 1..n on the instances.
        label_of: class of each id, (n + 1,); -1 for id 0 and for what lies on no class.
        sizes: labelled voxels of each id, (n + 1,).
        connectivity: neighbours that count as next to each other.
        reach: how far apart two instances may be to touch: 1 with a border in common, 2 with one voxel between.
    """

    ids: np.ndarray
    label_of: np.ndarray
    sizes: np.ndarray
    connectivity: Connectivity
    reach: Literal[1, 2]

    def sizes_of(self, label: int) -> np.ndarray:
        """Voxels of each instance of a class."""
        return self.sizes[self.label_of == label]

    def touching(self, label: int) -> int:
        """How many instances of a class have another of the same class within `reach`."""
        if np.count_nonzero(self.label_of == label) < 2:
            return 0
        mask = (self.label_of == label)[self.ids]
        box = ndimage.find_objects(mask.astype(np.uint8))[0]
        ids = np.where(mask[box], self.ids[box], 0).astype(np.int32)
        near = ndimage.generate_binary_structure(ids.ndim, ids.ndim if self.connectivity in FULL else 1)
        most = ndimage.maximum_filter(ids, footprint=near)
        least = ndimage.minimum_filter(np.where(ids > 0, ids, np.iinfo(np.int32).max), footprint=near)
        meeting = (most != least) & (most > 0)
        if self.reach == 2:
            meeting = ndimage.binary_dilation(meeting, near)
        return len(np.unique(ids[meeting & (ids > 0)]))


def components(labels: np.ndarray, classes: int, connectivity: Connectivity) -> Instances:
    """The connected components of each class, in one pass over the labels; other labels are left out."""
    shifted = np.where((labels >= 0) & (labels < classes), labels, -1).astype(np.int32) + 1
    ids = np.asarray(cc3d.connected_components(shifted, connectivity=connectivity))
    sizes = np.bincount(ids.ravel())
    label_of = np.full(len(sizes), -1)
    label_of[ids.ravel()] = shifted.ravel() - 1
    return Instances(ids, label_of, sizes, connectivity, reach=2)


def from_map(
    ids: np.ndarray, labels: np.ndarray, classes: int, background: int | None, connectivity: Connectivity
) -> Instances:
    """The objects of a map of ids; each belongs to the class, background apart, that most of its voxels have."""
    values, dense = np.unique(ids, return_inverse=True)
    dense = dense.reshape(ids.shape) + int(values[0] != 0)
    valid = (labels >= 0) & (labels < classes)
    count = int(dense.max(initial=0)) + 1
    pairs = np.bincount(dense[valid] * classes + labels[valid].astype(np.int64), minlength=count * classes)
    table = pairs.reshape(count, classes)
    sizes = table.sum(axis=1)
    if background is not None:
        table[:, background] = 0
    label_of = np.where(table.any(axis=1), table.argmax(axis=1), -1)
    label_of[0] = -1
    return Instances(dense, label_of, sizes, connectivity, reach=1)


def instance_maps(source: Source, items: Sequence[Item]) -> dict[Path, Path]:
    """By image, the file of the same stem in `instances/`, beside `images/` and `masks/` of plain folders."""
    if source.layout != "folder":
        return {}
    folders = {item.image.parent.parent / FOLDER for item in items}
    found = {folder: picture.pictures(folder) for folder in folders if folder.is_dir()}
    paths = {item.image: found.get(item.image.parent.parent / FOLDER, {}).get(item.image.stem) for item in items}
    return {image: path for image, path in paths.items() if path is not None}


def read_ids(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The ids of a map of instances, 0 outside them. Raises DataError where it has another size than its mask."""
    ids = picture.read_labels(path)
    if ids.shape != shape:
        raise DataError(
            f"{path}: expected the size of its mask, {shape}; got {ids.shape}. "
            "Export the instances on the pixel grid of the image."
        )
    return ids
