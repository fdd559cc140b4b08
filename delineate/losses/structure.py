"""Losses of neighbourhoods and of skeletons: what a voxel costs depends on what is around it."""

import warnings
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from delineate.losses.counts import Counts, MapLoss, PoolCommon, ratio
from delineate.losses.inputs import Inputs
from delineate.losses.loss import Common
from delineate.losses.voxel import VoxelLoss
from delineate.ops.binary import binary_costs
from delineate.ops.correlation import Window, structure_errors
from delineate.ops.skeleton import soft_skeletons
from delineate.ops.window import PADDINGS, gaussian_taps
from delineate.target import Geometry

IGNORED = ("drop", "zero")
SCOPES = ("sample", "batch")
DOWNSAMPLING = ("average", "max", "interpolate")
_NOISE = 5e-4
"""The variance that stands for what the neighbourhoods do not explain."""
_TINY_PROBABILITY, _TINY = 1e-6, 1e-8
_AVERAGE, _LARGEST = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d), (F.max_pool1d, F.max_pool2d, F.max_pool3d)
_INTERPOLATION = ("linear", "bilinear", "trilinear")


class OneVsRestLoss(VoxelLoss):
    """A loss that takes every class for a binary problem of its own, also with integer labels.

    Args:
        mode: "sigmoid" by default; with "softmax" the probability of a class is its share.
        ignore_index, class_weight, classes, reduction: see `Loss`.
    """

    def __init__(
        self,
        *,
        mode: str = "sigmoid",
        ignore_index: int | None = None,
        class_weight=None,
        classes=None,
        reduction: str = "mean",
    ):
        super().__init__(
            mode=mode, ignore_index=ignore_index, class_weight=class_weight, classes=classes, reduction=reduction
        )

    def valid_voxels(self, inputs: Inputs) -> Tensor:
        """Number of valid voxels of each sample, (N,) float64."""
        valid = inputs.valid(self.ignore_index)
        samples, _, voxels = inputs.logits.shape
        if valid is None:
            return inputs.logits.new_full((samples,), voxels, dtype=torch.float64)
        return valid.sum(1).double()


class StructuralSimilarityLoss(OneVsRestLoss):
    """CMSSL: cross entropy of the voxels whose surroundings in the prediction look unlike those in the target.

        ce_weight BCE + (1 - ce_weight) (1 / M) sum_{n,c,i} e f BCE,     f = 1 where e > threshold e_max, else 0
        e = | (y - mean_y + s) / (deviation_y + s) - (p - mean_p + s) / (deviation_p + s) |,     M = sum f

    Args:
        ce_weight: in [0, 1], the share of plain binary cross entropy.
        threshold: in [0, 1); voxels whose error is at most this share of the largest, e_max, are left out.
        threshold_scope: "sample" takes e_max from each sample and class, "batch" one from the whole batch.
        stabilizer: s, above 0.
        window_size, window_sigma: odd number of voxels a side and width, in voxels, of the Gaussian window that means
            and deviations are taken in.
        padding: "reflect" mirrors the image at its border, "zeros" puts background and p = 0 there.
        ignored: "drop" leaves ignored voxels out of the windows, "zero" takes them for background with p = 0.
        detach_weight: whether e is a weight without a gradient of its own. The value is the same. With one, a missed
            object may ask for less of itself: raising a flat prediction first raises e.
        mode: "sigmoid", one class against the rest also for integer labels, or "softmax". common: see `Loss`.

    Shape: see `Loss`. With reflected margins each axis longer than 1 must be longer than half the window.
    Range: [0, inf); 0 at a perfect prediction.
    Absent classes: no rule is needed: structured false positives have an error, flat ones cost cross entropy.

    >>> logits = torch.tensor([[[-9.0, -9.0, 9.0, 9.0, -9.0]]])
    >>> target = torch.tensor([[0, 0, 1, 1, 0]])
    >>> loss = StructuralSimilarityLoss()
    >>> loss(logits, target).item() < 1e-3 < 4 < loss(-logits, target).item()
    True

    Use for: outlines and thin structures in natural images, where errors stand in edges.
    Not for: `ce_weight=0`: where both surroundings are flat, e is 0 however wrong the prediction, and only the cross
    entropy sees it. Probabilities of exclusive classes: by default each class is trained on its own.
    Notes: no code of the authors exists, and the body of the paper was not at hand: window, threshold, e_max and the
    place of s follow the survey and the majority of five re-implementations. Deviations are those of the window
    itself. As the second term is divided by the voxels that count, more errors may cost less each: a prediction that is
    off by more may have the smaller loss. Voxel and class weights multiply the costs, not the counts they are divided
    by. Ignored voxels have no error and count nowhere. On data whose ignored band covers the outlines (PASCAL VOC), try
    both forms of `ignored`.
    Reference: Zhao et al., Correlation maximized structural similarity loss for semantic segmentation, 2019, arXiv
    1910.08711.
    """

    def __init__(
        self,
        *,
        ce_weight: float = 0.5,
        threshold: float = 0.1,
        threshold_scope: str = "sample",
        stabilizer: float = 0.01,
        window_size: int = 3,
        window_sigma: float = 1.5,
        padding: str = "reflect",
        ignored: str = "drop",
        detach_weight: bool = True,
        **common: Unpack[Common],
    ):
        super().__init__(**common)
        self.ce_weight = self._number("ce_weight", ce_weight, 0, 1)
        self.threshold = self._number("threshold", threshold, 0, 1, below=True)
        self.threshold_scope = self._option("threshold_scope", threshold_scope, SCOPES)
        self.stabilizer = self._number("stabilizer", stabilizer, 0, above=True)
        self.window_size = self._integer("window_size", window_size, low=1)
        if self.window_size % 2 == 0:
            raise ValueError(f"{type(self).__name__}: `window_size` must be odd; got {window_size}.")
        self.window_sigma = self._number("window_sigma", window_sigma, 0, above=True)
        self.padding = self._option("padding", padding, PADDINGS)
        self.ignored = self._option("ignored", ignored, IGNORED)
        self.detach_weight = self._flag("detach_weight", detach_weight)

    def compute(self, inputs: Inputs) -> Tensor:
        scored = self.scored(inputs.shape[1], inputs.logits.device)
        errors, cuts = self._errors(inputs, scored)
        plain, weighed, kept = binary_costs(
            inputs.logits,
            inputs.target,
            inputs.weight,
            mode=self.mode,
            ignore_index=self.ignore_index,
            errors=errors,
            cuts=cuts,
        )
        weights, valid = self.class_weights(len(scored), scored.device), self.valid_voxels(inputs)
        ce = self.average((weights * plain).sum(1), valid * scored.sum(), valid)
        selected = self.average((weights * weighed).sum(1), (kept * scored).sum(1), valid)
        return self.ce_weight * ce + (1 - self.ce_weight) * selected

    def _errors(self, inputs: Inputs, scored: Tensor) -> tuple[Tensor, Tensor]:
        """e of each voxel (N, C, V), and above what it counts (N, C)."""
        p, void = inputs.probabilities(self.mode, self.ignore_index), inputs.ignored(self.ignore_index)
        p = p.detach() if self.detach_weight else p
        drop = self.ignored == "drop"
        p = p if drop or void is None else p.masked_fill(void[:, None], 0)
        window = Window(gaussian_taps(self.window_size, self.window_sigma), self.padding, self.stabilizer, drop)
        errors, peaks = structure_errors(p, inputs.grid, void, window)
        peaks = peaks.detach()
        if self.threshold_scope == "batch" and peaks.numel():
            peaks = (peaks * scored).amax().expand_as(peaks)
        return errors.flatten(2), self.threshold * peaks


class RMILoss(OneVsRestLoss):
    """Region mutual information: how little the patches of the target are known from those of the prediction.

        ce_weight BCE + (1 - ce_weight) mean_n sum_c (1 / 2d) log det(M + a I),     M = S_Y - S_YP (S_P + a I)^-1 S_YP^T
        Y, P: the d voxels of each patch, S: their scatter matrices over all patches, a = 5e-4

    Args:
        radius: at least 1, voxels of a patch along each axis: d = radius^2 in 2D, radius^3 in 3D.
        downsample: at least 1, the factor by which labels and probabilities are made smaller first.
        downsample_mode: "average", "max" or "interpolate".
        ce_weight: in [0, 1], the share of the cross entropy.
        mode: "sigmoid", one class against the rest also for integer labels, or "softmax". common: see `Loss`.

    Shape: see `Loss`. What is left of each axis longer than 1 after downsampling must hold a patch.
    Range: at least -3.8 (1 - ce_weight) C for C scored classes: the value where the patches of the target hold nothing
        that those of the prediction do not tell. Negative values are normal.
    Absent classes: no rule: the mutual information of a flat target is the same for all predictions, so that false
        positives of an absent class cost cross entropy only.

    >>> target = torch.zeros(1, 16, 16, dtype=torch.long)
    >>> target[:, 4:12, 4:12] = 1
    >>> loss, right = RMILoss(downsample=2), (target[:, None] * 2 - 1) * 9.0
    >>> loss(right, target).item() < loss(0.1 * right, target).item() < loss(-right, target).item()
    True

    Use for: natural images, as a term that sees the relation of neighbouring voxels.
    Not for: `ce_weight=0`, which is blind to flat regions, to absent classes, and to the sign of the prediction.
    Notes: the binary cross entropy is summed over classes and divided by the valid voxels plus 1, as in the authors'
    code. The authors use three sets of defaults; these are those of the paper's tables. Scatter matrices are not
    divided by their number. Mutual information is in float64. Ignored voxels have y = p = 0. Voxel weights multiply the
    cross entropy only. The text of the paper was not at hand: read from the authors' code.
    Reference: Zhao et al., Region mutual information loss for semantic segmentation, NeurIPS 2019, arXiv 1910.12037.
    """

    def __init__(
        self,
        *,
        radius: int = 3,
        downsample: int = 4,
        downsample_mode: str = "average",
        ce_weight: float = 0.5,
        **common: Unpack[Common],
    ):
        super().__init__(**common)
        self.radius = self._integer("radius", radius, low=1)
        self.downsample = self._integer("downsample", downsample, low=1)
        self.downsample_mode = self._option("downsample_mode", downsample_mode, DOWNSAMPLING)
        self.ce_weight = self._number("ce_weight", ce_weight, 0, 1)

    def compute(self, inputs: Inputs) -> Tensor:
        channels, valid = inputs.shape[1], self.valid_voxels(inputs)
        weights = self.class_weights(channels, inputs.logits.device)
        plain, _, _ = binary_costs(
            inputs.logits, inputs.target, inputs.weight, mode=self.mode, ignore_index=self.ignore_index
        )
        total, alive = (weights * plain).sum(1), valid > 0
        pooled = self.reduction == "mean"
        ce = total.sum() / (valid.sum() + 1) if pooled else self.reduce(total / (valid + 1), alive)
        information = (weights * self._information(inputs)).sum(1)
        return self.ce_weight * ce + (1 - self.ce_weight) * self.reduce(information, alive)

    def _information(self, inputs: Inputs) -> Tensor:
        """(1 / 2d) log det(M + a I) of each sample and class, (N, C) float64."""
        space = [size for size in inputs.shape[2:] if size != 1]
        p, y = inputs.probabilities(self.mode, self.ignore_index).double(), inputs.channels_on().double()
        p, y = (t.reshape(*inputs.shape[:2], *space) for t in (p, y))
        ignored = inputs.ignored(self.ignore_index)
        if ignored is not None:
            p, y = (t.masked_fill(ignored.reshape(len(p), 1, *space), 0) for t in (p, y))
        p, y = (self._patches(self._smaller(t)) for t in (p + _TINY_PROBABILITY, y))
        noise = _NOISE * torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
        root = _cholesky(p.mT @ p + noise)
        explained = torch.linalg.solve_triangular(root, p.mT @ y, upper=False)
        left = y.mT @ y - explained.mT @ explained
        return (_cholesky(left + noise).diagonal(dim1=-2, dim2=-1) + _TINY).log().mean(-1)

    def _smaller(self, maps: Tensor) -> Tensor:
        """Downsample (N, C, *S)."""
        dims, factor = maps.ndim - 2, self.downsample
        if factor == 1 or dims == 0:
            return maps
        if self.downsample_mode == "interpolate":
            size = [side // factor for side in maps.shape[2:]]
            return F.interpolate(maps, size, mode=_INTERPOLATION[dims - 1], align_corners=False) if all(size) else maps
        pool = (_AVERAGE if self.downsample_mode == "average" else _LARGEST)[dims - 1]
        return pool(maps, factor, stride=factor, padding=factor // 2)

    def _patches(self, maps: Tensor) -> Tensor:
        """(N, C, *S) -> the patches, less their mean: (N, C, places, d)."""
        dims = maps.ndim - 2
        if any(size < self.radius for size in maps.shape[2:]):
            raise ValueError(
                f"RMILoss: after downsampling by {self.downsample} each axis must hold a patch of {self.radius} "
                f"voxels; got {tuple(maps.shape[2:])}. Use a smaller `downsample` or `radius`."
            )
        for dim in range(2, 2 + dims):
            size = maps.shape[dim] - self.radius + 1
            maps = torch.stack([maps.narrow(dim, k, size) for k in range(self.radius)], -1)
        patches = maps.flatten(2, 1 + dims).flatten(3) if dims else maps.view(*maps.shape, 1, 1)
        return patches - patches.mean(2, keepdim=True)


def _cholesky(matrix: Tensor) -> Tensor:
    """The lower factor; of a matrix with NaN, whatever comes, without an exception."""
    return torch.linalg.cholesky_ex(matrix).L


class SoftClDiceLoss(MapLoss):
    """How much of the skeleton of the prediction lies in the target, and of the target's skeleton in the prediction.

        1 - 2 Tprec Tsens / (Tprec + Tsens),     Tprec = (sum skel(p) y + s) / (sum skel(p) + s)
                                                 Tsens = (sum skel(y) p + s) / (sum skel(y) + s)

    Args:
        iterations: at least 0, the layers taken off for the skeleton of the prediction. Where it is wider, it has none,
            and false branches cost nothing; a target that is wider is warned of.
        smooth: s, at least 0.
        pool, absent: see `delineate.losses.counts`. common: see `Loss`.

    Shape: see `Loss`.
    Range: [0, 1]; 0 at a perfect prediction.
    Absent classes: the false-positive rate.

    >>> target = torch.zeros(1, 7, 24, dtype=torch.long)
    >>> target[:, 2:5] = 1
    >>> found = torch.stack([1 - target, target], 1) * 20.0
    >>> broken = found.clone()
    >>> broken[..., 10:14] = torch.tensor([20.0, 0.0])[:, None, None]
    >>> loss = SoftClDiceLoss(classes=[1])
    >>> loss(found, target).item() < 1e-3 < 0.05 < loss(broken, target).item()
    True

    Use for: vessels, roads, neurites: structures whose connections matter more than their width. Beside Dice: the
    paper's mixture is 0.5 Dice + 0.5 clDice.
    Not for: solid objects; a background class: leave it out of `classes`.
    Notes: the skeleton of the target is taken to its end, however wide it is, so that a missed structure always costs;
    in the authors' code, and in MONAI, an object wider than twice the iterations has none, and a missed, a broken and a
    perfect prediction all score 0. Up to that width the values are the same. The skeleton of the prediction is soft,
    and empty where p is constant. One ratio by class; MONAI takes one over all classes.
    Reference: Shit et al., clDice, a novel topology-preserving loss function for tubular structure segmentation, CVPR
    2021, arXiv 2003.07311.
    """

    needs = (Geometry("skeletons"),)

    def __init__(self, *, iterations: int = 10, smooth: float = 1.0, **common: Unpack[PoolCommon]):
        super().__init__(**common)
        self.iterations = self._integer("iterations", iterations, low=0)
        self.smooth = self._number("smooth", smooth, 0)

    def sums(self, inputs: Inputs) -> list[Tensor]:
        p, ignored = self.probabilities(inputs), inputs.ignored(self.ignore_index)
        layers = self.of_scored(inputs.geometry(Geometry("skeletons"), self.ignore_index))
        self._warn(layers)
        on, of_target = self.target(inputs, p, hard=True), layers > 0
        of_p = soft_skeletons(p, ignored, self.iterations)
        return [self.map_sum(inputs, found) for found in (of_p * on, of_p, p * of_target, of_target.to(p.dtype))]

    def class_loss(self, sums: list[Tensor], counts: Counts) -> Tensor:
        right, of_p, found, of_target = sums
        precision = ratio(right + self.smooth, of_p + self.smooth)
        sensitivity = ratio(found + self.smooth, of_target + self.smooth)
        both = precision + sensitivity
        return torch.where(both <= 0, 1, 1 - ratio(2 * precision * sensitivity, both))

    def _warn(self, layers: Tensor) -> None:
        """Once for each width. On a GPU looking would cost more than it is worth, and traced code cannot look."""
        traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
        if traced or layers.device.type != "cpu" or not layers.numel():
            return
        deepest = int(layers.amax()) - 1
        if deepest > self.iterations:
            warnings.warn(
                f"SoftClDiceLoss: iterations={self.iterations}, and the target has structures {deepest} layers deep: "
                "predictions as wide as these have no skeleton, and their false branches cost nothing. Use more "
                "iterations, or score thin classes only, with classes=[...].",
                stacklevel=2,
            )


class SkeletonRecallLoss(MapLoss):
    """How much of the surroundings of the target's skeleton the prediction misses.

        1 - mean_c (sum p T_c + s) / (sum T_c + s),     T: the skeleton of the foreground, dilated twice, within class c

    Args:
        smooth: s, at least 0.
        pool: see `delineate.losses.counts`. common: see `Loss`.
        absent: both policies are the same here.

    Shape: see `Loss`.
    Range: [0, 1]; 0 at a perfect prediction, and wherever the skeleton is covered.
    Absent classes: have no skeleton to be found, and are left out; so is class 0 in softmax mode.

    >>> target = torch.zeros(1, 7, 24, dtype=torch.long)
    >>> target[:, 3] = 1
    >>> logits = torch.stack([1 - target, target], 1) * 20.0
    >>> loss = SkeletonRecallLoss()
    >>> [round(loss(z, target).item(), 3) for z in (logits, -logits, logits.roll(3, 2))]
    [0.0, 0.96, 0.96]

    Use for: thin structures, beside DiceCE with weight 1; much faster than clDice, and the same for all widths.
    Not for: use on its own: **false positives are free by definition**.
    Notes: the authors return minus the mean, which has the same gradient. In softmax mode the foreground is thinned as
    one mask, in sigmoid mode each channel. The thinning, `delineate.ops.thinning`, keeps components, holes and loops;
    it runs on the CPU, and best in the workers of a data loader (`delineate.data.Prepare`).
    Reference: Kirchhoff et al., Skeleton recall loss for connectivity conserving and resource efficient segmentation of
    thin tubular structures, ECCV 2024, arXiv 2404.03010.
    """

    def __init__(self, *, smooth: float = 1.0, **common: Unpack[PoolCommon]):
        super().__init__(**common)
        self.smooth = self._number("smooth", smooth, 0)
        self.tubes = Geometry("tubes" if self.mode == "softmax" else "channel_tubes")
        self.needs = (self.tubes,)

    def sums(self, inputs: Inputs) -> list[Tensor]:
        p = self.probabilities(inputs)
        tubes = self.of_scored(inputs.geometry(self.tubes, self.ignore_index)).to(p.dtype)
        return [self.map_sum(inputs, p * tubes), self.map_sum(inputs, tubes)]

    def class_loss(self, sums: list[Tensor], counts: Counts) -> Tensor:
        found, whole = sums
        return 1 - ratio(found + self.smooth, whole + self.smooth)

    def row_loss(self, sums: list[Tensor], counts: Counts) -> Tensor:
        channels = sums[1].shape[1]
        counted = self.scored(channels, sums[1].device) & (sums[1] > 0)
        return self.mean_over_classes(self.class_loss(sums, counts), counted)
