"""The leaderboard as cells, and which of its losses differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .analysis import Pair, analyse
from .few_labels import arm_series
from .filters import minus
from .leaderboard import leaderboard
from .results import RARE_SHARE, Comparison


@dataclass(frozen=True)
class Column:
    """A column of the leaderboard; `better` is +1 where more is better, -1 where less is, 0 where neither."""

    key: str
    title: str
    unit: str
    digits: int
    better: int


@dataclass(frozen=True)
class Cell:
    """A number as shown and as sorted, and whether it is the best of its column or row."""

    text: str
    value: float | None
    best: bool


@dataclass(frozen=True)
class PairCell:
    """A loss against another one: difference in points, its interval, the corrected p, and whether it is shown."""

    points: str
    interval: str
    p: str
    shown: bool


def cells(values: list[float | None], digits: int, better: int) -> list[Cell]:
    """The values as cells; those that read like the best are marked, unless all read alike.

    >>> [(cell.text, cell.best) for cell in cells([0.31, None, 0.312, 0.2], 2, 1)]
    [('0.31', True), ('–', False), ('0.31', True), ('0.20', False)]
    """
    texts = ["–" if value is None else f"{value:.{digits}f}" for value in values]
    known = {float(text): text for text in texts if text != "–"}
    best = known[max(known, key=lambda number: better * number)] if better and len(known) > 1 else None
    return [Cell(text, value, text == best) for text, value in zip(texts, values, strict=True)]


def columns(comparison: Comparison) -> tuple[Column, ...]:
    """The measure that decides, then the others and what training costs."""
    found, word = analyse(comparison), comparison.data.object_word
    several = len(comparison.seeds) > 1
    unit = "with its 95 % interval" if found else "mean, range over seeds" if several else "mean over classes"
    known = (found.deciding.key, "mdice") if found else ("miou",)
    every = (
        Column("score", found.deciding.title if found else "mIoU", unit, 3, 1),
        Column("miou", "mIoU", "mean over classes", 3, 1),
        Column("dice", "Dice by case", "mean over cases", 3, 1),
        Column("f1", f"{word} F1 by case", "mean over cases", 3, 1),
        Column("mdice", "mean Dice", "over classes", 3, 1),
        Column("rare_iou", "rare IoU", f"classes <\u00a0{RARE_SHARE:g}\u00a0%", 3, 1),
        Column("ms_per_step", "time", "ms per step", 1, -1),
        Column("loss_ms", "loss alone", "ms per step", 2, -1),
        Column("peak_memory_mib", "peak memory", "MiB", 0, -1),
        Column("gradient_norm", "gradient norm", "times the first", 2, 0),
    )
    return tuple(column for column in every if column.key not in known)


def board(comparison: Comparison) -> dict[str, Any]:
    """The leaderboard: what decides, the columns that hold anything, and rows of cells in rank order."""
    rows = leaderboard(comparison)
    _relative(rows, comparison)
    every = columns(comparison)
    shown = [column for column in every if any(row[column.key] is not None for row in rows)]
    table = [cells([row[column.key] for row in rows], column.digits, column.better) for column in shown]
    ends = [row["score"] if row["score_high"] is None else min(row["score_high"], 1.0) for row in rows if row["rank"]]
    top = max(ends, default=0.0) or 1.0
    series, tested = arm_series(comparison), analyse(comparison) is not None
    for row in rows:
        row["index"] = comparison.losses.index(row["loss"])
        row["color"] = series[row["index"]].variable
        row["bar"] = [100 * min(max(row[key] or 0.0, 0.0), top) / top for key in ("score", "score_low", "score_high")]
        row["spread"] = _spread(row, tested)
    return {
        "decides": every[0].title,
        "columns": shown,
        "rows": list(zip(rows, zip(*table, strict=True) if table else [()] * len(rows), strict=True)),
    }


def _relative(rows: list[dict[str, Any]], comparison: Comparison) -> None:
    """Gradient norms as multiples of that of the first loss named; none where there is nothing to compare."""
    norms = {row["loss"]: row["gradient_norm"] for row in rows if row["gradient_norm"]}
    first = next((norms[loss] for loss in comparison.losses if loss in norms), None)
    for row in rows:
        row["gradient_norm"] = norms[row["loss"]] / first if first and row["loss"] in norms and len(norms) > 1 else None


def _spread(row: dict[str, Any], tested: bool) -> str:
    """The 95 % interval of a score as far as scores go, or its range over seeds; empty where there is neither."""
    low, high = row["score_low"], row["score_high"]
    if low is None or high is None or not (tested or row["finished"] > 1):
        return ""
    return f"[{max(low, 0):.3f}, {min(high, 1):.3f}]" if tested else f"{low:.3f}–{high:.3f}"


def pair_matrix(comparison: Comparison) -> dict[str, Any] | None:
    """Each loss against every lower one on the measure that decides; None where there are no two to compare.

    Rows are the losses by rank but the last, columns those but the first; cells on and below the diagonal are None.
    """
    found = analyse(comparison)
    if found is None or len(found.ranked) < 2:
        return None
    ranked = [(comparison.losses.index(loss), loss) for loss in found.ranked]
    rows = [
        (
            index,
            loss,
            [
                pair_cell(found.pair(found.deciding.key, loss, other)) if place <= column else None
                for column, (_, other) in enumerate(ranked[1:])
            ],
        )
        for place, (index, loss) in enumerate(ranked[:-1])
    ]
    seeds = max((pair.difference.seeds for pair in found.pairs[found.deciding.key]), default=0)
    return {"columns": ranked[1:], "rows": rows, "measure": found.deciding.title, "one_seed": seeds < 2}


def pair_cell(pair: Pair | None) -> PairCell:
    """Two losses in a few characters."""
    if pair is None:
        return PairCell("–", "", "", False)
    ends = pair.difference.interval
    interval = "" if ends is None else minus("[{:.1f}, {:.1f}]".format(*(100 * end for end in ends)))
    return PairCell(minus(f"{100 * pair.difference.mean:+.1f}"), interval, p_text(pair.p), pair.shown)


def p_text(p: float | None) -> str:
    """A corrected p-value.

    >>> p_text(0.0004), p_text(0.0214), p_text(1.0), p_text(None)
    ('p < 0.001', 'p 0.021', 'p 1', '')
    """
    if p is None:
        return ""
    return "p < 0.001" if p < 0.001 else "p 1" if p > 0.9995 else f"p {p:.3f}"
