"""The page: what the template shows, and writing it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .few_labels import Grid, Interval, arm_series, grid, signed, steps
from .figures import class_dots, loss_curves, miou_curves, share_curves
from .leaderboard import leaderboard, verdict
from .overlays import WRONG, gallery
from .results import METRICS, RARE_SHARE, Comparison, Run, Spread, read_results
from .series import DARK, LIGHT, Series

TITLES = {"iou": "IoU", "dice": "Dice", "precision": "Precision", "recall": "Recall"}


NETWORKS = ("student", "teacher")
NUMBERS = ("last_miou", "best_miou", "best_epoch")
FLATTERS = (
    "“Best” chose the epoch on these same validation images and therefore flatters; only the last epoch was not chosen."
)
SAME_IMAGES = (
    "The labelled images of a share are the same for all seeds and methods: intervals are over seeds of training, not "
    "over choices of labelled images."
)
OF_ONE_ARM = ("semi", "labeled", "steps", "protocol")
"""Entries of the budget that hold for the first arm of few labels alone; facts tell them of all."""


@dataclass(frozen=True)
class Column:
    """A column of the leaderboard; `better` is +1 where more is better, -1 where less is."""

    key: str
    title: str
    unit: str
    digits: int
    better: int


COLUMNS = (
    Column("miou", "mIoU", "mean over classes", 3, 1),
    Column("mdice", "mean Dice", "over classes", 3, 1),
    Column("rare_iou", "rare IoU", f"classes < {RARE_SHARE:g} %", 3, 1),
    Column("ms_per_step", "time", "ms per step", 1, -1),
    Column("loss_ms", "loss alone", "ms per step", 2, -1),
    Column("peak_memory_mib", "peak memory", "MiB", 0, -1),
)


@dataclass(frozen=True)
class Cell:
    """A number as shown and as sorted, and whether it is the best of its column or row."""

    text: str
    value: float | None
    best: bool


def cells(values: list[float | None], digits: int, better: int) -> list[Cell]:
    """The values as cells; those that read like the best are marked, unless all read alike.

    >>> [(cell.text, cell.best) for cell in cells([0.31, None, 0.312, 0.2], 2, 1)]
    [('0.31', True), ('–', False), ('0.31', True), ('0.20', False)]
    """
    texts = ["–" if value is None else f"{value:.{digits}f}" for value in values]
    known = {float(text): text for text in texts if text != "–"}
    best = known[max(known, key=lambda number: better * number)] if len(known) > 1 else None
    return [Cell(text, value, text == best) for text, value in zip(texts, values, strict=True)]


def board(comparison: Comparison) -> dict[str, Any]:
    """The leaderboard: the columns that hold anything, and rows of cells in rank order."""
    rows = leaderboard(comparison)
    columns = [column for column in COLUMNS if any(row[column.key] is not None for row in rows)]
    table = [cells([row[column.key] for row in rows], column.digits, column.better) for column in columns]
    top = max((row["miou_high"] for row in rows if row["miou"] is not None), default=0.0) or 1.0
    series = arm_series(comparison)
    for row in rows:
        row["index"] = comparison.losses.index(row["loss"])
        row["color"] = series[row["index"]].variable
        row["bar"] = [100 * (row[key] or 0.0) / top for key in ("miou", "miou_low", "miou_high")]
    return {
        "columns": columns,
        "rows": list(zip(rows, zip(*table, strict=True) if table else [()] * len(rows), strict=True)),
    }


def class_tables(comparison: Comparison) -> list[dict[str, Any]]:
    """A table per metric: the classes by training share, a cell per evaluated loss."""
    losses = comparison.scored()
    tables = []
    for metric in METRICS:
        rows = []
        for name in comparison.data.by_share:
            spreads = [comparison.class_spread(loss, metric, name) for loss in losses]
            numbers = cells([spread.mean if spread else None for spread in spreads], 2, 1)
            rows.append(
                {"name": name, "rare": name in comparison.data.rare, "cells": list(zip(numbers, spreads, strict=True))}
            )
        tables.append({"title": TITLES[metric], "rows": rows})
    return tables if losses else []


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


def kept(claim: bool | None, identical: bool | None, what: str) -> str:
    """Whether something was the same for all losses: as the comparison states it, checked by fingerprints."""
    if identical is False:
        return f"No: the fingerprints of the {what} differ between runs of the same seed."
    if not claim:
        return "No." if claim is False else "Not recorded."
    return f"Yes; the fingerprints of the {what} agree." if identical else "Yes, as recorded; no fingerprints to check."


def conditions(comparison: Comparison) -> list[tuple[str, str]]:
    """What the numbers rest on, as terms and descriptions."""
    data = comparison.data
    ignored = "none" if data.ignore_index is None else f"label {data.ignore_index}, left out of loss and metrics"
    memory = {run.cost["memory"] for run in comparison.runs if run.cost["memory"]}
    few = grid(comparison)
    facts = [
        ("Data", f"{data.root} ({data.layout})"),
        *(few_labels_facts(few) if few else [("Trained on", f"{data.train_images} images")]),
        ("Measured on", f"{data.val_images} images of the split “{data.split}”"),
        ("Classes", f"{len(data.classes)}; ignored: {ignored}"),
        ("Peak memory", "; ".join(sorted(memory)) or "not recorded"),
    ]
    if not comparison.single:
        for title, key, prints, what in (
            ("Same start", "same_start", "initial_weights", "initial weights"),
            ("Same batches", "same_batches", "batches", "batches"),
        ):
            facts.append((title, kept(comparison.claims[key], comparison.identical(prints), what)))
    return facts


def plain(value: Any) -> str:
    """A value of a JSON file as text.

    >>> plain([160, 224]), plain(None), plain(0.001)
    ('160 × 224', 'none', '0.001')
    """
    if isinstance(value, list):
        return " × ".join(map(plain, value))
    return "none" if value is None else str(value)


def signed_text(difference: Interval) -> str:
    """As `signed`, with the minus sign of print."""
    return signed(difference).replace("-", "\u2212")


def breakable(name: str) -> Markup:
    """A name that may go on in the next line after an opening bracket, an underscore or an equals sign.

    >>> breakable("a(b_c=<0>)")
    Markup('a(<wbr>b_<wbr>c=<wbr>&lt;0&gt;)')
    """
    return Markup("<wbr>").join(re.split(r"(?<=[(_=])", name))


def render(comparison: Comparison) -> str:
    """The whole page."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["plain"] = plain
    environment.filters["signed"] = signed_text
    environment.filters["breakable"] = breakable
    series = arm_series(comparison)
    environment.globals["chip"] = lambda index: Markup(series[index].chip)
    environment.globals["method_chip"] = lambda index: Markup(Series(index).chip)
    scored = [run.val for run in comparison.runs if run.val]
    curved = {run.loss for run in comparison.runs if run.val_miou}
    few = grid(comparison)
    budget = {key: value for key, value in comparison.budget.items() if not few or key not in OF_ONE_ARM}
    template = environment.get_template("report.html")
    return template.render(
        c=comparison,
        data=comparison.data,
        budget=budget,
        few=few_labels_view(few) if few else None,
        word="method" if few else "loss",
        networks=networks_of_run(comparison),
        flatters=FLATTERS,
        board=board(comparison),
        verdict=verdict(comparison),
        tables=class_tables(comparison),
        scored=[(comparison.losses.index(loss), loss) for loss in comparison.scored()],
        curved=[(index, loss) for index, loss in enumerate(comparison.losses) if loss in curved],
        miou_curves=Markup(miou_curves(comparison) or ""),
        loss_curves=[(index, Markup(svg)) for index, svg in loss_curves(comparison)],
        class_dots=Markup(class_dots(comparison) or ""),
        gallery=gallery(comparison),
        conditions=conditions(comparison),
        conventions=list(dict.fromkeys(line for scores in scored for line in scores.conventions)),
        rare_share=RARE_SHARE,
        wrong="rgb({} {} {})".format(*WRONG),
        light=LIGHT,
        dark=DARK,
    )


def write_report(folder: Path) -> Path:
    """Read the results in `folder`, a comparison or a run, and write them as one page, `report.html`, beside them."""
    page = render(read_results(folder))
    temporary = folder / f".report-{os.getpid()}.tmp"
    temporary.write_text(page, encoding="utf-8")
    path = folder / "report.html"
    os.replace(temporary, path)
    return path
