"""Cityscapes trees: leftImg8bit/SPLIT/CITY/*_leftImg8bit.png and gtFine/SPLIT/CITY/*_gtFine_labelIds.png."""

from pathlib import Path

import numpy as np

from delineate.data.item import DataError, Item, first_few
from delineate.data.source import Source
from delineate.data.splits import split_items

IGNORE_INDEX = 255
TRAIN_CLASSES = (
    *(("road", 7, (128, 64, 128)), ("sidewalk", 8, (244, 35, 232)), ("building", 11, (70, 70, 70))),
    *(("wall", 12, (102, 102, 156)), ("fence", 13, (190, 153, 153)), ("pole", 17, (153, 153, 153))),
    *(("traffic light", 19, (250, 170, 30)), ("traffic sign", 20, (220, 220, 0)), ("vegetation", 21, (107, 142, 35))),
    *(("terrain", 22, (152, 251, 152)), ("sky", 23, (70, 130, 180)), ("person", 24, (220, 20, 60))),
    *(("rider", 25, (255, 0, 0)), ("car", 26, (0, 0, 142)), ("truck", 27, (0, 0, 70)), ("bus", 28, (0, 60, 100))),
    *(("train", 31, (0, 80, 100)), ("motorcycle", 32, (0, 0, 230)), ("bicycle", 33, (119, 11, 32))),
)
"""The 19 classes that are trained and scored, in the order of the train ids: name, label id, colour."""
CLASSES = tuple(name for name, _, _ in TRAIN_CLASSES)
TRAIN_ID = dict.fromkeys(range(34), IGNORE_INDEX) | {label: c for c, (_, label, _) in enumerate(TRAIN_CLASSES)}
"""Train id of every label id 0..33; those that are not trained are ignored. Licence plates, -1, are stored as 255."""
IMAGE, LABEL_IDS, TRAIN_IDS = "_leftImg8bit.png", "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"


def is_cityscapes(root: Path) -> bool:
    """Whether the folder is a Cityscapes tree."""
    return (root / "leftImg8bit").is_dir() or (root / "gtFine").is_dir()


def open_cityscapes(root: Path) -> Source:
    """Open a Cityscapes tree as downloaded.

    Masks are the `labelTrainIds` files where all items have one, else the `labelIds` files, mapped to train ids when
    they are read. Masks of `test` hold no labels and are left out. Without `val`, 20 % of train are set aside.

    Raises:
        DataError: for missing folders, and for images without mask or masks without image.
    """
    for folder in ("leftImg8bit/train", "gtFine/train"):
        if not (root / folder).is_dir():
            raise DataError(
                f"{root / folder}: expected this folder of a Cityscapes tree; it is missing. Unpack it there."
            )
    splits, kind = _read_splits(root)
    notes = ()
    if "val" not in splits:
        splits, note = split_items(splits["train"])
        notes = (note,)
    if (root / "leftImg8bit" / "test").is_dir():
        test = _files(root / "leftImg8bit" / "test", IMAGE)
        splits["test"] = tuple(Item(name, image, None) for name, image in test.items())
    return Source(
        root=root,
        layout="cityscapes",
        dims=2,
        classes=CLASSES,
        ignore_index=IGNORE_INDEX,
        splits=splits,
        palette=np.array([colour for _, _, colour in TRAIN_CLASSES], dtype=np.uint8),
        notes=(*notes, kind),
        relabel=TRAIN_ID,
        relabel_ending=LABEL_IDS,
    )


def _read_splits(root: Path) -> tuple[dict[str, tuple[Item, ...]], str]:
    """Train and, where there is one, val, and the sentence on which files their masks are."""
    held = [split for split in ("train", "val") if (root / "leftImg8bit" / split).is_dir()]
    images = {split: _files(root / "leftImg8bit" / split, IMAGE) for split in held}
    masks = {split: _read_masks(root / "gtFine" / split, images[split]) for split in held}
    if mapped := all(masks[split][TRAIN_IDS].keys() == images[split].keys() for split in held):
        found = {split: masks[split][TRAIN_IDS] for split in held}
    else:
        found = {split: masks[split][TRAIN_IDS] | masks[split][LABEL_IDS] for split in held}
    splits = {
        split: tuple(Item(name, image, found[split][name]) for name, image in images[split].items()) for split in held
    }
    kind = "labelTrainIds files" if mapped else "labelIds files, mapped to the 19 train ids when read"
    return splits, f"masks are the {kind}"


def _files(folder: Path, ending: str) -> dict[str, Path]:
    """Files CITY/ID + ending of a folder by id, such as aachen_000000_000019; DataError where there are none."""
    found = {path.name.removesuffix(ending): path for path in sorted(folder.glob(f"*/[!.]*{ending}"))}
    if not found and ending == IMAGE:
        raise DataError(f"{folder}: expected pictures CITY/*{ending}; got none. Unpack them there.")
    return found


def _read_masks(folder: Path, images: dict[str, Path]) -> dict[str, dict[str, Path]]:
    """The masks of the images, by kind and id; refuses images without any mask, and masks without image."""
    masks = {kind: _files(folder, kind) for kind in (LABEL_IDS, TRAIN_IDS)}
    named = masks[LABEL_IDS].keys() | masks[TRAIN_IDS]
    if lone := images.keys() - named:
        raise DataError(
            f"{folder}: expected CITY/*{LABEL_IDS} or CITY/*{TRAIN_IDS} for every image; none for {first_few(lone)}. "
            "Unpack gtFine again, or remove these images."
        )
    if lone := named - images.keys():
        raise DataError(
            f"{folder}: expected an image in leftImg8bit for every mask; none for {first_few(lone)}. "
            "Unpack leftImg8bit again, or remove these masks."
        )
    return masks
