"""What was chosen before the trainings: the losses by rules on the data, learning rates by short trainings."""

from __future__ import annotations

from dataclasses import dataclass

from .record import Record
from .results import Comparison

ADVICE = ("rule", "loss", "figure", "why", "fails", "source", "command")
COMPARISON = "compare.json"


@dataclass(frozen=True)
class Rate:
    """A learning rate tried with a loss: its score as text, None where the loss did not stay finite."""

    score: str | None
    chosen: bool


@dataclass(frozen=True)
class RateRow:
    """A loss with what each rate scored, and at which end of the range the chosen one is, empty where at none."""

    index: int
    loss: str
    rates: list[Rate]
    end: str


@dataclass(frozen=True)
class Rates:
    """The learning rates tried, in ascending order, with epochs of each training and images held out."""

    rates: list[str]
    epochs: int
    images: int
    rows: list[RateRow]


def reasons(comparison: Comparison) -> list[dict[str, str]]:
    """Why these losses: the texts of each rule that fired; empty where the user named the losses."""
    path, found = comparison.folder / COMPARISON, []
    for place, entries in enumerate(comparison.advice):
        if not isinstance(entries, dict):
            raise ValueError(f"{path}: expected 'advice' to be a list of objects, got {entries!r}")
        record = Record(path, entries, f"advice[{place}].")
        found.append({key: record.get(key, str) for key in ADVICE})
    return found


def rates(comparison: Comparison) -> Rates | None:
    """The learning rates tried for each loss; None where there was no search."""
    if comparison.sweep is None:
        return None
    record = Record(comparison.folder / COMPARISON, comparison.sweep, "sweep.")
    tried = [float(rate) for rate in record.get("rates", list)]
    order = sorted(range(len(tried)), key=lambda place: tried[place])
    arms = record.section("arms")
    rows = [
        _row(index, loss, arms.section(loss), tried, order)
        for index, loss in enumerate(comparison.losses)
        if loss in arms.entries
    ]
    texts = [f"{tried[place]:g}" for place in order]
    return Rates(texts, record.get("epochs", int), record.get("images", int), rows)


def _row(index: int, loss: str, record: Record, tried: list[float], order: list[int]) -> RateRow:
    scores, chosen = record.get("scores", list), record.get("chosen", float)
    if len(scores) != len(tried):
        raise ValueError(f"{record.path}: expected '{record.prefix}scores' to hold {len(tried)}, got {len(scores)}")
    row = [Rate(None if scores[p] is None else f"{scores[p]:.3f}", tried[p] == chosen) for p in order]
    end = "lowest" if row[0].chosen else "highest" if row[-1].chosen else ""
    return RateRow(index, loss, row, end)
