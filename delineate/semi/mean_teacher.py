"""Mean teacher."""

import math

from torch import Tensor

from delineate.ops.ranks import share_of_ranks
from delineate.semi.method import Method
from delineate.semi.streams import At, Stream


class MeanTeacher(Method):
    """The student's probabilities of a strong view follow the teacher's of the weak view.

        loss = supervised + w(t) mean over valid voxels and classes of (p_student(strong) - p_teacher(weak))^2
        w(t) = strong_weight exp(-5 (1 - t / ramp)^2),   t: share of the steps done; strong_weight after the ramp

    Args:
        strong_weight: of the stream after the ramp.
        ramp: share of all steps, in (0, 1], over which the weight rises.
        decay: of the teacher.
        teacher_norm, strong_updates_bn: see `Method`.

    >>> stream, = MeanTeacher().streams
    >>> [round(MeanTeacher().weight(stream, At(share=share)), 4) for share in (0, 0.5, 1)]
    [0.0007, 0.0287, 0.1]

    Use for: the plainest consistency, without thresholds; medical volumes, where its code comes from; two classes too.
    Not for: the last point of accuracy: methods with hard labels and strong views have overtaken it.
    Notes: no CutMix. Codes for volumes count the ramp in steps; a share keeps it when the budget changes.
    Reference: Tarvainen and Valpola, Mean teachers are better role models, NeurIPS 2017, arXiv 1703.01780.
    """

    def __init__(
        self,
        *,
        strong_weight: float = 0.1,
        ramp: float = 1.0,
        decay: float = 0.99,
        teacher_norm: str = "running",
        strong_updates_bn: bool = True,
    ):
        if not 0 < ramp <= 1:
            raise ValueError(f"MeanTeacher: `ramp` must be a share of the steps above 0, at most 1; got {ramp!r}.")
        super().__init__(
            (Stream("strong0", "strong", strong_weight, labels="teacher", mixed=False),),
            scale=1.0,
            decay=decay,
            teacher_norm=teacher_norm,
            strong_updates_bn=strong_updates_bn,
        )
        self.ramp = ramp

    def weight(self, stream: Stream, at: At) -> float:
        return stream.weight * math.exp(-5 * (1 - min(at.share / self.ramp, 1)) ** 2)

    def pseudo_loss(self, logits: Tensor, source: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        target = source.float().softmax(1)
        cost = (logits.float().softmax(1) - target).square().mean(1)
        count = valid.sum()
        value = (cost * valid).sum() / count.clamp_min(1)
        return value * share_of_ranks(count).to(value), target.argmax(1), valid
