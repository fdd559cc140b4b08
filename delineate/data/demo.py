"""Generated data sets to try everything on: `python -m delineate.data.demo OUT` writes OUT/streets and OUT/lesions."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from PIL import Image

from delineate.data import lesions, streets
from delineate.data.item import DataError
from delineate.data.scene import VOID

VERSION = 1
MARKER = "demo.json"  # says which generator made a folder, and from what


def make_streets(
    root: Path | str, n_train: int = 48, n_val: int = 16, size: tuple[int, int] = (128, 160), seed: int = 0
) -> Path:
    """Write a PASCAL VOC tree of toy street scenes, `size` (H, W), 10 classes and void 255; returns its folder.

    Kept as it is where the same call has written it before. Raises DataError rather than touch a folder of others.
    """
    settings = {"kind": "streets", "n_train": n_train, "n_val": n_val, "size": list(size), "seed": seed}

    def write(folder: Path) -> None:
        for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
            (folder / name).mkdir(parents=True)
        ids = [f"street_{index:03d}" for index in range(n_train + n_val)]
        for index, name in enumerate(ids):
            image, labels = streets.draw_street(size, np.random.default_rng([seed, index]))
            Image.fromarray(image).save(folder / "JPEGImages" / f"{name}.jpg", quality=92)
            mask = Image.fromarray(labels)
            mask.putpalette(_palette_bytes())
            mask.save(folder / "SegmentationClass" / f"{name}.png")
        for split, members in (("train", ids[:n_train]), ("val", ids[n_train:])):
            (folder / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(members) + "\n")
        (folder / "classes.txt").write_text("\n".join(streets.CLASSES) + "\n")

    return _make(Path(root), settings, write)


def make_lesions(root: Path | str, n: int = 6, shape: tuple[int, int, int] = (64, 64, 48), seed: int = 0) -> Path:
    """Write an nnU-Net raw data set of toy brains with lesions, voxels of 1 x 1 x 1.5 mm; returns its folder.

    Kept as it is where the same call has written it before. Raises DataError rather than touch a folder of others.
    """
    settings = {"kind": "lesions", "n": n, "shape": list(shape), "seed": seed}

    def write(folder: Path) -> None:
        for name in ("imagesTr", "labelsTr"):
            (folder / name).mkdir(parents=True)
        affine = np.diag([*lesions.SPACING, 1.0])
        for index in range(n):
            volume, labels = lesions.draw_brain(shape, np.random.default_rng([seed, index]))
            nibabel.Nifti1Image(volume, affine).to_filename(folder / "imagesTr" / f"brain_{index:03d}_0000.nii.gz")
            nibabel.Nifti1Image(labels, affine).to_filename(folder / "labelsTr" / f"brain_{index:03d}.nii.gz")
        description = {
            "channel_names": {"0": "toy MRI"},
            "labels": {"background": 0, "lesion": 1},
            "numTraining": n,
            "file_ending": ".nii.gz",
        }
        (folder / "dataset.json").write_text(json.dumps(description, indent=1) + "\n")

    return _make(Path(root), settings, write)


def _palette_bytes() -> bytes:
    """256 colours: those of the classes, black, and white for void."""
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[: len(streets.PALETTE)] = streets.PALETTE
    colours[VOID] = 255
    return colours.tobytes()


def _make(root: Path, settings: dict[str, Any], write: Callable[[Path], None]) -> Path:
    """Have `root` written in full or not at all, unless it already holds the same."""
    settings = {**settings, "version": VERSION}
    if not _is_complete(root, settings):
        partial = root.with_name(f".{root.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        write(partial)
        marker = {**settings, "files": _count_files(partial) + 1}
        (partial / MARKER).write_text(json.dumps(marker) + "\n")
        if root.exists():
            shutil.rmtree(root)
        partial.rename(root)
    return root


def _is_complete(root: Path, settings: dict[str, Any]) -> bool:
    """Whether `root` already holds what the settings give. DataError where it holds anything that was not made here."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        marker = json.loads((root / MARKER).read_text())
        files = int(marker.pop("files"))
    except (OSError, ValueError, KeyError, AttributeError):
        raise DataError(
            f"{root}: expected no such folder, or one made by delineate.data.demo; it holds other things. "
            "Choose another folder, or move this one away."
        ) from None
    held = _count_files(root)
    if marker == settings and held >= files:
        return True
    if held > files:
        raise DataError(
            f"{root}: expected only generated files, to replace them; got {held - files} more than were made. "
            "Move your own files away, or choose another folder."
        )
    return False


def _count_files(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


def main(arguments: list[str]) -> int:
    """Write both data sets and say so; 2 on an error, 0 otherwise."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m delineate.data.demo OUT", file=sys.stderr)
        return 2
    out = Path(arguments[0])
    try:
        made = make_streets(out / "streets"), make_lesions(out / "lesions")
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{made[0]}: 48 + 16 toy street scenes (PASCAL VOC tree, {len(streets.CLASSES)} classes)")
    print(f"{made[1]}: 6 toy brain volumes with lesions (nnU-Net raw)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
