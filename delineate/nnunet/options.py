"""What a training with nnU-Net is given, as text: on the command line, or in environment variables."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from delineate.losses import parse

TRAINER = "nnUNetTrainerDelineate"
SCHEDULES = ("poly", "cosine", "constant")
READABLE = 48
"""Characters of the expression in the name of a folder."""


@dataclass(frozen=True)
class Options:
    """The loss, and how long and how fast is learnt; all but the loss are nnU-Net's own by default.

    Args:
        loss: expression such as "Dice + 0.5*TopK(k=0.1)"; kept as `parse` writes it, with aliases written out.
        epochs: how many.
        iterations: steps of an epoch; its validation takes a fifth as many, at least one.
        schedule: of the learning rate, from epoch to epoch: "poly" (power 0.9), "cosine" or "constant".
        lr: learning rate of the first epoch.

    Raises:
        ValueError: in one line, for an expression that cannot be read and numbers out of range.

    >>> Options("DiceCE", epochs=50).folder()
    'nnUNetTrainerDelineate-Dice+CrossEntropy-epochs=50-77439a'
    """

    loss: str
    epochs: int = 1000
    iterations: int = 250
    schedule: str = "poly"
    lr: float = 0.01

    def __post_init__(self) -> None:
        object.__setattr__(self, "loss", parse(self.loss).expression())
        for name in ("epochs", "iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{_named(name)}: expected a whole number of at least 1; got {getattr(self, name)}.")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"{_named('schedule')}: expected {' or '.join(SCHEDULES)}; got {self.schedule!r}.")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"{_named('lr')}: expected a finite number above 0; got {self.lr}.")

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> "Options":
        """The options that environment variables hold: DELINEATE_LOSS, and where they are set DELINEATE_EPOCHS ..."""
        given = {
            field.name: variables[variable(field.name)] for field in fields(cls) if variable(field.name) in variables
        }
        if "loss" not in given:
            raise ValueError(f'{_named("loss")}: expected an expression such as "Dice + CE"; it is not set.')
        return cls(**{name: _number(name, text) for name, text in given.items()})

    def variables(self) -> dict[str, str]:
        """The environment variables that hold these options."""
        return {variable(name): str(value) for name, value in asdict(self).items()}

    def folder(self, trainer: str = TRAINER) -> str:
        """What stands for the trainer in the name of the results' folder, and after -tr of `nnUNetv2_predict`.

        No two options have the same.
        """
        changed = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        readable = re.sub(r"[^\w.+=,-]|_(?=_)", "", changed.pop("loss").replace("(", "-").replace("*", "x"))[:READABLE]
        digest = hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:6]
        return "-".join([trainer, readable, *(f"{name}={value}" for name, value in changed.items()), digest])


def variable(name: str) -> str:
    """The environment variable of an option."""
    return f"DELINEATE_{name.upper()}"


def _number(name: str, text: str) -> Any:
    """The value of an option, from its text."""
    kind = {"epochs": int, "iterations": int, "lr": float}.get(name, str)
    try:
        return kind(text)
    except ValueError:
        expected = "a whole number" if kind is int else "a number"
        raise ValueError(f"{_named(name)}: expected {expected}; got {text!r}.") from None


def _named(name: str) -> str:
    return f"--{name} ({variable(name)})"
