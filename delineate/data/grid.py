"""Grids of volumes: turned to RAS and back, and the spacing and crop that fit a data set.

RAS: the axes of the array run to the right, to the front and to the top of the patient.
"""

import nibabel.orientations as orientations
import numpy as np

from delineate.data import nifti
from delineate.data.item import DataError, Item
from delineate.data.source import Source

LARGEST_CROP = 64
SMALLEST_CROP = 32


def read_affine(source: Source, item: Item) -> np.ndarray:
    """Voxel indices to mm, (4, 4), of all channels of an item and of its mask.

    Raises:
        DataError: where they do not lie on one grid: a corner of the volume is a tenth of a voxel away or more.
    """
    affine = nifti.read_affine(item.image)
    others = [nifti.channel_path(item.image, channel) for channel in range(1, source.channels)]
    size = np.array(source.size(item))
    corners = np.array(np.meshgrid(*([0, side - 1] for side in size), indexing="ij")).reshape(3, -1)
    for path in [*others, *([item.mask] if item.mask else [])]:
        moved = np.linalg.inv(affine) @ nifti.read_affine(path) @ np.vstack([corners, np.ones(8)])
        if (away := np.abs(moved[:3] - corners).max()) >= 0.1:
            raise DataError(
                f"{path}: expected the affine of {item.image.name}; a corner lies {away:.1f} voxels away. "
                "Resample it to the grid of the image, or correct its header."
            )
    return affine


def to_ras(volume: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A volume (channels, *S) with its axes permuted and flipped to the nearest to RAS, and its affine then."""
    turn = orientations.io_orientation(affine)
    turned = orientations.apply_orientation(np.moveaxis(volume, 0, -1), turn)
    return np.moveaxis(turned, -1, 0), affine @ orientations.inv_ornt_aff(turn, volume.shape[1:])


def from_ras(labels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Labels (*S) in RAS with their axes back as in the file, whose affine is given."""
    ras = orientations.axcodes2ornt("RAS")
    back = orientations.ornt_transform(ras, orientations.io_orientation(affine))
    return np.ascontiguousarray(orientations.apply_orientation(labels, back))


def ras_size(source: Source, item: Item) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Voxels and their spacing in mm along the axes of RAS, from the header alone."""
    order = np.argsort(orientations.io_orientation(nifti.read_affine(item.image))[:, 0])
    size, spacing = source.size(item), source.spacing(item)
    return tuple(size[axis] for axis in order), tuple(spacing[axis] for axis in order)


def default_grid(source: Source, spacing: tuple[float, ...] | None = None) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Spacing in mm and crop in voxels, along the axes of RAS, that fit the train split.

    The spacing is that given, or the median. The crop is the median size in that spacing to the nearest multiple of 16,
    at least 32 and at most 64 a side.
    """
    sizes, spacings = zip(*(ras_size(source, item) for item in source.items("train")), strict=True)
    if spacing is None:
        spacing = tuple(round(float(step), 4) for step in np.median(spacings, axis=0))
    median = np.median(np.array(sizes) * np.array(spacings) / np.array(spacing), axis=0)
    return spacing, tuple(int(min(max(16 * int(side / 16 + 0.5), SMALLEST_CROP), LARGEST_CROP)) for side in median)
