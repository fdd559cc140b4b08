"""What the command line prints: tables, and the progress of long work."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from delineate.data import Source, Statistics
from delineate.report import Comparison, Grid, leaderboard


def leaderboard_table(found: Comparison) -> Table:
    rows = leaderboard(found)
    names = ["loss", "mIoU", "Dice", "rare IoU", "ms/step", "loss ms", "peak MiB"]
    names += ["status"] if any(row["status"] != "finished" for row in rows) else []
    table = Table(box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(name, justify="left" if name in ("loss", "status") else "right", no_wrap=name != "loss")
    for row in rows:
        scores = [_number(row[key]) for key in ("miou", "mdice", "rare_iou")]
        costs = [_number(row[key], 1) for key in ("ms_per_step", "loss_ms", "peak_memory_mib")]
        table.add_row(*[row["loss"], *scores, *costs, row["status"]][: len(names)])
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


def print_statistics(source: Source, found: Statistics) -> None:
    sizes = dict.fromkeys("x".join(f"{side:g}" for side in found.image_sizes[key]) for key in ("min", "max"))
    held = ", ".join(f"{name} {len(items)}" for name, items in source.splits.items())
    print(f"{source.root}: {source.layout} layout, {source.dims}D, {len(source.classes)} classes; images: {held}")
    unit = "pixels" if source.dims == 2 else "voxels"
    apart = "" if source.dims == 2 else f" voxels of {'x'.join(f'{step:g}' for step in found.spacing)} mm (median)"
    of_sizes, void = f"{found.images} images of {' to '.join(sizes)}{apart}", f"void {found.void_share:.2f} %"
    print(f"split {found.split}: {of_sizes}; {void} of all {unit}")
    table = Table(box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("class", "share %", "absent", "instances", "per image", "smallest", "median", "largest"):
        table.add_column(name, justify="left" if name == "class" else "right", no_wrap=True)
    for row in found.classes:
        sizes = [f"{row.instance_sizes[key]:.0f}" for key in ("min", "50%", "max")] if row.instance_sizes else ["-"] * 3
        counts = [f"{row.share:.2f}", str(row.absent), str(row.instances), f"{row.instances_per_image['50%']:g}"]
        table.add_row(row.name, *counts, *sizes)
    Console().print(table)
    print(f"commonest to rarest class: {found.imbalance:.0f} : 1")
    print("absent: images without the class")
    print(f"instances: {found.connectivity}-connected components; per image: their median number; sizes in {unit}")
    for note in source.notes:
        print(f"note: {note}")


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
