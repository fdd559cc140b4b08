"""One row per public loss: how to build it, and its reference. A public loss without a row fails the contract test."""

import copy
from dataclasses import dataclass, field
from typing import Any

import torch

import delineate.losses as L
from reference import region as R
from reference.region import region_loss
from reference.voxel import voxel_loss

BUILDING_BLOCKS = {"Loss", "Sum", "parse"}


@dataclass
class Case:
    cls: type[L.Loss]
    own: dict[str, Any] = field(default_factory=dict)
    kind: str | None = None
    """Losses by voxel: the reference's name."""
    formula: Any = None
    """Losses by region: the reference's formula."""
    binary_only: dict[str, Any] | None = None

    @property
    def region(self) -> bool:
        return self.formula is not None

    def build(self, **common: Any) -> L.Loss:
        return self.cls(**self.own, **common)

    def reference(self, logits, target, weight=None, **common):
        arrays = [t.detach().cpu().double().numpy() if t.is_floating_point() else t.numpy() for t in (logits, target)]
        weight = None if weight is None else weight.double().numpy()
        if self.region:
            return torch.as_tensor(region_loss(self.formula, *arrays, weight, **common))
        return torch.as_tensor(voxel_loss(self.kind, *arrays, weight, **self.own, **common))

    def __repr__(self) -> str:
        return f"{self.cls.__name__}({','.join(f'{k}={v}' for k, v in self.own.items())})"


CASES = [
    Case(L.CrossEntropyLoss, kind="ce"),
    Case(L.CrossEntropyLoss, {"normalize": "weight"}, kind="ce"),
    Case(L.BalancedCrossEntropyLoss, kind="balanced"),
    Case(L.TopKLoss, {"k": 0.1}, kind="topk"),
    Case(L.TopKLoss, {"k": 0.45}, kind="topk"),
    Case(L.FocalLoss, {"gamma": 2.0}, kind="focal"),
    Case(L.FocalLoss, {"gamma": 0.5}, kind="focal"),
    Case(L.DiceLoss, formula=R.dice()),
    Case(L.DiceLoss, {"squared": True}, formula=R.squared_dice()),
    Case(L.DiceLoss, {"smooth": 1.0}, formula=R.dice(1.0)),
    Case(L.DiceLoss, {"squared": True, "smooth": 0.5}, formula=R.squared_dice(0.5)),
    Case(L.JaccardLoss, formula=R.jaccard()),
    Case(L.JaccardLoss, {"smooth": 1.0}, formula=R.jaccard(1.0)),
    Case(L.TverskyLoss, formula=R.tversky(0.3, 0.7)),
    Case(L.TverskyLoss, {"fp_weight": 0.9, "fn_weight": 0.2, "smooth": 0.3}, formula=R.tversky(0.9, 0.2, 0.3)),
    Case(L.FocalTverskyLoss, formula=R.focal_tversky(0.3, 0.7, 0.75)),
    Case(L.FocalTverskyLoss, {"exponent": 1.33, "smooth": 1.0}, formula=R.focal_tversky(0.3, 0.7, 1.33, 1.0)),
    Case(L.LogCoshDiceLoss, formula=R.log_cosh_dice()),
    Case(L.GeneralizedDiceLoss, formula="generalized:square"),
    Case(L.GeneralizedDiceLoss, {"weighting": "simple"}, formula="generalized:simple"),
    Case(L.GeneralizedDiceLoss, {"weighting": "uniform"}, formula="generalized:uniform"),
]
DEFAULTS = [case for case in CASES if not case.own] + [Case(L.TopKLoss, kind="topk"), Case(L.FocalLoss, kind="focal")]

SPACES = {"1d": (13,), "2d": (5, 4), "3d": (3, 4, 3)}


def batch(space=(5, 4), *, samples=3, channels=3, mode="softmax", kind="labels", seed=0, dtype=torch.float64):
    """Random logits and a target of the kind: "labels", "dense" or "soft"."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(samples, channels, *space, generator=g, dtype=dtype) * 2
    if kind == "labels":
        return logits, torch.randint(0, max(channels, 2), (samples, *space), generator=g)
    soft = torch.rand(samples, channels, *space, generator=g, dtype=dtype)
    if mode == "softmax":
        soft = soft / soft.sum(1, keepdim=True)
    return logits, (soft == soft.amax(1, keepdim=True)).to(dtype) if kind == "dense" else soft


MODES = ("softmax", "sigmoid")


def value_and_gradient(loss, logits, target, weight=None):
    """The value and its gradient to the logits (of its sum, with reduction="none"); the logits stay untouched."""
    logits = logits.detach().clone().requires_grad_()
    value = loss(logits, target, weight)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    return value.detach(), gradient


def in_mode(loss, mode):
    """A copy of the loss, with all terms of a sum in the mode."""
    loss = copy.deepcopy(loss)
    for part in loss.modules():
        if isinstance(part, L.Loss):
            part.mode = mode
    return loss


def ball(space, radius, shift=0):
    """Labels (1, *S): 1 within the radius of the middle, moved by `shift` along the first axis."""
    axes = torch.meshgrid(*(torch.arange(s) for s in space), indexing="ij")
    middle = [s // 2 + (shift if axis == 0 else 0) for axis, s in enumerate(space)]
    squared = sum((a - m) ** 2 for a, m in zip(axes, middle, strict=True))
    return (squared <= radius**2).long()[None]


def margins(labels, channels, margin, mode):
    """Logits that say the labels: `margin` above the other classes (softmax), or +-`margin` (sigmoid)."""
    if channels == 1:
        return (2.0 * labels[:, None] - 1) * margin
    on = torch.nn.functional.one_hot(labels, channels).movedim(-1, 1).double()
    return on * margin if mode == "softmax" else (2 * on - 1) * margin
