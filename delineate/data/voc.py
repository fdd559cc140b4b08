"""PASCAL VOC trees: JPEGImages/, SegmentationClass/ (index PNGs, 255 ignored), ImageSets/Segmentation/*.txt.

With SegmentationClassAug/, the masks added by SBD, train grows from 1,464 images to 10,582.
"""

from pathlib import Path

import numpy as np

from delineate.data import picture
from delineate.data.item import DataError, Item, read_classes, read_lines
from delineate.data.source import Source
from delineate.data.splits import split_items

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
IGNORE_INDEX = 255
AUGMENTED = "SegmentationClassAug"


def is_voc(root: Path) -> bool:
    """Whether the folder is a PASCAL VOC tree."""
    return any((root / name).is_dir() for name in ("JPEGImages", "SegmentationClass", AUGMENTED))


def open_voc(root: Path) -> Source:
    """Open a PASCAL VOC tree.

    Lists `train`, `val`, `test` and `trainval` are used where they are. Without `val`, 20 % of `train`, of `trainval`
    or of all masks are set aside; without `train`, it is what `val` leaves of `trainval` or of all masks.
    With `SegmentationClassAug/`, train is the list `train_aug`, or all its masks outside `val` and `test`; masks of
    train are read from there, and the images of the original list `train` are the split "fine".
    Class names come from `classes.txt`, else by looking at the masks.
    """
    augmented = (root / AUGMENTED).is_dir()
    for folder in ("JPEGImages", *(() if augmented else ("SegmentationClass",))):
        if not (root / folder).is_dir():
            raise DataError(f"{root / folder}: expected this folder of a PASCAL VOC tree; it is missing. Add it.")
    images = picture.pictures(root / "JPEGImages")
    masks = picture.pictures(root / "SegmentationClass") if (root / "SegmentationClass").is_dir() else {}
    splits, notes = _read_augmented(root, images, masks) if augmented else _read_splits(root, images, masks)
    labelled = list(dict.fromkeys(item.mask for items in splits.values() for item in items if item.mask is not None))
    given = read_classes(root)
    classes, class_notes = (given, ()) if given else _infer_classes(root, labelled)
    palette = picture.read_palette(labelled[0], len(classes))
    return Source(
        root=root,
        layout="voc",
        dims=2,
        classes=classes,
        ignore_index=IGNORE_INDEX,
        splits=splits,
        palette=picture.voc_palette(len(classes)) if palette is None else palette,
        notes=notes + class_notes,
    )


def _infer_classes(root: Path, masks: list[Path]) -> tuple[tuple[str, ...], tuple[str]]:
    """Class names where no `classes.txt` gives them, and the note that says how they were found."""
    largest = max((value for value in picture.label_values(masks) if value != IGNORE_INDEX), default=0)
    palette = picture.read_palette(masks[0], largest + 1)
    standard = palette is None or np.array_equal(palette, picture.voc_palette(largest + 1))
    if standard and largest < len(CLASSES):
        return CLASSES, (f"no {root / 'classes.txt'}: classes named as the 21 of PASCAL VOC",)
    names = tuple(f"class_{label}" for label in range(max(largest + 1, 2)))
    return names, (f"no {root / 'classes.txt'}: {len(names)} classes found in the masks",)


def _read_splits(
    root: Path, images: dict[str, Path], masks: dict[str, Path]
) -> tuple[dict[str, tuple[Item, ...]], tuple[str, ...]]:
    """The splits of the lists, completed by one made here where `val` or `train` is missing, and the note on it."""
    folder = root / "ImageSets" / "Segmentation"
    lists = {name: folder / f"{name}.txt" for name in ("train", "val", "test", "trainval")}
    splits = {name: _read_list(path, images, masks) for name, path in lists.items() if path.is_file()}
    if splits.get("train") and splits.get("val"):
        return splits, ()
    pool = splits.get("train") or splits.get("trainval")
    if not pool:
        pool = tuple(Item(name, images[name], masks[name]) for name in masks if name in images)
    if not pool:
        raise DataError(
            f"{root}: expected masks in SegmentationClass with an image of the same stem in JPEGImages; got "
            f"{len(masks)} masks and {len(images)} images without a pair. Add the missing files."
        )
    if held := {item.id for item in splits.get("val", ())}:
        train = tuple(item for item in pool if item.id not in held)
        return {**splits, "train": train}, (f"no train list: the {len(train)} labelled images outside val are train",)
    made, note = split_items(pool)
    return {**splits, **made}, (note,)


def _read_augmented(
    root: Path, images: dict[str, Path], masks: dict[str, Path]
) -> tuple[dict[str, tuple[Item, ...]], tuple[str, ...]]:
    """The same for a tree with the masks of SBD; those of `masks` are read for the splits that are held out."""
    added = picture.pictures(root / AUGMENTED)
    coarse, original = {**masks, **added}, {**added, **masks}
    folder = root / "ImageSets" / "Segmentation"
    lists = {name: folder / f"{name}.txt" for name in ("val", "test", "trainval")}
    splits = {name: _read_list(path, images, original) for name, path in lists.items() if path.is_file()}
    notes = ()
    if (folder / "train_aug.txt").is_file():
        train = _read_list(folder / "train_aug.txt", images, coarse)
    else:
        held = {item.id for name in ("val", "test") for item in splits.get(name, ())}
        train = tuple(Item(name, images[name], added[name]) for name in added if name in images and name not in held)
        notes = (f"no train_aug list: the {len(train)} images of {AUGMENTED} outside val and test are train",)
    if not train:
        raise DataError(
            f"{root}: expected images of train in ImageSets/Segmentation/train_aug.txt or {AUGMENTED}; got none. "
            "Add them."
        )
    splits["train"] = train
    if not splits.get("val"):
        made, note = split_items(train)
        splits, notes = {**splits, **made}, (*notes, note)
    if (folder / "train.txt").is_file():
        kept = {item.id for item in splits["train"]}
        fine = _read_list(folder / "train.txt", images, coarse)
        splits["fine"] = tuple(item for item in fine if item.id in kept)
    order = ("train", "val", "test", "trainval", "fine")
    return {name: splits[name] for name in order if name in splits}, notes


def _read_list(path: Path, images: dict[str, Path], masks: dict[str, Path]) -> tuple[Item, ...]:
    """The items of one list of ids. Only `test` may lack masks."""
    items: dict[str, Item] = {}
    for number, name in read_lines(path):
        if name in items:
            raise DataError(f"{path}, line {number}: expected each id once; '{name}' came before. Remove one.")
        if name not in images:
            raise DataError(
                f"{path}, line {number}: expected an image JPEGImages/{name}.jpg, .jpeg or .png; there is none. "
                "Restore the image or remove the line."
            )
        if name not in masks and path.stem != "test":
            raise DataError(
                f"{path}, line {number}: expected a mask SegmentationClass/{name}.png; there is none. "
                "Restore the mask or remove the line."
            )
        items[name] = Item(name, images[name], masks.get(name))
    return tuple(items.values())
