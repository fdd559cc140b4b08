"""Who is in train and who is in val: splits made here, and lists read from files."""

from collections.abc import Container, Iterable
from dataclasses import replace
from hashlib import sha256
from os.path import realpath
from pathlib import Path
from typing import Literal

from delineate.data.item import DataError, Item, first_few, read_lines
from delineate.data.nifti import case_name

NOT_GIVEN = "no validation split given"
"""How the note on a split made here begins."""
MASKS_ELSEWHERE = (
    ("/SegmentationClass/", "/SegmentationClassAug/"),
    ("/SegmentationClassAug/", "/SegmentationClass/"),
    ("_gtFine_labelTrainIds.png", "_gtFine_labelIds.png"),
)
"""Where a mask that a list names may lie instead: (part of its path, what stands there then).

Published lists name all masks of VOC in one folder, and those of Cityscapes as an extra tool makes them.
"""


def make_split(ids: Iterable[str], fraction: float = 0.2, seed: int = 0) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Deal ids out to (train, val), each in sorted order.

    The ids with the smallest hash of seed and id go to val, `fraction` of them to the nearest whole number, at least
    one and never all (a single id stays in train). The order in which ids come does not matter.

    >>> make_split(["a", "b", "c", "d", "e"])
    (('a', 'b', 'c', 'e'), ('d',))
    """
    ids = list(ids)
    if len(set(ids)) < len(ids):
        raise DataError(
            f"make_split: expected different ids; twice: {first_few({i for i in ids if ids.count(i) > 1})}."
        )
    if not 0 < fraction < 1:
        raise DataError(f"make_split: expected `fraction` between 0 and 1; got {fraction}. Try 0.2.")
    count = min(max(round(len(ids) * fraction), 1), len(ids) - 1)
    ranked = sorted(ids, key=lambda name: sha256(f"{seed}:{name}".encode()).digest())
    return tuple(sorted(ranked[max(count, 0) :])), tuple(sorted(ranked[: max(count, 0)]))


def split_items(items: Iterable[Item]) -> tuple[dict[str, tuple[Item, ...]], str]:
    """Items without a given split as {"train": ..., "val": ...}, 80 to 20, and the sentence that says so."""
    by_id = {item.id: item for item in items}
    train, val = make_split(by_id)
    splits = {"train": tuple(by_id[i] for i in train), "val": tuple(by_id[i] for i in val)}
    note = f"{NOT_GIVEN}: {len(val)} of {len(by_id)} images (20 %) set aside by a hash of the id, seed 0"
    return splits, note


def read_split_list(
    path: Path | str,
    root: Path | str,
    masks: Literal["required", "dropped"] = "required",
    known: Iterable[Item] = (),
) -> tuple[Item, ...]:
    """Items of a list with `image mask` on each line, relative to `root` (tab between them if a name holds spaces).

    Args:
        path: the list.
        root: the folder that its paths start from.
        masks: "required" (one that is missing is looked for in `MASKS_ELSEWHERE`), or "dropped" for unlabelled images:
            a line may then hold the image alone, a mask that is named need not exist, and the items have none.
        known: items of the data set. Listed images among them keep their id, and a line may be such an id alone.

    Raises:
        DataError: with the number of the line, for a missing file, a line of another form, and an image listed twice.
    """
    path, root = Path(path), Path(root)
    by_id, by_file = {}, {}
    for item in known:
        by_id.setdefault(item.id, item)
        by_file.setdefault(realpath(item.image), item)
    taken, items, ids = set(by_id), {}, set()
    for number, line in read_lines(path):
        place = f"{path}, line {number}"
        found = by_id.get(line) or _read_line(line, root, masks, place, bool(by_id))
        if masks == "required" and found.mask is None:
            raise DataError(f"{place}: expected an image with a mask; {line} has none. Remove the line.")
        file = realpath(found.image)
        if file in items:
            raise DataError(f"{place}: expected each image once; {items[file].id} came before. Remove one.")
        item = replace(by_file[file], mask=found.mask) if file in by_file else with_free_id(found, taken)
        if item.id in ids:
            raise DataError(
                f"{place}: expected images of different names; {item.id} came before. Rename or remove one."
            )
        items[file] = item if masks == "required" else replace(item, mask=None)
        taken.add(item.id)
        ids.add(item.id)
    if not items:
        form = "image mask" if masks == "required" else "image"
        raise DataError(f"{path}: expected lines `{form}`; got an empty list. Write one line per image.")
    return tuple(items.values())


def with_free_id(item: Item, taken: Container[str]) -> Item:
    """The item, the names of its folders put before its id for as long as another image has that id."""
    for folder in item.image.parents:
        if item.id not in taken:
            break
        item = replace(item, id=f"{folder.name}_{item.id}")
    return item


def _read_line(line: str, root: Path, masks: str, place: str, ids: bool) -> Item:
    """The item of a line that holds paths; `ids` says whether it might have been the id of a known item as well."""
    labelled = masks == "required"
    if not labelled and (root / line).is_file():
        names = [line]
    else:
        names = [name.strip() for name in (line.split("\t") if "\t" in line else line.split())]
    if ids and len(names) == 1 and not Path(line).suffix:
        raise DataError(
            f"{place}: expected paths or the id of an image of {root}; no id is {line!r}. Correct the line."
        )
    if len(names) != 2 and (labelled or len(names) != 1):
        raise DataError(
            f"{place}: expected {'' if labelled else '`image` or '}`image mask`; got {line!r}. "
            "Write two paths relative to the data folder, with a tab between them if a name holds spaces."
        )
    image = root / names[0]
    mask = _find_mask(root, names[1]) if labelled else None
    for file in (image, mask):
        if file is not None and not file.is_file():
            raise DataError(
                f"{place}: expected a file; {file} is missing. "
                f"Paths are relative to {root}: correct the line or restore the file."
            )
    return Item(case_name(image), image, mask)


def _find_mask(root: Path, name: str) -> Path:
    """The mask as named, or, where it is missing, the first of `MASKS_ELSEWHERE` that is there."""
    named, found = root / name, f"/{name}"
    if named.is_file():
        return named
    others = (root / found.replace(part, other)[1:] for part, other in MASKS_ELSEWHERE if part in found)
    return next((other for other in others if other.is_file()), named)


def overlap_notes(splits: dict[str, tuple[Item, ...]]) -> tuple[str, ...]:
    """A sentence for each held-out split that shares images with train, or with the unlabelled images."""
    notes = []
    for part in ("train", "unlabelled"):
        seen = {item.image for item in splits.get(part, ())}
        for name in ("val", "test"):
            if ids := {item.id for item in splits.get(name, ()) if item.image in seen}:
                notes.append(f"{part} and {name} share images, so {name} scores flatter: {first_few(ids)}")
    return tuple(notes)
