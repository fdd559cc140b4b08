"""`Loss`, the one base of all losses, and `Sum`, what `+` and `*` build.

**Absent classes** (region losses). A class is absent from a sample when no valid voxel of positive weight carries it.
`absent="skip"` (default) leaves it out of the mean over classes. A sample in which no scored class is present, and
every absent class under `absent="count"`, costs its false-positive rate instead: the mean probability over the
voxels, 0 when nothing is predicted, 1 when everything is, with the gradient 1 / voxels everywhere. The papers are
silent here, and their formulae give a constant without gradient, so that hallucinations would be free.

**Reduction.** `"none"` is one value per sample, (N,), for every loss; `"sum"` is its sum. `"mean"` of a region loss is
the mean over the samples that are not fully ignored; of a loss by voxel it is the mean over the voxels of the batch,
as in torch. `pool="batch"` adds the counts of the samples before the formula is applied; `"none"` then repeats the
one value. Fully ignored samples have the value 0. An empty batch, and one that is ignored altogether, is 0.0 with a
graph.
"""

import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from math import isfinite
from numbers import Integral, Real
from typing import Any, TypedDict, cast

import torch
from torch import Tensor, nn

from delineate.losses.inputs import Inputs, Need, places
from delineate.target import Target

MODES = ("softmax", "sigmoid")
REDUCTIONS = ("mean", "sum", "none")
ABSENT = ("skip", "count")


class Common(TypedDict, total=False):
    """Constructor arguments common to all losses; see `Loss`."""

    mode: str
    ignore_index: int | None
    class_weight: Sequence[float] | Tensor | None
    classes: Sequence[int] | None
    reduction: str


def counted_classes(present: Tensor, scored: Tensor, absent: str) -> Tensor:
    """What enters the mean over classes: the policy for absent classes, stated at the top of this file.

    Args:
        present: where the formula applies, and not the false-positive rate in its stead: by row (a sample, or the
            pooled batch) and class, (R, C) bool.
        scored: which classes are scored, (C,) bool.
        absent: "skip" or "count".

    Shape: (R, C) bool.
    """
    if absent == "count":
        return scored.expand_as(present)
    here = present & scored
    return torch.where(here.any(1, keepdim=True), here, scored)


class Loss(nn.Module, ABC):
    """What all losses have in common: call it as `loss(logits, target, weight=None)`.

    Args:
        mode: "softmax" (exclusive classes, C >= 2) or "sigmoid" (independent channels, C >= 1: binary, multilabel).
        ignore_index: label value of voxels that take no part; a value, never a channel. None: all take part.
        class_weight: C numbers >= 0. Losses by voxel multiply the terms of voxels labelled c; region losses take the
            weighted mean over classes. Its length is C whatever `classes` says.
        classes: the classes that are scored; None scores all. Applied after the activation.
        reduction: "mean", "sum" or "none".

    Shape: logits (N, C, *S), one to three spatial dims, never probabilities; target (N, *S) or (N, 1, *S) of any
        integer dtype or bool, or a dense float map (N, C, *S) in [0, 1], or a `Target` of these; weight (N, *S) at
        least 0 -> () or, with reduction="none", (N,). float32, or float64 for float64 logits.

    Raises:
        ValueError: naming the argument, what was expected, what was given and the remedy.
    """

    needs: tuple[Need, ...] = ()
    """What the formula needs of the pass over the logits beyond the plain sums."""
    takes_losses = False
    """Whether the constructor takes losses by position, as wrappers do."""
    class_weight: Tensor | None

    def __init__(
        self,
        *,
        mode: str = "softmax",
        ignore_index: int | None = None,
        class_weight: Sequence[float] | Tensor | None = None,
        classes: Sequence[int] | None = None,
        reduction: str = "mean",
    ):
        super().__init__()
        self.mode = self._option("mode", mode, MODES)
        self.reduction = self._option("reduction", reduction, REDUCTIONS)
        self.ignore_index = None if ignore_index is None else self._integer("ignore_index", ignore_index)
        self.classes = None if classes is None else self._checked_classes(classes)
        self.register_buffer("class_weight", None if class_weight is None else self._checked_weights(class_weight))

    def forward(self, logits: Tensor, target: Tensor | Target, weight: Tensor | None = None) -> Tensor:
        inputs = Inputs(type(self).__name__, logits, target, weight, self.needs)
        value = self.compute(inputs)
        return value if logits.dtype == torch.float64 else value.float()

    @abstractmethod
    def compute(self, inputs: Inputs) -> Tensor:
        """The loss of checked inputs, reduced."""

    def values(self, inputs: Inputs) -> list[Tensor]:
        """The weighted terms, whose sum is the loss: of a loss that is no sum, itself."""
        return [self.compute(inputs)]

    def names(self) -> list[str]:
        """Texts of the terms."""
        return [self.expression()]

    def parts(self, logits: Tensor, target: Tensor | Target, weight: Tensor | None = None) -> dict[str, Tensor]:
        """The weighted terms by their text, from one shared pass: their sum is the loss."""
        inputs = Inputs(type(self).__name__, logits, target, weight, self.needs)
        return dict(zip(self.names(), self.values(inputs), strict=True))

    @property
    def all_alike(self) -> bool:
        """Whether all classes are scored, and weigh the same."""
        return self.classes is None and self.class_weight is None

    def scored(self, channels: int, device: torch.device) -> Tensor:
        """Which classes are scored, (C,) bool."""
        if self.classes is None:
            return torch.ones(channels, dtype=torch.bool, device=device)
        if max(self.classes) >= channels:
            raise ValueError(
                f"{type(self).__name__}: `classes` must be in 0..{channels - 1} to match {channels} channels; got "
                f"{list(self.classes)}. Name channels of the logits."
            )
        nothing = torch.zeros(channels, dtype=torch.bool, device=device)
        return nothing.index_fill_(0, places(sorted(self.classes), device), True)

    def class_weights(self, channels: int, device: torch.device) -> Tensor:
        """Weight of each class, (C,) float64: `class_weight`, 0 for classes that are not scored."""
        if self.class_weight is None:
            return self.scored(channels, device).double()
        if len(self.class_weight) != channels:
            raise ValueError(
                f"{type(self).__name__}: `class_weight` must have one value per channel, {channels}; got "
                f"{len(self.class_weight)}. Its length is C whatever `classes` says."
            )
        weights = self.class_weight.double()
        return weights if self.classes is None else weights * self.scored(channels, device)

    def reduce(self, values: Tensor, valid: Tensor | None) -> Tensor:
        """Values by sample (N,) and which samples count, (N,) or None for all -> the reduced loss."""
        values = values if valid is None else values * valid
        if self.reduction == "none":
            return values
        total = values.sum()
        if self.reduction == "sum":
            return total
        return total / (max(len(values), 1) if valid is None else valid.sum().clamp_min(1))

    def __add__(self, other: "Loss") -> "Sum":
        return Sum([(1.0, self), (1.0, other)]) if isinstance(other, Loss) else NotImplemented

    def __mul__(self, factor: float) -> "Sum":
        return Sum([(factor, self)]) if isinstance(factor, Real) else NotImplemented

    __rmul__ = __mul__

    @classmethod
    def name(cls) -> str:
        """The name in expressions: the class name without `Loss`."""
        return cls.__name__.removesuffix("Loss")

    def expression(self) -> str:
        """Text that `parse` turns into an equal loss; arguments at their defaults are left out."""
        given = []
        for name, parameter in arguments(type(self)).items():
            value = getattr(self, name)
            if isinstance(value, Tensor):
                value = [float(str(number)) for number in value.cpu().numpy()]
            if value != parameter.default:
                given.append(f"{name}={list(value) if isinstance(value, tuple) else value!r}")
        return f"{self.name()}({', '.join(given)})" if given else self.name()

    def __repr__(self) -> str:
        return self.expression()

    def _option(self, argument: str, value: str, allowed: Sequence[str]) -> str:
        if value not in allowed:
            raise ValueError(f"{type(self).__name__}: `{argument}` must be one of {list(allowed)}; got {value!r}.")
        return value

    def _flag(self, argument: str, value: bool) -> bool:
        if not isinstance(value, bool):
            raise ValueError(f"{type(self).__name__}: `{argument}` must be True or False; got {value!r}.")
        return value

    def _integer(self, argument: str, value: Any, low: int | None = None) -> int:
        if not isinstance(value, Integral) or isinstance(value, bool) or (low is not None and value < low):
            bound = "" if low is None else f" of at least {low}"
            raise ValueError(f"{type(self).__name__}: `{argument}` must be an integer{bound}; got {value!r}.")
        return int(value)

    def _number(
        self,
        argument: str,
        value: Any,
        low: float,
        high: float = sys.float_info.max,
        *,
        above: bool = False,
        below: bool = False,
    ) -> float:
        """A finite number in [low, high]; not `low` itself with `above`, not `high` itself with `below`."""
        inside = _is_number(value) and low <= value <= high
        if inside and not (above and value == low) and not (below and value == high):
            return value if type(value) is int else float(value)
        bounds = f"{'above' if above else 'at least'} {low:g}"
        bounds += f" and {'below' if below else 'at most'} {high:g}" if high < sys.float_info.max else ""
        raise ValueError(f"{type(self).__name__}: `{argument}` must be a finite number {bounds}; got {value!r}.")

    def _checked_classes(self, classes: Sequence[int]) -> tuple[int, ...]:
        found = tuple(classes) if isinstance(classes, Iterable) else ()
        numbers = all(isinstance(c, Integral) and not isinstance(c, bool) and c >= 0 for c in found)
        if not found or not numbers or len(set(found)) < len(found):
            raise ValueError(
                f"{type(self).__name__}: `classes` must be distinct channel numbers >= 0, at least one; got "
                f"{classes!r}. Write classes=[1, 2], or None for all."
            )
        return tuple(int(c) for c in found)

    def _checked_weights(self, values: Sequence[float] | Tensor) -> Tensor:
        try:
            weights = torch.as_tensor(values, dtype=torch.float32).detach().clone()
        except (TypeError, ValueError, RuntimeError):
            weights = torch.empty(0)
        if weights.ndim != 1 or not (weights >= 0).all() or not weights.isfinite().all() or not weights.any():
            raise ValueError(
                f"{type(self).__name__}: `class_weight` must be C finite numbers >= 0, not all zero; got {values!r}. "
                "Write class_weight=[1.0, 2.0], one number per channel."
            )
        return weights


class Sum(Loss):
    """A weighted sum of losses, from `a + 0.5 * b`. The terms share one pass over the logits.

    Args:
        terms: pairs of a factor and a loss; sums among them are flattened.

    >>> from delineate.losses import CrossEntropyLoss, DiceLoss
    >>> DiceLoss() + 0.5 * CrossEntropyLoss()
    Dice + 0.5*CrossEntropy
    """

    def __init__(self, terms: Iterable[tuple[float, Loss]]):
        flat = [pair for factor, loss in terms for pair in _flatten(factor, loss)]
        super().__init__(reduction=one_reduction("Sum", [loss for _, loss in flat]))
        self.factors = tuple(factor for factor, _ in flat)
        self.terms = nn.ModuleList(loss for _, loss in flat)
        self.needs = all_needs(loss for _, loss in flat)

    def compute(self, inputs: Inputs) -> Tensor:
        return torch.stack(self.values(inputs)).sum(0)

    def values(self, inputs: Inputs) -> list[Tensor]:
        found = [(factor, loss.compute(inputs).double()) for factor, loss in self.pairs()]
        return [value if factor == 1 else factor * value for factor, value in found]

    def names(self) -> list[str]:
        return [_term(factor, loss) for factor, loss in self.pairs()]

    def pairs(self) -> list[tuple[float, Loss]]:
        """Factors and terms."""
        return [(factor, cast(Loss, loss)) for factor, loss in zip(self.factors, self.terms, strict=True)]

    def expression(self) -> str:
        return " + ".join(self.names())


def all_needs(losses: Iterable[Loss]) -> tuple[Need, ...]:
    """What any of the losses needs of the pass, each once, in an order that does not depend on theirs."""
    return tuple(sorted({need for loss in losses for need in loss.needs}, key=repr))


def one_reduction(name: str, losses: Sequence[Loss]) -> str:
    """The `reduction` that all terms of a sum have."""
    for loss in losses:
        if not isinstance(loss, Loss):
            raise ValueError(
                f"{name}: every term must be a Loss; got {type(loss).__name__}. Write a + 0.5 * b with losses."
            )
    found = {loss.reduction for loss in losses}
    if len(found) != 1:
        raise ValueError(
            f"{name}: all terms must have the same `reduction`; got {sorted(found)}. Construct them alike."
        )
    return found.pop()


def _flatten(factor: float, loss: Loss) -> list[tuple[float, Loss]]:
    if not isinstance(loss, Loss):
        raise ValueError(f"Sum: every term must be a Loss; got {type(loss).__name__}. Write a + 0.5 * b with losses.")
    if _is_number(factor) and abs(factor) <= sys.float_info.max:
        flat = [(float(factor) * f, term) for f, term in (loss.pairs() if isinstance(loss, Sum) else [(1.0, loss)])]
        if all(isfinite(f) for f, _ in flat):
            return flat
    raise ValueError(f"Sum: the factor of a loss must be a finite number; got {factor!r} times {loss!r}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _term(factor: float, loss: Loss) -> str:
    number = int(factor) if factor == int(factor) else factor
    return loss.expression() if number == 1 else f"{number!r}*{loss.expression()}"


def arguments(cls: type) -> dict[str, inspect.Parameter]:
    """Constructor arguments of a loss by name: its own, then those it passes on to its bases."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if issubclass(base, Loss) and "__init__" in base.__dict__:
            parameters = inspect.signature(base.__init__).parameters
            named = {name: p for name, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
            found |= {name: p for name, p in named.items() if name not in found}
            if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
                break
    return found
