"""A stream: one supervised pass over an unlabelled image. Every method is a table of them."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stream:
    """One pass over an unlabelled image that is trained on pseudo-labels.

    Args:
        name: under which its loss is logged.
        view: "strong": a strong view, mixed by CutMix where `mixed`. "weak": the weak view, with channels of its
            features dropped.
        weight: of its loss in the sum.
        labels: from whose prediction of the weak view the labels come: "self", the student's, or "teacher".
        mixed: whether a box comes from another image, in the image and in the labels alike.
    """

    name: str
    view: Literal["strong", "weak"]
    weight: float
    labels: Literal["self", "teacher"] = "self"
    mixed: bool = True


@dataclass(frozen=True)
class Unlabelled:
    """Views of N unlabelled images of one geometry: what the loader makes of them.

    Args:
        weak: geometry only, (N, channels, *S).
        strong: the same geometry with photometry of their own, K views, (N, K, channels, *S).
        valid: false on padding, (N, *S) bool.
        boxes: what CutMix replaces, for each strong view, (N, K, 2, D): first voxel, and the one after the last.
        draw: a number for each image that dropped channels are drawn from, (N,) int64.
    """

    weak: Tensor
    strong: Tensor
    valid: Tensor
    boxes: Tensor
    draw: Tensor

    @classmethod
    def of(cls, batch: dict[str, Any]) -> "Unlabelled":
        """From the entry `unlabelled` of a batch, whose `draw` may be a list."""
        views = {name: batch[name] for name in ("weak", "strong", "valid", "boxes")}
        return cls(**views, draw=torch.as_tensor(batch["draw"]))


@dataclass(frozen=True)
class At:
    """How far training is.

    Args:
        step: optimiser steps done.
        epoch: epochs done.
        share: of all steps that are done, in [0, 1].
    """

    step: int = 0
    epoch: int = 0
    share: float = 0.0


@dataclass
class Found:
    """What a method makes of a batch.

    Args:
        terms: the terms of the loss, weighted and scaled: their sum is the loss.
        logits: of the labelled images, (N, C, *S).
        watched: what to look at while training: numbers, and tables (C,) by class.
    """

    terms: dict[str, Tensor]
    logits: Tensor
    watched: dict[str, Tensor]

    @property
    def loss(self) -> Tensor:
        """The sum of the terms, at least float32."""
        total = torch.stack([term.double() for term in self.terms.values()]).sum()
        return total.float()
