"""Views of volumes: a crop, flips, and intensities changed more in the strong views than in the weak one."""

from typing import Any

import torch
from monai.transforms.compose import Compose
from monai.transforms.croppad.array import RandSpatialCrop
from monai.transforms.intensity.array import (
    RandAdjustContrast,
    RandGaussianNoise,
    RandGaussianSmooth,
    RandScaleIntensity,
    RandShiftIntensity,
)
from monai.transforms.spatial.array import RandFlip
from torch import Tensor

from delineate.semi.views import Sample, drawn


class UnlabelledVolumeViews:
    """Weak and strong views of a prepared volume without a mask; drawn from torch's random state.

    Weak: a random crop, flipped along each axis by chance. Strong, K times: gamma .5 to 2 (p .8), contrast and
    brightness changed by up to a half (p .8), noise of deviation up to .2 (p .5), blur of .1 to 1.5 voxels (p .5).
    The papers of these methods know pictures only: this photometry is ours.

    Shape: a sample with `image` float32 (channels, *S), and `size`, its shape before padding -> as `UnlabelledViews`,
        with three dims.
    """

    def __init__(self, crop: tuple[int, ...], strong: int):
        self.crop, self.strong = crop, strong
        self.geometry = Compose(
            [
                RandSpatialCrop(crop, random_size=False),
                *(RandFlip(prob=0.5, spatial_axis=axis) for axis in range(3)),
            ]
        )
        self.photometry = Compose(
            [
                RandAdjustContrast(prob=0.8, gamma=(0.5, 2.0)),
                RandScaleIntensity(factors=0.5, prob=0.8),
                RandShiftIntensity(offsets=0.5, prob=0.8),
                RandGaussianNoise(prob=0.5, std=0.2),
                RandGaussianSmooth((0.1, 1.5), (0.1, 1.5), (0.1, 1.5), prob=0.5),
            ]
        )

    def __call__(self, sample: Sample) -> Sample:
        image = sample["image"]
        inside = torch.zeros(1, *image.shape[1:])
        inside[(0, *(slice(side) for side in sample["size"]))] = 1
        moved = _plain(_seeded(self.geometry)(torch.cat([image, inside])))
        weak, valid = moved[:-1].contiguous(), moved[-1] > 0
        strong = [_plain(_seeded(self.photometry)(weak.clone())) for _ in range(self.strong)]
        return {
            "id": sample["id"],
            "weak": weak,
            "strong": torch.stack(strong) if strong else weak.new_empty(0, *weak.shape),
            "valid": valid,
        } | drawn(self.crop, self.strong)


def _seeded(change: Compose) -> Compose:
    """The same transform, its own random state drawn from torch's."""
    return change.set_random_state(seed=int(torch.randint(2**31, ())))


def _plain(tensor: Any) -> Tensor:
    return torch.as_tensor(tensor).as_subclass(Tensor).float()
