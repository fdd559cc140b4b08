"""Sums of losses whose factors change while training goes on: by plan, or by what the terms cost."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from delineate.losses.inputs import Inputs
from delineate.losses.loss import Loss, all_needs, one_reduction


class Schedule(Loss):
    """A weighted sum whose factors move in straight lines from `start` to `end`, epoch by epoch.

        sum_k f_k loss_k,    f_k = start_k + (end_k - start_k) min(1, epoch / epochs)

    Args:
        terms: the losses, at least one. They share one pass over the logits.
        start, end: the factors at epoch 0 and from epoch `epochs` on, one number for each term.
        epochs: at least 1.

    Shape: see `Loss`.

    >>> from delineate.losses import CrossEntropyLoss, DiceLoss
    >>> loss = Schedule(CrossEntropyLoss(), DiceLoss(), start=[1, 0], end=[0, 1], epochs=10)
    >>> loss.set_epoch(5)
    >>> loss.factors().tolist()
    [0.5, 0.5]

    Notes: call `set_epoch` at the beginning of each epoch; `delineate train` does. The epoch is a buffer: it is saved
    with the state, and a change of it does not compile anew. Meant for losses that are only stable beside another at
    first, such as losses of distances to a boundary.
    """

    takes_losses = True
    epoch: Tensor

    def __init__(self, *terms: Loss, start: Sequence[float], end: Sequence[float], epochs: int):
        super().__init__(reduction=one_reduction(type(self).__name__, terms))
        self.terms = nn.ModuleList(terms)
        self.needs = all_needs(terms)
        self.start, self.end = self._factors("start", start), self._factors("end", end)
        self.epochs = self._integer("epochs", epochs, low=1)
        self.register_buffer("epoch", torch.tensor(0.0, dtype=torch.float64))

    def set_epoch(self, epoch: float) -> None:
        """Say how far training is, in epochs since its beginning."""
        self.epoch.fill_(self._number("epoch", epoch, 0))

    def factors(self) -> Tensor:
        """The factors of now, one for each term, float64."""
        way = (self.epoch / self.epochs).clamp_max(1)
        return torch.stack([start + (end - start) * way for start, end in zip(self.start, self.end, strict=True)])

    def values(self, inputs: Inputs) -> list[Tensor]:
        found = [term.compute(inputs).double() for term in self.terms]  # pyright: ignore[reportCallIssue]
        return [factor * value for factor, value in zip(self.factors(), found, strict=True)]

    def names(self) -> list[str]:
        return [term.expression() for term in self.terms]  # pyright: ignore[reportCallIssue]

    def compute(self, inputs: Inputs) -> Tensor:
        return torch.stack(self.values(inputs)).sum(0)

    def expression(self) -> str:
        plan = f"start={list(self.start)}, end={list(self.end)}, epochs={self.epochs}"
        return f"Schedule({', '.join(self.names())}, {plan})"

    def _factors(self, argument: str, values: Sequence[float]) -> tuple[float, ...]:
        if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != len(self.terms):
            raise ValueError(
                f"Schedule: `{argument}` must be one number for each of the {len(self.terms)} terms; got {values!r}. "
                f"Write {argument}=[1.0, ...]."
            )
        largest = torch.finfo(torch.float64).max
        return tuple(self._number(argument, value, -largest) for value in values)


class Balanced(Loss):
    """Two losses of which the first is brought to the size of the second.

        sg(second / first) first + second,     sg: without a gradient

    Args:
        terms: the two losses. They share one pass over the logits.

    Shape: see `Loss`.

    >>> from delineate.losses import DiceLoss, HausdorffDTLoss
    >>> loss = Balanced(DiceLoss(), HausdorffDTLoss())
    >>> logits, target = torch.randn(1, 2, 8, 8), torch.randint(0, 2, (1, 8, 8))
    >>> first, second = loss.parts(logits, target).values()
    >>> torch.isclose(first, second).item()
    True

    Notes: the factor is one number, the ratio of the sums over the samples; 0 where the first loss is 0. For losses of
    distances, whose size grows with the image, beside a region loss: `DiceHD` in expressions is this, as in the code of
    Ma et al.
    Reference: Ma et al., Loss odyssey in medical image segmentation, MedIA 71, 2021.
    """

    takes_losses = True

    def __init__(self, *terms: Loss):
        super().__init__(reduction=one_reduction(type(self).__name__, terms))
        if len(terms) != 2:
            raise ValueError(f"Balanced: expected two losses; got {len(terms)}. Write Balanced(Dice, HausdorffDT).")
        self.terms = nn.ModuleList(terms)
        self.needs = all_needs(terms)

    def values(self, inputs: Inputs) -> list[Tensor]:
        first, second = [term.compute(inputs).double() for term in self.terms]  # pyright: ignore[reportCallIssue]
        size, wanted = first.detach().sum(), second.detach().sum()
        return [torch.where(size != 0, wanted / torch.where(size != 0, size, 1), 0) * first, second]

    def names(self) -> list[str]:
        return [term.expression() for term in self.terms]  # pyright: ignore[reportCallIssue]

    def compute(self, inputs: Inputs) -> Tensor:
        return torch.stack(self.values(inputs)).sum(0)

    def expression(self) -> str:
        return f"Balanced({', '.join(self.names())})"
