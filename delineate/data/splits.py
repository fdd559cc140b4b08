"""Who is in train and who is in val: splits made here, and lists read from files."""

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from delineate.data.item import DataError, Item, first_few, read_lines
from delineate.data.nifti import case_name

NOT_GIVEN = "no validation split given"
"""How the note on a split made here begins."""


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


def read_split_list(path: Path | str, root: Path | str) -> tuple[Item, ...]:
    """Items of a list with `image mask` on each line, relative to `root` (tab between them if a name holds spaces)."""
    path, root = Path(path), Path(root)
    items: dict[str, Item] = {}
    for number, line in read_lines(path):
        names = line.split("\t") if "\t" in line else line.split()
        if len(names) != 2:
            raise DataError(
                f"{path}, line {number}: expected `image mask`; got {line!r}. "
                "Write two paths relative to the data folder, with a tab between them if a name holds spaces."
            )
        image, mask = (root / name.strip() for name in names)
        for file in (image, mask):
            if not file.is_file():
                raise DataError(
                    f"{path}, line {number}: expected a file; {file} is missing. "
                    f"Paths are relative to {root}: correct the line or restore the file."
                )
        name = case_name(image)
        if name in items:
            raise DataError(f"{path}, line {number}: expected each image once; {name} came before. Remove one.")
        items[name] = Item(name, image, mask)
    if not items:
        raise DataError(f"{path}: expected lines `image mask`; got an empty list. Write one line per image.")
    return tuple(items.values())


def overlap_notes(splits: dict[str, tuple[Item, ...]]) -> tuple[str, ...]:
    """A sentence for each held-out split that shares images with train."""
    train = {item.image for item in splits["train"]}
    shared = {name: {i.id for i in splits.get(name, ()) if i.image in train} for name in ("val", "test")}
    return tuple(
        f"train and {name} share images, so {name} scores flatter: {first_few(ids)}"
        for name, ids in shared.items()
        if ids
    )
