"""The teacher: a network whose weights are a moving average of those of the student."""

from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from delineate.semi.batch_norm import batch_statistics

NORMS = ("running", "batch")


class EMATeacher(nn.Module):
    """An exponential moving average of a model, for labels without a gradient.

        teacher <- decay * teacher + (1 - decay) * student      parameters and float buffers (batch-norm statistics)
        teacher <- student                                       integer and bool buffers (counters)

    The copy is `.model`, with all that it has (`encode`, `decode`, ...): always in eval mode, without gradients, in
    float32 at least, since in bf16 steps of 0.4 % of a difference round away. It starts as the model is, and moves
    only in `update`.

    Args:
        model: the student, not wrapped (not DistributedDataParallel, nor compiled). It is copied, never kept.
        decay: in [0, 1]; the share of itself that the teacher keeps in an update.
        norm: how batch-norm layers normalise when the teacher is called: by their "running" statistics, or by the
            "batch", without moving these. `.model` called itself always uses the running ones, so use that to evaluate.

    Shape: as the model.

    Raises:
        ValueError: for a decay outside [0, 1] or an unknown norm; in `update` also for a model whose parameters or
            buffers have other names or shapes.

    >>> student = nn.Linear(1, 1, bias=False)
    >>> teacher = EMATeacher(student, decay=0.75)
    >>> _ = teacher.model.weight.fill_(0.0), student.weight.data.fill_(1.0)
    >>> teacher.update(student)
    >>> teacher(torch.ones(1, 1)).item()
    0.25

    Use: `update` after the optimiser's step, on real steps only under gradient accumulation. Processes that start
    equal and update from synchronised weights hold the same teacher.
    Notes: the authors' code of DSSN averages counters and truncates them, and runs the teacher in train mode for the
    first epoch, so that it moves its own statistics; neither happens here. That of U2PL averages no buffers and
    normalises by the batch, which is norm="batch"; a layer with one value per channel then raises, as in training.
    Reference: Tarvainen and Valpola, Mean teachers are better role models, NeurIPS 2017, arXiv 1703.01780; Tian et
    al. (DSSN), ACM MM 2023, arXiv 2307.13938; Wang et al. (U2PL), CVPR 2022, arXiv 2203.03884.
    """

    def __init__(self, model: nn.Module, decay: float = 0.996, norm: str = "running"):
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"EMATeacher: `norm` must be one of {list(NORMS)}; got {norm!r}.")
        self.decay, self.norm = _checked_decay(decay), norm
        self.model = deepcopy(model).requires_grad_(False)
        for tensor in chain(self.model.parameters(), self.model.buffers()):
            if tensor.dtype in (torch.float16, torch.bfloat16):
                tensor.data = tensor.data.float()
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the averaged model says, without a graph."""
        with torch.no_grad():
            if self.norm == "running":
                return self.model(*args, **kwargs)
            with batch_statistics(self.model):
                return self.model(*args, **kwargs)

    def train(self, mode: bool = True) -> "EMATeacher":
        """Stay in eval mode, whatever is asked."""
        return super().train(False)

    @torch.no_grad()
    def update(self, model: nn.Module, decay: float | None = None) -> None:
        """Move towards the model.

        Args:
            model: the student, of the architecture that this teacher was made from.
            decay: instead of that of the constructor, this time; 0 copies the model exactly, as in a warm-up.
        """
        decay = self.decay if decay is None else _checked_decay(decay)
        mine, theirs = _tensors(self.model), _tensors(model)
        _check_same(mine, theirs)
        for name, average in mine.items():
            current = theirs[name].detach()
            if decay == 0 or not (average.is_floating_point() or average.is_complex()):
                average.copy_(current)
            else:
                average.lerp_(current.to(average), 1 - decay)

    def extra_repr(self) -> str:
        return f"decay={self.decay}, norm={self.norm!r}"


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name."""
    return dict(chain(model.named_parameters(), model.named_buffers()))


def _check_same(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for name in chain(mine, theirs):
        shapes = [str(tuple(found[name].shape)) if name in found else "nothing" for found in (mine, theirs)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"EMATeacher: `model` must be of the teacher's architecture; {name!r} is {shapes[0]} in the teacher "
                f"and {shapes[1]} in the model. Pass the student it was made from, unwrapped (model.module)."
            )


def _checked_decay(decay: float) -> float:
    if not 0 <= decay <= 1:
        raise ValueError(f"EMATeacher: `decay` must be in [0, 1]; got {decay!r}. Try 0.996.")
    return float(decay)
