"""A data set on disk: what it holds, and how its images and masks are read."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from delineate.data import nifti, picture
from delineate.data.item import DataError, Item

__all__ = ["DataError", "Item", "Source"]


@dataclass(frozen=True, eq=False)
class Source:
    """A data set found on disk. `open_source` makes one.

    Args:
        root: the folder.
        layout: how it is arranged.
        dims: 2 for pictures, 3 for volumes.
        classes: name of each class; label c is `classes[c]`.
        ignore_index: label of void pixels in what `read_mask` returns, None where the masks have none.
        splits: items by split, at least "train"; usually "val", sometimes "test" (whose masks may be missing). "fine"
            are those of train with the original annotation, where others were added; "unlabelled" have no mask.
        palette: a colour for each class, uint8 (C, 3).
        channels: of each image; 3 for pictures.
        notes: sentences on what was decided by looking, to be shown to the user.
        relabel: values of the mask files that stand for another label, for example {255: 1}; all at once.
        relabel_ending: only mask files whose name ends so are relabelled.
        protocol: by which published rule the labelled images were chosen, "own" for none of them, None where all are
            labelled.
        seed: of the choice of labelled images, None where a list or nobody made it.
    """

    root: Path
    layout: Literal["voc", "cityscapes", "folder", "nnunet"]
    dims: Literal[2, 3]
    classes: tuple[str, ...]
    ignore_index: int | None
    splits: dict[str, tuple[Item, ...]]
    palette: np.ndarray
    channels: int = 3
    notes: tuple[str, ...] = ()
    relabel: dict[int, int] = field(default_factory=dict)
    relabel_ending: str = ""
    protocol: str | None = None
    seed: int | None = None

    @property
    def pad_label(self) -> int:
        """The label padding gets, never a class: `ignore_index`, or 255 (-1 with more than 255 classes) without one."""
        if self.ignore_index is not None:
            return self.ignore_index
        return 255 if len(self.classes) <= 255 else -1

    def items(self, split: str) -> tuple[Item, ...]:
        """The items of a split. Raises DataError where there are none."""
        if not self.splits.get(split):
            held = ", ".join(f"{name} ({len(items)})" for name, items in self.splits.items())
            raise DataError(f"{self.root}: expected images in split '{split}'; got none. Its splits are: {held}.")
        return self.splits[split]

    def size(self, item: Item) -> tuple[int, ...]:
        """(H, W) or *S of the image, from its header alone."""
        return picture.read_size(item.image) if self.dims == 2 else nifti.read_size(item.image)

    def spacing(self, item: Item) -> tuple[float, ...]:
        """Distance between neighbouring voxels along each axis: mm for volumes, 1 pixel for pictures."""
        return (1.0, 1.0) if self.dims == 2 else nifti.read_spacing(item.image)

    def read_image(self, item: Item) -> np.ndarray:
        """RGB uint8 (H, W, 3) of a picture, or float32 (channels, *S) of a volume in its own intensities."""
        return picture.read_image(item.image) if self.dims == 2 else nifti.read_image(item.image)

    def read_mask(self, item: Item) -> np.ndarray:
        """Class labels, integer (H, W) or (*S), every one a class or `ignore_index`.

        Raises DataError, naming the file, where it cannot be read, has another size than the image, or other values.
        """
        if item.mask is None:
            raise DataError(f"{item.image}: expected a mask; this item has none. Use a split that is labelled.")
        labels = picture.read_labels(item.mask) if self.dims == 2 else nifti.read_labels(item.mask)
        if labels.shape != self.size(item):
            raise DataError(
                f"{item.mask}: expected the size of its image {item.image.name}, {self.size(item)}; "
                f"got {labels.shape}. "
                "Export the mask on the pixel grid of the image."
            )
        known = self.relabel if item.mask.name.endswith(self.relabel_ending) else {}
        found = relabel_at_once(labels, known)
        self._check_values(labels, found, item.mask, known)
        return found

    def _check_values(self, stored: np.ndarray, labels: np.ndarray, path: Path, known: dict[int, int]) -> None:
        """Refuse labels that are neither a class nor `ignore_index`, in the values that the file stores."""
        wrong = (labels < 0) | (labels >= len(self.classes))
        if self.ignore_index is not None:
            wrong &= labels != self.ignore_index
        if wrong.any():
            void = "" if self.ignore_index is None else f" or {self.ignore_index} (ignored)"
            found = ", ".join(str(value) for value in np.unique(stored[wrong])[:5])
            largest = max(known) if self.layout == "cityscapes" and known else len(self.classes) - 1
            place = {"nnunet": "dataset.json", "cityscapes": None}.get(self.layout, "classes.txt")
            remedy = (
                f", or name every class in {self.root / place}" if place else ": the labels of Cityscapes are fixed"
            )
            raise DataError(f"{path}: expected labels 0..{largest}{void}; got {found}. Correct the mask{remedy}.")


def relabel_at_once(labels: np.ndarray, relabel: dict[int, int]) -> np.ndarray:
    """Labels of the same type with every value that is a key replaced by what stands for it; chains are not followed.

    >>> relabel_at_once(np.array([7, 0, 3]), {7: 0, 0: 255}).tolist()
    [0, 255, 3]
    """
    if not relabel:
        return labels
    if labels.dtype == np.uint8:
        table = np.arange(256, dtype=np.uint8)
        table[list(relabel)] = list(relabel.values())
        return table[labels]
    found = labels.copy()
    for value, label in relabel.items():
        found[labels == value] = label
    return found
