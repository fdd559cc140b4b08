"""One row per public loss: how to build it, its reference, and what the contract must know about it.

A public loss without a row fails the contract test.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

import delineate.losses as L
from delineate.ops.thinning import thin
from losses.exemptions import (
    BATCH_MAXIMUM,
    BLIND,
    CHOICE,
    DIAGONAL,
    EACH_CHANNEL,
    FULL,
    MASKS_ONLY,
    NO_PART,
    NOT_PROPER,
    ONE_DIVISOR,
    ONE_RATIO,
    PATCHES,
    POINTS,
    RECALL,
    SHARES,
    SKELETON,
    SMOOTHED,
    THRESHOLD,
    TWO_KINDS_OF_ERROR,
    TWO_PARTS,
    UNDETACHED,
    WINDOWS,
)
from reference import boundary as B
from reference import compound as P
from reference import instance as N
from reference import region as R
from reference import structure as S
from reference import voxel as V
from reference.lovasz import lovasz_loss

BUILDING_BLOCKS = {"Loss", "Sum", "parse", "Schedule", "Balanced", "DeepSupervision"}


@dataclass
class Case:
    cls: type[L.Loss]
    formula: Callable[..., Any]
    """The reference, in numpy: of logits, target, weight, own and common arguments."""
    own: dict[str, Any] = field(default_factory=dict)
    region: bool = False
    """One value per class, from counts or sorted errors: without `smooth`, blind to the scale of the weights."""
    pooled: bool = False
    """Takes `pool` and `absent`."""
    minimum: float = 0.0
    """The value at a perfect prediction."""
    margin: float = 20.0
    """The logit margin at which a perfect prediction is within 1e-3 of the minimum."""
    hard_only: bool = False
    """Refuses soft targets."""
    spatial: bool = False
    """Looks at where voxels are, and not only at each of them: at distances, skeletons or neighbourhoods."""
    detached: bool = False
    """Part of its value carries no gradient by default."""
    relative: bool = False
    """Its least value depends on the target: that of a perfect prediction, see `best`."""
    exempt: dict[str, str] = field(default_factory=dict)
    """Items of the contract that do not hold, and why."""
    inner: Callable[..., L.Loss] | None = None
    """The loss inside, of a loss by instance: it takes the common arguments."""

    @property
    def told(self) -> type[L.Loss]:
        """The class that takes the common arguments."""
        return self.cls if self.inner is None else type(self.inner())

    @property
    def by_foreground(self) -> bool:
        """Whether the foreground alone says of two classes what one sigmoid channel does."""
        return self.region or self.cls in (L.StructuralSimilarityLoss, L.RMILoss)

    @property
    def leading(self) -> bool:
        """Whether it stands for its loss."""
        return any(self is case for case in DEFAULTS)

    @property
    def soft(self) -> str:
        """The kind of dense target it takes, for `batch`."""
        return "dense" if self.hard_only else "soft"

    def build(self, **common: Any) -> L.Loss:
        if self.inner is None:
            return self.cls(**self.own, **common)
        outer = {name: value for name, value in common.items() if name in L.loss.arguments(self.cls)}
        inner = {name: value for name, value in common.items() if name not in outer}
        return self.cls(self.inner(**inner), **self.own | outer)

    def default(self) -> L.Loss:
        """The loss with its default arguments."""
        return self.cls() if self.inner is None else self.cls(self.inner())

    def best(self, target, channels: int, mode: str, **common: Any) -> float:
        """The value at a perfect prediction of labels."""
        if not self.relative:
            return self.minimum
        return self.build(mode=mode, **common)(margins(target, channels, 1e3, mode), target).item()

    def rounding(self, best: float) -> float:
        """How far below that value another perfect prediction may lie.

        RMI inverts covariances that are next to singular there: from a margin of 25 to one of 30 it moves by 1e-7 in
        float64, one way or the other as the processor sums.
        """
        return 1e-6 * (abs(best) + 1) if self.relative else 0.0

    def reference(self, logits, target, weight=None, **common):
        arrays = [t.detach().cpu().double().numpy() if t.is_floating_point() else t.numpy() for t in (logits, target)]
        weight = None if weight is None else weight.double().numpy()
        return torch.as_tensor(self.formula(*arrays, weight, **self.own, **common))

    def __repr__(self) -> str:
        inner = [] if self.inner is None else [repr(self.inner())]
        return f"{self.cls.__name__}({','.join([*inner, *(f'{k}={v}' for k, v in self.own.items())])})"


def rows(cls: type[L.Loss], formula: Callable[..., Any], *settings: dict[str, Any], **facts: Any) -> list[Case]:
    """A row for each of the loss's own arguments."""
    return [Case(cls, formula, own, **facts) for own in settings]


def voxel(cls: type[L.Loss], kind: Callable[..., Any], *settings: dict[str, Any], **facts: Any) -> list[Case]:
    return rows(cls, partial(V.voxel_loss, kind), *settings, **facts)


def region(cls: type[L.Loss], formula: Callable[..., Any], *settings: dict[str, Any], **facts: Any) -> list[Case]:
    return rows(cls, partial(R.region_loss, formula), *settings, region=True, pooled=True, **facts)


def of_maps(cls: type[L.Loss], formula: Callable[..., Any], *settings: dict[str, Any], **facts: Any) -> list[Case]:
    """Rows of a loss of sums against maps of the target."""
    return rows(cls, formula, *settings, region=True, pooled=True, spatial=True, **facts)


def by_instance(
    cls: type[L.Loss], formula: Callable[..., Any], inner: Callable[..., L.Loss], name: str, *settings: dict[str, Any],
    **facts: Any,
) -> list[Case]:  # fmt: skip
    """Rows of a loss by instance with another inside, which the reference has under a name."""
    ratio = name in N.REGION
    facts = {"region": ratio, "pooled": ratio, "spatial": True} | facts
    facts["exempt"] = facts.get("exempt", {}) | ({} if ratio else NO_PART)
    return rows(cls, partial(formula, inner=name), *settings, inner=inner, **facts)


def inverse_size(formula: Callable[..., Any], inner: Callable[..., L.Loss], *settings: dict[str, Any], **facts: Any):
    """Rows of the loss with another inside, whose reference takes the weights."""

    def weighted(logits, target, weight=None, *, weighting="foreground", clip=None, connectivity="full", **common):
        told = {key: common[key] for key in ("classes", "mode", "ignore_index") if key in common}
        options = {"weighting": weighting, "clip": clip, "connectivity": connectivity}
        weights = N.inverse_size_weights(target, logits.shape[1], **options, **told).astype(np.float32)
        return formula(logits, target, weights if weight is None else weights * weight, **common)

    return rows(L.InverseSizeLoss, weighted, *settings, inner=inner, spatial=True, **facts)


def skeleton_recall(logits, target, weight=None, *, mode="softmax", ignore_index=None, **common):
    """The reference, with tubes from the thinning, which has tests of its own."""
    channels, space = logits.shape[1], logits.shape[2:]
    if target.dtype.kind == "f":
        masks = target > 0.5
    else:
        names = np.arange(channels) if channels > 1 else np.array([1])
        masks = target[:, None] == names.reshape(-1, *[1] * len(space))
        masks &= (target != ignore_index)[:, None] if ignore_index is not None else True
    sides = masks[:, 1:].any(1, keepdims=True) if mode == "softmax" else masks
    cross = ndimage.generate_binary_structure(len(space), 1)
    around = np.array([[ndimage.binary_dilation(thin(side), cross, 2) for side in sample] for sample in sides])
    tubes = masks & around.reshape(sides.shape)
    common |= {"mode": mode, "ignore_index": ignore_index}
    return S.skeleton_recall_loss(logits, target, weight, tubes=tubes.astype(float), **common)


def variant(cls: type[L.Loss], **own: Any) -> Case:
    """The default row of the loss with other arguments."""
    return replace(next(case for case in DEFAULTS if case.cls is cls), own=own)


SORTED = {
    "region": True,
    "pooled": True,
    "hard_only": True,
    "exempt": {"C8a": "has no form for soft labels", "C15": "kinks where errors change places"},
}

CASES = [
    *voxel(L.CrossEntropyLoss, V.cross_entropy, {}, {"normalize": "weight"}),
    *voxel(
        L.CrossEntropyLoss,
        V.cross_entropy,
        {"label_smoothing": 0.1},
        {"label_smoothing": 0.2, "normalize": "weight"},
        exempt=SMOOTHED,
    ),
    *voxel(L.BalancedCrossEntropyLoss, V.balanced, {}, exempt=SHARES),
    *voxel(L.TopKLoss, V.topk, {}, exempt=CHOICE | FULL),
    *voxel(L.TopKLoss, V.topk, {"k": 0.45}, exempt=CHOICE),
    *voxel(L.OHEMLoss, V.ohem, {}, {"threshold": 0.3}, {"min_kept": 5}, exempt=CHOICE | FULL | THRESHOLD),
    *voxel(L.OHEMLoss, V.ohem, {"min_kept": 0.4}, exempt=CHOICE | THRESHOLD),
    *voxel(L.FocalLoss, V.focal, {}, {"gamma": 0.5}, exempt=NOT_PROPER),
    *voxel(L.PolyLoss, V.poly, {}, {"epsilon": -0.5}, {"gamma": 2.0}, exempt=NOT_PROPER),
    *region(L.DiceLoss, R.dice, {}, {"squared": True}, {"smooth": 1.0}, {"squared": True, "smooth": 0.5}),
    *region(L.JaccardLoss, R.jaccard, {}, {"smooth": 1.0}),
    *region(L.TverskyLoss, R.tversky, {}, {"fp_weight": 0.9, "fn_weight": 0.2, "smooth": 0.3}),
    *region(L.FocalTverskyLoss, R.focal_tversky, {}, {"exponent": 1.33, "smooth": 1.0}),
    *region(L.LogCoshDiceLoss, R.log_cosh_dice, {}),
    *region(L.AsymmetricSimilarityLoss, R.asymmetric_similarity, {}, {"beta": 0.5}, {"beta": 1.0, "smooth": 1.0}),
    *region(
        L.GeneralizedDiceLoss,
        R.generalized_dice,
        {},
        {"weighting": "simple"},
        {"weighting": "uniform"},
        exempt=ONE_RATIO,
    ),
    *region(
        L.PenaltyGeneralizedDiceLoss,
        R.penalty_generalized_dice,
        {},
        {"k": 1.0, "weighting": "uniform"},
        exempt=ONE_RATIO,
    ),
    *region(L.SensitivitySpecificityLoss, R.sensitivity_specificity, {}, {"r": 0.5}),
    *region(L.MCCLoss, R.mcc, {}),
    *rows(L.LovaszLoss, lovasz_loss, {}, **SORTED | {"exempt": SORTED["exempt"] | TWO_KINDS_OF_ERROR}),
    *rows(L.LovaszLoss, lovasz_loss, {"errors": "probability"}, **SORTED),
    *rows(L.ComboLoss, P.combo_loss, {}, pooled=True, minimum=-0.5, exempt=TWO_PARTS),
    *rows(
        L.ComboLoss,
        P.combo_loss,
        {"ce_weight": 0.3, "positive_weight": 0.7},
        pooled=True,
        minimum=-0.7,
        exempt=TWO_PARTS,
    ),
    *rows(
        L.ExponentialLogarithmicLoss,
        P.exponential_logarithmic_loss,
        {},
        pooled=True,
        margin=80.0,  # 1 - p is 2e-9 at margin 20, but its power 0.3 is 0.002
        exempt=TWO_PARTS,
    ),
    *rows(
        L.ExponentialLogarithmicLoss,
        P.exponential_logarithmic_loss,
        {"dice_gamma": 1.0, "ce_gamma": 1.0},
        pooled=True,
        exempt=TWO_PARTS,
    ),
    *rows(
        L.UnifiedFocalLoss,
        P.unified_focal_loss,
        {},
        {"asymmetric": False},
        {"gamma": 0.25, "fn_weight": 0.7},
        {"smooth": 1.0},
        pooled=True,
        exempt=TWO_PARTS,
    ),
    *of_maps(
        L.BoundaryLoss,
        B.boundary_loss,
        {},
        {"inside": "plain", "scale_free": True},
        relative=True,
        minimum=-math.inf,
        exempt=MASKS_ONLY | DIAGONAL,
    ),
    *of_maps(L.HausdorffDTLoss, B.hausdorff_dt_loss, {}),
    *of_maps(
        L.HausdorffDTLoss,
        B.hausdorff_dt_loss,
        {"alpha": 1.0, "one_sided": True, "scale_free": True},
        exempt=DIAGONAL,
    ),
    *of_maps(
        L.HausdorffErosionLoss,
        B.hausdorff_erosion_loss,
        {},
        {"rescale": False},
        exempt=BLIND | {"C1a": "as the kernel spans axes longer than 1"},
    ),
    *of_maps(L.HausdorffConvLoss, B.hausdorff_conv_loss, {}, exempt=BLIND),
    *of_maps(L.HausdorffConvLoss, B.hausdorff_conv_loss, {"radii": [1, 2]}, exempt={"C9b": BLIND["C9b"]}),
    *of_maps(
        L.WeightedHausdorffLoss,
        B.weighted_hausdorff_loss,
        {},
        {"exponent": -3.0, "max_points": 2},
        relative=True,
        exempt=MASKS_ONLY | POINTS,
    ),
    *of_maps(
        L.AverageHausdorffLoss,
        B.average_hausdorff_loss,
        {},
        {"combine": "max"},
        {"combine": "sum", "balanced": True, "scale_free": True},
        exempt=MASKS_ONLY | DIAGONAL,
    ),
    *of_maps(L.BoundaryDoULoss, B.boundary_dou_loss, {}, {"smooth": 0.5}),
    *of_maps(L.GeneralizedSurfaceLoss, B.generalized_surface_loss, {}, exempt={"C8a": MASKS_ONLY["C8a"]}),
    *rows(
        L.ShapeAwareLoss,
        B.shape_aware_loss,
        {},
        {"scale_free": True},
        spatial=True,
        exempt=DIAGONAL | {"C9a": "one divisor over all channels, the number of wrong ones"},
    ),
    *rows(L.DistancePenalizedCELoss, B.distance_penalized_ce_loss, {}, spatial=True),
    *rows(
        L.StructuralSimilarityLoss,
        S.structural_similarity_loss,
        {},
        {"ignored": "zero", "stabilizer": 0.1, "ce_weight": 0.2},
        spatial=True,
        detached=True,
        exempt=WINDOWS | ONE_DIVISOR,
    ),
    *rows(
        L.StructuralSimilarityLoss,
        S.structural_similarity_loss,
        {"threshold_scope": "batch", "padding": "zeros", "window_size": 5},
        spatial=True,
        detached=True,
        exempt=WINDOWS | ONE_DIVISOR | BATCH_MAXIMUM,
    ),
    *rows(
        L.StructuralSimilarityLoss,
        lambda *args, detach_weight, **common: S.structural_similarity_loss(*args, **common),
        {"detach_weight": False},
        spatial=True,
        exempt=WINDOWS | ONE_DIVISOR | UNDETACHED,
    ),
    *rows(
        L.RMILoss,
        S.rmi_loss,
        {"radius": 2, "downsample": 1},
        {"radius": 1, "downsample": 2, "downsample_mode": "max"},
        spatial=True,
        relative=True,
        minimum=-math.inf,
        exempt=PATCHES,
    ),
    *of_maps(L.SoftClDiceLoss, S.soft_cldice_loss, {}, {"iterations": 20, "smooth": 0.1}, exempt=MASKS_ONLY | SKELETON),
    *of_maps(L.SkeletonRecallLoss, skeleton_recall, {}, {"smooth": 0.0}, exempt=MASKS_ONLY | SKELETON | RECALL),
    *by_instance(
        L.BlobLoss,
        N.blob_loss,
        L.DiceLoss,
        "dice",
        {},
        {"fp_scope": "split", "connectivity": "face"},
        {"fp_scope": "voronoi"},
    ),
    *by_instance(
        L.BlobLoss,
        N.blob_loss,
        partial(L.DiceLoss, squared=True),
        "squared_dice",
        {"min_size": 2},
        exempt={"C11": "samples without components of that size leave the mean"},
    ),
    *by_instance(L.BlobLoss, N.blob_loss, L.JaccardLoss, "jaccard", {"fp_scope": "split"}),
    *by_instance(L.BlobLoss, N.blob_loss, L.TverskyLoss, "tversky", {}),
    *by_instance(L.BlobLoss, N.blob_loss, L.FocalTverskyLoss, "focal_tversky", {}),
    *by_instance(L.BlobLoss, N.blob_loss, L.CrossEntropyLoss, "ce", {}, {"fp_scope": "voronoi"}),
    *by_instance(L.BlobLoss, N.blob_loss, L.FocalLoss, "focal", {"fp_scope": "split"}, exempt=NOT_PROPER),
    *by_instance(L.BlobLoss, N.blob_loss, L.TopKLoss, "topk", {}, {"fp_scope": "split"}, exempt=EACH_CHANNEL | FULL),
    *by_instance(L.ComponentLoss, N.component_loss, L.DiceLoss, "dice", {}),
    *by_instance(L.ComponentLoss, N.component_loss, L.PolyLoss, "poly", {"connectivity": "face"}, exempt=NOT_PROPER),
    *by_instance(L.BidirectionalComponentLoss, N.bidirectional_component_loss, L.DiceLoss, "dice", {}, detached=True),
    *by_instance(
        L.BidirectionalComponentLoss,
        N.bidirectional_component_loss,
        L.CrossEntropyLoss,
        "ce",
        {"predicted_weight": 0.3},
        detached=True,
        exempt={"C10d": "a predicted cell without a true voxel costs a mean of probabilities"},
    ),
    *inverse_size(partial(V.voxel_loss, V.cross_entropy), L.CrossEntropyLoss, {}),
    *inverse_size(
        partial(R.region_loss, R.dice),
        L.DiceLoss,
        {"weighting": "volume", "clip": [0.5, 50]},
        region=True,
        pooled=True,
    ),
]
DEFAULTS = list({case.cls: case for case in reversed(CASES)}.values())[::-1]
"""One row of each loss: with its default arguments, but for RMI, whose patches small images do not hold."""
PLAIN = [case for case in CASES if not case.spatial]
PLAIN_DEFAULTS = [case for case in DEFAULTS if not case.spatial]
"""Those that look at each voxel alone."""


def part(cls: type[L.Loss], formula: Callable[..., Any], region: bool, **own: Any) -> Case:
    """A compound loss with one of its parts only: what a rule for one family says of it holds for that part."""
    return Case(cls, formula, own, region=region, pooled=True)


VOXEL_PARTS = [
    part(L.ComboLoss, P.combo_loss, False, ce_weight=1.0, positive_weight=0.7),
    part(L.ExponentialLogarithmicLoss, P.exponential_logarithmic_loss, False, dice_weight=0),
    part(L.UnifiedFocalLoss, P.unified_focal_loss, False, focal_weight=1.0),
]
REGION_PARTS = [
    replace(part(L.ComboLoss, P.combo_loss, True, ce_weight=0.0, smooth=0.0), minimum=-1.0),
    part(L.ExponentialLogarithmicLoss, P.exponential_logarithmic_loss, True, ce_weight=0, smooth=0.0),
    part(L.UnifiedFocalLoss, P.unified_focal_loss, True, focal_weight=0.0),
]


def held_to(item: str, cases: list[Case] = CASES) -> list[Case]:
    """The rows that an item of the contract holds for."""
    return [case for case in cases if item not in case.exempt]


def exempt_from(item: str) -> list[Case]:
    return [case for case in CASES if item in case.exempt]


def pools(case: Case) -> tuple[dict[str, Any], ...]:
    return ({"pool": "sample"}, {"pool": "batch"}) if case.pooled else ({},)


def policies(case: Case) -> tuple[dict[str, Any], ...]:
    return ({"absent": "skip"}, {"absent": "count"}) if case.pooled else ({},)


SPACES = {"1d": (13,), "2d": (5, 4), "3d": (3, 4, 3)}


def in_each_space(cases: list[Case], spaces: dict[str, tuple[int, ...]] = SPACES) -> list[Any]:
    """Pairs of a row and the shape of an image: all rows in 2D, in 1D and 3D one row of each loss."""
    pairs = [(case, dims) for case in cases for dims in spaces if dims == "2d" or case.leading]
    return [pytest.param(case, spaces[dims], id=f"{case}-{dims}") for case, dims in pairs]


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
