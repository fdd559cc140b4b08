"""The choices behind the metrics of a case, checked, and stated in words next to the numbers."""

import math
import re
from dataclasses import dataclass

from delineate.metrics.instance import MATCHES
from delineate.metrics.surface import DEFINITIONS, EMPTY
from delineate.ops.components import CONNECTIVITIES, neighbours

SPACES = ("length", "area", "volume")
UNITS = ("mm", "mm^2", "mm^3")
"""Of sizes of lesions in 1D, 2D and 3D."""
DIFFERENCES = ("mm", "mm^2", "ml")
"""Of the difference in size between prediction and truth."""
INSTANCE = {1: "object", 2: "object", 3: "lesion"}
"""What sentences and tables call a connected component in 1D, 2D and 3D; keys of results say lesion in all."""


@dataclass(frozen=True)
class Conventions:
    """How the metrics of a case are defined where the literature differs.

    Args:
        connectivity: of lesions: "face" (4 neighbours in 2D, 6 in 3D), "edge" (8, 18) or "full" (8, 26).
        hd_percentile: of the Hausdorff distance, above 0 to 100.
        hd_definition: "max", the larger percentile of both directions, or "pooled", that of all distances.
        nsd_tolerance: in mm.
        empty: what distances are where one mask is empty, "diagonal" of the image or "inf".
        match: when a lesion is found: "overlap", one voxel of it is; "iou" or "dice", it is in a pair one to one
            above `panoptic_threshold`.
        panoptic_threshold: 0 up to 1, what the IoU of a pair must exceed for PQ (the Dice with match="dice").
        min_size: lesions of fewer voxels are left out.
        boundary_share: width of the band of boundary IoU as a share of the diagonal of the image, above 0 to 1.

    Raises:
        ValueError: for values out of range.
    """

    connectivity: str = "full"
    hd_percentile: float = 95
    hd_definition: str = "max"
    nsd_tolerance: float = 1.0
    empty: str = "diagonal"
    match: str = "overlap"
    panoptic_threshold: float = 0.5
    min_size: int = 1
    boundary_share: float = 0.02

    def __post_init__(self) -> None:
        for name, among in (
            ("connectivity", tuple(CONNECTIVITIES)),
            ("hd_definition", DEFINITIONS),
            ("empty", EMPTY),
            ("match", MATCHES),
        ):
            if getattr(self, name) not in among:
                raise ValueError(f"{name}: expected one of {', '.join(among)}; got {getattr(self, name)!r}.")
        for name, holds, expected in (
            ("hd_percentile", 0 < self.hd_percentile <= 100, "a percentile above 0, at most 100"),
            ("nsd_tolerance", 0 <= self.nsd_tolerance < math.inf, "a distance in mm, at least 0"),
            ("panoptic_threshold", 0 <= self.panoptic_threshold < 1, "0 <= threshold < 1"),
            ("min_size", self.min_size >= 1 and self.min_size == int(self.min_size), "a whole number from 1"),
            ("boundary_share", 0 < self.boundary_share <= 1, "a share above 0, at most 1"),
        ):
            if not holds:
                raise ValueError(f"{name}: expected {expected}; got {getattr(self, name)}.")

    @property
    def hd_key(self) -> str:
        """Key of the percentile Hausdorff distance: "hd95"."""
        return f"hd{self.hd_percentile:g}"

    def sentences(self, dims: int) -> list[str]:
        """What the numbers of `case_scores` mean for images of `dims` dims, to be printed with them."""
        said = [*_general(dims), *self._of_surfaces(dims), *self._of_lesions(dims), *self._of_pairs()]
        return [in_words_of(dims, sentence) for sentence in said]

    def _of_surfaces(self, dims: int) -> list[str]:
        percentile = f"{self.hd_percentile:g}th percentile, interpolated linearly"
        joined = {
            "max": f"the larger of the two directions' {percentile}",
            "pooled": f"the {percentile}, of the distances of both directions together",
        }
        one_empty = {"diagonal": "the diagonal of the image in mm", "inf": "infinite"}
        said = [
            f"The surface of a mask are its voxels with one of {neighbours('face', dims)} face neighbours outside it; "
            "outside of the image counts as outside the mask. Distances are exact, between centres of voxels, in mm.",
            f"{self.hd_key.upper()}: {joined[self.hd_definition]}. HD: the largest distance. "
            "ASSD: the mean of the distances of both directions together.",
            f"NSD: share of the voxels of both surfaces within {self.nsd_tolerance:g} mm of the other surface.",
            "Empty masks are penalised, not dropped: where truth and prediction are both empty, Dice, IoU, NSD, "
            "CC-Dice, lesion F1 and lesion-wise Dice are 1 and distances 0; where one is empty, these are 0 and "
            f"distances are {one_empty[self.empty]}.",
        ]
        if dims == 2:
            said.append(
                f"Boundary IoU: IoU of the bands inside the boundaries, as wide as {100 * self.boundary_share:g} % of "
                "the diagonal of the image in pixels, at least 1; width counts erosions by a square of 3 x 3. Two "
                "empty masks score 1, one scores 0."
            )
        return said

    def _of_lesions(self, dims: int) -> list[str]:
        unit, space = UNITS[dims - 1], SPACES[dims - 1]
        said = [
            f"Lesions are connected components of a class with {neighbours(self.connectivity, dims)} neighbours "
            f'("{self.connectivity}"); their sizes are in {unit}, voxels times the {space} of a voxel.'
        ]
        if self.min_size > 1:
            said.append(
                f"Lesions of fewer than {self.min_size} voxels are left out, with what is predicted in them: a "
                "predicted component that touches no larger lesion is then neither right nor false."
            )
        if self.match == "overlap":
            said.append(
                "A lesion is found if at least one of its voxels is predicted; a predicted component is right if it "
                "touches a lesion, else a false positive. Many to many: right and found may differ."
            )
        else:
            said.append(f"A lesion is found, and a predicted component right, if they are a pair {self._pair()}.")
        partners = "all predicted components that touch it" if self.match == "overlap" else "its pair"
        return [
            *said,
            "Lesion F1 is the harmonic mean of lesion sensitivity and lesion precision. Sensitivity is undefined "
            "without a lesion; precision is 0 with lesions but no prediction.",
            f"Lesion-wise Dice: mean of the Dice of each lesion with {partners}, a missed lesion and a false positive "
            "counting 0 each. Dice of found lesions leaves both out, which rewards missing hard ones.",
            "CC-Dice: mean of the Dice in the Voronoi cells of the lesions, nearest by distance in mm.",
        ]

    def _pair(self) -> str:
        score = "Dice" if self.match == "dice" else "IoU"
        return f"with {score} > {self.panoptic_threshold:g}, one to one by the largest total"

    def _of_pairs(self) -> list[str]:
        return [
            f"PQ = SQ x RQ over pairs {self._pair()}: SQ is their mean IoU, RQ = TP / (TP + FP / 2 + FN / 2). PQ and "
            "RQ are undefined without lesions and predictions, SQ without pairs."
        ]


def in_words_of(dims: int, sentence: str) -> str:
    """A sentence on lesions, for images of `dims` dims.

    >>> in_words_of(2, "Lesions: a lesion is found once.")
    'Objects: an object is found once.'
    """
    if INSTANCE[dims] == "lesion":
        return sentence
    sentence = re.sub(r"\b([Aa]) lesion", r"\1n object", sentence)
    return sentence.replace("lesion", "object").replace("Lesion", "Object")


def _general(dims: int) -> list[str]:
    space = SPACES[dims - 1]
    return [
        "Per case and class, each class against all others. Ignored voxels are removed from truth and prediction.",
        f"Relative {space} error: (prediction - truth) / truth, undefined without truth; the {space} difference is "
        f"absolute, in {DIFFERENCES[dims - 1]}.",
        "Precision is undefined where nothing is predicted, recall where there is no truth. What is undefined is left "
        "out of means, and n counts the cases that are in.",
    ]
