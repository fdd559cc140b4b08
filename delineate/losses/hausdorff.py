"""The Hausdorff distance as a loss: by distance transforms, by erosions, by convolutions, over points, and averaged.

The conventions are those of `delineate.losses.boundary`.
"""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from delineate.losses.counts import Counts, MapLoss, PoolCommon, ratio
from delineate.losses.distances import DistanceLoss
from delineate.losses.inputs import Inputs
from delineate.ops.balls import ball_means, radii_in_use
from delineate.ops.erosion import erosion_maps
from delineate.ops.points import EPSILON, point_means

COMBINE = ("mean", "max", "sum")


class HausdorffDTLoss(DistanceLoss):
    """Squared errors, weighted by a power of their distance to both boundaries, the target's and the prediction's.

        mean_i (p_i - y_i)^2 (d_Y(i)^alpha + d_P(i)^alpha),     P: voxels with p > 0.5, d: distance to the other side

    Args:
        alpha: above 0, how much far errors count.
        one_sided: whether only the distances to the target's boundary count, without a transform of each prediction.
        spacing, scale_free: see `delineate.losses.boundary`.
        pool, absent: see `delineate.losses.counts`. common: see `Loss`.

    Shape: see `Loss`.
    Range: [0, inf), growing with the image unless `scale_free`; 0 at a perfect prediction.
    Absent classes: the false-positive rate. A prediction without voxels above 0.5 has d_P = 1.

    >>> target = torch.tensor([[0, 0, 0, 1, 0]])
    >>> right, wrong = torch.full((1, 2, 5), -20.0), torch.full((1, 2, 5), -20.0)
    >>> right[0, target[0], torch.arange(5)] = wrong[0, [1, 0, 0, 1, 0], torch.arange(5)] = 20.0
    >>> loss = HausdorffDTLoss(classes=[1])
    >>> [round(loss(z, target).item(), 3) for z in (right, wrong)]        # one voxel: (3^2 + 1^2) / 5
    [0.0, 2.0]

    Use for: outliers, false positives far from everything, beside a region loss: `DiceHD` in expressions.
    Not for: use on its own from scratch: its gradient vanishes with that of the sigmoid.
    Notes: distances count on both sides of a boundary; code that leaves out the outside gives far false positives the
    weight 0. The factor is the square, as in the paper. Distances carry no gradient.
    Reference: Karimi and Salcudean, Reducing the Hausdorff distance in medical image segmentation with convolutional
    neural networks, IEEE TMI 2019, arXiv 1904.10030.
    """

    def __init__(
        self,
        *,
        alpha: float = 2.0,
        one_sided: bool = False,
        spacing: Sequence[float] | None = None,
        scale_free: bool = False,
        **common: Unpack[PoolCommon],
    ):
        super().__init__(spacing=spacing, scale_free=scale_free, **common)
        self.alpha = self._number("alpha", alpha, 0, above=True)
        self.one_sided = self._flag("one_sided", one_sided)

    def sums(self, inputs: Inputs) -> list[Tensor]:
        p, distances = self.probabilities(inputs), self.distances(inputs)
        weight = self._power(distances.to_other_side(squared=True))
        if not self.one_sided:
            weight = weight + self._power(distances.to_other_side_of(p, squared=True))
        residual = (p - self.target(inputs, p)).square()
        return [self.map_sum(inputs, residual * weight)]

    def _power(self, squared: Tensor) -> Tensor:
        return squared if self.alpha == 2 else squared.pow(self.alpha / 2)

    def class_loss(self, sums: list[Tensor], counts: Counts) -> Tensor:
        return ratio(sums[0], counts.total)


class HausdorffErosionLoss(MapLoss):
    """Squared errors that survive erosion, weighted by a power of how many erosions they survive.

        mean_i sum_k k^alpha b_k,     b_0 = (p - y)^2,     b_k = max(B * b_(k-1) - 1/2, 0), rescaled to [0, 1]
        B: the mean of a voxel and its face neighbours (5 voxels in 2D, 7 in 3D), 0 outside the image

    Args:
        alpha: above 0, how much thick errors count.
        erosions: K, at least 1.
        rescale: whether each b_k is scaled to [0, 1] over the sample and class. Without it b_2 is 0 whatever the error,
            as b_1 is at most 1/2.
        pool, absent: see `delineate.losses.counts`. common: see `Loss`.

    Shape: see `Loss`.
    Range: [0, inf); 0 at a perfect prediction, and also where errors are thin or below 0.7.
    Absent classes: the false-positive rate.

    >>> target = torch.zeros(1, 9, 9, dtype=torch.long)
    >>> target[:, 2:7, 2:7] = 1
    >>> missed, found = torch.zeros(1, 2, 9, 9), torch.zeros(1, 2, 9, 9)
    >>> missed[:, 0], found[:, 0], found[:, 1] = 20.0, 20.0 * (1 - target), 20.0 * target
    >>> loss = HausdorffErosionLoss(classes=[1])
    >>> loss(found, target).item() < 1e-6 < 1 < loss(missed, target).item()
    True

    Use for: thick errors, beside a region loss, where a distance transform is too slow.
    Not for: use on its own: errors below 0.7 and thin ones have no gradient, and rescaling hides uniform changes. Its
    derivative is that of a ratio to the thickest place, so that parts of one error may pull in opposite directions.
    Notes: the rescaling is not in the paper's formula, but in the code in use. `rescale=False` is the literal formula.
    Reference: Karimi and Salcudean, IEEE TMI 2019, arXiv 1904.10030.
    """

    def __init__(self, *, alpha: float = 2.0, erosions: int = 10, rescale: bool = True, **common: Unpack[PoolCommon]):
        super().__init__(**common)
        self.alpha = self._number("alpha", alpha, 0, above=True)
        self.erosions = self._integer("erosions", erosions, low=1)
        self.rescale = self._flag("rescale", rescale)

    def sums(self, inputs: Inputs) -> list[Tensor]:
        p, ignored = self.probabilities(inputs), inputs.ignored(self.ignore_index)
        residual = (p - self.target(inputs, p)).square()
        residual = residual if ignored is None else residual.masked_fill(ignored[:, None], 0)
        return [self.map_sum(inputs, erosion_maps(residual, ignored, self.alpha, self.erosions, self.rescale))]

    def class_loss(self, sums: list[Tensor], counts: Counts) -> Tensor:
        return ratio(sums[0], counts.total)


class HausdorffConvLoss(MapLoss):
    """Squared errors that lie within balls of the other side, weighted by a power of the radius.

        sum_r r^alpha mean_i [ (f(B_r * y^C) + f(B_r * p)) (p - y)^2 p + (f(B_r * y) + f(B_r * p^C)) (p - y)^2 y ]
        x^C = 1 - x,     B_r: the mean over a ball of radius r, 0 outside the image,     f(x) = max(x - 1/2, 0)

    Args:
        alpha: above 0, how much large balls count.
        radii: of the balls, in voxels, above 0. Those not smaller than the shortest axis (longer than 1) are left out,
            but the smallest one always stays.
        pool, absent: see `delineate.losses.counts`. common: see `Loss`.

    Shape: see `Loss`.
    Range: [0, inf); 0 at a perfect prediction.
    Absent classes: the false-positive rate.

    >>> target = torch.zeros(1, 12, 12, dtype=torch.long)
    >>> target[:, 2:10, 2:10] = 1
    >>> logits = torch.zeros(1, 2, 12, 12)
    >>> logits[:, 1] = target * 40.0 - 20
    >>> loss = HausdorffConvLoss(classes=[1])
    >>> loss(logits, target).item() < 1e-6 < 1 < loss(-logits, target).item()
    True

    Use for: large errors of solid objects, beside a region loss; gradients also through the smoothed prediction.
    Not for: objects smaller than the smallest ball.
    Notes: **unverified**: the formula and the radii are from memory of the paper, and no public code is known.
    Convolutions are by fast Fourier transform.
    Reference: Karimi and Salcudean, IEEE TMI 2019, arXiv 1904.10030.
    """

    def __init__(
        self,
        *,
        alpha: float = 2.0,
        radii: Sequence[float] = (3, 6, 9, 12, 15, 18),
        **common: Unpack[PoolCommon],
    ):
        super().__init__(**common)
        self.alpha = self._number("alpha", alpha, 0, above=True)
        if not isinstance(radii, Sequence) or isinstance(radii, str) or not radii:
            raise ValueError(f"{type(self).__name__}: `radii` must be numbers above 0, at least one; got {radii!r}.")
        self.radii = tuple(self._number("radii", radius, 0, above=True) for radius in radii)

    def sums(self, inputs: Inputs) -> list[Tensor]:
        p, valid = self.probabilities(inputs), inputs.valid(self.ignore_index)
        y, every = self.target(inputs, p), torch.ones_like(p[:, :1])
        if valid is not None:
            every = valid.to(p.dtype).view_as(every)
            p, y = p * every, y * every
        radii = radii_in_use(self.radii, inputs.shape[2:])
        of_p, of_y, of_every = (ball_means(found, radii) for found in (p, y, every))
        near_p, near_y, far_p, far_y = (_above_half(found) for found in (of_p, of_y, of_every - of_p, of_every - of_y))
        factors = torch.stack([p.new_full((), radius**self.alpha) for radius in radii])  # no list is copied to a GPU
        factors = factors.view(1, -1, *[1] * (p.ndim - 1))
        weight_p, weight_y = (factors * (far_y + near_p)).sum(1), (factors * (near_y + far_p)).sum(1)
        return [self.map_sum(inputs, (p - y).square() * (weight_p * p + weight_y * y))]

    def class_loss(self, sums: list[Tensor], counts: Counts) -> Tensor:
        return ratio(sums[0], counts.total)


def _above_half(values: Tensor) -> Tensor:
    return (values - 0.5).clamp_min(0)


class WeightedHausdorffLoss(DistanceLoss):
    """The averaged Hausdorff distance between the target's voxels and all voxels, each as far as it is predicted.

        sum_i p_i d_Y(i) / (sum_i p_i + e)  +  mean_{j in Y} M_j,     e = 1e-6,     d_max: the diagonal of the image
        M_j = ( mean_i (p_i d(i, j) + (1 - p_i) d_max + e)^a )^(1 / a)

    Args:
        exponent: a, below 0. The nearer to 0, the more voxels have a part in M; far below, only the nearest one.
        max_points: at least 1. Of a larger Y, so many voxels, spread evenly, stand for all in the second term, whose
            time is the number of voxels times that of points.
        spacing, scale_free: see `delineate.losses.boundary`.
        pool, absent: see `delineate.losses.counts`. common: see `Loss`.

    Shape: see `Loss`.
    Range: [0, inf), in units of `spacing`; at a perfect prediction about e times the number of voxels of the image.
    Absent classes: the false-positive rate.

    >>> target = torch.tensor([[0, 0, 0, 1, 0]])
    >>> logits = torch.tensor([[[-20.0, 20, -20, -20, -20]]])              # two voxels away
    >>> round(WeightedHausdorffLoss(mode="sigmoid")(logits, target).item(), 2)      # 2 + 5 / (4 / 5 + 1 / 2)
    5.85

    Use for: locating few small objects, such as cell centres.
    Not for: large masks in large volumes: its time is that of all pairs. A calibrated optimum: see Range.
    Notes: the authors' code has a = -9, the paper -1. Their Y is a set of points; for masks ours takes every voxel of
    the foreground, as with the boundary alone a perfect mask would cost something.
    Reference: Ribera et al., Locating objects without bounding boxes, CVPR 2019, arXiv 1806.07564.
    """

    def __init__(
        self,
        *,
        exponent: float = -1.0,
        max_points: int = 1024,
        spacing: Sequence[float] | None = None,
        scale_free: bool = False,
        **common: Unpack[PoolCommon],
    ):
        super().__init__(spacing=spacing, scale_free=scale_free, **common)
        self.exponent = self._number("exponent", exponent, -1e3, 0, below=True)
        self.max_points = self._integer("max_points", max_points, low=1)

    def sums(self, inputs: Inputs) -> list[Tensor]:
        p, distances = self.probabilities(inputs), self.distances(inputs)
        on = self.target(inputs, p, hard=True)
        weight = inputs.valid_weight(self.ignore_index)
        weight = torch.ones_like(p[:, 0]) if weight is None else weight.view(p[:, 0].shape)
        means, points = point_means(
            p, on > 0, weight, distances.voxel_sizes(), distances.farthest, self.exponent, self.max_points
        )
        return [self.map_sum(inputs, p * distances.to_other_side() * (1 - on)), means, points]

    def class_loss(self, sums: list[Tensor], counts: Counts) -> Tensor:
        far, means, points = sums
        return far / (counts.mass + EPSILON) + ratio(means, points)


class AverageHausdorffLoss(DistanceLoss):
    """How far, on average, predicted voxels are from the target, and the target's voxels from the prediction.

        A -> Y: sum_i p_i d_Y(i) / sum_i p_i
        Y -> A: mean_{j in Y} (1 - p_j) d_P(j),     P: the voxels with p > 0.5

    Args:
        combine: "mean" or "sum" of the two, or their "max": the modified Hausdorff distance of Dubuisson and Jain.
        balanced: whether the first sum is divided by the size of Y, too.
        spacing, scale_free: see `delineate.losses.boundary`.
        pool, absent: see `delineate.losses.counts`. common: see `Loss`.

    Shape: see `Loss`.
    Range: [0, inf), in units of `spacing`; 0 at a perfect prediction.
    Absent classes: the false-positive rate. Where nothing is predicted above 0.5, d_P is the diagonal of the image.

    >>> target = torch.tensor([[0, 0, 0, 1, 0]])
    >>> logits = torch.tensor([[[-20.0, 20, -20, -20, -20]]])              # two voxels away
    >>> round(AverageHausdorffLoss(mode="sigmoid")(logits, target).item(), 3)
    2.0

    Use for: what the metric of that name asks for, in physical units, beside a region loss.
    Not for: use on its own from scratch: where all p are small, the first term only knows where they are, not how
    large.
    Notes: at p of 0 and 1 this is the metric on the sets of foreground voxels; the form with probabilities is ours, as
    there is no single original. d is 0 inside the set.
    Reference: Dubuisson and Jain, A modified Hausdorff distance for object matching, ICPR 1994; Taha and Hanbury, BMC
    Medical Imaging 2015; balanced: Aydin et al., European Radiology Experimental 2021.
    """

    def __init__(
        self,
        *,
        combine: str = "mean",
        balanced: bool = False,
        spacing: Sequence[float] | None = None,
        scale_free: bool = False,
        **common: Unpack[PoolCommon],
    ):
        super().__init__(spacing=spacing, scale_free=scale_free, **common)
        self.combine = self._option("combine", combine, COMBINE)
        self.balanced = self._flag("balanced", balanced)

    def sums(self, inputs: Inputs) -> list[Tensor]:
        p, distances = self.probabilities(inputs), self.distances(inputs)
        on, predicted = self.target(inputs, p, hard=True), p.detach() > 0.5
        ignored = inputs.ignored(self.ignore_index)
        predicted = predicted if ignored is None else predicted & ~ignored[:, None]
        to_predicted = torch.where(predicted, 0, distances.to_other_side_of(p))
        nothing = ~predicted.flatten(2).any(2).view(*p.shape[:2], *[1] * (p.ndim - 2))
        to_predicted = torch.where(nothing, distances.by_sample(distances.farthest), to_predicted)
        maps = (p * distances.to_other_side() * (1 - on), on * (1 - p) * to_predicted, on)
        return [self.map_sum(inputs, found) for found in maps]

    def class_loss(self, sums: list[Tensor], counts: Counts) -> Tensor:
        false, missed, size = sums
        there, back = ratio(false, size if self.balanced else counts.mass), ratio(missed, size)
        there = torch.where(size > 0, there, 0) if self.balanced else there
        if self.combine == "max":
            return torch.maximum(there, back)
        return (there + back) * (0.5 if self.combine == "mean" else 1.0)
