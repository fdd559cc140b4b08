"""Data sets on disk: found by looking, checked with plain words, read for training and for statistics.

>>> from delineate.data import open_source
>>> open_source("nowhere")
Traceback (most recent call last):
    ...
delineate.data.item.DataError: nowhere: expected a folder with a data set; there is nothing there. Check the path.
"""

from dataclasses import replace
from pathlib import Path

from delineate.data.cityscapes import is_cityscapes, open_cityscapes
from delineate.data.dataset import SegmentationDataset, collate
from delineate.data.folder import is_folder, list_images, open_folder
from delineate.data.geometry import Prepare
from delineate.data.item import DataError, Item
from delineate.data.labelled import few_labels, write_split_lists
from delineate.data.nnunet import is_nnunet, list_volumes, open_nnunet
from delineate.data.problems import Problem, find_problems, without_errors
from delineate.data.source import Source
from delineate.data.splits import NOT_GIVEN, make_split, overlap_notes, read_split_list
from delineate.data.statistics import ClassStatistics, Statistics, sample, shares, statistics
from delineate.data.transforms import default_crop, denormalise, eval_transform, train_transform
from delineate.data.voc import is_voc, open_voc

__all__ = [
    "ClassStatistics",
    "DataError",
    "Item",
    "Prepare",
    "Problem",
    "SegmentationDataset",
    "Source",
    "Statistics",
    "collate",
    "default_crop",
    "denormalise",
    "eval_transform",
    "few_labels",
    "find_problems",
    "list_images",
    "list_volumes",
    "make_split",
    "open_source",
    "read_split_list",
    "sample",
    "shares",
    "statistics",
    "train_transform",
    "without_errors",
    "write_split_lists",
]

_LAYOUTS = (
    (is_nnunet, open_nnunet),
    (is_cityscapes, open_cityscapes),
    (is_voc, open_voc),
    (is_folder, open_folder),
)
_LOOKED_FOR = (
    "JPEGImages/ and SegmentationClass/ (PASCAL VOC), leftImg8bit/ and gtFine/ (Cityscapes), "
    "images/ and masks/ (plain folders, also inside train/ and val/), "
    "or imagesTr/, labelsTr/ and dataset.json (nnU-Net raw)"
)


def open_source(root: Path | str, train_list: Path | str | None = None, val_list: Path | str | None = None) -> Source:
    """Open the data set in a folder, its layout found by looking.

    Args:
        root: a PASCAL VOC or Cityscapes tree, plain folders `images/ masks/`, or an nnU-Net raw data set.
        train_list: a file with `image mask` on each line, relative to `root`, that replaces the train split.
        val_list: the same for the val split.

    Raises:
        DataError: in one line, what is wrong with the folder or the files and what to do.
    """
    root = Path(root)
    if not root.is_dir():
        found = "this is a file" if root.exists() else "there is nothing there"
        remedy = "Unpack it and name the folder" if root.exists() else "Check the path"
        raise DataError(f"{root}: expected a folder with a data set; {found}. {remedy}.")
    for found, opener in _LAYOUTS:
        if found(root):
            source = opener(root)
            break
    else:
        raise _unknown_layout(root)
    if train_list is not None and val_list is not None:
        source = replace(source, notes=tuple(note for note in source.notes if not note.startswith(NOT_GIVEN)))
    for split, path in (("train", train_list), ("val", val_list)):
        if path is not None:
            source = _replace_split(source, split, Path(path))
    return replace(source, notes=source.notes + overlap_notes(source.splits))


def _unknown_layout(root: Path) -> DataError:
    """What was looked for, what is there instead, and which folder inside may have been meant."""
    inside = sorted(root.iterdir())
    if not inside:
        return DataError(f"{root}: expected {_LOOKED_FOR}; the folder is empty. Put the data there or check the path.")
    held = ", ".join(path.name + "/" * path.is_dir() for path in inside[:8]) + (" ..." if len(inside) > 8 else "")
    meant = [str(path) for path in inside if path.is_dir() and any(found(path) for found, _ in _LAYOUTS)]
    remedy = f"Did you mean {' or '.join(meant[:3])}?" if meant else "Arrange the files in one of these ways."
    return DataError(f"{root}: expected {_LOOKED_FOR}; it holds {held}. {remedy}")


def _replace_split(source: Source, split: str, path: Path) -> Source:
    """The source with the items of a list for a split; images already known keep their id."""
    items = read_split_list(path, source.root, known=(item for items in source.splits.values() for item in items))
    note = f"{split} split replaced by the {len(items)} images of {path}"
    return replace(source, splits={**source.splits, split: items}, notes=(*source.notes, note))
