"""Small networks by import path, with weights of the same names, each hard on the exporter in its own way."""

import torch
from torch import nn


class Placed(nn.Conv2d):
    """Looks at the size of a picture as a number, which the exporter then takes for the only one."""

    def __init__(self, in_channels: int, classes: int):
        super().__init__(in_channels, classes, 3, padding=1)
        self.register_buffer("place", torch.linspace(-1, 1, 128), persistent=False)

    def forward(self, images):
        return super().forward(images) + self.place[: int(images.shape[3])]


class Drawing(Placed):
    """Different logits each time."""

    def forward(self, images):
        return nn.Conv2d.forward(self, images) + torch.rand_like(images[:, :1])


class Branching(Placed):
    """What it does depends on the values of the picture."""

    def forward(self, images):
        return nn.Conv2d.forward(self, images if images.sum() > 0 else -images)
