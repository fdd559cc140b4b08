"""Augmentation and normalisation in 2D: torchvision.transforms.v2 on the sample dict."""

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

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


def eval_transform() -> v2.Transform:
    """Float and ImageNet normalisation only."""
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
