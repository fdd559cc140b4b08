"""Small data sets written for tests, and where the real ones lie."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="real data not found at ../shared/data (seen from the project's root)"
)


def write_picture(path: Path, size: tuple[int, int] = (8, 10), seed: int = 0) -> Path:
    """A noisy RGB picture of (H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def write_mask(path: Path, labels: Sequence[Sequence[int]] | np.ndarray, palette: np.ndarray | None = None) -> Path:
    """A grey mask, or a palette one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(np.asarray(labels, dtype=np.uint8))
    if palette is not None:
        mask.putpalette(palette.astype(np.uint8).tobytes())
    mask.save(path)
    return path


def striped(*values: int, size: tuple[int, int] = (8, 10)) -> np.ndarray:
    """Labels in vertical stripes of these values."""
    return np.broadcast_to(np.resize(np.array(values, dtype=np.uint8), size[1]), size)


def write_folder(root: Path, n: int = 5, values: tuple[int, ...] = (0, 1), size: tuple[int, int] = (8, 10)) -> Path:
    """`images/ masks/` with stripes of these values."""
    for index in range(n):
        write_picture(root / "images" / f"p{index}.png", size, index)
        write_mask(root / "masks" / f"p{index}.png", striped(*values, size=size))
    return root


def write_voc(root: Path, train: int = 3, val: int = 2, values: tuple[int, ...] = (0, 1, 255)) -> Path:
    """A PASCAL VOC tree without classes.txt."""
    ids = [f"v{index}" for index in range(train + val)]
    for index, name in enumerate(ids):
        write_picture(root / "JPEGImages" / f"{name}.jpg", seed=index)
        write_mask(root / "SegmentationClass" / f"{name}.png", striped(*values))
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(ids[:train]) + "\n\n")
    (lists / "val.txt").write_text("\n".join(ids[train:]) + "\n")
    return root


def write_volume(path: Path, voxels: np.ndarray, spacing: tuple[float, ...] = (1.0, 1.0, 1.5)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(voxels, np.diag([*spacing, 1.0])).to_filename(path)
    return path


def write_nnunet(root: Path, n: int = 3, channels: int = 1, description: Mapping[str, object] | None = None) -> Path:
    """An nnU-Net raw set of 4 x 5 x 6 volumes with one lesion of 2 x 2 x 2 and one of 1."""
    labels = np.zeros((4, 5, 6), dtype=np.uint8)
    labels[:2, :2, :2] = labels[3, 4, 5] = 1
    for case in range(n):
        for channel in range(channels):
            voxels = np.full(labels.shape, case + 10 * channel, dtype=np.float32)
            write_volume(root / "imagesTr" / f"c{case}_{channel:04d}.nii.gz", voxels)
        write_volume(root / "labelsTr" / f"c{case}.nii.gz", labels)
    default = {
        "channel_names": {str(channel): f"mr{channel}" for channel in range(channels)},
        "labels": {"background": 0, "lesion": 1},
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps({**default, **(description or {})}))
    return root
