"""Segmentation losses, grouped by family. All take logits (N, C, *S) and labels (N, *S); they add with `+` and `*`.

>>> DiceLoss() + 0.5 * CrossEntropyLoss()
Dice + 0.5*CrossEntropy
>>> parse("Dice + 0.5*CE")
Dice + 0.5*CrossEntropy
"""

from delineate.losses.boundary import BoundaryDoULoss, BoundaryLoss, GeneralizedSurfaceLoss, ShapeAwareLoss
from delineate.losses.compound import ComboLoss, ExponentialLogarithmicLoss, UnifiedFocalLoss
from delineate.losses.deep_supervision import DeepSupervision
from delineate.losses.distribution import (
    BalancedCrossEntropyLoss,
    CrossEntropyLoss,
    DistancePenalizedCELoss,
    FocalLoss,
    OHEMLoss,
    PolyLoss,
    TopKLoss,
)
from delineate.losses.expression import parse
from delineate.losses.hausdorff import (
    AverageHausdorffLoss,
    HausdorffConvLoss,
    HausdorffDTLoss,
    HausdorffErosionLoss,
    WeightedHausdorffLoss,
)
from delineate.losses.instance import BidirectionalComponentLoss, BlobLoss, ComponentLoss, InverseSizeLoss
from delineate.losses.loss import Loss, Sum
from delineate.losses.lovasz import LovaszLoss
from delineate.losses.region import (
    AsymmetricSimilarityLoss,
    DiceLoss,
    FocalTverskyLoss,
    GeneralizedDiceLoss,
    JaccardLoss,
    LogCoshDiceLoss,
    MCCLoss,
    PenaltyGeneralizedDiceLoss,
    SensitivitySpecificityLoss,
    TverskyLoss,
)
from delineate.losses.schedule import Balanced, Schedule
from delineate.losses.structure import RMILoss, SkeletonRecallLoss, SoftClDiceLoss, StructuralSimilarityLoss

__all__ = [  # noqa: RUF022  (grouped by family: the table of contents)
    # distribution: a cost of each voxel
    "CrossEntropyLoss",
    "BalancedCrossEntropyLoss",
    "TopKLoss",
    "OHEMLoss",
    "FocalLoss",
    "PolyLoss",
    "DistancePenalizedCELoss",
    # region: sums per image and class
    "DiceLoss",
    "JaccardLoss",
    "TverskyLoss",
    "FocalTverskyLoss",
    "AsymmetricSimilarityLoss",
    "GeneralizedDiceLoss",
    "PenaltyGeneralizedDiceLoss",
    "LogCoshDiceLoss",
    "SensitivitySpecificityLoss",
    "MCCLoss",
    "LovaszLoss",
    # boundary: sums against maps of distances
    "BoundaryLoss",
    "HausdorffDTLoss",
    "HausdorffErosionLoss",
    "HausdorffConvLoss",
    "WeightedHausdorffLoss",
    "AverageHausdorffLoss",
    "ShapeAwareLoss",
    "BoundaryDoULoss",
    "GeneralizedSurfaceLoss",
    # structure: neighbourhoods and skeletons
    "StructuralSimilarityLoss",
    "RMILoss",
    "SoftClDiceLoss",
    "SkeletonRecallLoss",
    # instance: sums per connected component
    "BlobLoss",
    "ComponentLoss",
    "BidirectionalComponentLoss",
    "InverseSizeLoss",
    # compound: both in one formula
    "ComboLoss",
    "ExponentialLogarithmicLoss",
    "UnifiedFocalLoss",
    # wrappers: around any of them
    "Schedule",
    "Balanced",
    "DeepSupervision",
    # building blocks
    "Loss",
    "Sum",
    "parse",
]
