"""Plain folders: `images/ masks/`, at the root or inside `train/`, `val/` and `test/`, paired by stem."""

from pathlib import Path

from delineate.data import picture
from delineate.data.item import DataError, Item, read_classes
from delineate.data.source import Source
from delineate.data.splits import split_items

SPLITS = ("train", "val", "test")


def is_folder(root: Path) -> bool:
    """Whether the folder holds `images/` or `train/images/`."""
    return (root / "images").is_dir() or (root / "train" / "images").is_dir()


def open_folder(root: Path) -> Source:
    """Open plain folders.

    Class names come from `classes.txt`, else from the values of the masks. Value 255 is class 1 where the masks hold
    only 0 and 255, and ignored otherwise. Without `val`, 20 % of the images are set aside.
    """
    splits, notes = _read_splits(root)
    masks = [item.mask for items in splits.values() for item in items if item.mask is not None]
    values = picture.label_values(masks)
    classes, ignore_index, relabel, class_notes = _read_values(root, values)
    palette = picture.read_palette(masks[0], len(classes))
    return Source(
        root=root,
        layout="folder",
        dims=2,
        classes=classes,
        ignore_index=ignore_index,
        splits=splits,
        palette=picture.voc_palette(len(classes)) if palette is None else palette,
        notes=notes + class_notes,
        relabel=relabel,
    )


def _read_values(root: Path, values: list[int]) -> tuple[tuple[str, ...], int | None, dict[int, int], tuple[str, ...]]:
    """Class names, ignore_index, relabelling and notes that follow from the values of all masks."""
    given = read_classes(root)
    if values == [0, 255] and len(given or ()) in (0, 2):
        note = "the masks hold only 0 and 255: value 255 read as class 1"
        return given or ("background", "foreground"), None, {255: 1}, (note,)
    labels = [value for value in values if value != 255 or len(given or ()) > 255]
    ignore_index = 255 if len(labels) < len(values) else None
    notes = () if ignore_index is None else ("value 255 of the masks is ignored",)
    if given:
        return given, ignore_index, {}, notes
    if not labels or labels == [0]:
        raise DataError(
            f"{root}: expected masks with two classes or more; every mask holds only {values}. "
            "Check the export, or name the classes in classes.txt."
        )
    names = tuple(f"class_{label}" for label in range(labels[-1] + 1))
    unused = len(names) - len(labels)
    found = f"no classes.txt: {len(names)} classes found in the masks" + (
        f", {unused} of them unused" if unused else ""
    )
    return ("background", "foreground") if len(names) == 2 else names, ignore_index, {}, (*notes, found)


def _read_splits(root: Path) -> tuple[dict[str, tuple[Item, ...]], tuple[str, ...]]:
    """The splits given by folders, or one made here, and the note on it."""
    if (root / "images").is_dir():
        splits = {"train": _read_pairs(root)}
    else:
        splits = {
            name: _read_pairs(root / name, labelled=name != "test")
            for name in SPLITS
            if (root / name / "images").is_dir()
        }
    if splits.get("val"):
        return splits, ()
    made, note = split_items(splits["train"])
    return {**splits, **made}, (note,)


def _read_pairs(folder: Path, labelled: bool = True) -> tuple[Item, ...]:
    """The items of `folder/images` and `folder/masks`; masks may be left out altogether where not `labelled`."""
    images, masks = folder / "images", folder / "masks"
    if not masks.is_dir():
        if labelled:
            raise DataError(f"{masks}: expected a folder of masks beside images/; it is missing. Add it.")
        return list_images(images)
    pairs, labels = picture.pictures(images), picture.pictures(masks)
    picture.require_masks(pairs, labels, folder)
    if not pairs:
        raise DataError(
            f"{images}: expected pictures ({', '.join(picture.EXTENSIONS)}); got none. Put the images there."
        )
    return tuple(Item(name, path, labels[name]) for name, path in pairs.items())


def list_images(path: Path | str) -> tuple[Item, ...]:
    """Unlabelled items, for prediction: one picture, or all pictures of a folder."""
    path = Path(path)
    if path.is_file():
        return (Item(path.stem, path, None),)
    if not path.is_dir():
        raise DataError(f"{path}: expected a picture or a folder of pictures; there is nothing there. Check the path.")
    items = tuple(Item(name, file, None) for name, file in picture.pictures(path).items())
    if not items:
        raise DataError(f"{path}: expected pictures ({', '.join(picture.EXTENSIONS)}); got none. Check the path.")
    return items
