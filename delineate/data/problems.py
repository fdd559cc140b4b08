"""Errors of a data set: files that cannot be read, masks that do not fit, images twice, images in two splits."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np

from delineate.data.instances import FOLDER, instance_maps, read_ids
from delineate.data.item import DataError, Item, first_few
from delineate.data.source import Source
from delineate.data.statistics import background_of

Kind = Literal["image", "mask", "instances", "duplicate", "leak", "name", "empty"]
OF_ONE_ITEM: tuple[Kind, ...] = ("image", "mask", "instances")
"""Errors of files of one item, which cannot be used as long as they last."""
LEAKS = (("train", "val"), ("train", "test"), ("unlabelled", "val"), ("unlabelled", "test"))
SHARED = (("train", "unlabelled"), ("val", "test"))
"""Pairs of splits that should share no image: with the first scores flatter, these may be meant so."""


@dataclass(frozen=True)
class Problem:
    """Something wrong with the data.

    Args:
        kind: "image" or "mask" (cannot be read, or does not fit its partner), "instances" (a map of instances that is
            missing or does not fit), "duplicate" (an image twice in a split), "leak" (an image in two splits), "name"
            (ids that differ in case alone), or "empty" (masks without an object).
        severity: "error" for what makes training fail or scores wrong, "warning" for what may be meant so.
        split: name of the split, or of both, as in "train, val".
        ids: of all items concerned.
        files: their paths that are concerned.
        sentence: what was expected, what was found, what to do; one line.
    """

    kind: Kind
    severity: Literal["error", "warning"]
    split: str
    ids: tuple[str, ...]
    files: tuple[str, ...]
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """The problem as plain lists and strings, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Seen:
    """An item as read: hashes of what its image and mask hold, None where they could not be read."""

    item: Item
    split: str
    image: bytes | None
    mask: bytes | None
    empty: bool


def find_problems(source: Source, progress: Callable[[int, int], None] | None = None) -> tuple[Problem, ...]:
    """Read every image and mask of every split, and tell all that is wrong, errors first.

    `progress` is called with (done, total) after each image.
    """
    items = [(split, item) for split, held in source.splits.items() for item in held]
    maps = instance_maps(source, [item for _, item in items])
    reader = _Reader(source, maps)
    for done, (split, item) in enumerate(items, start=1):
        reader.read(split, item)
        if progress is not None:
            progress(done, len(items))
    seen = reader.seen
    found = [
        *reader.problems.values(),
        *_missing_maps(items, maps),
        *_duplicates(seen),
        *_leaks(seen),
        *_alike_names(seen),
        *_empty(seen),
    ]
    return tuple(sorted(found, key=lambda problem: problem.severity == "warning"))


def without_errors(source: Source, problems: Iterable[Problem]) -> Source:
    """The source without the items whose own files have errors."""
    lost = {file for p in problems if p.kind in OF_ONE_ITEM and p.severity == "error" for file in p.files}
    maps = instance_maps(source, [item for items in source.splits.values() for item in items])

    def whole(item: Item) -> bool:
        return not {str(path) for path in (item.image, item.mask, maps.get(item.image))} & lost

    return replace(source, splits={split: tuple(filter(whole, items)) for split, items in source.splits.items()})


class _Reader:
    """Reads items, each file once though it may be in several splits, and keeps what is wrong with them."""

    def __init__(self, source: Source, maps: dict[Path, Path]) -> None:
        self.source, self.maps = source, maps
        self.background = background_of(source)
        self.seen: list[_Seen] = []
        self.problems: dict[tuple[Kind, Path], Problem] = {}
        self._images: dict[Path, bytes | None] = {}
        self._masks: dict[Path, tuple[bytes | None, bool]] = {}

    def read(self, split: str, item: Item) -> None:
        if item.image not in self._images:
            self._images[item.image] = self._image(split, item)
        if item.mask is not None and item.mask not in self._masks:
            self._masks[item.mask] = self._mask(split, item, item.mask)
        mask, empty = self._masks[item.mask] if item.mask is not None else (None, False)
        self.seen.append(_Seen(item, split, self._images[item.image], mask, empty))

    def _image(self, split: str, item: Item) -> bytes | None:
        try:
            return _digest(self.source.read_image(item))
        except DataError as error:
            self._add("image", split, item, item.image, error)
            return None

    def _mask(self, split: str, item: Item, path: Path) -> tuple[bytes | None, bool]:
        """Hash of the labels, and whether none is an object."""
        try:
            labels = self.source.read_mask(item)
        except DataError as error:
            if not str(error).startswith(f"{item.image}:"):  # that is told of the image
                self._add("mask", split, item, path, error)
            return None, False
        if item.image in self.maps:
            self._ids(split, item, self.maps[item.image], labels.shape)
        return _digest(labels.astype(np.int32)), not np.isin(labels, self._objects()).any()

    def _ids(self, split: str, item: Item, path: Path, shape: tuple[int, ...]) -> None:
        try:
            read_ids(path, shape)
        except DataError as error:
            self._add("instances", split, item, path, error)

    def _objects(self) -> list[int]:
        return [label for label in range(len(self.source.classes)) if label != self.background]

    def _add(self, kind: Kind, split: str, item: Item, path: Path, error: DataError) -> None:
        sentence = " ".join(str(error).split())
        self.problems[kind, path] = Problem(kind, "error", split, (item.id,), (str(path),), sentence)


def _digest(values: np.ndarray) -> bytes:
    """Equal for arrays of the same type, shape and numbers."""
    return blake2b(repr(values.shape).encode() + values.tobytes(), digest_size=16).digest()


def _missing_maps(items: Sequence[tuple[str, Item]], maps: dict[Path, Path]) -> list[Problem]:
    lone = {item.id: split for split, item in items if item.mask is not None and item.image not in maps}
    if not maps or not lone:
        return []
    sentence = (
        f"{FOLDER}/: expected a map for every image; none for {first_few(lone)}. Connected components of the masks are "
        "taken for instances instead, unless the maps are added."
    )
    return [Problem("instances", "warning", ", ".join(dict.fromkeys(lone.values())), tuple(lone), (), sentence)]


def _grouped(seen: Iterable[_Seen]) -> list[list[_Seen]]:
    """Items by the content of their image, those with more than one."""
    groups: defaultdict[bytes, list[_Seen]] = defaultdict(list)
    for one in seen:
        if one.image is not None:
            groups[one.image].append(one)
    return [group for group in groups.values() if len(group) > 1]


def _duplicates(seen: list[_Seen]) -> list[Problem]:
    """Images that are more than once in a split, as different files."""
    found = {}
    for split in dict.fromkeys(one.split for one in seen):
        for group in _grouped(one for one in seen if one.split == split):
            names = first_few(one.item.id for one in group)
            masks = {one.mask for one in group if one.mask is not None}
            if len(masks) > 1:
                text = (
                    f"{names}: the same image with different masks, so that at least one is wrong. Keep the right one."
                )
            else:
                text = f"{names}: the same image {len(group)} times, which counts it {len(group)} fold. Keep one."
            files = tuple(str(one.item.image) for one in group)
            severity = "error" if len(masks) > 1 else "warning"
            ids = tuple(one.item.id for one in group)
            found.setdefault(files, Problem("duplicate", severity, split, ids, files, text))
    return list(found.values())


def _leaks(seen: list[_Seen]) -> list[Problem]:
    """Images that two splits have in common, one problem for each pair of splits."""
    found = []
    groups = _grouped(seen)
    for first, second in (*LEAKS, *SHARED):
        pairs = [[one for one in group if one.split in (first, second)] for group in groups]
        shared = [pair for pair in pairs if {one.split for one in pair} == {first, second}]
        if shared:
            found.append(_leak(first, second, [one.item for pair in shared for one in pair], len(shared)))
    return found


def _leak(first: str, second: str, items: list[Item], images: int) -> Problem:
    leak = (first, second) in LEAKS
    ids, files = (tuple(dict.fromkeys(names)) for names in zip(*((i.id, str(i.image)) for i in items), strict=True))
    what = f"{images} image{'s' if images > 1 else ''} of {second} {'are' if images > 1 else 'is'} in {first} too"
    means = f"scores on {second} flatter" if leak else "they are counted in both"
    remedy = f"Remove them from {first}." if leak else "Remove them from one, unless that is meant."
    sentence = f"{what}, the same pixel by pixel ({first_few(ids)}): {means}. {remedy}"
    return Problem("leak", "error" if leak else "warning", f"{first}, {second}", ids, files, sentence)


def _alike_names(seen: list[_Seen]) -> list[Problem]:
    """Ids that differ in case alone."""
    names: defaultdict[str, dict[str, _Seen]] = defaultdict(dict)
    for one in seen:
        names[one.item.id.casefold()].setdefault(one.item.id, one)
    found = []
    for group in (list(alike.values()) for alike in names.values() if len(alike) > 1):
        ids, files = tuple(one.item.id for one in group), tuple(str(one.item.image) for one in group)
        splits = ", ".join(dict.fromkeys(one.split for one in group))
        sentence = (
            f"{first_few(ids)}: names that differ in case alone; where a file system ignores it, results of one "
            "replace those of the other. Rename one."
        )
        found.append(Problem("name", "warning", splits, ids, files, sentence))
    return found


def _empty(seen: list[_Seen]) -> list[Problem]:
    """Masks of a split without an object, in one sentence."""
    found = []
    for split in dict.fromkeys(one.split for one in seen):
        empty = [one.item for one in seen if one.split == split and one.empty]
        if empty:
            ids = tuple(item.id for item in empty)
            held = sum(one.split == split and one.mask is not None for one in seen)
            sentence = (
                f"{len(ids)} of {held} masks of {split} hold background or ignored pixels alone ({first_few(ids)}). "
                "Label what is there, or leave them as images without an object."
            )
            found.append(Problem("empty", "warning", split, ids, tuple(str(i.mask) for i in empty), sentence))
    return found
