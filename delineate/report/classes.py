"""Scores class by class, with a mark where a class is shown to be better or worse than with the first loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .analysis import Analysis, analyse
from .board import Cell, cells, pair_cell
from .results import METRICS, Comparison

TITLES = {"iou": "IoU", "dice": "Dice", "precision": "Precision", "recall": "Recall"}
MOST = 24
"""Classes that are shown unfolded."""
FOREMOST = 12
"""Of more classes, those shown unfolded."""


@dataclass(frozen=True)
class Mark:
    """That a class is shown to be better (`up`) or worse than with the first loss."""

    up: bool
    text: str


@dataclass(frozen=True)
class ClassRow:
    """A class: for every evaluated loss its number, None where it is absent, and its mark."""

    name: str
    rare: bool
    cells: list[tuple[Cell | None, Mark | None]]


def class_tables(comparison: Comparison, names: list[str]) -> list[dict[str, Any]]:
    """A table per metric: the classes in the order given, a cell per evaluated loss, marks for IoU."""
    losses = comparison.scored()
    tables = []
    for metric in METRICS:
        rows = []
        for name in names:
            spreads = [comparison.class_spread(loss, metric, name) for loss in losses]
            numbers = cells([spread.mean if spread else None for spread in spreads], 2, 1)
            marks = [mark(comparison, loss, name) if metric == "iou" else None for loss in losses]
            shown = [number if spread else None for number, spread in zip(numbers, spreads, strict=True)]
            rows.append(ClassRow(name, name in comparison.data.rare, list(zip(shown, marks, strict=True))))
        tables.append({"title": TITLES[metric], "rows": rows})
    return tables if losses else []


def first_tested(comparison: Comparison) -> str | None:
    """The loss that classes are marked against: the first named one with counts of its cases."""
    found = analyse(comparison)
    return next((loss for loss in comparison.losses if found and loss in found.ranked), None)


def mark(comparison: Comparison, loss: str, name: str) -> Mark | None:
    """The mark of a loss at a class; None where nothing is shown."""
    found, first = analyse(comparison), first_tested(comparison)
    pair = found.pair(f"iou/{name}", loss, first) if found and first and loss != first else None
    if pair is None or not pair.shown:
        return None
    up, told = pair.difference.mean > 0, pair_cell(pair)
    return Mark(up, f"{'better' if up else 'worse'} than {first}: {told.points} points {told.interval}, {told.p}")


def foremost(comparison: Comparison) -> list[str]:
    """The classes that are shown unfolded, by training share: all, or those in which the losses differ most.

    Of many, classes with a difference that is shown come before the others, and then the larger difference.
    """
    names = comparison.data.by_share
    if len(names) <= MOST:
        return names
    found = analyse(comparison)
    chosen = sorted(names, key=lambda name: (not _told(found, name), -_gap(comparison, name)))[:FOREMOST]
    return [name for name in names if name in chosen]


def _told(found: Analysis | None, name: str) -> bool:
    return found is not None and any(pair.shown for pair in found.class_pairs.get(f"iou/{name}", []))


def _gap(comparison: Comparison, name: str) -> float:
    """From the lowest mean IoU to the highest."""
    spreads = [comparison.class_spread(loss, "iou", name) for loss in comparison.scored()]
    means = [spread.mean for spread in spreads if spread]
    return max(means, default=0.0) - min(means, default=0.0)
