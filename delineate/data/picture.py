"""Pictures and label masks in 2D, read by Pillow."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from delineate.data.item import DataError, first_few

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
LOSSY = (".jpg", ".jpeg")


def pictures(folder: Path) -> dict[str, Path]:
    """The picture files of a folder by stem, in order of the stem; hidden files and other files are passed over."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in EXTENSIONS or path.name.startswith("."):
            continue
        if path.stem in found:
            raise DataError(
                f"{path}: expected one file per name; {found[path.stem].name} has the same stem. Remove one of them."
            )
        found[path.stem] = path
    return found


def _load(path: Path) -> Image.Image:
    """The decoded picture, its file closed again."""
    try:
        with Image.open(path) as image:
            return image.copy()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path}: expected a readable picture; {error}. The file is missing, cut short or of another kind: "
            "restore it, or remove it with its partner and its line in the lists."
        ) from None


def read_size(path: Path) -> tuple[int, int]:
    """(H, W) of a picture, from its header alone."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: expected a readable picture; {error}. Restore the file or remove its item.") from None


def read_image(path: Path) -> np.ndarray:
    """The picture as RGB, uint8 (H, W, 3). Grey is repeated, transparency dropped; deep grey and float are refused."""
    image = _load(path)
    if image.mode.startswith(("I", "F")):
        raise DataError(
            f"{path}: expected 8 bits a channel; got Pillow mode {image.mode} (16 or 32 bits). "
            "Rescale the intensities to 0..255 and save it as an 8-bit PNG."
        )
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def read_labels(path: Path) -> np.ndarray:
    """The values of a mask as stored, integer (H, W): palette indices, grey levels, or 0 and 1 of a one-bit file."""
    if path.suffix.lower() in LOSSY:
        raise DataError(f"{path}: expected a lossless mask; JPEG changes labels. Export the masks again as PNG.")
    image = _load(path)
    if image.mode == "F":
        raise DataError(f"{path}: expected whole labels; got a float picture. Save the labels as an 8-bit PNG.")
    labels = np.array(image.convert("RGB") if image.mode in ("RGB", "RGBA", "LA", "PA") else image)
    if labels.ndim == 3:
        if (labels != labels[..., :1]).any():
            raise DataError(
                f"{path}: expected one class number per pixel (a grey or palette PNG); got colours. "
                "Map every colour to its class number and save that as an 8-bit grey PNG."
            )
        labels = labels[..., 0]
    return labels.astype(np.uint8) if labels.dtype == bool else labels


def _values(path: Path) -> np.ndarray | DataError:
    try:
        labels = read_labels(path)
    except DataError as error:
        return error
    return np.flatnonzero(np.bincount(labels.ravel())) if labels.dtype == np.uint8 else np.unique(labels)


def label_values(paths: Iterable[Path]) -> list[int]:
    """Every value that occurs in any of the masks, ascending. Decoding runs in four threads.

    Masks that cannot be read are passed over, as whoever reads them names them; where none can, DataError is raised.
    """
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(_values, paths))
    errors = [values for values in read if isinstance(values, DataError)]
    if errors and len(errors) == len(read):
        raise errors[0]
    found: set[int] = set().union(*(values.tolist() for values in read if not isinstance(values, DataError)))
    if found and min(found) < 0:
        raise DataError(f"mask values: expected 0 or more; got {min(found)}. Number the classes from 0.")
    return sorted(found)


def voc_palette(classes: int) -> np.ndarray:
    """The colours of PASCAL VOC, uint8 (classes, 3): the bits of the label dealt out to red, green and blue.

    >>> voc_palette(4).tolist()
    [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    """
    label = np.arange(classes)[:, None]
    colours = np.zeros((classes, 3), dtype=np.int64)
    for level in range(8):
        colours |= (label >> (3 * level + np.arange(3)) & 1) << (7 - level)
    return colours.astype(np.uint8)


def read_palette(path: Path, classes: int) -> np.ndarray | None:
    """The first colours of a palette picture, uint8 (classes, 3).

    None without a palette, where two look alike, and for a picture that cannot be read.
    """
    try:
        stored = _load(path).getpalette()
    except DataError:
        return None
    if stored is None or len(stored) < 3 * classes:
        return None
    colours = np.array(stored[: 3 * classes], dtype=np.uint8).reshape(classes, 3)
    return colours if len(np.unique(colours // 8, axis=0)) == classes else None


def require_masks(images: dict[str, Path], masks: dict[str, Path], where: Path) -> None:
    """Refuse images without a mask of the same stem and masks without an image."""
    for lone, kind, other in (
        (images.keys() - masks.keys(), "image", "mask"),
        (masks.keys() - images, "mask", "image"),
    ):
        if lone:
            raise DataError(
                f"{where}: expected images and masks in pairs of one stem; no {other} for {first_few(lone)}. "
                f"Add the missing {other}s or remove these {kind}s."
            )
