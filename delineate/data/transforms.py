"""Augmentation and normalisation in 2D: torchvision.transforms.v2 on the sample dict."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from delineate.data.source import Source

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def train_transform(
    crop: tuple[int, int], ignore_index: int, *, flip: float = 0.5, jitter: float = 0.2
) -> v2.Transform:
    """Random crop, horizontal flip, light colour jitter; then float and ImageNet normalisation.

    Args:
        crop: (H, W) of the output. A smaller image is padded with the mean colour, its mask with `ignore_index`.
        flip: probability of a flip.
        jitter: brightness, contrast and saturation are each multiplied by 1 - jitter to 1 + jitter; 0 leaves them.
    """
    fill = {tv_tensors.Image: [round(255 * mean) for mean in MEAN], tv_tensors.Mask: ignore_index}
    return v2.Compose(
        [
            v2.RandomCrop(crop, pad_if_needed=True, fill=fill),  # pyright: ignore[reportArgumentType]
            v2.RandomHorizontalFlip(flip),
            v2.ColorJitter(jitter, jitter, jitter),
            *_to_float(),
        ]
    )


class RandomScale(v2.Transform):
    """Resizes a picture by a factor drawn evenly from a range; masks nearest."""

    def __init__(self, scale: tuple[float, float]):
        super().__init__()
        self.scale = scale

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        low, high = self.scale
        factor = low + (high - low) * torch.rand(()).item()
        height, width = v2.query_size(flat_inputs)
        return {"size": [max(round(factor * height), 1), max(round(factor * width), 1)]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(F.resize, inpt, params["size"], antialias=True)


def weak_geometry(crop: tuple[int, int], ignore_index: int, scale: tuple[float, float]) -> v2.Transform:
    """Random scale, crop and horizontal flip: all that labelled images and weak views get; colours stay, uint8.

    Args:
        crop: (H, W) of the output. A smaller picture is padded with the mean colour, which is 0 once normalised, its
            mask with `ignore_index`.
        scale: range of the factor that both sides are resized by.
    """
    fill = {tv_tensors.Image: [round(255 * mean) for mean in MEAN], tv_tensors.Mask: ignore_index}
    crops = v2.RandomCrop(crop, pad_if_needed=True, fill=fill)  # pyright: ignore[reportArgumentType]
    return v2.Compose([RandomScale(scale), crops, v2.RandomHorizontalFlip(0.5)])


def strong_colours(operations: int = 0) -> v2.Transform:
    """Photometry of a strong view, of uint8 pictures: jitter .5, .5, .5, .25 (p .8), grey (p .2), blur (p .5).

    Args:
        operations: before these, 1 to so many operations drawn with replacement from eleven: identity, autocontrast,
            equalise, blur, contrast, brightness, colour, sharpness, posterise, solarise, hue. 0: none.
    """
    jitter = v2.RandomApply([v2.ColorJitter(0.5, 0.5, 0.5, 0.25)], 0.8)
    blur = v2.RandomApply([_blur()], 0.5)
    drawn = [Operations(operations)] if operations else []
    return v2.Compose([*drawn, jitter, v2.RandomGrayscale(0.2), blur])


class Operations(v2.Transform):
    """1 to `most` operations on colours, drawn with replacement."""

    def __init__(self, most: int):
        super().__init__()
        self.most = most

    def forward(self, *inputs: Any) -> Any:
        (image,) = inputs
        for _ in range(1 + int(torch.randint(self.most, ()))):
            image = OPERATIONS[int(torch.randint(len(OPERATIONS), ()))](image)
        return image


def _between(low: float, high: float) -> float:
    return low + (high - low) * torch.rand(()).item()


def _faded(change: Callable[[Any, float], Any]) -> Callable[[Any], Any]:
    return lambda image: change(image, _between(0.05, 0.95))


def _blur() -> v2.Transform:
    return v2.GaussianBlur(13, (0.1, 2.0))


OPERATIONS: Sequence[Callable[[Any], Any]] = (
    lambda image: image,
    F.autocontrast,
    F.equalize,
    lambda image: _blur()(image),
    _faded(F.adjust_contrast),
    _faded(F.adjust_brightness),
    _faded(F.adjust_saturation),
    _faded(F.adjust_sharpness),
    lambda image: F.posterize(image, int(torch.randint(4, 9, ()))),
    lambda image: F.solarize(image, float(torch.randint(1, 257, ()))),
    lambda image: F.adjust_hue(image, _between(-0.5, 0.5)),
)
"""What `Operations` draws from; factors of the faded ones are in [.05, .95]."""


def eval_transform() -> v2.Transform:
    """Float and ImageNet normalisation only."""
    return to_float()


def to_float() -> v2.Transform:
    """To [0, 1], then normalised by mean and deviation of ImageNet."""
    return v2.Compose(_to_float())


def _to_float() -> list[v2.Transform]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(MEAN), list(STD))]


def denormalise(image: torch.Tensor) -> torch.Tensor:
    """Colours in [0, 1] of a normalised image, (3, H, W) or (N, 3, H, W)."""
    mean, std = (torch.tensor(values, dtype=image.dtype, device=image.device)[:, None, None] for values in (MEAN, STD))
    return (image * std + mean).clamp(0, 1)


def default_crop(source: Source, sample: int = 64, largest: int = 512) -> tuple[int, int]:
    """(H, W) of a training crop: the largest multiples of 32 that fit the smallest of `sample` train images.

    At least 32 and at most `largest` a side. The images looked at are spread evenly over the train split.
    """
    items = source.items("train")
    sizes = [source.size(item) for item in items[:: -(-len(items) // sample)]]
    height, width = (min(max(min(side) // 32 * 32, 32), largest) for side in zip(*sizes, strict=True))
    return height, width
