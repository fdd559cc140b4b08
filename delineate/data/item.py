"""One image with its mask, and the error that every data problem is told with."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path


class DataError(ValueError):
    """Bad input data, told in one line: which file or argument, what was expected, what was found, what to do."""


@dataclass(frozen=True)
class Item:
    """One image and its mask.

    Args:
        id: name of the item, unique within its data set; results are named by it.
        image: the picture (2D), or the volume of the first channel (3D).
        mask: the file of class labels, or None where there is none (unlabelled images, prediction).
    """

    id: str
    image: Path
    mask: Path | None


def first_few(names: Iterable[str], shown: int = 3) -> str:
    """The first names in sorted order and how many there are.

    >>> first_few("edcba")
    'a, b, c ... (5 in all)'
    """
    names = sorted(names)
    return f"{', '.join(names[:shown])} ... ({len(names)} in all)" if len(names) > shown else ", ".join(names)


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(line number from 1, text) of every line of a text file that is not blank."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a readable UTF-8 text file; {error}. Check the path, or write it.") from None
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def read_classes(root: Path) -> tuple[str, ...] | None:
    """The class names of `root/classes.txt`, one a line in order of the labels; None where there is no such file."""
    path = root / "classes.txt"
    if not path.is_file():
        return None
    names = tuple(line for _, line in read_lines(path))
    if len(names) < 2 or len(set(names)) < len(names):
        raise DataError(
            f"{path}: expected two or more different class names, one a line in the order of the labels 0, 1, ...; "
            f"got {', '.join(islice(names, 8)) or 'an empty file'}. Correct it, or delete it to have the masks read."
        )
    return names
