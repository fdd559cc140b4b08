"""The region loss that is no function of counts: it needs the order of all errors."""

from typing import Unpack

import torch
from torch import Tensor

from delineate.losses.counts import PoolCommon, PoolLoss
from delineate.losses.inputs import Inputs
from delineate.ops.lovasz import lovasz_slopes

ERRORS = ("hinge", "probability")


class LovaszLoss(PoolLoss):
    """The Lovász extension of the Jaccard loss: exact IoU for hard predictions, piecewise linear in between.

        sum_k m_(k) (J_k - J_{k-1}),     m_(1) >= m_(2) >= ... the errors,
        J_k: one minus the Jaccard index of a prediction whose errors are the first k
        errors: |y - p| ("probability"), or max(0, 1 - z (2 y - 1)) ("hinge", sigmoid mode only)

    Args:
        errors: "probability" or "hinge"; None: "probability" in softmax mode and, as in the paper, "hinge" in sigmoid
            mode.
        pool, absent: see `delineate.losses.counts`; the batch is that of one process. common: see `Loss`. Voxel weights
            weigh the voxels in the index.

    Shape: see `Loss`. Dense targets must be 0 or 1.
    Range: [0, 1] with probabilities, [0, inf) with hinge errors; 0 at a perfect prediction.
    Absent classes: left out of the mean; one that is counted costs its largest error, which is the formula itself.

    >>> logits = torch.tensor([[[20.0, -20.0, 20.0], [-20.0, 20.0, -20.0]]])        # predicts 0 1 0
    >>> LovaszLoss(classes=[1])(logits, torch.tensor([[0, 1, 1]])).item()
    0.5

    Use for: fine-tuning towards IoU, after or beside cross entropy.
    Not for: soft labels, for which it has no form; nor from scratch on its own, where few voxels decide.
    Notes: the authors' softmax form pools the batch over classes that are present (`pool="batch"` here), their hinge is
    per image. Ties do not change the value. The order carries no gradient. The sort makes it dearer than the other
    region losses, see the speed page.
    Reference: Berman et al., The Lovász-Softmax loss, CVPR 2018, arXiv 1705.08790.
    """

    def __init__(self, *, errors: str | None = None, **common: Unpack[PoolCommon]):
        super().__init__(**common)
        self.errors = errors if errors is None else self._option("errors", errors, ERRORS)
        if errors == "hinge" and self.mode == "softmax":
            raise ValueError(
                'LovaszLoss: `errors` must be "probability" in softmax mode; got "hinge", made for independent '
                'channels. Use mode="sigmoid".'
            )

    def compute(self, inputs: Inputs) -> Tensor:
        found = inputs.overlap(self.mode, self.ignore_index)
        pooled = self.pool == "batch"
        counted = self.counted((found.count.sum(0, keepdim=True) if pooled else found.count) > 0)
        target, weight = inputs.channels_on(), inputs.valid_weight(self.ignore_index)
        errors = _rows(self._errors(inputs.valid_logits(self.ignore_index), target > 0), pooled)
        weight = weight.flatten()[None] if pooled and weight is not None else weight
        slopes = lovasz_slopes(errors.detach(), _rows(target, pooled), weight, counted.flatten())
        values = (errors * slopes).sum(1).double().view_as(counted)
        return self.pool_rows(inputs, self.mean_over_classes(values, counted), found.valid)

    def _errors(self, logits: Tensor, on: Tensor) -> Tensor:
        if self.mode == "sigmoid" and self.errors != "probability":
            return (1 - torch.where(on, logits, -logits)).clamp_min(0)
        p = logits.softmax(1) if self.mode == "softmax" else logits.sigmoid()
        return torch.where(on, 1 - p, p)


def _rows(table: Tensor, pooled: bool) -> Tensor:
    """(N, C, V) -> (N C, V), or (C, N V) when the batch is pooled."""
    return table.transpose(0, 1).flatten(1) if pooled else table.flatten(0, 1)
