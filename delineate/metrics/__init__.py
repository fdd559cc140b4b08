"""Numbers to report, with their conventions.

overlap      one confusion matrix of a data set: IoU, Dice, precision, recall
surface      distances between surfaces: HD95, NSD, ASSD, MASD; boundary IoU
instance     components found and missed, panoptic quality
lesions      CC-Dice, recall by size
conventions  the choices behind the metrics of a case
case         all metrics of one case, class by class
"""

from delineate.metrics.case import ClassScores, case_scores
from delineate.metrics.conventions import INSTANCE, UNITS, Conventions, in_words_of
from delineate.metrics.instance import Detection, Instances, Panoptic, detect, find_instances, panoptic
from delineate.metrics.lesions import SizeBin, cc_dice, cell_dice, recall_by_size
from delineate.metrics.overlap import CONVENTIONS, ConfusionMatrix, Scores
from delineate.metrics.surface import (
    SurfaceDistances,
    assd,
    band_width,
    boundary_iou,
    hausdorff,
    masd,
    nsd,
    surface_distances,
)

__all__ = [
    "CONVENTIONS",
    "INSTANCE",
    "UNITS",
    "ClassScores",
    "ConfusionMatrix",
    "Conventions",
    "Detection",
    "Instances",
    "Panoptic",
    "Scores",
    "SizeBin",
    "SurfaceDistances",
    "assd",
    "band_width",
    "boundary_iou",
    "case_scores",
    "cc_dice",
    "cell_dice",
    "detect",
    "find_instances",
    "hausdorff",
    "in_words_of",
    "masd",
    "nsd",
    "panoptic",
    "recall_by_size",
    "surface_distances",
]
