"""Losses by instance: every connected component of the target counts alike, however large or small it is.

Notation: R_1 .. R_K are the components of one class in one sample, B all valid voxels that are not of that class. A
class is taken against the rest: other classes are part of B. In softmax mode label 0 is background, whose components
take no part unless `classes` names it; in sigmoid mode every channel takes part.

**What takes part.** Components of fewer than `min_size` voxels are left out of the mean and masked out of every region:
they are neither to be found nor false. So are components whose voxels all have weight 0. Ignored voxels are in no
region, and cut the components they cross. Of a dense target, components are those of its values above 0.5, and all
other values stay targets of B.

**Means.** Over the components of a class, over the classes that have components, over the samples that have some. A
sample without components leaves the mean, unless no sample of the batch has any: then the false-positive rate of the
scored classes stands in, as in region losses (`delineate.losses.loss`), so that hallucinations on empty batches cost
something. With reduction="none" it is the entry of every sample without components. `absent="count"` of a region loss
inside makes classes without components cost their false-positive rate in every sample; with `pool="batch"` the mean of
a class runs over all its components in the batch, of all ranks.

**What may be inside.** Ratios of overlaps (Dice, Jaccard, Tversky, focal Tversky, asymmetric similarity, log-cosh
Dice), and costs of voxels that add up (cross entropy, focal, Poly); for `BlobLoss` also TopK; and weighted sums of
these. They are functions of a few sums for each component, which come from one pass however many components there are.
In softmax mode the cost of a voxel is that of its own label, -log p_y, and `class_weight` of a loss by voxel multiplies
the costs of its labels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from delineate.losses.components import Components, added
from delineate.losses.counts import ratio
from delineate.losses.distances import checked_spacing
from delineate.losses.distribution import TopKLoss
from delineate.losses.inputs import Inputs
from delineate.losses.loss import Loss
from delineate.losses.per_component import InstanceLoss, agreed, pairs_of, with_inner
from delineate.losses.voxel import MeanCostLoss
from delineate.ops.components import CONNECTIVITIES, cells, components
from delineate.ops.inverse_size import inverse_size_weights
from delineate.ops.segments import segments_of
from delineate.ops.select import hardest_of_regions
from delineate.target import Geometry

FP_SCOPES = ("shared", "split", "voronoi")
WEIGHTINGS = ("foreground", "volume")


class BlobLoss(InstanceLoss):
    """A loss of each connected component by itself: the others are masked out, and all of the background stays.

        mean over k of inner(p on B u R_k, target R_k)
        Dice inside:  1 - (2 S_k + smooth) / (S_k + S_0 + |R_k| + smooth),    S_k = sum p over R_k,  S_0 = sum p over B
        a cost inside:  (C_0 + C_k) / V,    C: sums of the cost likewise,    V: valid voxels of the image

    Args:
        inner: Dice (also squared), Jaccard, Tversky, FocalTversky, CrossEntropy, Focal, Poly, TopK, or a sum of these.
            It holds what is common to all losses: `mode`, `ignore_index`, `classes`, `class_weight`, `reduction`, and
            `pool`, `absent`, `smooth`.
        fp_scope: what of the background is in the region of a component. "shared" (the paper): all of it, so that a
            false positive is charged for every component. "split": all of it, with weight 1 / K: charged once in all.
            "voronoi": what is nearer to the component than to others.
        connectivity: what hangs together: "full" (8 neighbours in 2D, 26 in 3D), "edge" (8, 18) or "face" (4, 6).
        min_size: voxels of the smallest component that takes part.
        spacing: size of a voxel along each axis, of "voronoi"; None: that of the `Target`, or 1.

    Shape: see `Loss`.
    Range: that of the loss inside; 0 at a perfect prediction.
    Absent classes: left out of the mean, and so are samples without components; a batch without any costs its
        false-positive rate. The paper leaves a batch without any at a constant 0, which cannot be trained on.

    >>> from delineate.losses import DiceLoss
    >>> target = torch.tensor([[1, 0, 1, 1, 1, 1]])                                   # two components, of 1 and 4
    >>> logits = torch.tensor([[[0.0] * 6, [-20.0, -20, 20, 20, 20, 20]]])            # the small one is missed
    >>> round(BlobLoss(DiceLoss())(logits, target).item(), 4), round(DiceLoss(classes=[1])(logits, target).item(), 4)
    (0.5, 0.1111)

    Use for: many objects of unequal size of which each counts: lesions, nuclei, vehicles. Beside a global loss, in the
    paper's mixture of 2 to 1: `2*DiceCE + Blob(Dice)`.
    Not for: training alone, since touching objects are one component and merging two costs next to nothing. With
    "shared", false positives of the size of the foreground switch the emphasis on small objects off: early in training,
    in large patches, with noisy background. With "voronoi", a lonely false positive costs one component only.
    Notes: with cross entropy inside it equals cross entropy with foreground weight 1 / K: it follows the definition and
    does not balance sizes; `InverseSizeLoss` does. Probabilities are masked, never logits: the example of the authors'
    code masks logits, so that a perfect prediction costs up to 0.9. TopK keeps k of the valid voxels of the image.
    Reference: Kofler et al., Blob loss: instance imbalance aware loss functions for semantic segmentation, IPMI 2023,
    arXiv 2205.08209; one-vs-rest over classes as in arXiv 2604.24276; "split" is ours.
    """

    ALLOWED = (*InstanceLoss.ALLOWED, TopKLoss)

    def __init__(
        self,
        inner: Loss,
        *,
        fp_scope: str = "shared",
        connectivity: str = "full",
        min_size: int = 1,
        spacing: Sequence[float] | None = None,
    ):
        super().__init__(inner, connectivity=connectivity, min_size=min_size)
        self.fp_scope = self._option("fp_scope", fp_scope, FP_SCOPES)
        self.spacing = checked_spacing(self, spacing)
        if fp_scope == "voronoi":
            self._need(self.asked("cells", self.spacing))

    def partitions(self, term: Loss, parts: Components) -> list[tuple[float, Tensor, Tensor]]:
        if isinstance(term, TopKLoss):
            return [(1.0, self._hardest(term, parts), parts.number)]
        if self.fp_scope == "voronoi":
            sums = parts.in_cells(term, self.asked("cells", self.spacing))
        else:
            background = parts.background(term)
            if self.fp_scope == "split":
                number = parts.of_class(parts.number).clamp_min(1)
                background = {name: table / number for name, table in background.items()}
            sums = added(parts.inside(term), background)
        divisor = parts.divisor(term) if isinstance(term, MeanCostLoss) else None
        return [(1.0, parts.by_class(self.of_sums(term, sums, parts.alive, divisor)), parts.number)]

    def _hardest(self, term: TopKLoss, parts: Components) -> Tensor:
        """Sum over the components of each class of the mean of its hardest voxels, (N, C)."""
        ids = parts.own_ids()
        costs = parts.costs(term)
        weight = parts.inputs.weight
        costs = (costs if weight is None else costs * weight[:, None].to(costs.dtype)).expand(ids.shape)
        valid = parts.inputs.valid(parts.ignore_index)
        alive = torch.nn.functional.pad(parts.alive, (1, 0))
        ids = torch.where(alive.gather(1, ids.flatten(1).long()).view(ids.shape), ids, 0)
        beside = ~parts.masks() if valid is None else ~parts.masks() & valid[:, None]
        if self.fp_scope == "voronoi":
            cells = parts.cells(self.asked("cells", self.spacing))
            in_alive = alive.gather(1, cells.flatten(1).long()).view(cells.shape)
            ids, beside = torch.where(in_alive, cells, 0), None
        keep = (term.k * parts.found.valid + 1e-9).long().clamp_min(1)
        weights = hardest_of_regions(costs.detach().contiguous(), ids, beside, keep, self.fp_scope == "split")
        values = (costs * weights).sum(2, dtype=torch.float64)
        return parts.by_channel(values)


class ComponentLoss(InstanceLoss):
    """A loss of each connected component in its own Voronoi cell: the voxels that are nearer to it than to others.

        mean over k of inner(p on V_k, target R_k)
        Dice inside:  1 - (2 S_k + smooth) / (sum p over V_k + |R_k| + smooth),    S_k = sum p over R_k
        a cost inside:  its mean over the voxels of the cell

    Args:
        inner: Dice (also squared), Jaccard, Tversky, FocalTversky, CrossEntropy, Focal, Poly, or a sum of these: with
            Dice + CE it is the cell term of CC-DiceCE.
        connectivity, min_size: see `BlobLoss`.
        spacing: size of a voxel along each axis; None: that of the `Target`, or 1.

    Shape: see `Loss`.
    Range: that of the loss inside; 0 at a perfect prediction.
    Absent classes: left out of the mean, and so are samples without components; a batch without any costs its
        false-positive rate. The authors' code takes the loss of the whole image there, and keeps it in the mean.

    >>> from delineate.losses import DiceLoss
    >>> target = torch.tensor([[1, 0, 0, 0, 1, 1]])
    >>> logits = torch.tensor([[[0.0] * 6, [20.0, 20, -20, -20, 20, 20]]])            # one false positive, in cell 1
    >>> round(ComponentLoss(DiceLoss())(logits, target).item(), 4)                    # (1 / 3 + 0) / 2
    0.1667

    Use for: small objects beside large ones where recall matters most, beside a global loss with weight 1:
    `DiceCE + Component(DiceCE)`.
    Not for: precision: a false positive belongs to one cell however large it is, and recall has been bought with false
    positives in published comparisons. Nor for crowds, whose cells are small, beside a lonely object with half the
    image for its cell.
    Notes: a cell term of cross entropy weighs cells alike and objects by their share of the cell. The transform behind
    the cells takes far longer than the loss: let the workers of a data loader derive them (`delineate.data.Prepare`).
    Reference: Jaus et al., Every component counts: rethinking the measure of success for medical semantic segmentation
    in multi-instance segmentation tasks, AAAI 2025, arXiv 2410.18684; Bouteille et al., CC-DiceCE, arXiv 2511.17146.
    """

    def __init__(
        self,
        inner: Loss,
        *,
        connectivity: str = "full",
        min_size: int = 1,
        spacing: Sequence[float] | None = None,
    ):
        super().__init__(inner, connectivity=connectivity, min_size=min_size)
        self.spacing = checked_spacing(self, spacing)
        self._need(self.asked("cells", self.spacing))

    def partitions(self, term: Loss, parts: Components) -> list[tuple[float, Tensor, Tensor]]:
        values = self.of_sums(term, parts.in_cells(term, self.asked("cells", self.spacing)), parts.alive)
        return [(1.0, parts.by_class(values), parts.number)]


class BidirectionalComponentLoss(ComponentLoss):
    """The mean of `ComponentLoss` over the cells of true components and the same over the cells of predicted ones.

        (1 - predicted_weight) mean over k of inner(p on V_k) + predicted_weight mean over j of inner(p on W_j)
        W_j: cells of the components of the predicted mask;  without a true voxel in W_j:  sum p sg(p) / sg(sum p)

    Args:
        inner: as in `ComponentLoss`.
        predicted_weight: share of the predicted components, in [0, 1].
        connectivity, min_size: see `BlobLoss`; `min_size` is that of true components.
        spacing: size of a voxel along each axis; None: that of the `Target`, or 1.

    Shape: see `Loss`.
    Range: that of the loss inside; 0 at a perfect prediction.
    Absent classes: as in `ComponentLoss`, for true components. A class without predicted components has the whole image
        for its one predicted cell.

    >>> from delineate.losses import DiceLoss
    >>> target = torch.tensor([[1, 0, 0, 0, 0, 0]])
    >>> logits = torch.tensor([[[0.0] * 6, [20.0, -20, -20, -20, -20, 20]]])          # found, and one false positive
    >>> round(BidirectionalComponentLoss(DiceLoss())(logits, target).item(), 4)       # (1 / 3 + (0 + 1) / 2) / 2
    0.4167

    Use for: the recall of `ComponentLoss` at less cost in precision.
    Not for: a tight budget of time: predicted components and their cells are derived anew in every step. Nor for a
    guarantee of precision per object: a false positive near a missed object shares its cell, and is charged as overlap.
    Notes: sg is a stop of the gradient; the plain formula would be a constant there. The predicted mask is that of the
    largest probability, in sigmoid mode of those above 0.5; of more than 65 536 components the largest are taken. The
    paper's code is for one foreground class in 3D; classes against the rest are ours.
    Reference: Bouteille et al., BiCC, arXiv 2609.30223.
    """

    def __init__(
        self,
        inner: Loss,
        *,
        predicted_weight: float = 0.5,
        connectivity: str = "full",
        min_size: int = 1,
        spacing: Sequence[float] | None = None,
    ):
        super().__init__(inner, connectivity=connectivity, min_size=min_size, spacing=spacing)
        self.predicted_weight = self._number("predicted_weight", predicted_weight, 0, 1)

    def partitions(self, term: Loss, parts: Components) -> list[tuple[float, Tensor, Tensor]]:
        ((_, values_of_truth, number_of_truth),) = super().partitions(term, parts)
        regions, number = self._predicted_regions(parts)
        alone = parts.facts(regions, number)
        sums = parts.in_regions(term, regions, number)
        some = alone["weight"] > 0
        touched = some & (alone["count"] > 0)
        empty = ratio(alone["own"], alone["mass"].detach())
        values = torch.where(touched, self.of_sums(term, sums, touched), empty)
        channel = (alone["channel"] / alone["voxels"].clamp_min(1)).round().long()
        takes_part = some & (parts.number > 0).gather(1, channel)
        empty_table = parts.number.new_zeros(parts.number.shape)
        said, count = (
            empty_table.scatter_add(1, channel, torch.where(takes_part, found, 0))
            for found in (values, torch.ones_like(values))
        )
        return [(1 - self.predicted_weight, values_of_truth, number_of_truth), (self.predicted_weight, said, count)]

    def _predicted_regions(self, parts: Components) -> tuple[Tensor, int]:
        """Cells of the predicted components of the scored channels, (N, R, V), and their largest number."""
        inputs, channels = parts.inputs, parts.inputs.shape[1]
        p = inputs.probabilities(self.mode, self.ignore_index).detach()
        said = p if self.mode == "sigmoid" else p.argmax(1)
        void, size = inputs.ignored(self.ignore_index), inputs.voxel_size(self.spacing, self.ignore_index)
        everything = self.asked("cells").kind == "all_cells"
        ids = components(said, channels, void, self.connectivity, 1, everything, True)
        found = cells(ids, said, channels, void, size, everything).flatten(2)
        found = parts.of_foreground(found)
        number = segments_of(found)
        whole = number + 1 + torch.arange(found.shape[1], device=found.device, dtype=found.dtype)[:, None]
        found = torch.where((found > 0).any(2, keepdim=True), found, whole)
        left_out = parts.masks() & (parts.own_ids() == 0)
        left_out = left_out if void is None else left_out | void.flatten(1)[:, None]
        return found.masked_fill(left_out, 0), number + found.shape[1]


class InverseSizeLoss(Loss):
    """Another loss with voxels weighted by the inverse size of their component: all components weigh the same.

        inner with the voxel weight  |F| / (K |R_k|) on R_k, 1 elsewhere                   weighting="foreground"
                                     V / ((K + 1) |R_k|), V / ((K + 1) |B|) elsewhere      weighting="volume"
        F: all voxels of the K components of the scored classes,  V: valid voxels,  B: those in no component

    Args:
        inner: any loss. It holds what is common to all losses, such as `mode` and `ignore_index`; a weight given in
            the call multiplies these weights.
        weighting: "foreground" keeps the weight of all components together, and balances them against each other only;
            "volume" gives each, and the background, the same weight.
        clip: the smallest and largest weight, as in [1, 2e5] of the authors' code for "volume"; None: any.
        connectivity, min_size: see `BlobLoss`; smaller components keep the weight of the background.

    Shape: see `Loss`.
    Range: that of the loss inside, with its value at a perfect prediction.
    Absent classes: as in the loss inside. A sample without components has weight 1 everywhere.

    >>> from delineate.losses import CrossEntropyLoss
    >>> target = torch.tensor([[1, 0, 1, 1, 1, 0]])                                   # weights 2, 1, 2/3, 2/3, 2/3, 1
    >>> loss = InverseSizeLoss(CrossEntropyLoss())
    >>> missed_small, missed_large = (torch.tensor([[[0.0] * 6, row]]) for row in (
    ...     [-20.0, -20, 20, 20, 20, -20], [20.0, -20, -20, -20, -20, -20]))
    >>> bool(loss(missed_small, target).isclose(loss(missed_large, target)))
    True

    Use for: balancing objects of unequal size with cross entropy, which `BlobLoss` does not do.
    Not for: labels with specks of a few voxels, which get huge weights under "volume": clip them, or set `min_size`.
    Global weights have been unstable with several classes.
    Notes: in a ratio such as Dice the weight multiplies the overlap and both sizes. Both forms are in the authors'
    repository. Weights differ from those of other terms of a sum, so these do not share the pass. Of overlapping
    channels of a dense map the largest weight holds.
    Reference: Shirokikh et al., Universal loss reweighting to balance lesion size inequality in 3D medical image
    segmentation, MICCAI 2020, arXiv 2007.10033.
    """

    takes_losses = True

    def __init__(
        self,
        inner: Loss,
        *,
        weighting: str = "foreground",
        clip: Sequence[float] | None = None,
        connectivity: str = "full",
        min_size: int = 1,
    ):
        pairs_of(type(self).__name__, inner)
        leaves = [part for part in inner.modules() if isinstance(part, Loss) and not _holds_losses(part)]
        alike = {key: agreed(type(self).__name__, leaves, key) for key in ("mode", "ignore_index", "classes")}
        super().__init__(**alike, reduction=inner.reduction)
        self.inner = inner
        self.weighting = self._option("weighting", weighting, WEIGHTINGS)
        self.clip = None if clip is None else self._bounds(clip)
        self.connectivity = self._option("connectivity", connectivity, tuple(CONNECTIVITIES))
        self.min_size = self._integer("min_size", min_size, low=1)
        kind = "all_components" if self.mode == "sigmoid" or 0 in (self.classes or ()) else "components"
        self._asked = Geometry(kind, None, self.connectivity, self.min_size)
        self.needs = tuple(sorted({*inner.needs, self._asked}, key=repr))

    def compute(self, inputs: Inputs) -> Tensor:
        weights = self._weights(inputs)
        weights = weights if inputs.weight is None else weights * inputs.weight
        logits, grid = inputs.logits.view(inputs.shape), inputs.truth(self.ignore_index)
        weighted = Inputs(inputs.name, logits, grid, weights.view(len(logits), *inputs.shape[2:]), self.inner.needs)
        return self.inner.compute(weighted)

    def expression(self) -> str:
        return with_inner(self.inner, super().expression())

    def _weights(self, inputs: Inputs) -> Tensor:
        """Voxel weights, (N, V)."""
        ids = inputs.geometry(self._asked, self.ignore_index)
        ids = ids.flatten(2) if inputs.dense else ids.flatten(1)
        if self.classes is not None:
            scored = self.scored(inputs.shape[1], ids.device)
            kept = scored[:, None] if inputs.dense else scored[inputs.labels() if len(scored) > 1 else 0]
            ids = torch.where(kept, ids, 0)
        low, high = self.clip or (0.0, float("inf"))
        valid = inputs.valid(self.ignore_index)
        return inverse_size_weights(ids, valid, self.weighting == "foreground", low, high)

    def _bounds(self, clip: Sequence[float]) -> tuple[float, float]:
        given = tuple(clip) if isinstance(clip, Sequence) and not isinstance(clip, str) else ()
        if len(given) != 2 or not self._number("clip", given[0], 0) <= self._number("clip", given[1], 0, above=True):
            raise ValueError(
                f"InverseSizeLoss: `clip` must be the smallest and the largest weight; got {clip!r}. Write "
                "clip=[1, 2e5]."
            )
        return float(given[0]), float(given[1])


def _holds_losses(part: Loss) -> bool:
    return any(isinstance(inner, Loss) and inner is not part for inner in part.modules())
