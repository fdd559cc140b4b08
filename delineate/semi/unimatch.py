"""UniMatch: two strong views and perturbed features."""

from delineate.losses import Loss
from delineate.semi.method import Method, Selector
from delineate.semi.selectors import FixedThreshold
from delineate.semi.streams import Stream


class UniMatch(Method):
    """Confident labels of the weak view teach two strong views, and the weak view with channels dropped.

        loss = 1/2 [supervised + .25 pseudo(strong 0) + .25 pseudo(strong 1) + .5 pseudo(weak, dropped)]

    | stream | view | labels | weight |
    |---|---|---|---|
    | strong0, strong1 | strong, CutMix | student, weak view | .25 each |
    | feature | weak, half of the channels of all features dropped | student, weak view | .5 |

    Args:
        selector: which labels are kept; `FixedThreshold(.95)` by default, `NoSelection()` for Cityscapes as published.
        strong_weight: of each strong stream.
        feature_weight: of the feature stream.
        feature_dropout: share of channels dropped.
        pseudo, norm, strong_updates_bn: see `Method`.

    >>> [(stream.name, stream.weight) for stream in UniMatch().streams]
    [('strong0', 0.25), ('strong1', 0.25), ('feature', 0.5)]

    Use for: natural images with few labels; no second network is kept.
    Not for: networks without `encode` and `decode`.
    Notes: the released code labels the partner of CutMix by a pass of its own in eval mode, and decodes dropped copies
    of labelled images which it throws away. Here the labels of both come from one pass in train mode.
    Reference: Yang et al., Revisiting weak-to-strong consistency in semi-supervised semantic segmentation, CVPR 2023,
    arXiv 2208.09910.
    """

    def __init__(
        self,
        *,
        selector: Selector | None = None,
        strong_weight: float = 0.25,
        feature_weight: float = 0.5,
        feature_dropout: float = 0.5,
        pseudo: Loss | None = None,
        norm: str = "valid",
        strong_updates_bn: bool = True,
    ):
        super().__init__(
            (
                Stream("strong0", "strong", strong_weight),
                Stream("strong1", "strong", strong_weight),
                Stream("feature", "weak", feature_weight),
            ),
            selector=selector or FixedThreshold(),
            feature_dropout=feature_dropout,
            pseudo=pseudo,
            norm=norm,
            strong_updates_bn=strong_updates_bn,
        )
