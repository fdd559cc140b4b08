"""Losses of distances: how far from the boundary of the target, or of the prediction, an error lies.

Distances are Euclidean, of one class against the rest, in 1D, 2D and 3D alike, and carry no gradient. `spacing` is the
size of a voxel along each axis; without it that of the `Target` counts, or 1. Ignored voxels are on no side: distances
pass through them. A mask without another side, empty or full, has the distance 1 everywhere. With `scale_free` all
distances are divided by the diagonal of the image (of its axes longer than 1), so that the same relative error costs
the same at any resolution.

Means are weighted by voxel, over the valid voxels of a sample, or of the batch with `pool="batch"`; distances stay
those of each image. Absent classes cost what they cost everywhere: their false-positive rate, where they count.
"""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from delineate.losses.counts import Counts, MapLoss, PoolCommon, ratio
from delineate.losses.distances import DistanceLoss, Distances, checked_spacing, map_kind
from delineate.losses.inputs import Inputs
from delineate.losses.loss import Common
from delineate.losses.voxel import EachVoxelLoss
from delineate.target import Geometry

INSIDE = ("official", "plain")
_MOST_CONTOUR = 0.8


class BoundaryLoss(DistanceLoss):
    """The probability of a class, weighted by the signed distance to the boundary of the target.

        mean_i phi_i p_i,     phi: the distance d to the boundary outside, -(d - h) inside ("official"), or -d ("plain")

    Args:
        inside: "official" puts the innermost layer of voxels at distance 0: h is the smallest size of a voxel, 1
            without spacing. "plain" has no h.
        spacing, scale_free: see `delineate.losses.boundary`.
        pool, absent: see `delineate.losses.counts`. common: see `Loss`.

    Shape: see `Loss`.
    Range: any sign. Lowest, and **negative**, at the perfect prediction: the sum of phi inside over all voxels.
    Absent classes: the false-positive rate, the same as a map of 1. A class that fills the image has phi = -1.

    >>> target = torch.tensor([[0, 0, 1, 1, 1, 0]])                       # phi: 2 1 0 -1 0 1
    >>> logits = torch.tensor([[[9.0] * 6, [9.0, -99, -99, 99, -99, -99]]])  # p of class 1: 0.5 at the first voxel
    >>> round(BoundaryLoss(classes=[1])(logits, target).item(), 3)        # (2 * 0.5 - 1) / 6
    0.0

    Use for: very unequal classes, beside a region loss, with a weight that rises: `DiceBoundary` in expressions.
    Not for: small objects on its own, which it forgets; an image of another size without `scale_free`.
    Notes: with spacing, the innermost layer is at 0 where its neighbour outside lies along the shortest side of the
    voxels; the authors' code takes off 1 whatever the spacing. Their map of an absent class is 0. In the authors'
    schedule the region loss falls from 1 by 0.01 an epoch, to 0.1, and this one rises from 0.01 by 0.01.
    Reference: Kervadec et al., Boundary loss for highly unbalanced segmentation, MIDL 2019, arXiv 1812.07032.
    """

    def __init__(
        self,
        *,
        inside: str = "official",
        spacing: Sequence[float] | None = None,
        scale_free: bool = False,
        **common: Unpack[PoolCommon],
    ):
        super().__init__(spacing=spacing, scale_free=scale_free, **common)
        self.inside = self._option("inside", inside, INSIDE)

    def sums(self, inputs: Inputs) -> list[Tensor]:
        p, distances = self.probabilities(inputs), self.distances(inputs)
        return [self.map_sum(inputs, p * self._signed(inputs, p, distances))]

    def _signed(self, inputs: Inputs, p: Tensor, distances: Distances) -> Tensor:
        found, on = distances.to_other_side(), self.target(inputs, p, hard=True)
        signed = torch.addcmul(found, found, on, value=-2)
        if self.inside == "plain":
            return signed
        valid = inputs.valid(self.ignore_index)
        full = (on.flatten(2) if valid is None else torch.where(valid[:, None], on.flatten(2), 1)).amin(2) > 0
        offset = distances.shortest_side() * ~full.view(*full.shape, *[1] * (p.ndim - 2))
        return torch.addcmul(signed, on, offset)

    def class_loss(self, sums: list[Tensor], counts: Counts) -> Tensor:
        return ratio(sums[0], counts.total)


class ShapeAwareLoss(EachVoxelLoss):
    """Cross entropy, and once more that of the wrong voxels, weighted by their distance to the contour of the target.

        mean_i CE_i + (1 / |B|) sum_{i in B} E_i CE_i,     B: voxels whose hard prediction is not their label

    Args:
        spacing, scale_free: of the distances E, see `delineate.losses.boundary`.
        common: see `Loss`.

    Shape: see `Loss`.
    Range: [0, inf), growing with the image unless `scale_free`; 0 at a perfect prediction.
    Absent classes: need no rule. An image of one label only has E = 1.

    >>> target = torch.tensor([[0, 0, 0, 1, 1]])
    >>> logits = torch.tensor([[[-2.0, 2, 2, -2, -2], [2, -2, -2, 2, 2]]])         # wrong at the first voxel
    >>> round(ShapeAwareLoss()(logits, target).item(), 2)                           # CE and three times 4.02
    12.87

    Use for: smooth outlines of one object, where errors far from them are the worst.
    Not for: many classes with touching borders, where no error is far from a contour.
    Notes: **the set B is unverified**, as the paper was not at hand; surveys print the formula without it. E is the
    distance to the nearest voxel of another label, in sigmoid mode of the other side of the channel. Weights multiply
    the cross entropy; both sums are divided by plain numbers of voxels.
    Reference: Al Arif, Knapp and Slabaugh, Shape-aware deep convolutional neural network for vertebrae segmentation,
    MSKI 2017.
    """

    def __init__(self, *, spacing: Sequence[float] | None = None, scale_free: bool = False, **common: Unpack[Common]):
        super().__init__(**common)
        self.spacing = checked_spacing(self, spacing)
        self.scale_free = self._flag("scale_free", scale_free)
        self.needs = ("log_p", Geometry(map_kind(self.mode), self.spacing))

    def compute(self, inputs: Inputs) -> Tensor:
        found = inputs.overlap(self.mode, self.ignore_index)
        gains, wrong = self.weighted_gains(inputs, found), self._wrong(inputs)
        candidates = self.candidates(inputs)
        wrong = wrong if candidates is None else wrong & candidates
        distances = Distances(inputs, self.ignore_index, self.spacing, self.scale_free)
        far = (distances.to_other_label() if self.mode == "softmax" else distances.to_other_side()).flatten(2)
        plain, weighed = -gains.flatten(1).sum(1).double(), -(gains * far * wrong).flatten(1).sum(1).double()
        errors = wrong.flatten(1).sum(1).double()
        return self.average(plain, self.divisor(found), found.valid) + self.average(weighed, errors, found.valid)

    def _wrong(self, inputs: Inputs) -> Tensor:
        """Where the hard prediction is not the label, (N, 1, V) in softmax mode, (N, C, V) in sigmoid mode."""
        if self.mode == "sigmoid":
            on = inputs.channels_on()
            return (inputs.logits > 0) != (on > 0.5 if inputs.dense else on)
        labels = inputs.target.argmax(1) if inputs.dense else inputs.labels()
        return (inputs.logits.argmax(1) != labels)[:, None]


class BoundaryDoULoss(MapLoss):
    """The difference of prediction and target over their union, less a share of the overlap that grows with the object.

        1 - ((1 - a) I + s) / (sum p^2 + sum y^2 - (1 + a) I + s),     I = sum p y
        a = 1 - 2 C / S, at least 0 and at most 0.8,     C: voxels on the contour of the target's mask,     S: all of it

    Args:
        smooth: s, at least 0.
        pool, absent: see `delineate.losses.counts`. common: see `Loss`.

    Shape: see `Loss`.
    Range: [0, 1]; 0 at a perfect prediction.
    Absent classes: the false-positive rate.

    >>> target = torch.zeros(1, 8, 8, dtype=torch.long)
    >>> target[:, 1:7, 1:7] = 1
    >>> logits = torch.stack([1 - target, target], 1) * 20.0
    >>> loss = BoundaryDoULoss()
    >>> loss(logits, target).item() < 1e-6 < loss(0.01 * logits, target).item()
    True

    Use for: large objects, whose boundary region losses hardly see; as fast as Dice, with no distance map.
    Not for: small or thin objects, for which a is 0 and this is the Jaccard loss with squares.
    Notes: a voxel is on the contour if a face neighbour is of another label, ignored, or outside the image. The
    authors' code lets a fall to -1 for tiny objects; the paper has it in [0, 1), so ours ends at 0. Their smooth is
    1e-5.
    Reference: Sun, Luo and Li, Boundary difference over union loss for medical image segmentation, MICCAI 2023, arXiv
    2308.00220.
    """

    needs = ("squares", Geometry("contour_sizes"))

    def __init__(self, *, smooth: float = 0.0, **common: Unpack[PoolCommon]):
        super().__init__(**common)
        self.smooth = self._number("smooth", smooth, 0)

    def sums(self, inputs: Inputs) -> list[Tensor]:
        sizes = inputs.geometry(Geometry("contour_sizes"), self.ignore_index)
        return [self.of_scored(table) for table in sizes.unbind(1)]

    def class_loss(self, sums: list[Tensor], counts: Counts) -> Tensor:
        contour, size = sums
        share = (1 - 2 * ratio(contour, size)).clamp(0, _MOST_CONTOUR)
        share = torch.where(size > 0, share, 0)
        apart = counts.miss_squares + counts.false_squares  # sum p^2 + sum y^2 - 2 I, without cancellation
        return ratio(apart, apart + (1 - share) * counts.product + self.smooth)


class GeneralizedSurfaceLoss(DistanceLoss):
    """One minus how much of the squared distances to the boundary the prediction has on the right side.

        1 - sum_i (d_i (1 - y_i - p_i))^2 / sum_i d_i^2,     d: the distance to the other side of the target's mask

    Args:
        spacing: see `delineate.losses.boundary`.
        scale_free: changes nothing, as the loss is a ratio.
        pool, absent: see `delineate.losses.counts`. common: see `Loss`.

    Shape: see `Loss`.
    Range: [0, 1]; 0 at a perfect prediction, 1 at the inverted one.
    Absent classes: the false-positive rate.

    >>> target = torch.tensor([[0, 0, 1, 1, 1, 0]])
    >>> logits = torch.stack([1 - target, target], 1) * 20.0
    >>> loss = GeneralizedSurfaceLoss()
    >>> [round(loss(z, target).item(), 3) for z in (logits, -logits)]
    [0.0, 1.0]

    Use for: a boundary loss between 0 and 1 that needs no schedule, beside DiceCE with equal weights.
    Not for: details at the boundary, where distances are small: it looks at far voxels first.
    Notes: per class and sample, as in the authors' code; the paper has one ratio of sums over classes. The authors
    leave the background out: `classes=[1, ...]`.
    Reference: Celaya et al., A generalized surface loss for reducing the Hausdorff distance in medical imaging
    segmentation, 2023, arXiv 2302.03868.
    """

    def sums(self, inputs: Inputs) -> list[Tensor]:
        p, squared = self.probabilities(inputs), self.distances(inputs).to_other_side(squared=True)
        wrong_side = (1 - self.target(inputs, p) - p).square()
        return [self.map_sum(inputs, squared * wrong_side), self.map_sum(inputs, squared)]

    def class_loss(self, sums: list[Tensor], counts: Counts) -> Tensor:
        right, whole = sums
        return 1 - ratio(right, whole)
