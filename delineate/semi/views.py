"""Views of pictures: one geometry, a weak view, and strong views with photometry and a CutMix box of their own."""

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from delineate.data.transforms import strong_colours, to_float, weak_geometry
from delineate.semi.mixing import draw_box

Sample = dict[str, Any]
VIEWS = ("weak", "strong", "valid", "boxes", "draw")


class LabelledView:
    """A labelled picture as all methods see it: `weak_geometry`, then normalised.

    Shape: a sample with `image` uint8 (3, H, W) and `mask` -> the same with a float image and both of size `crop`.
    """

    def __init__(self, crop: tuple[int, int], ignore_index: int, scale: tuple[float, float]):
        self.change = v2.Compose([weak_geometry(crop, ignore_index, scale), to_float()])

    def __call__(self, sample: Sample) -> Sample:
        return self.change(sample)


class UnlabelledViews:
    """Weak and strong views of a picture without a mask; drawn from torch's random state.

    Args:
        crop: (H, W) of the views.
        scale: see `weak_geometry`.
        strong: number of strong views, K.
        operations: see `strong_colours`.

    Shape: a sample with `image` uint8 (3, H, W) -> `weak` float32 (3, h, w), `strong` (K, 3, h, w), `valid` bool
        (h, w), `boxes` int64 (K, 2, 2), `draw` int64 (), and its `id`.
    """

    def __init__(self, crop: tuple[int, int], scale: tuple[float, float], strong: int, operations: int = 0):
        self.crop, self.strong = crop, strong
        self.geometry, self.colours = weak_geometry(crop, 0, scale), strong_colours(operations)
        self.finish = to_float()

    def __call__(self, sample: Sample) -> Sample:
        image = sample["image"]
        whole = tv_tensors.Mask(torch.ones(image.shape[-2:], dtype=torch.uint8))
        weak, valid = self.geometry(image, whole)
        strong = [_plain(self.finish(self.colours(weak))) for _ in range(self.strong)]
        return {
            "id": sample["id"],
            "weak": _plain(self.finish(weak)),
            "strong": torch.stack(strong) if strong else _plain(self.finish(weak)).new_empty(0, 3, *self.crop),
            "valid": _plain(valid).bool(),
        } | drawn(self.crop, self.strong)


def drawn(size: tuple[int, ...], strong: int) -> dict[str, Tensor]:
    """What is drawn for an image apart from its views: the boxes of CutMix, and the number channels are dropped by."""
    boxes = [draw_box(size) for _ in range(strong)]
    return {
        "boxes": torch.stack(boxes) if boxes else torch.zeros(0, 2, len(size), dtype=torch.int64),
        "draw": torch.randint(2**40, ()),
    }


def _plain(tensor: Tensor) -> Tensor:
    return tensor.as_subclass(Tensor)
