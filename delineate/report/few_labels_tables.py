"""What the section of few labels shows, as rows of texts."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from .board import cells
from .few_labels import Grid, steps
from .figures import share_curves
from .results import Comparison, Run, Spread

NETWORKS = ("student", "teacher")
NUMBERS = ("last_miou", "best_miou", "best_epoch")
FLATTERS = (
    "“Best” chose the epoch on these same validation images and therefore flatters; only the last epoch was not chosen."
)
SAME_IMAGES = (
    "The labelled images of a share are the same for all seeds and methods: intervals are over seeds of training, not "
    "over choices of labelled images."
)


def score_table(found: Grid) -> list[dict[str, Any]]:
    """A row per method: by share the mean with half its interval, the difference, and which seeds are missing."""
    columns = []
    for share in found.shares:
        outcomes = [row.outcomes.get(share) for row in found.rows]
        mious = [outcome.miou if outcome else None for outcome in outcomes]
        numbers = cells([miou.mean if miou else None for miou in mious], 3, 1)
        columns.append(list(zip(numbers, mious, outcomes, strict=True)))
    return [{"row": row, "cells": line} for row, line in zip(found.rows, zip(*columns, strict=True), strict=True)]


def network_text(runs: list[Run], name: str) -> tuple[str, str, str]:
    """mIoU of the student or the teacher after the last and the best epoch, means over runs, and which epochs those."""
    last, best, epoch = (
        Spread.of(getattr(run.networks[name], number) for run in runs if name in run.networks) for number in NUMBERS
    )
    texts = ["–" if spread is None else f"{spread.mean:.3f}" for spread in (last, best)]
    if epoch is None:
        return texts[0], texts[1], ""
    which = f"epoch {epoch.low:.0f}" if epoch.low == epoch.high else f"epochs {epoch.low:.0f}–{epoch.high:.0f}"
    return texts[0], texts[1], which


def network_table(found: Grid) -> list[list[tuple[int, str, list[tuple[str, str, str]]]]]:
    """By share, a row per method: index, name, and the texts of student and teacher; empty where no run tells them."""
    outcomes = [outcome for row in found.rows for outcome in row.outcomes.values()]
    if not any(run.networks for outcome in outcomes for run in outcome.runs):
        return []
    return [
        [
            (index, row.name, [network_text(row.outcomes[share].runs, name) for name in NETWORKS])
            for index, row in enumerate(found.rows)
            if share in row.outcomes
        ]
        for share in found.shares
    ]


def networks_of_run(comparison: Comparison) -> list[tuple[str, ...]]:
    """Student and teacher of a single run of few labels, with their texts; empty of any other."""
    run = comparison.runs[0] if comparison.single else None
    if run is None or run.semi is None:
        return []
    return [(name, *network_text([run], name)) for name in NETWORKS if name in run.networks]


def few_labels_view(found: Grid) -> dict[str, Any]:
    """What the section of few labels shows."""
    rows = found.rows
    return {
        "shares": [(share, found.label(share), found.plan.labelled[share]) for share in found.shares],
        "baseline": any(row.baseline for row in rows),
        "table": score_table(found),
        "networks": network_table(found),
        "figure": Markup(share_curves(found) or ""),
        "drawn": [(index, row.name) for index, row in enumerate(rows) if any(o.scores for o in row.outcomes.values())],
    }


def few_labels_facts(found: Grid) -> list[tuple[str, str]]:
    """Protocol of the labelled images, and how many of either kind there are at each share."""
    facts = [("Labelled part", f"protocol: {found.plan.protocol or 'not recorded'}. {SAME_IMAGES}")]
    for share in found.shares:
        text = f"{found.plan.labelled[share]} labelled and {found.plan.unlabelled[share]} unlabelled images"
        if taken := steps(found, share):
            alike = taken.low == taken.high
            text += f"; {taken.low:.0f} steps in every run" if alike else f"; {taken.low:.0f} to {taken.high:.0f} steps"
        facts.append((f"At {found.label(share)}", text))
    return facts
