"""The ranking of the losses, with their scores and costs."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from .analysis import analyse
from .results import Comparison, Run, Spread

COSTS = ("loss_ms", "peak_memory_mib")
BY_CASE = ("dice", "f1")
"""Measures that are means over cases."""


def rare_iou(comparison: Comparison, run: Run) -> float | None:
    """Mean IoU of the rare classes that occur in the validation split."""
    mean = Spread.of(run.val.per_class["iou"][name] for name in comparison.data.rare) if run.val else None
    return mean.mean if mean else None


def leaderboard(comparison: Comparison) -> list[dict[str, Any]]:
    """One row per loss, ranked by the score that decides (the mean over seeds); losses without one come last, unranked.

    Keys: rank, loss, score with score_low and score_high (its 95 % interval, where runs hold no cases the range over
    seeds), miou, dice and f1 by case, mdice, rare_iou, ms_per_step, loss_ms, peak_memory_mib, gradient_norm (means over
    seeds, None where unknown), finished, seeds (runs evaluated, runs planned) and status (text).
    """
    rows = [_row(comparison, loss) for loss in comparison.losses]
    rows.sort(key=lambda row: (row["score"] is None, -(row["score"] or 0.0)))
    for rank, row in enumerate(rows, start=1):
        row["rank"] = rank if row["score"] is not None else None
    return rows


def _row(comparison: Comparison, loss: str) -> dict[str, Any]:
    miou = comparison.spread(loss, lambda run: run.val.miou if run.val else None)
    found = analyse(comparison)
    score = (miou.mean, miou.low, miou.high) if miou and not found else (None, None, None)
    by_case: dict[str, float | None] = dict.fromkeys(BY_CASE)
    if found and loss in found.scores[found.deciding.key]:
        decides = found.scores[found.deciding.key][loss]
        ends = [min(max(end, 0.0), 1.0) for end in decides.interval or ()]  # a score is never outside
        score = (decides.mean, *(ends or (None, None)))
    if found:
        by_case = {key: of[loss].mean if (of := found.scores.get(key, {})) and loss in of else None for key in BY_CASE}
    means = {
        "mdice": comparison.spread(loss, lambda run: run.val.mdice if run.val else None),
        "rare_iou": comparison.spread(loss, lambda run: rare_iou(comparison, run)),
    } | {key: comparison.spread(loss, lambda run, key=key: run.cost[key]) for key in COSTS}
    means["gradient_norm"] = comparison.spread(loss, lambda run: run.gradient_norm)
    return {
        "rank": None,
        "loss": loss,
        **dict(zip(("score", "score_low", "score_high"), score, strict=True)),
        "miou": miou.mean if miou else None,
        **by_case,
        **{key: value.mean if value else None for key, value in means.items()},
        **_time(comparison, loss),
        "finished": sum(run.val is not None for run in comparison.of(loss)),
        "seeds": len(comparison.seeds),
        "status": _status(comparison, loss),
    }


def _time(comparison: Comparison, loss: str) -> dict[str, float | None]:
    """Of a step, and of the loss alone as it was timed in turns."""
    timed = {"loss_ms": comparison.loss_ms[loss]} if loss in comparison.loss_ms else {}
    return {"ms_per_step": comparison.step_ms(loss), **timed}


def _status(comparison: Comparison, loss: str) -> str:
    """`finished`, or how far it came and the first thing that stopped it."""
    runs = comparison.of(loss)
    stopped = [f"{run.status}: {run.error}" if run.error else run.status for run in runs if run.status != "finished"]
    if len(runs) < len(comparison.seeds):
        stopped.append("not run")
    if not stopped:
        return "finished"
    finished = sum(run.status == "finished" for run in runs)
    return f"{finished} of {len(comparison.seeds)} seeds; {stopped[0]}" if len(comparison.seeds) > 1 else stopped[0]


def write_leaderboard_csv(comparison: Comparison, path: Path) -> Path:
    """Write the rows of `leaderboard` as CSV, unrounded; an unknown number is an empty cell."""
    rows = leaderboard(comparison)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
