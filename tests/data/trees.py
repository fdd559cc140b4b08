"""Miniature PASCAL VOC and Cityscapes trees of pictures whose classes can be learnt from their colours."""

from pathlib import Path

import numpy as np
from PIL import Image

SHAPES = ("background", "box", "disc", "bar")
SHAPE_COLOURS = np.array([(40, 40, 48), (200, 60, 50), (60, 180, 70), (60, 90, 210)], dtype=np.float64)
VOID = 255
STREET = {7: (128, 64, 128), 11: (70, 70, 70), 23: (70, 130, 180), 26: (0, 0, 142), 4: (20, 20, 20)}
"""Label ids of the toy streets and their colours: road, building, sky, car, and static, which is not trained."""
STREET_TRAIN_IDS = {7: 0, 11: 2, 23: 10, 26: 13, 4: 255}


def draw_shapes(size: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Picture (H, W, 3) and labels (H, W) of one to three shapes on a background, the frame of the picture void."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    labels = np.zeros(size, dtype=np.uint8)
    for shape in rng.permutation([1, 2, 3])[: rng.integers(1, 4)]:
        top, left = rng.integers(0, (height // 2, width // 2))
        down, right = y - top, x - left
        side = min(size) // 3
        inside = {
            1: (down >= 0) & (down < side) & (right >= 0) & (right < side),
            2: (down - side) ** 2 + (right - side) ** 2 < (side / 1.5) ** 2,
            3: (down >= 0) & (down < max(side // 3, 1)),
        }[int(shape)]
        labels[inside] = shape
    picture = SHAPE_COLOURS[labels] + rng.normal(0, 12, (*size, 3))
    labels[[0, -1]] = labels[:, [0, -1]] = VOID
    return picture.clip(0, 255).astype(np.uint8), labels


def draw_toy_street(size: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Picture (H, W, 3) and label ids (H, W): sky, houses, road, a car, and a dark corner that is not trained."""
    height, width = size
    ids = np.full(size, 23, dtype=np.uint8)
    roof, kerb = height // 5 + rng.integers(0, height // 5), 3 * height // 5
    ids[roof:] = 11
    ids[kerb:] = 7
    left = rng.integers(0, width - width // 3)
    ids[kerb - height // 10 : kerb + height // 5, left : left + width // 3] = 26
    ids[-2:, :3] = 4
    colours = np.zeros((34, 3))
    colours[list(STREET)] = list(STREET.values())
    picture = colours[ids] + rng.normal(0, 12, (*size, 3))
    return picture.clip(0, 255).astype(np.uint8), ids


def voc_tree(
    folder: Path, train: int = 12, val: int = 4, size: tuple[int, int] = (32, 40), fine: int = 4, seed: int = 0
) -> Path:
    """A PASCAL VOC tree with the masks of SBD; returns its folder.

    `train` images 2008_000000 ... are in `train_aug.txt` and have a grey mask in `SegmentationClassAug`; the first
    `fine` of them are in `train.txt` and have a palette mask in `SegmentationClass` too, as have the `val` images.
    """
    for name in ("JPEGImages", "SegmentationClass", "SegmentationClassAug", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: len(SHAPES)] = SHAPE_COLOURS
    ids = [f"2008_{index:06d}" for index in range(train + val)]
    for index, name in enumerate(ids):
        picture, labels = draw_shapes(size, np.random.default_rng([seed, index]))
        Image.fromarray(picture).save(folder / "JPEGImages" / f"{name}.jpg", quality=95)
        mask = Image.fromarray(labels)
        if index < train:
            mask.save(folder / "SegmentationClassAug" / f"{name}.png")
        if index < fine or index >= train:
            mask.putpalette(palette.tobytes())
            mask.save(folder / "SegmentationClass" / f"{name}.png")
    for name, members in (("train_aug", ids[:train]), ("train", ids[:fine]), ("val", ids[train:])):
        (folder / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("\n".join(members) + "\n")
    (folder / "classes.txt").write_text("\n".join(SHAPES) + "\n")
    return folder


def cityscapes_tree(
    folder: Path,
    train: int = 6,
    val: int = 2,
    test: int = 0,
    size: tuple[int, int] = (32, 64),
    labels: str = "labelIds",
    seed: int = 0,
) -> Path:
    """A Cityscapes tree of two cities a split; returns its folder. `labels` is "labelIds" or "labelTrainIds"."""
    cities = {"train": ("aachen", "bochum"), "val": ("lindau", "munster"), "test": ("berlin", "bonn")}
    table = np.arange(256, dtype=np.uint8)
    if labels == "labelTrainIds":
        table[list(STREET_TRAIN_IDS)] = list(STREET_TRAIN_IDS.values())
    for split, count in (("train", train), ("val", val), ("test", test)):
        for index in range(count):
            city = cities[split][index % 2]
            rng = np.random.default_rng([seed, ("train", "val", "test").index(split), index])
            picture, ids = draw_toy_street(size, rng)
            stored = np.zeros_like(ids) if split == "test" else table[ids]
            for kind, ending, pixels in (
                ("leftImg8bit", "leftImg8bit", picture),
                ("gtFine", f"gtFine_{labels}", stored),
            ):
                path = folder / kind / split / city / f"{city}_{index:06d}_000019_{ending}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return folder
