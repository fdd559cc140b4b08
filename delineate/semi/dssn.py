"""DSSN: a dual-level Siamese structure with class-aware pseudo-labels."""

from delineate.losses import Loss
from delineate.semi.method import Method, Selector
from delineate.semi.selectors import ClassMaxThreshold
from delineate.semi.streams import Stream


class DSSN(Method):
    """Two strong views learn from a teacher, two views with dropped features from the student; each pair agrees.

        loss = 1/2 [supervised + .25 (pseudo(strong 0) + pseudo(strong 1) + pseudo(feature a) + pseudo(feature b))
                    + .01 (A(strong 0, strong 1) + A(feature a, feature b))]
        A: `logit_agreement`, the squared difference of logits standardised over the classes, voxel by voxel

    | stream | view | labels | weight |
    |---|---|---|---|
    | strong0, strong1 | strong, CutMix | teacher, weak view | .25 each |
    | feature_a, feature_b | weak, half of the channels dropped, drawn apart | student, weak view | .25 each |

    Args:
        selector: which labels are kept; `ClassMaxThreshold()` by default, `NoSelection()` for Cityscapes as released.
        strong_weight: of each strong stream.
        feature_weight: of each feature stream.
        agree_weight: of each agreement; 0 leaves them out, which two classes require.
        agree_on: "same_content" compares voxels with the same content in both views; "all", as released, also those
            where one view was mixed and the other not, and padding.
        decay: of the teacher.
        warmup_iterations: steps in which the teacher is the student and the strong streams are left out; 1 on VOC.
        warmup_epochs: the same in epochs; 5 on Cityscapes.
        feature_dropout: share of channels dropped.
        teacher_norm: batch normalisation of the teacher by "running" statistics or by its "batch".
        pseudo, norm, strong_updates_bn: see `Method`.

    >>> [(stream.name, stream.labels) for stream in DSSN().streams]
    [('strong0', 'teacher'), ('strong1', 'teacher'), ('feature_a', 'self'), ('feature_b', 'self')]

    Use for: natural images with few labels, three classes or more; also volumes.
    Not for: two classes with the agreement: standardised, two logits keep only a sign.
    Notes: a teacher of decay .996 is about 250 steps behind the student; trainings of a few hundred steps from random
    weights want .95 or so. Where paper, released code and this differ is listed in docs/semi/dssn.md.
    Reference: Tian, Zhang, Zhang and Zhan, Improving semi-supervised semantic segmentation with dual-level Siamese
    structure network, ACM Multimedia 2023, arXiv 2307.13938.
    """

    def __init__(
        self,
        *,
        selector: Selector | None = None,
        strong_weight: float = 0.25,
        feature_weight: float = 0.25,
        agree_weight: float = 0.01,
        agree_on: str = "same_content",
        decay: float = 0.996,
        warmup_iterations: int = 1,
        warmup_epochs: int = 0,
        feature_dropout: float = 0.5,
        teacher_norm: str = "running",
        pseudo: Loss | None = None,
        norm: str = "valid",
        strong_updates_bn: bool = True,
    ):
        super().__init__(
            (
                Stream("strong0", "strong", strong_weight, labels="teacher"),
                Stream("strong1", "strong", strong_weight, labels="teacher"),
                Stream("feature_a", "weak", feature_weight),
                Stream("feature_b", "weak", feature_weight),
            ),
            selector=selector or ClassMaxThreshold(),
            agree_weight=agree_weight,
            agree_on=agree_on,
            decay=decay,
            warmup_iterations=warmup_iterations,
            warmup_epochs=warmup_epochs,
            feature_dropout=feature_dropout,
            teacher_norm=teacher_norm,
            pseudo=pseudo,
            norm=norm,
            strong_updates_bn=strong_updates_bn,
        )
