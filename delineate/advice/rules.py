"""The table of rules: which number of the data speaks for which loss, why, and when not to follow it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from delineate.advice.measures import (
    Measured,
    absent,
    anisotropy,
    easy_background,
    foreground,
    imbalance,
    objects,
    outline,
    scene,
    small_instances,
    thin,
    touching,
    unequal_instances,
    void,
    widths,
)
from delineate.data.statistics import Statistics

EVIDENCE = {"several studies": 1.0, "one study": 0.7, "practice": 0.5, "mixed": 0.4, "remark": 0.2}
"""How much a rule weighs, by judgement."""
UNKNOWN = (
    "What an error costs. Whether a miss is worse than a false alarm, or a lost object worse than a coarse outline, is "
    "not in the labels.",
    "Which score decides. A loss that finds more objects may lower the mean IoU.",
    "Whether labels are right. `TopK`, losses of boundaries and losses by instance trust the hardest voxels, the "
    "outlines and the smallest components.",
    "What is a thing and what is stuff. Without a background every label is taken for stuff, and no loss by instance "
    "is advised, though cars may be objects.",
    "The network, the resolution and the length of training, which may matter more than the loss.",
)
"""What the advice cannot know."""
MA = "Ma et al., Loss odyssey in medical image segmentation, MedIA 71, 2021"


@dataclass(frozen=True)
class Rule:
    """A row of the table.

    Args:
        name: a few words.
        measure: gives the number, None where it does not apply; its docstring says what it is.
        side, threshold: the rule fires where the number is on this side of the threshold.
        basis: where the threshold is from.
        loss: the expression, or what makes it from the data, whose docstring shows it.
        evidence: a key of `EVIDENCE`.
        why, fails, source: as in `Advice`.
    """

    name: str
    measure: Callable[[Statistics], Measured | None]
    side: Literal["at least", "below"]
    threshold: float
    basis: str
    loss: str | Callable[[Statistics], str]
    evidence: str
    why: str
    fails: str
    source: str

    def fires(self, value: float) -> bool:
        """Whether a number is on the side of the threshold."""
        return value >= self.threshold if self.side == "at least" else value < self.threshold

    def strength(self, value: float) -> float:
        """Evidence, times one plus the doublings or halvings beyond the threshold (ten at most), to six digits."""
        ratio = max(value, 1e-9) / self.threshold
        return round(EVIDENCE[self.evidence] * (1 + min(abs(math.log2(ratio)), 10)), 6)


def baseline(found: Statistics) -> str:
    """`Dice + CE`, or `CE` for classes of similar size."""
    return next(str(rule.loss) for rule in BASELINES if rule.fires(imbalance(found).value))


def root_weighted(found: Statistics) -> str:
    """`Dice + CE(class_weight=[...], normalize="weight")`: the root of the largest share over that of the class."""
    shares = [of_class.share for of_class in found.classes]
    smallest = min(share for share in shares if share > 0)
    weights = [round(math.sqrt(max(shares) / max(share, smallest)), 1) for share in shares]
    return f'Dice + CE(class_weight={weights}, normalize="weight")'


def recall_of_foreground(found: Statistics) -> str:
    """`Tversky(classes=[...]) + CE`: all classes but the background."""
    return f"Tversky(classes={[label for label, _ in objects(found)]}) + CE"


def skeletons_of_thin(found: Statistics) -> str:
    """`Dice + CE + SkeletonRecall(classes=[...])`: the thin classes."""
    rule = next(rule for rule in RULES if rule.measure is thin)
    return f"Dice + CE + SkeletonRecall(classes={sorted(c for across, c in widths(found) if rule.fires(across))})"


BASELINES = (
    Rule(
        name="similar classes",
        measure=imbalance,
        side="below",
        threshold=3,
        basis="judgement",
        loss="CE",
        evidence="practice",
        why="Plain cross entropy is enough where no class is rare. It costs least, and suits calibrated probabilities.",
        fails="Where the score is Dice or IoU, `Dice + CE` may still be ahead of it.",
        source="Jadon, CIBCB 2020, arXiv 2006.14822; docs of `CrossEntropyLoss`",
    ),
    Rule(
        name="unequal classes",
        measure=imbalance,
        side="at least",
        threshold=3,
        basis="judgement",
        loss="Dice + CE",
        evidence="several studies",
        why="Dice counts each class alike, however few its voxels, and cross entropy has a gradient where Dice has "
        "none. The sum ranked before CE over four tasks, and is what nnU-Net uses.",
        fails="No loss wins everywhere. There the sum ranked behind Dice alone, and behind Dice beside TopK, Focal, "
        "Hausdorff and boundary losses. Here on CamVid it was ahead of CE in one comparison, and no difference was "
        "shown in another; classes below 2 % were hardly found by either.",
        source=f"{MA}; Isensee et al., nnU-Net; docs/experiments/cmssl.md, which_loss.md",
    ),
)
"""Of these two rows one always fires."""

RULES = (
    *BASELINES,
    Rule(
        name="hard voxels of rare classes",
        measure=imbalance,
        side="at least",
        threshold=20,
        basis="judgement",
        loss="Dice + TopK(k=0.1)",
        evidence="mixed",
        why="The mean over all voxels is that of the common classes, which are soon right. TopK averages the hardest "
        "tenth only. With Dice it had the best mean rank of twenty losses over four tasks.",
        fails="Short trainings from random weights: here it was far behind `Dice + CE` on CamVid and on lesions. Wrong "
        "labels are the hardest voxels of all: use a larger k, or not at all, where labels are noisy. TopK without "
        "Dice was far behind on one of the four tasks.",
        source=f"{MA}; Wu, Shen and van den Hengel, arXiv 1605.06885; docs/experiments/which_loss.md",
    ),
    Rule(
        name="weights of rare classes",
        measure=imbalance,
        side="at least",
        threshold=20,
        basis="judgement",
        loss=root_weighted,
        evidence="one study",
        why="Each class weighs in the cross entropy by the root of its rarity, as in the exponential logarithmic loss. "
        "The root keeps the weights small.",
        fails="Rare classes are called more often than they occur, and probabilities are not calibrated. Cross entropy "
        "with large weights came last of twenty losses by mean rank in Ma et al.",
        source=f"Wong et al., MICCAI 2018, arXiv 1809.00076; against large weights {MA}",
    ),
    Rule(
        name="easy background",
        measure=easy_background,
        side="at least",
        threshold=20,
        basis="judgement",
        loss="Dice + Focal",
        evidence="one study",
        why="Focal loss fades out voxels that are right with confidence, which is most of a large background. With "
        "Dice it was the best of twenty losses on two of four tasks, pancreas and multi-organ.",
        fails="Its probabilities are not calibrated, and Focal without Dice ranked behind CE there.",
        source=f"{MA}; Lin et al., ICCV 2017, arXiv 1708.02002",
    ),
    Rule(
        name="rare foreground",
        measure=foreground,
        side="below",
        threshold=1,
        basis="judgement",
        loss=recall_of_foreground,
        evidence="mixed",
        why="Tversky charges a miss more than a false alarm (.7 to .3), which counters that all background is nearly "
        "right. `UnifiedFocal` follows the same thought with one exponent.",
        fails="Masks come out too large, since that is the cheaper error. Without CE, Tversky and focal Tversky ranked "
        "behind `Dice + CE` and behind CE over four tasks.",
        source=f"Salehi et al., MLMI 2017, arXiv 1706.05721; against it {MA}",
    ),
    Rule(
        name="absent classes",
        measure=absent,
        side="at least",
        threshold=50,
        basis="judgement",
        loss='Dice(pool="batch") + CE',
        evidence="practice",
        why="Dice leaves a class out of the samples without it, so its false positives there cost only what they take "
        "from other classes, and CE. Counts pooled over the batch charge them in the Dice of the class as well.",
        fails="The loss changes with the batch size, and a batch of one is the plain form. Small objects of one sample "
        "weigh less beside large ones of another. Never leave out CE here.",
        source="Isensee et al., nnU-Net, whose batch Dice it is; docs/correctness.md, absent classes",
    ),
    Rule(
        name="unequal instances",
        measure=unequal_instances,
        side="at least",
        threshold=10,
        basis="judgement",
        loss="2*DiceCE + Blob(Dice)",
        evidence="mixed",
        why="A Dice over the image hardly sees small instances beside large ones. Blob loss lets each component count "
        "alike; its paper reports more F1 on lesions and in microscopy.",
        fails="No gain in F1 was shown over cases and seeds in our own runs on nuclei and semi-synthetic lesions, nor "
        "in replications elsewhere. False positives of the size of the foreground switch it off; "
        '`Blob(Dice, fp_scope="split")` charges them less. Specks of labels count as instances.',
        source="Kofler et al., IPMI 2023, arXiv 2205.08209; docs/experiments/instances.md",
    ),
    Rule(
        name="small instances",
        measure=small_instances,
        side="below",
        threshold=8,
        basis="judgement: three halvings of the resolution leave less than one cell",
        loss="DiceCE + Component(DiceCE)",
        evidence="mixed",
        why="Dice and CE are taken in the Voronoi cell of each component, so that a small one weighs as much as a "
        "large one. More recall is reported, for slightly more false positives.",
        fails="Precision: a false positive costs one cell, however large it is. In our own runs more small nuclei were "
        "found, with p above 0.05 after correction, and nearly all small lesions of semi-synthetic images were missed, "
        "with any loss.",
        source="Jaus et al., AAAI 2025, arXiv 2410.18684; Bouteille et al., arXiv 2511.17146; "
        "docs/experiments/instances.md",
    ),
    Rule(
        name="touching instances",
        measure=touching,
        side="at least",
        threshold=5,
        basis="judgement",
        loss=baseline,
        evidence="remark",
        why="Losses by instance see components of the mask, so instances that touch are one to them, and merging two "
        "costs next to nothing. Expect less of them than their papers say.",
        fails="No loss parts touching instances whose labels are one class: a class of its own for the border between "
        "them does.",
        source="docs/correctness.md, losses by instance; docs/experiments/instances.md",
    ),
    Rule(
        name="thin classes",
        measure=thin,
        side="below",
        threshold=4,
        basis="judgement",
        loss=skeletons_of_thin,
        evidence="one study",
        why="A thin line is cut by an error of few voxels, which Dice hardly notices. Skeleton recall asks for the "
        "centre lines, at much less cost than clDice (`SoftClDice`).",
        fails="False positives are free to it by definition: never without Dice and CE. It does nothing for solid "
        "objects, and no comparison was made here.",
        source="Kirchhoff et al., ECCV 2024, arXiv 2404.03010; Shit et al., CVPR 2021, arXiv 2003.07311",
    ),
    Rule(
        name="much boundary",
        measure=outline,
        side="at least",
        threshold=25,
        basis="judgement",
        loss="DiceBoundary",
        evidence="one study",
        why="Where much of an object is boundary, its outline decides the score. The boundary loss charges errors by "
        "their distance to it, with a weight that rises over 90 epochs. Dice with it had the second best mean rank of "
        "twenty losses, there with constant weights.",
        fails="Images without the class have no boundary, and give only the wish for less of it. On its own it forgets "
        "small objects; trainings shorter than 90 epochs stop on the way; its scale grows with the image.",
        source=f"Kervadec et al., MIDL 2019, arXiv 1812.07032; {MA}",
    ),
    Rule(
        name="large objects",
        measure=outline,
        side="below",
        threshold=10,
        basis="its formula, whose weight of the boundary is largest below that",
        loss="BoundaryDoU + CE",
        evidence="one study",
        why="Of a large object Dice sees the inside, which is soon right. Boundary DoU takes most of the inside out of "
        "the ratio, and costs as little as Dice.",
        fails="Small or thin objects, for which it is a Jaccard loss.",
        source="Sun, Luo and Li, MICCAI 2023, arXiv 2308.00220",
    ),
    Rule(
        name="flat voxels",
        measure=anisotropy,
        side="at least",
        threshold=3,
        basis="judgement",
        loss="DiceCE + GeneralizedSurface",
        evidence="one study",
        why="Dice counts voxels and takes an error across slices for no more than one within. Losses of distances "
        "measure in mm; training here gives them the spacing. This one needs no schedule.",
        fails="In code of your own give `spacing` to the loss or to the `Target`, else distances are in voxels. It "
        "looks at far voxels first, and sees little of details at the boundary.",
        source="Celaya et al., 2023, arXiv 2302.03868; docs/correctness.md, distances",
    ),
    Rule(
        name="scenes",
        measure=scene,
        side="at least",
        threshold=5,
        basis="judgement",
        loss="RMI",
        evidence="mixed",
        why="In pictures full of classes neighbouring pixels depend on each other. RMI compares label and prediction "
        "patch by patch, and its paper reports more mIoU than CE on PASCAL VOC. `StructuralSimilarity` is of the same "
        "group.",
        fails="On CamVid neither was shown to beat CE after 14 epochs from random weights: their means were below it, "
        "and RMI lost trees. The structure term lay on classes that were found already. Not for rare classes.",
        source="Zhao et al., NeurIPS 2019, arXiv 1910.12037; docs/experiments/cmssl.md",
    ),
    Rule(
        name="ignored voxels",
        measure=void,
        side="at least",
        threshold=1,
        basis="judgement",
        loss=baseline,
        evidence="remark",
        why="Every loss here leaves ignored voxels out of its sums. Training passes their label by itself; in code of "
        "your own give `ignore_index`, or they are a class to be learnt or an error.",
        fails="Ignored bands along outlines, as in PASCAL VOC, hide what losses of boundaries and structure look at.",
        source="docs/correctness.md, distances; docs of `StructuralSimilarityLoss`",
    ),
)
"""The table: a row a rule."""
