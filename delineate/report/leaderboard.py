"""The ranking of the losses, and what may honestly be said about it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from .few_labels import few_labels_verdict, grid
from .results import RARE_SHARE, Comparison, Run, Spread

COSTS = ("ms_per_step", "loss_ms", "peak_memory_mib")
LEVEL = 0.0005  # scores closer than this read the same in the table


def rare_iou(comparison: Comparison, run: Run) -> float | None:
    """Mean IoU of the rare classes that occur in the validation split."""
    mean = Spread.of(run.val.per_class["iou"][name] for name in comparison.data.rare) if run.val else None
    return mean.mean if mean else None


def leaderboard(comparison: Comparison) -> list[dict[str, Any]]:
    """One row per loss, ranked by mIoU (the mean over seeds); losses without a score come last, unranked.

    Keys: rank, loss, miou, miou_low, miou_high, mdice, rare_iou, ms_per_step, loss_ms, peak_memory_mib (means over
    seeds, None where unknown), finished, seeds (runs evaluated, runs planned) and status (text).
    """
    rows = [_row(comparison, loss) for loss in comparison.losses]
    rows.sort(key=lambda row: (row["miou"] is None, -(row["miou"] or 0.0)))
    for rank, row in enumerate(rows, start=1):
        row["rank"] = rank if row["miou"] is not None else None
    return rows


def _row(comparison: Comparison, loss: str) -> dict[str, Any]:
    miou = comparison.spread(loss, lambda run: run.val.miou if run.val else None)
    means = {
        "mdice": comparison.spread(loss, lambda run: run.val.mdice if run.val else None),
        "rare_iou": comparison.spread(loss, lambda run: rare_iou(comparison, run)),
    } | {key: comparison.spread(loss, lambda run, key=key: run.cost[key]) for key in COSTS}
    return {
        "rank": None,
        "loss": loss,
        "miou": miou.mean if miou else None,
        "miou_low": miou.low if miou else None,
        "miou_high": miou.high if miou else None,
        **{key: value.mean if value else None for key, value in means.items()},
        "finished": sum(run.val is not None for run in comparison.of(loss)),
        "seeds": len(comparison.seeds),
        "status": _status(comparison, loss),
    }


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


def verdict(comparison: Comparison) -> list[str]:
    """The result in a sentence, then what qualifies it."""
    if comparison.single:
        return [_outcome(comparison)]
    if found := grid(comparison):
        return few_labels_verdict(found, comparison.data.name) + _gaps(comparison)
    ranked = [row for row in leaderboard(comparison) if row["rank"]]
    sentences = [_winner(comparison, ranked)]
    if len(ranked) > 1:
        sentences.append(_chance(ranked[0], ranked[1]))
    rare = max((row for row in ranked if row["rare_iou"] is not None), key=lambda row: row["rare_iou"], default=None)
    if rare and len(ranked) > 1:
        count = len(comparison.data.rare)
        which = f"the {count} classes" if count > 1 else "the class"
        place = f"On {which} below {RARE_SHARE:g} % of the training {comparison.data.element}s, "
        sentences.append(place + f"{rare['loss']} has the highest mean IoU, {rare['rare_iou']:.3f}.")
    return sentences + _gaps(comparison)


def _gaps(comparison: Comparison) -> list[str]:
    """What is missing, a sentence each."""
    sentences, scored = [], comparison.scored()
    if unscored := [loss for loss in comparison.losses if scored and loss not in scored]:
        # names of arms hold commas
        sentences.append(f"Without a score: {('; ' if comparison.few_labels else ', ').join(unscored)}.")
    if comparison.status == "interrupted":
        planned = len(comparison.losses) * len(comparison.seeds)
        finished = sum(run.status == "finished" for run in comparison.runs)
        sentences.append(f"The comparison was interrupted: {finished} of {planned} runs finished.")
    return sentences


def _outcome(comparison: Comparison) -> str:
    run = comparison.runs[0]
    if run.val is None or run.val.miou is None:
        return f"This run was not evaluated ({run.status})."
    return f"{run.title} reaches a validation mIoU of {run.val.miou:.3f} on {comparison.data.name}."


def _winner(comparison: Comparison, ranked: list[dict[str, Any]]) -> str:
    name = comparison.data.name
    if not ranked:
        return f"No loss was evaluated on {name}."
    best = ranked[0]
    if len(ranked) == 1:
        return f"Only {best['loss']} was evaluated on {name}: validation mIoU {best['miou']:.3f}."
    lead = best["miou"] - ranked[1]["miou"]
    if lead < LEVEL:
        return (
            f"{best['loss']} and {ranked[1]['loss']} are level on {name}, at a validation mIoU of {best['miou']:.3f}."
        )
    place = f"{lead:.3f} above {ranked[1]['loss']}"
    return f"{best['loss']} has the highest validation mIoU on {name}: {best['miou']:.3f}, {place}."


def _chance(first: dict[str, Any], second: dict[str, Any]) -> str:
    """Whether the order of the first two could be an accident of the seed."""
    if min(first["finished"], second["finished"]) < 2:
        return (
            "With one seed the order may be chance: differences between seeds are commonly larger than between losses."
        )
    ranges = " against ".join(f"{row['miou_low']:.3f} to {row['miou_high']:.3f}" for row in (first, second))
    if first["miou_low"] <= second["miou_high"]:
        return f"Over the seeds the two overlap ({ranges}), so their order is not settled."
    return f"Over the seeds the two do not overlap ({ranges}); {second['finished']} seeds are still few."
