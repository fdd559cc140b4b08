"""Few labelled images and many without labels: the two parts of train, chosen here or given by lists.

Published lists are read as they are. Those of PASCAL VOC follow three protocols that are told apart by how many of the
labelled images are among the 1,464 with the original, fine annotation; numbers of one are no match for another's.
"""

import json
import os
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from hashlib import sha256
from math import ceil
from os.path import realpath
from pathlib import Path

import numpy as np

from delineate.data.folder import list_images
from delineate.data.item import DataError, Item, first_few
from delineate.data.nifti import channel_path
from delineate.data.nnunet import list_volumes
from delineate.data.source import Source
from delineate.data.splits import overlap_notes, read_split_list, with_free_id

PROTOCOLS = ("classic", "blended", "priority", "own")
PUBLISHED: dict[str, dict[int, int | None]] = {
    "classic": {92: 92, 183: 183, 366: 366, 732: 732, 1464: 1464},
    "priority": {662: 662, 1323: 1323, 2646: 1464},
    "blended": {662: 93, 1323: 193, 2646: 388, 5291: None},
}
"""Published lists of PASCAL VOC by protocol: how many images are labelled, how many of them fine (None: any number)."""
PUBLISHED_CITYSCAPES = (100, 186, 372, 744, 1488)
"""Numbers of labelled images in published lists of Cityscapes; which lists they are cannot be told from a number."""
SEED = 0
"""Of choices made here."""


@dataclass(frozen=True)
class _Part:
    """Labelled or unlabelled images, and where they came from.

    Args:
        items: the images.
        origin: where they came from, to follow "images, ".
        folder: of the list that named them.
        seed: of a choice made here.
    """

    items: tuple[Item, ...]
    origin: str
    folder: Path | None = None
    seed: int | None = None


def few_labels(source: Source, labeled: str, unlabeled: str | None = None, protocol: str | None = None) -> Source:
    """The data set with few labelled images: "train" holds these, "unlabelled" those whose masks are not used.

    Args:
        source: the data set. All its splits but train stay as they are.
        labeled: a share of train such as "1/8" or "0.125" (rounded up, as published), a number of images such as "92",
            or a list with `image mask` on each line. For a share or number the data set's own list
            `ROOT/splits/1_8/labeled.txt` is used where there is one; else `choose_labelled` chooses.
        unlabeled: a list with `image` or `image mask` on each line, or a folder of pictures (of volumes named
            CASE_0000.nii.gz); None is the `unlabeled.txt` beside the labelled list, or else the rest of train.
        protocol: what the lists are expected to be: "classic", "blended" or "priority"; "own" takes them as they are.

    Raises:
        DataError: where a file is missing, a part is empty, images are in two parts or in val (the same file, or a copy
            of its content from elsewhere), or the lists are not of one protocol.
    """
    if protocol is not None and protocol not in PROTOCOLS:
        raise DataError(f"protocol: expected {', '.join(PROTOCOLS)}; got {protocol!r}. Choose one, or leave it open.")
    some = _labelled_part(source, str(labeled))
    rest = _unlabelled_part(source, some, unlabeled)
    found = _protocol(source, some, protocol)
    _check_apart(source, some.items, rest.items)
    if protocol != "own":
        _check_whole(source, some, rest, found)
    splits = {**source.splits, "train": some.items, "unlabelled": rest.items}
    notes = (
        f"labelled part: {len(some.items)} images, {some.origin}",
        f"unlabelled part: {len(rest.items)} images, {rest.origin}",
        _absence(source, some.items),
        f"protocol of the labelled part: {found}",
    )
    apart = tuple(note for note in overlap_notes(splits) if note not in source.notes)
    return replace(source, splits=splits, notes=source.notes + notes + apart, protocol=found, seed=some.seed)


def choose_labelled(source: Source, count: int, seed: int = SEED) -> tuple[Item, ...]:
    """The images of train to be labelled, in the order of train; a smaller choice is a part of every larger one.

    All images are put in one order and the first `count` of them taken: as long as classes are missing, the image with
    the most missing classes comes next, after that, as between equals, the one with the smallest hash of seed and id.

    Raises:
        DataError: for a mask that cannot be read.
    """
    items = source.items("train")
    held = dict(zip((item.id for item in items), classes_held(source, items), strict=True))
    waiting = sorted(held, key=lambda name: sha256(f"{seed}:{name}".encode()).digest())
    missing, order = set().union(*held.values()), []
    while missing and len(order) < count:
        best = max(waiting, key=lambda name: len(held[name] & missing))  # the first of equals
        waiting.remove(best)
        order.append(best)
        missing -= held[best]
    chosen = {*order, *waiting[: count - len(order)]}
    return tuple(item for item in items if item.id in chosen)


def classes_held(source: Source, items: Iterable[Item]) -> list[set[int]]:
    """The classes that occur in each item's mask. Masks are read in four threads."""

    def held(item: Item) -> set[int]:
        labels = source.read_mask(item)
        return set().union(*(np.flatnonzero(np.bincount(part.ravel())).tolist() for part in labels))

    with ThreadPoolExecutor(4) as pool:
        return [found & set(range(len(source.classes))) for found in pool.map(held, items)]


def protocol_of(labelled: Collection[str], fine: Collection[str]) -> str:
    """The protocol of published lists of PASCAL VOC that the labelled images fit: a key of `PUBLISHED`, or "own".

    Args:
        labelled: ids of the labelled images.
        fine: ids of all images with fine annotation.

    Raises:
        DataError: for as many images as a published list has, but with another number of fine ones.
    """
    count, among = len(labelled), len(set(labelled) & set(fine))
    published = {name: counts[count] for name, counts in PUBLISHED.items() if count in counts}
    for name, expected in published.items():
        if expected in (among, None):
            return name
    if published:
        known = " or ".join(f"{expected} ({name})" for name, expected in published.items())
        raise DataError(
            f"the labelled list mixes protocols: expected {known} finely annotated images among {count}; got {among}. "
            "Use the published list unchanged, or name a choice of your own with protocol 'own'."
        )
    return "own"


def write_split_lists(source: Source, folder: Path | str) -> Path:
    """Write `labeled.txt`, `unlabeled.txt`, `val.txt` where there is a val split, and `split.json`; returns the folder.

    Lists have the published form: `image mask`, or the image alone where it has no mask, relative to the root of the
    data set, absolute for files elsewhere, with a tab between them if a name holds spaces. `split.json` holds counts,
    seed, protocol and a sha256 over the sorted ids of each part.

    Raises:
        DataError: for a data set without an unlabelled part, and for a folder that holds other lists.
    """
    parts = {"labeled": source.items("train"), "unlabeled": source.items("unlabelled")}
    if source.splits.get("val"):
        parts["val"] = source.items("val")
    facts = {
        "counts": {name: len(items) for name, items in parts.items()},
        "seed": source.seed,
        "protocol": source.protocol,
        "sha256": {name: _fingerprint(items) for name, items in parts.items()},
    }
    texts = {f"{name}.txt": "".join(_line(source.root, item) for item in items) for name, items in parts.items()}
    texts["split.json"] = json.dumps(facts, indent=1) + "\n"
    folder = Path(folder)
    for name, text in texts.items():
        if (folder / name).exists() and (folder / name).read_text(encoding="utf-8") != text:
            raise DataError(
                f"{folder / name}: expected no such file, or the same list; got another. Choose a new folder."
            )
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        partial = folder / f".{name}.part"
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, folder / name)
    return folder


def _line(root: Path, item: Item) -> str:
    """The item as a line of a list."""
    names = [
        path.relative_to(root).as_posix() if path.is_relative_to(root) else path.absolute().as_posix()
        for path in (item.image, item.mask)
        if path is not None
    ]
    return ("\t" if any(" " in name for name in names) else " ").join(names) + "\n"


def _fingerprint(items: Iterable[Item]) -> str:
    return sha256("\n".join(sorted(item.id for item in items)).encode()).hexdigest()


def _all_items(source: Source) -> tuple[Item, ...]:
    return tuple(item for items in source.splits.values() for item in items)


def _labelled_part(source: Source, labeled: str) -> _Part:
    """The labelled images that `labeled` asks for."""
    asked = _share_or_count(labeled)
    if asked is None:
        if not Path(labeled).is_file():
            raise DataError(
                f"labeled {labeled!r}: expected a share such as 1/8, a number of images, or a list; there is no file "
                "of this name. Check the path."
            )
        return _listed(source, Path(labeled), f"from {labeled}")
    brought = source.root / "splits" / str(asked).replace("/", "_") / "labeled.txt"
    if brought.is_file():
        return _listed(source, brought, f"from {brought}, which the data set brings")
    held = len(source.items("train"))
    count = asked if isinstance(asked, int) else ceil(asked * held)
    if not 1 <= count <= held:
        raise DataError(f"labeled {labeled}: expected 1 to {held} images, those of train; got {count}. Ask for others.")
    origin = f"chosen out of {held} by classes and by a hash of the id, seed {SEED}"
    return _Part(choose_labelled(source, count), origin, seed=SEED)


def _share_or_count(labeled: str) -> Fraction | int | None:
    """The number that the argument is, a whole one as count; None where it is the path of a list."""
    try:
        share = Fraction(labeled)
    except ValueError:
        return None
    except ZeroDivisionError:
        share = Fraction(0)
    if labeled.strip().isdecimal():
        return int(labeled)
    if not 0 < share < 1:
        raise DataError(
            f"labeled {labeled}: expected a share between 0 and 1, both excluded; got {labeled}. "
            "Try 1/8, or a whole number of images."
        )
    return share


def _listed(source: Source, path: Path, origin: str) -> _Part:
    return _Part(read_split_list(path, source.root, known=_all_items(source)), origin, path.parent)


def _unlabelled_part(source: Source, some: _Part, unlabeled: str | None) -> _Part:
    """The unlabelled images: of a list or folder, of the list beside the labelled one, or the rest of train."""
    path = None if unlabeled is None else Path(unlabeled)
    if path is None and some.folder is not None and (some.folder / "unlabeled.txt").is_file():
        path = some.folder / "unlabeled.txt"
    if path is None:
        taken = {realpath(item.image) for item in some.items}
        items = tuple(replace(i, mask=None) for i in source.items("train") if realpath(i.image) not in taken)
        if not items:
            raise DataError(
                f"{source.root}: expected images of train without a label; all {len(some.items)} are labelled. "
                "Label fewer, or name more images with `unlabeled`."
            )
        return _Part(items, "the rest of train")
    if path.is_dir():
        return _Part(_of_folder(source, path.absolute()), f"from the folder {path}")
    if not path.is_file():
        raise DataError(f"unlabeled {path}: expected a list or a folder of images; there is none. Check the path.")
    return _Part(read_split_list(path, source.root, "dropped", _all_items(source)), f"from {path}", path.parent)


def _of_folder(source: Source, folder: Path) -> tuple[Item, ...]:
    """The images of a folder; those of the data set keep their id, and no other gets an id of the data set."""
    known = {realpath(item.image): item for item in _all_items(source)}
    taken = {item.id for item in known.values()}
    items = list_images(folder) if source.dims == 2 else list_volumes(folder)
    for item in items if source.dims == 3 else ():
        for channel in range(1, source.channels):
            if not channel_path(item.image, channel).is_file():
                raise DataError(
                    f"{channel_path(item.image, channel)}: expected {source.channels} channels a case; "
                    "this file is missing. Add it, or remove the case."
                )
    found = []
    for item in items:
        found.append(replace(known.get(realpath(item.image)) or with_free_id(item, taken), mask=None))
        taken.add(found[-1].id)
    return tuple(found)


def _check_apart(source: Source, labelled: Sequence[Item], unlabelled: Sequence[Item]) -> None:
    """Refuse an image in two of labelled, unlabelled and val."""
    parts = {"labelled": labelled, "unlabelled": unlabelled, "val": source.splits.get("val", ())}
    known = {realpath(item.image) for item in _all_items(source)}
    for one, other in (("labelled", "val"), ("unlabelled", "val"), ("unlabelled", "labelled")):
        shared = _same_files(parts[one], parts[other]) or _copies(parts[one], parts[other], known)
        if shared:
            raise DataError(
                f"{source.root}: expected {one} images that are not {other} as well; "
                f"got {first_few(shared)}. Remove them from one of the two."
            )


def _same_files(ones: Iterable[Item], others: Iterable[Item]) -> list[str]:
    """Names of the images that are in both."""
    files = {realpath(item.image) for item in others}
    return [item.id for item in ones if realpath(item.image) in files]


def _copies(ones: Iterable[Item], others: Iterable[Item], known: set[str]) -> list[str]:
    """Names of pairs of files with one content, where one of the two is not `known` as a file of the data set."""
    sides = [{realpath(item.image): item.image.stat().st_size for item in items} for items in (ones, others)]
    if sides[0].keys() | sides[1].keys() <= known:
        return []
    sizes = set(sides[0].values()) & set(sides[1].values())
    held = {_digest(file): file for file, size in sides[1].items() if size in sizes}
    pairs = ((file, held.get(_digest(file))) for file, size in sides[0].items() if size in sizes)
    return [f"{file} (a copy of {copy})" for file, copy in pairs if copy and not {file, copy} <= known]


def _digest(file: str) -> bytes:
    return sha256(Path(file).read_bytes()).digest()


def _protocol(source: Source, some: _Part, asked: str | None) -> str:
    """The protocol of the labelled part; "own" for choices made here and where fine annotations are not known."""
    if some.seed is not None or asked == "own" or not source.splits.get("fine"):
        found = "own"
    else:
        found = protocol_of([item.id for item in some.items], [item.id for item in source.splits["fine"]])
    if asked not in (None, found):
        raise DataError(
            f"protocol: expected labelled images of protocol '{asked}'; got {len(some.items)} images, {some.origin}, "
            f"which are '{found}'. Name the published list of '{asked}', or leave the protocol open."
        )
    return found


def _check_whole(source: Source, some: _Part, rest: _Part, protocol: str) -> None:
    """Refuse published labelled images with unlabelled ones that are not the rest of train."""
    published = protocol != "own" or (source.layout == "cityscapes" and len(some.items) in PUBLISHED_CITYSCAPES)
    if not published or some.seed is not None:
        return
    train = {realpath(item.image) for item in source.items("train")}
    if {realpath(item.image) for item in (*some.items, *rest.items)} != train:
        raise DataError(
            f"{source.root}: expected labelled and unlabelled images that are together the {len(train)} of train, as "
            f"published; got {len(some.items)} + {len(rest.items)} others ({rest.origin}). "
            "Use both lists of one folder, or name a choice of your own with protocol 'own'."
        )


def _absence(source: Source, items: Sequence[Item]) -> str:
    """The sentence on classes that the labelled part lacks."""
    held = set().union(*classes_held(source, items))
    lacking = [name for label, name in enumerate(source.classes) if label not in held]
    return f"labelled part lacks: {', '.join(lacking)}" if lacking else f"labelled part holds all {len(held)} classes"
