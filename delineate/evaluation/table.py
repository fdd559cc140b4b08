"""An evaluation on the terminal: a table, what it does not show, and what its numbers mean."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from delineate.evaluation.evaluate import Evaluation
from delineate.evaluation.summary import Summary
from delineate.metrics import INSTANCE, UNITS

MANY = 4
"""Above this number of classes the table has a line per class, without intervals."""


def print_evaluation(found: Evaluation, title: str) -> None:
    """Print the means of the main metrics by class, with their intervals where the classes are few."""
    metrics = shown_metrics(found.summary, found.dims)
    table = Table(box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0), title=title, title_justify="left")
    if len(found.summary) > MANY:
        _fill_by_class(table, found.summary, metrics)
    else:
        _fill_by_metric(table, found.summary, metrics)
    Console().print(table)
    for line in (*remarks(found.summary, found.dims), *found.conventions, *found.notes):
        print(f"- {line}")


def print_whole(result: Mapping[str, Any], title: str) -> None:
    """Print the scores of one confusion matrix by class, and what they mean."""
    title = f"{title}: mIoU {_number(result['miou'])}"
    table = Table("class", box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0), title=title, title_justify="left")
    metrics = {"iou": "IoU", "dice": "Dice", "precision": "precision", "recall": "recall"}
    for word in metrics.values():
        table.add_column(word, justify="right")
    for name in result["iou"]:
        table.add_row(name, *(_number(result[metric][name]) for metric in metrics))
    Console().print(table)
    for line in result["conventions"]:
        print(f"- {line}")


def shown_metrics(summary: Mapping[str, Summary], dims: int) -> dict[str, str]:
    """The keys of the main metrics and their headings."""
    held = [key for one in summary.values() for key in one["metrics"]]
    percentile = next((key for key in held if key.startswith("hd") and key != "hd"), "hd")
    return {
        "dice": "Dice",
        percentile: percentile.upper(),
        "nsd": "NSD",
        "lesion_f1": f"{INSTANCE[dims]} F1",
        "lesion_sensitivity": f"{INSTANCE[dims]}s found",
        "false_positives": f"false {INSTANCE[dims]}s",
        "cc_dice": "CC-Dice",
        "pq": "PQ",
    }


def remarks(summary: Mapping[str, Summary], dims: int) -> list[str]:
    """Sentences on what means do not show: empty truths and predictions, and of few classes recall by size."""
    said = []
    for name, one in summary.items():
        if not one["metrics"]:
            said.append(f"{name}: in no truth and in no prediction; left out.")
            continue
        said += _remarks_on_empty(name, one, dims)
        if len(summary) <= MANY and (sizes := one["recall_by_size"]):
            bins = "; ".join(f"{size['found']}/{size['lesions']} of {_range(size)}" for size in sizes)
            words = f"{INSTANCE[dims]}s found by size in {UNITS[dims - 1]}, in the quartiles of all"
            said.append(f"{name}: {words}: {bins}.")
    return said


def _fill_by_metric(table: Table, summary: Mapping[str, Summary], metrics: Mapping[str, str]) -> None:
    for word in ("class", "metric", "mean", "95 % interval", "median", "n"):
        table.add_column(word, justify="left" if word in ("class", "metric") else "right")
    for name, one in summary.items():
        if not one["metrics"]:
            table.add_row(name, *"-----")
        for key, word in metrics.items():
            if (metric := one["metrics"].get(key)) is not None:
                ends = metric["interval"]
                interval = "-" if ends is None else f"[{_number(ends[0])}, {_number(ends[1])}]"
                shown = name if key == "dice" else ""
                table.add_row(
                    shown, word, _number(metric["mean"]), interval, _number(metric["median"]), str(metric["n"])
                )
        table.add_section()


def _fill_by_class(table: Table, summary: Mapping[str, Summary], metrics: Mapping[str, str]) -> None:
    for word in ("class", "cases", *metrics.values()):
        table.add_column(word, justify="left" if word == "class" else "right", no_wrap=word == "class")
    for name, one in summary.items():
        means = (one["metrics"].get(key, {}).get("mean") for key in metrics)
        table.add_row(name, str(one["cases"]), *(_number(mean, 2) for mean in means))
    table.caption, table.caption_justify = "means; their intervals are in metrics.json", "left"


def _remarks_on_empty(name: str, one: Summary, dims: int) -> list[str]:
    said, empty = [], one["empty_truth"]
    if one["one_empty"]:
        said.append(f"{name}: in {one['one_empty']} of {one['cases']} cases only one of truth and prediction is empty.")
    if empty["cases"]:
        left, dice = empty["left_empty"], one["metrics"]["dice"]["mean_where_true"]
        sentence = f"{name}: not in the truth of {empty['cases']} of {one['cases']} cases; {left} of these left empty"
        sentence += ", for a Dice of 1" if left else ""
        if left < empty["cases"]:
            sentence += f"; false {INSTANCE[dims]}s in the others: {empty['false_positives']}"
        said.append(f"{sentence}." + ("" if dice is None else f" Dice of the cases with it: {_number(dice)}."))
    return said


def _range(size: Mapping[str, Any]) -> str:
    return " to ".join(dict.fromkeys(f"{size[end]:g}" for end in ("low", "high")))


def _number(value: Any, digits: int = 3) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.{digits}f}"
