"""Networks of a few thousand weights with the two halves that perturbed features need, found by import path."""

import os
import signal

import torch
from torch import nn
from torch.nn import functional as F


class Tiny(nn.Module):
    """Two scales of features, group norm: no statistics of a batch, nothing random."""

    width = 8

    def __init__(self, in_channels: int, classes: int):
        super().__init__()
        self.fine = nn.Conv2d(in_channels, self.width, 3, 2, 1)
        self.fine_norm = self.norm()
        self.coarse = nn.Conv2d(self.width, self.width, 3, 2, 1)
        self.coarse_norm = self.norm()
        self.drop = nn.Dropout(self.dropout)
        self.head = nn.Conv2d(2 * self.width, classes, 1)

    dropout = 0.0

    def norm(self) -> nn.Module:
        return nn.GroupNorm(2, self.width)

    def encode(self, images):
        fine = self.fine_norm(self.fine(images)).relu()
        return [fine, self.coarse_norm(self.coarse(fine)).relu()]

    def decode(self, features):
        fine, coarse = features
        both = torch.cat([fine, F.interpolate(coarse, scale_factor=2.0)], 1)
        return F.interpolate(self.head(self.drop(both)), scale_factor=2.0, mode="bilinear")

    def forward(self, images):
        return self.decode(self.encode(images))


class Drawing(Tiny):
    """With what a continued run has to take up again: dropout, and batch norm with its running statistics.

    Where the environment says so, the process is killed in the forward pass of that number.
    """

    dropout = 0.5
    passes = 0

    def norm(self) -> nn.Module:
        return nn.BatchNorm2d(self.width)

    def encode(self, images):
        self.passes += self.training
        if str(self.passes) == os.environ.get("KILL_IN_PASS"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(images)


class Plain(nn.Conv2d):
    """No halves."""

    def __init__(self, in_channels: int, classes: int):
        super().__init__(in_channels, classes, 3, padding=1)
