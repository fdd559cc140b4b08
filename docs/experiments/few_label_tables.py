"""Tables of a comparison of few labels, with intervals over seeds, as markdown.

    python docs/experiments/few_label_tables.py RUNS [PAGE]

RUNS is the folder that `delineate compare --semi ...` wrote. The tables are printed, or written into PAGE between its
two lines `<!-- table -->`.
"""

import argparse
from pathlib import Path

from comparison_tables import write_between_markers

from delineate.report import Run, read_results
from delineate.report.few_labels import Grid, Interval, Outcome, grid
from delineate.report.leaderboard import rare_iou
from delineate.report.results import RARE_SHARE, Comparison, Spread, read_curves

NOTES = (
    "± is half the 95 % t interval of the mean over seeds of training: the labelled images and the start are "
    "the same for all. In brackets the difference to `supervised`, seed by seed, with the 95 % t interval of its mean."
)


def text(interval: Interval | None, sign: str = "") -> str:
    """A mean with half its interval; - where there is none.

    >>> text(Interval(0.05, 0.01, 3), "+"), text(Interval(0.5, None, 1)), text(None)
    ('+.050 ± .010', '.500', '-')
    """
    if interval is None:
        return "-"
    mean = f"{interval.mean:{sign}.3f}".replace("0.", ".", 1)
    return mean if interval.half is None else f"{mean} ± {interval.half:.3f}".replace("± 0.", "± .")


def scores(found: Grid) -> list[str]:
    """mIoU of the last student by method and share."""
    return _table(found, lambda outcome: f"{text(outcome.miou)}{_difference(outcome)}")


def networks(found: Grid) -> list[str]:
    """mIoU of student and teacher, of the last and of the best epoch on val, means over seeds."""
    return _table(found, _networks)


def rare_classes(comparison: Comparison, found: Grid) -> list[str]:
    """Mean IoU of the rare classes, of the last student."""
    return _table(found, lambda outcome: text(_over(outcome, lambda run: rare_iou(comparison, run))))


def kept(found: Grid, stream: str) -> list[str]:
    """Share of the valid voxels whose label was kept in a stream: the mean of the first and of the last epoch."""
    return _table(found, lambda outcome: _first_and_last(outcome, f"train/kept/{stream}"))


def cost(found: Grid) -> list[str]:
    """Median milliseconds of a step."""
    return _table(found, lambda outcome: _whole(_over(outcome, lambda run: run.cost["ms_per_step"])))


def tables(comparison: Comparison) -> str:
    """All tables."""
    found = grid(comparison)
    if found is None:
        raise SystemExit(f"{comparison.folder}: expected a comparison of few labels, made with compare --semi.")
    parts = [
        ("mIoU of the student after the last epoch", scores(found)),
        (
            "mIoU of student (last, best epoch) and teacher (last, best epoch); the best was chosen on val",
            networks(found),
        ),
        (f"Mean IoU of the classes below {RARE_SHARE:g} % of the labelled pixels", rare_classes(comparison, found)),
        ("Share of the labels kept in the first strong stream, first and last epoch", kept(found, "strong0")),
        ("ms a step, two runs at a time", cost(found)),
    ]
    return "\n\n".join([f"{title}:\n\n" + "\n".join(lines) for title, lines in parts] + [NOTES])


def _table(found: Grid, cell) -> list[str]:
    plan = found.plan
    heads = [f"{found.label(share)} ({plan.labelled[share]} images)" for share in found.shares]
    rows = [[f"`{row.name}`", *(cell(row.outcomes[share]) for share in found.shares)] for row in found.rows]
    return [f"| {' | '.join(cells)} |" for cells in (["method", *heads], ["---"] * (1 + len(heads)), *rows)]


def _difference(outcome: Outcome) -> str:
    return f" ({text(outcome.difference, '+')})" if outcome.difference else ""


def _over(outcome: Outcome, number) -> Interval | None:
    return Interval.of(value for run in outcome.runs if run.val and (value := number(run)) is not None)


def _networks(outcome: Outcome) -> str:
    numbers = [
        outcome.network(name, number) for name in ("student", "teacher") for number in ("last_miou", "best_miou")
    ]
    return ", ".join(_short(number) for number in numbers if number) or "-"


def _short(spread: Spread) -> str:
    return f"{spread.mean:.3f}".replace("0.", ".", 1)


def _first_and_last(outcome: Outcome, column: str) -> str:
    means = [_means(run, column) for run in outcome.runs]
    ends = [(found[0], found[-1]) for found in means if found]
    return " → ".join(f"{sum(values) / len(values):.2f}" for values in zip(*ends, strict=True)) if ends else "-"


def _means(run: Run, column: str) -> list[float]:
    """The means of a column by epoch."""
    curves = read_curves(run.folder / "metrics.csv")
    epochs = dict(curves("step", "epoch"))
    by_epoch: dict[float, list[float]] = {}
    for step, value in curves("step", column):
        by_epoch.setdefault(epochs[step], []).append(value)
    return [sum(values) / len(values) for _, values in sorted(by_epoch.items())]


def _whole(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.mean:.0f}"


def main(arguments: list[str] | None = None) -> None:
    """Print the tables, or write them into a page."""
    parser = argparse.ArgumentParser(description="Tables of a comparison of few labels, as markdown.")
    parser.add_argument("runs", type=Path)
    parser.add_argument("page", type=Path, nargs="?")
    given = parser.parse_args(arguments)
    written = tables(read_results(given.runs))
    if given.page:
        write_between_markers(given.page, written)
    else:
        print(written)


if __name__ == "__main__":
    main()
