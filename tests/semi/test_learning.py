"""Each method learns more from two labelled pictures and many unlabelled ones than the two alone teach."""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from delineate.metrics import ConfusionMatrix
from delineate.semi import At, Network, Unlabelled, parse_method
from delineate.semi.mixing import draw_box

COLOURS = torch.tensor([[0.35, 0.35, 0.35], [0.75, 0.45, 0.35], [0.4, 0.7, 0.4], [0.4, 0.45, 0.75]])
SIDE, STEPS, BATCH, LABELLED, UNLABELLED, VAL = 24, 120, 4, 2, 40, 24


class Small(nn.Module):
    """Three convolutions with batch norm; the first two maps are features."""

    def __init__(self):
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.coarse = nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Conv2d(32, len(COLOURS), 1)

    def encode(self, images):
        fine = self.fine(images)
        return [fine, self.coarse(fine)]

    def decode(self, features):
        fine, coarse = features
        return self.head(torch.cat([fine, F.interpolate(coarse, scale_factor=2.0)], 1))

    def forward(self, images):
        return self.decode(self.encode(images))


def pictures(count, draw, spread=0.6):
    """Boxes of three colours on grey, in the light of each picture: images (count, 3, SIDE, SIDE), and labels."""
    labels = torch.zeros(count, SIDE, SIDE, dtype=torch.int64)
    for n in range(count):
        for c in 1 + torch.randperm(3, generator=draw):
            top, left = torch.randint(0, SIDE - 10, (2,), generator=draw)
            high, wide = torch.randint(7, 12, (2,), generator=draw)
            labels[n, top : top + high, left : left + wide] = c
    light = 1 + spread * (2 * torch.rand(count, 1, 1, 1, generator=draw) - 1)
    tint = 0.04 * torch.randn(count, 3, 1, 1, generator=draw)
    noise = 0.08 * torch.randn(count, 3, SIDE, SIDE, generator=draw)
    return light * COLOURS[labels].permute(0, 3, 1, 2) + tint + noise, labels


def recoloured(images):
    """Other light, contrast and tint."""
    light, tint = 0.5 + torch.rand(len(images), 1, 1, 1), 0.04 * torch.randn(len(images), 3, 1, 1)
    return light * images + tint + 0.05 * torch.randn_like(images)


def views(images, strong):
    seen = images.flip(3) if torch.rand(()) < 0.5 else images
    boxes = torch.stack([torch.stack([draw_box((SIDE, SIDE)) for _ in range(strong)]) for _ in range(len(images))])
    coloured = torch.stack([recoloured(seen) for _ in range(strong)], 1)
    valid = torch.ones(len(images), SIDE, SIDE, dtype=torch.bool)
    return Unlabelled(seen, coloured, valid, boxes, torch.randint(2**40, (len(images),)))


@functools.cache
def miou(text, seed):
    """Of the student after training on data and from weights that depend on the seed alone."""
    draw = torch.Generator().manual_seed(seed)
    (images, labels), (unlabelled, _), (val, truth) = (
        pictures(count, draw, spread) for count, spread in ((LABELLED, 0.1), (UNLABELLED, 0.6), (VAL, 0.6))
    )
    torch.manual_seed(seed)
    model, method = Small(), parse_method(text)
    method.attach(model, len(COLOURS))
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / STEPS) ** 0.9
        turn = torch.randint(0, 2, ()) * 2 - 1
        x, y = images[:, :, :, ::turn] if turn > 0 else images.flip(3), labels if turn > 0 else labels.flip(2)
        chosen = unlabelled[torch.randperm(UNLABELLED)[:BATCH]]
        seen = views(chosen, len(method.strong)) if method.streams else None
        at = At(step, step // 10, step / STEPS)
        found = method(Network(model.train()), x, seen, lambda z, y=y: {"CE": F.cross_entropy(z, y)}, at)
        optimizer.zero_grad()
        found.loss.backward()
        optimizer.step()
        method.after_step(model, at)
    matrix = ConfusionMatrix(len(COLOURS), None)
    with torch.no_grad():
        matrix.update(model.eval()(val).argmax(1), truth)
    return matrix.scores().miou


METHODS = ["meanteacher(strong_weight=5, decay=.95, teacher_norm='batch')", "fixmatch", "unimatch", "dssn"]
SEEDS, MARGIN = (0, 1), 0.08
"""Over seeds 0 to 4 the labels alone reach 0.40 to 0.62; the last three methods gain 0.10 to 0.33, mean teacher 0.02 to
0.21. By default mean teacher gains nothing here: 120 steps are few for its teacher and its weight."""


@pytest.mark.parametrize("text", METHODS)
def test_beats_the_labels_alone(text):
    alone, found = ([miou(name, seed) for seed in SEEDS] for name in ("supervised", text))
    assert sum(found) / len(SEEDS) > sum(alone) / len(SEEDS) + MARGIN
    assert min(found) > max(1 / len(COLOURS), *alone)
