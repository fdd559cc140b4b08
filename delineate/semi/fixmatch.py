"""FixMatch for segmentation."""

from delineate.losses import Loss
from delineate.semi.method import Method, Selector
from delineate.semi.selectors import FixedThreshold
from delineate.semi.streams import Stream


class FixMatch(Method):
    """Confident labels of the weak view teach one strong view.

        loss = 1/2 [supervised + strong_weight pseudo(strong 0)]
        pseudo = sum over voxels with confidence >= .95 of -log p_label / valid voxels

    | stream | view | labels | weight |
    |---|---|---|---|
    | strong0 | strong, CutMix | student, weak view | 1 |

    Args:
        selector: which labels are kept; `FixedThreshold(.95)` by default.
        strong_weight: of the stream.
        pseudo, norm, strong_updates_bn: see `Method`.

    >>> FixMatch().streams
    (Stream(name='strong0', view='strong', weight=1.0, labels='self', mixed=True),)

    Use for: the simplest method that works; any network, 2D and 3D, two classes and more.
    Not for: networks that are confident and wrong from the start: nothing corrects them.
    Reference: Sohn et al., FixMatch, NeurIPS 2020, arXiv 2001.07685; the form for segmentation, with CutMix and the
    factor 1/2, is the baseline of Yang et al., UniMatch, CVPR 2023, arXiv 2208.09910.
    """

    def __init__(
        self,
        *,
        selector: Selector | None = None,
        strong_weight: float = 1.0,
        pseudo: Loss | None = None,
        norm: str = "valid",
        strong_updates_bn: bool = True,
    ):
        super().__init__(
            (Stream("strong0", "strong", strong_weight),),
            selector=selector or FixedThreshold(),
            pseudo=pseudo,
            norm=norm,
            strong_updates_bn=strong_updates_bn,
        )
