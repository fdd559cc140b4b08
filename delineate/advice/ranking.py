"""Which rules fire on a data set, and in which order."""

import shlex
from dataclasses import dataclass

from delineate.advice.measures import Measured
from delineate.advice.rules import BASELINES, RULES, Rule, baseline
from delineate.data.statistics import Statistics
from delineate.losses import parse

MOST = 4
"""Losses that `auto_losses` names."""


@dataclass(frozen=True)
class Advice:
    """One loss to try.

    Args:
        rule: name of the rule that fired.
        loss: expression that `delineate.losses.parse` reads.
        figure: the number that fired it, in words.
        value: that number.
        why: what speaks for the loss.
        fails: when it fails, and when not to use it.
        source: where the rule is from.
        command: a line for the shell that compares the loss with the baseline, or the baseline with its alternative.
    """

    rule: str
    loss: str
    figure: str
    value: float
    why: str
    fails: str
    source: str
    command: str


def advise(found: Statistics, data: str) -> tuple[Advice, ...]:
    """Losses worth trying on a data set: the baseline, then the others by strength.

    Args:
        found: its figures.
        data: its folder, as commands name it.
    """
    measured = [(rule, rule.measure(found)) for rule in RULES]
    fired = [(rule, number) for rule, number in measured if number is not None and rule.fires(number.value)]
    fired.sort(key=lambda row: (row[0] not in BASELINES, -row[0].strength(row[1].value)))
    return tuple(_advice(rule, number, found, data) for rule, number in fired)


def auto_losses(found: Statistics) -> list[str]:
    """What `compare --losses auto` trains: the baseline and the strongest other losses, four at most."""
    losses: dict[str, str] = {}
    for advice in advise(found, "DATA"):
        losses.setdefault(parse(advice.loss).expression(), advice.loss)
    return list(losses.values())[:MOST]


def _advice(rule: Rule, measured: Measured, found: Statistics, data: str) -> Advice:
    loss = rule.loss if isinstance(rule.loss, str) else rule.loss(found)
    losses = ["CE", "Dice + CE"] if loss == baseline(found) else [baseline(found), loss]
    command = shlex.join(["delineate", "compare", data, "--losses", *losses])
    return Advice(rule.name, loss, measured.words, measured.value, rule.why, rule.fails, rule.source, command)
