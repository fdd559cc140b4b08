"""Pictures as data URIs: image, truth, each loss's prediction with its errors, and what each loss asks for."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .results import Comparison, Data, Run

Picture = NDArray[np.uint8]  # (height, width, 3)
Labels = NDArray[np.int16]  # (height, width), -1 where void

LONGEST = 360  # pixels of the longer side; larger samples are shown smaller
SMALL = 160  # and the side below which they are shown enlarged, pixel by pixel
WRONG = (227, 0, 109)
VOID = ((142, 146, 152), (188, 191, 196))  # two greys, hatched
GREYS = 24  # levels of the muted image under the errors
TINTS = 128  # colours of a picture of a gradient


@dataclass(frozen=True)
class Prediction:
    """What one loss made of a sample; `wrong` is the percentage of labelled pixels that are false."""

    index: int
    labels: str
    errors: str
    wrong: float | None


@dataclass(frozen=True)
class Sample:
    """One sample with the predictions of all losses that have one; `small` where it is best shown enlarged."""

    name: str
    image: str
    truth: str
    predictions: list[Prediction]
    small: bool


@dataclass(frozen=True)
class Gallery:
    """All samples, the classes that occur in them with their colours, and whether a pixel in them is void."""

    samples: list[Sample]
    legend: list[tuple[str, str]]
    void: bool


@dataclass(frozen=True)
class Asked:
    """Image and truth of a sample, and by place of the loss the picture of what it asks for."""

    image: str
    truth: str
    pictures: dict[int, str]
    small: bool


def gallery(comparison: Comparison, names: Sequence[str]) -> Gallery:
    """Read the samples of these ids; with several seeds a loss shows the first one it has a prediction of."""
    seen: set[int] = set()
    samples = [_sample(comparison, name, seen) for name in names]
    data = comparison.data
    legend = [(data.classes[i], "#{:02x}{:02x}{:02x}".format(*data.palette[i])) for i in sorted(seen - {-1})]
    return Gallery(samples, legend, -1 in seen)


def _sample(comparison: Comparison, name: str, seen: set[int]) -> Sample:
    folder = comparison.folder / "samples"
    image = _open(folder / f"{name}.png").convert("RGB")
    truth = _labels(folder / f"{name}.truth.png", comparison.data, image.size)
    seen.update(map(int, np.unique(truth)))
    predictions = []
    for index, loss in enumerate(comparison.losses):
        paths = [_prediction_path(run, name) for run in comparison.of(loss)]
        if path := next((path for path in paths if path.exists()), None):
            labels = _labels(path, comparison.data, image.size)
            seen.update(map(int, np.unique(labels)))
            predictions.append(_prediction(index, image, truth, labels, comparison.data))
    shown = _png(_colours(_shrink_labels(truth), comparison.data))
    return Sample(name, _jpeg(_shrink(image)), shown, predictions, small=max(image.size) < SMALL)


def asked(comparison: Comparison, name: str) -> Asked:
    """Read the pictures of the gradients of the losses, all of the sample of this id."""
    folder, pictures = comparison.folder / "samples", {}
    image = _open(folder / f"{name}.png").convert("RGB")
    truth = _labels(folder / f"{name}.truth.png", comparison.data, image.size)
    for index, loss in enumerate(comparison.losses):
        paths = [run.folder / "gradient.png" for run in comparison.of(loss)]
        if path := next((path for path in paths if path.exists()), None):
            pictures[index] = _uri(_shrink(_open(path).convert("RGB")).quantize(TINTS), "png", optimize=True)
    shown = _png(_colours(_shrink_labels(truth), comparison.data))
    return Asked(_jpeg(_shrink(image)), shown, pictures, small=max(image.size) < SMALL)


def _prediction_path(run: Run, name: str) -> Path:
    return run.folder / "samples" / f"{name}.pred.png"


def _prediction(index: int, image: Image.Image, truth: Labels, labels: Labels, data: Data) -> Prediction:
    valid = truth >= 0
    wrong = float((labels != truth)[valid].mean() * 100) if valid.any() else None
    small = _shrink_labels(labels)
    errors = _errors(_shrink(image), _shrink_labels(truth), small)
    return Prediction(index, _png(_colours(small, data)), _png(errors), wrong)


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except OSError:
        raise ValueError(f"{path}: expected a PNG image, found none that can be read") from None


def _labels(path: Path, data: Data, size: tuple[int, int]) -> Labels:
    """The class index of each pixel, -1 where it is void."""
    image = _open(path)
    if image.mode not in ("L", "P") or image.size != size:
        raise ValueError(f"{path}: expected an index PNG (L or P) of {size} pixels, got {image.mode} of {image.size}")
    labels = np.asarray(image).astype(np.int16)
    if data.ignore_index is not None:
        labels[labels == data.ignore_index] = -1
    if labels.max(initial=0) >= len(data.classes):
        raise ValueError(
            f"{path}: expected labels below {len(data.classes)}, the number of classes, got {labels.max()}"
        )
    return labels


def _target_size(size: tuple[int, int]) -> tuple[int, int]:
    factor = min(1.0, LONGEST / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _shrink(image: Image.Image) -> Image.Image:
    return image.resize(_target_size(image.size), Image.Resampling.LANCZOS)


def _shrink_labels(labels: Labels) -> Labels:
    """The nearest pixels, so that no class is invented between two."""
    height, width = labels.shape
    columns, rows = _target_size((width, height))
    picked = (np.arange(rows) * height // rows)[:, None], (np.arange(columns) * width // columns)[None]
    return labels[picked]


def _colours(labels: Labels, data: Data) -> Picture:
    """Class colours, void hatched; RGB."""
    picture = np.array(data.palette, np.uint8)[np.maximum(labels, 0)]
    return np.where((labels < 0)[..., None], _hatch(labels.shape), picture)


def _hatch(shape: tuple[int, ...]) -> Picture:
    rows, columns = np.indices(shape)
    return np.array(VOID, np.uint8)[((rows + columns) % 8 < 3).astype(int)]


def _errors(image: Image.Image, truth: Labels, labels: Labels) -> Picture:
    """The image in muted grey, false pixels in one strong colour, void hatched; RGB."""
    light = np.asarray(image.convert("L"), np.float32) / 255
    grey = (96 + 140 * np.round(light * (GREYS - 1)) / (GREYS - 1)).astype(np.uint8)
    picture = np.repeat(grey[..., None], 3, axis=2)
    picture[labels != truth] = WRONG
    return np.where((truth < 0)[..., None], _hatch(truth.shape), picture)


def _png(picture: Picture) -> str:
    """As a lossless PNG, indexed where its colours allow it."""
    packed = picture.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    colours, index = np.unique(packed, return_inverse=True)
    image = Image.fromarray(picture)
    if len(colours) <= 256:
        image = Image.fromarray(index.reshape(packed.shape).astype(np.uint8), "L")
        image.putpalette(
            np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=1).astype(np.uint8).tobytes()
        )
    return _uri(image, "png", optimize=True)


def _jpeg(image: Image.Image) -> str:
    return _uri(image, "jpeg", quality=85, optimize=True)


def _uri(image: Image.Image, kind: str, **options: object) -> str:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}"
