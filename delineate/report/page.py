"""The page: what the template shows, and writing it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from markupsafe import Markup

from .analysis import analyse
from .board import board, pair_matrix
from .choices import rates, reasons
from .classes import class_tables, first_tested, foremost
from .definitions import definitions
from .few_labels import Grid, arm_series, grid
from .few_labels_tables import FLATTERS, few_labels_facts, few_labels_view, networks_of_run
from .figures import loss_curves, miou_curves
from .filters import environment, plain
from .gradients import gradients
from .intervals import class_dots, cost_scatter, size_panels, size_unit
from .overlays import WRONG, gallery
from .results import RARE_SHARE, Comparison, read_results
from .series import DARK, LIGHT, Series
from .verdict import verdict

OF_ONE_ARM = ("semi", "labeled", "steps", "protocol")
"""Entries of the budget that hold for the first arm of few labels alone; facts tell them of all."""
OF_FEW_LABELS = ("semi", "labeled", "unlabeled", "protocol")
"""Entries that say nothing where every image is labelled."""


def kept(claim: bool | None, identical: bool | None, what: str) -> str:
    """Whether something was the same for all losses: as the comparison states it, checked by fingerprints."""
    if identical is False:
        return f"No: the fingerprints of the {what} differ between runs of the same seed."
    if not claim:
        return "No." if claim is False else "Not recorded."
    return f"Yes; the fingerprints of the {what} agree." if identical else "Yes, as recorded; no fingerprints to check."


def conditions(comparison: Comparison) -> list[tuple[str, str]]:
    """What the numbers rest on, as terms and descriptions."""
    data, found = comparison.data, analyse(comparison)
    ignored = "none" if data.ignore_index is None else f"label {data.ignore_index}, left out of loss and metrics"
    memory = {run.cost["memory"] for run in comparison.runs if run.cost["memory"]}
    few = grid(comparison)
    facts = [
        ("Data", f"{data.root} ({data.layout})"),
        *(few_labels_facts(few) if few else [("Trained on", _images(data.train_images))]),
        ("Measured on", f"{_images(data.val_images)} of the split “{data.split}”"),
        ("Classes", f"{len(data.classes)}; ignored: {ignored}"),
        *([("Decided by", f"{found.deciding.title}, after the last epoch of each training")] if found else []),
        *_time_budget(comparison),
        ("Peak memory", "; ".join(sorted(memory)) or "not recorded"),
    ]
    if not comparison.single:
        for title, key, prints, what in (
            ("Same start", "same_start", "initial_weights", "initial weights"),
            ("Same batches", "same_batches", "batches", "batches"),
        ):
            facts.append((title, kept(comparison.claims[key], comparison.identical(prints), what)))
    return facts


def _images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"


def _time_budget(comparison: Comparison) -> list[tuple[str, str]]:
    budget = comparison.time_budget
    if budget is None:
        return []
    text = f"{plain(budget.get('asked'))} for all trainings together allowed {plain(budget.get('epochs'))} epochs each"
    return [("Time budget", text)]


def budget(comparison: Comparison, few: Grid | None) -> dict[str, Any]:
    """What every loss was given; the learning rate where it was the same for all."""
    hidden = OF_ONE_ARM if few else OF_FEW_LABELS
    found = {key: value for key, value in comparison.budget.items() if key not in hidden}
    return found | ({"lr": "chosen for each loss"} if comparison.sweep else {})


def render(comparison: Comparison) -> str:
    """The whole page."""
    templates = environment()
    series, few = arm_series(comparison), grid(comparison)
    templates.globals["chip"] = lambda index: Markup(series[index].chip)
    templates.globals["method_chip"] = lambda index: Markup(Series(index).chip)
    template = templates.get_template("report.html")
    return template.render(
        c=comparison,
        data=comparison.data,
        budget=budget(comparison, few),
        few=few_labels_view(few) if few else None,
        word="method" if few else "loss",
        words="methods" if few else "losses",
        networks=networks_of_run(comparison),
        flatters=FLATTERS,
        tested=analyse(comparison) is not None,
        board=board(comparison),
        pairs=pair_matrix(comparison),
        verdict=verdict(comparison),
        **_classes(comparison),
        **_figures(comparison),
        worst=gallery(comparison, comparison.worst),
        gallery=gallery(comparison, [name for name in comparison.samples if name not in comparison.worst]),
        gradients=gradients(comparison),
        reasons=reasons(comparison),
        rates=rates(comparison),
        conditions=conditions(comparison),
        conventions=list(dict.fromkeys(line for run in comparison.runs if run.val for line in run.val.conventions)),
        definitions=[] if comparison.single else definitions(comparison),
        rare_share=RARE_SHARE,
        wrong="rgb({} {} {})".format(*WRONG),
        light=LIGHT,
        dark=DARK,
    )


def _classes(comparison: Comparison) -> dict[str, Any]:
    """The tables class by class: those unfolded, and those of all classes."""
    names = comparison.data.by_share
    unfolded = foremost(comparison)
    return {
        "unfolded": class_tables(comparison, unfolded)[:1],
        "all_unfolded": len(unfolded) == len(names),
        "tables": class_tables(comparison, names),
        "first": first_tested(comparison),
        "class_dots": Markup(class_dots(comparison, unfolded) or ""),
    }


def _figures(comparison: Comparison) -> dict[str, Any]:
    """The figures, and which losses are in them."""
    curved = {run.loss for run in comparison.runs if run.val_miou}
    return {
        "scored": [(comparison.losses.index(loss), loss) for loss in comparison.scored()],
        "curved": [(index, loss) for index, loss in enumerate(comparison.losses) if loss in curved],
        "miou_curves": Markup(miou_curves(comparison) or ""),
        "loss_curves": [(index, Markup(svg)) for index, svg in loss_curves(comparison)],
        "cost": Markup(cost_scatter(comparison) or ""),
        "sizes": [(name, Markup(svg)) for name, svg in size_panels(comparison)],
        "size_unit": size_unit(comparison),
    }


def write_report(folder: Path) -> Path:
    """Read the results in `folder`, a comparison or a run, and write them as one page, `report.html`, beside them."""
    page = render(read_results(folder))
    temporary = folder / f".report-{os.getpid()}.tmp"
    temporary.write_text(page, encoding="utf-8")
    path = folder / "report.html"
    os.replace(temporary, path)
    return path
