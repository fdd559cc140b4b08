"""What the command line prints: tables, and the progress of long work."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from delineate.report import Comparison, Grid, analyse, leaderboard

SCORES = {"mdice": "Dice", "rare_iou": "rare IoU", "f1": "F1"}
"""Columns beside the score that decides."""
LOSS_WIDTH = 16


def leaderboard_table(found: Comparison) -> Table:
    """Losses by the score that decides, with its 95 % interval where there is one; names are no markup."""
    rows, analysis = leaderboard(found), analyse(found)
    decides = analysis.deciding.title if analysis else "mIoU"
    scores = {key: title for key, title in SCORES.items() if any(row[key] is not None for row in rows)}
    names = ["loss", decides, "95 %", *scores.values(), "ms/step", "MiB"]
    names += ["status"] if any(row["status"] != "finished" for row in rows) else []
    table = Table(box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(name, justify="left" if name in ("loss", "status") else "right", no_wrap=name != "loss")
    table.columns[0].min_width = LOSS_WIDTH
    for row in rows:
        ends = analysis and row["score_low"] is not None
        interval = f"{row['score_low']:.2f}-{row['score_high']:.2f}" if ends else "-"
        costs = [_number(row["ms_per_step"], 1), _number(row["peak_memory_mib"], 0)]
        cells = [_number(row["score"]), interval, *(_number(row[key]) for key in scores), *costs, row["status"]]
        table.add_row(Text(row["loss"]), *cells[: len(names) - 1])
    return table


def few_labels_table(few: Grid) -> Table:
    """mIoU of the last student with half its interval over seeds; names come from the user, and are no markup."""
    table = Table(box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("method, mIoU", overflow="fold")
    for share in few.shares:
        table.add_column(Text(f"{few.label(share)} ({few.plan.labelled[share]})"), justify="right")
    for row in few.rows:
        texts = []
        for share in few.shares:
            outcome = row.outcomes.get(share)
            miou = outcome.miou if outcome else None
            half = f" ±{miou.half:.3f}" if miou and miou.half is not None else ""
            missing = f" ({outcome.missing})" if outcome and outcome.missing else ""
            texts.append(f"{_number(miou.mean if miou else None)}{half}{missing}")
        table.add_row(Text(row.name), *texts)
    return table


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


@contextmanager
def progress(what: str) -> Iterator[Any]:
    """A bar on a terminal, silence in a pipe: yields update(done, total)."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
