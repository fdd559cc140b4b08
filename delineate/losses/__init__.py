"""Segmentation losses, grouped by family. All take logits (N, C, *S) and labels (N, *S); they add with `+` and `*`.

>>> DiceLoss() + 0.5 * CrossEntropyLoss()
Dice + 0.5*CrossEntropy
>>> parse("Dice + 0.5*CE")
Dice + 0.5*CrossEntropy
"""

from delineate.losses.distribution import BalancedCrossEntropyLoss, CrossEntropyLoss, FocalLoss, TopKLoss
from delineate.losses.expression import parse
from delineate.losses.loss import Loss, Sum
from delineate.losses.region import (
    DiceLoss,
    FocalTverskyLoss,
    GeneralizedDiceLoss,
    JaccardLoss,
    LogCoshDiceLoss,
    TverskyLoss,
)

__all__ = [  # noqa: RUF022  (grouped by family: the table of contents)
    # distribution: a cost of each voxel
    "CrossEntropyLoss",
    "BalancedCrossEntropyLoss",
    "TopKLoss",
    "FocalLoss",
    # region: sums per image and class
    "DiceLoss",
    "JaccardLoss",
    "TverskyLoss",
    "FocalTverskyLoss",
    "GeneralizedDiceLoss",
    "LogCoshDiceLoss",
    # building blocks
    "Loss",
    "Sum",
    "parse",
]
