"""A network small enough for loops, and a batch for it."""

import torch
from torch import nn

from delineate.semi import Unlabelled

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class Halves(nn.Module):
    """Two maps of features of one size, and their sum through a head; sure enough of itself for thresholds."""

    def __init__(self, classes=4, dims=2, norm="group", sure=12.0):
        super().__init__()
        self.first, self.second = CONV[dims](2, 4, 3, padding=1), CONV[dims](4, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4) if norm == "group" else BATCH_NORM[dims](4)
        self.head = CONV[dims](4, classes, 1)
        with torch.no_grad():
            self.head.weight *= sure

    def encode(self, images):
        first = self.norm(self.first(images)).relu()
        return [first, self.second(first).tanh()]

    def decode(self, features):
        return self.head(features[0] + features[1])

    def forward(self, images):
        return self.decode(self.encode(images))


class Plain(nn.Module):
    """No halves."""

    def __init__(self, classes=4, dims=2):
        super().__init__()
        self.only = CONV[dims](2, classes, 3, padding=1)

    def forward(self, images):
        return self.only(images)


def views(size=(6, 5), samples=3, strong=2, dtype=torch.float64):
    """Views of `samples` images, a corner of each padding, boxes in all but the last."""
    low = torch.stack([torch.randint(0, side - 2, (samples, strong)) for side in size], -1)
    boxes = torch.stack([low, low + 2], 2)
    boxes[-1] = 0
    valid = torch.rand(samples, *size) > 0.2
    weak = torch.randn(samples, 2, *size, dtype=dtype)
    colours = weak[:, None] + 0.3 * torch.randn(samples, strong, 2, *size, dtype=dtype)
    return Unlabelled(weak, colours, valid, boxes, torch.randint(2**40, (samples,)))


def labelled(size=(6, 5), samples=2, classes=4, dtype=torch.float64):
    """Images and labels."""
    return torch.randn(samples, 2, *size, dtype=dtype), torch.randint(0, classes, (samples, *size))
