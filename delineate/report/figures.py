"""Learning curves, the per-class dot plot and mIoU by labelled share, as inline SVG in the font of the page."""

from __future__ import annotations

import io
import re
import warnings
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .few_labels import Grid, Outcome, Row, arm_series
from .results import RARE_SHARE, Comparison, Run, Spread
from .series import INK, MUTED, PAPER, RULE, SHADE, Series, themed

ZERO = 0.005  # an IoU below this reads 0.00 in the tables
SLOT = 12  # points of height for one loss in one class row
DODGE = 10  # points between the methods at one labelled share
AXIS, TICK = 385, 68  # points along the axis of labelled shares, and what the label of a share needs
BLOCKS = 160  # a longer training curve is averaged in this many blocks
FONT: dict[Any, Any] = {
    "font.size": 11,
    "axes.edgecolor": RULE,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.linewidth": 1,
}
METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An axes of the house style on a figure of this many points."""
    with mpl.rc_context(FONT):
        figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
        axes = figure.subplots()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an SVG element, the same bytes for the same data; `name` keeps its ids apart from the others'."""
    text = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the browser draws the text, in a font that has the glyph
        figure.savefig(text, format="svg", metadata=METADATA, transparent=True)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<defs>\s*<style.*?</defs>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(
        r' width="([\d.]+)pt" height="[\d.]+pt"', rf' role="img" aria-label="{label}" width="\1"', svg, count=1
    )
    svg = re.sub(r"font-family: [^;]*; ", "", svg)
    return themed(re.sub(r'<g id="[^"]*">', "<g>", svg))


def miou_curves(comparison: Comparison) -> str | None:
    """Validation mIoU against epochs: the mean over seeds, with their range as a band."""
    figure, axes = _figure(600, 290)
    drawn = False
    for series, loss in zip(arm_series(comparison), comparison.losses, strict=True):
        points: dict[float, list[float]] = {}
        for run in comparison.of(loss):
            for epoch, value in run.val_miou:
                points.setdefault(epoch, []).append(value)
        if points:
            drawn = True
            _curve(axes, series, {epoch: Spread.of(points[epoch]) for epoch in sorted(points)})
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10, min_n_ticks=1))
    axes.set_xlabel("epochs trained", color=MUTED)
    axes.set_title("validation mIoU", loc="left", color=INK, fontsize=12)
    return _svg(figure, "miou", "validation mIoU by epoch") if drawn else None


def _curve(axes: Axes, series: Series, spreads: dict[float, Spread | None]) -> None:
    mean, low, high = zip(
        *((spread.mean, spread.low, spread.high) for spread in spreads.values() if spread), strict=True
    )
    axes.fill_between(list(spreads), low, high, color=series.color, alpha=0.14, linewidth=0)
    style = {"marker": series.marker, "markersize": 6.5 * series.size, "markeredgecolor": PAPER, "markeredgewidth": 0.8}
    axes.plot(list(spreads), mean, color=series.color, linewidth=2, clip_on=False, **style)


def loss_curves(comparison: Comparison) -> list[tuple[int, str]]:
    """The training loss of each loss in a panel of its own, since values of different losses do not compare."""
    panels = []
    for index, (series, loss) in enumerate(zip(arm_series(comparison), comparison.losses, strict=True)):
        runs = [run for run in comparison.of(loss) if run.train_loss]
        if runs:
            panels.append((index, _loss_panel(series, runs, f"loss{index}")))
    return panels


def _loss_panel(series: Series, runs: list[Run], name: str) -> str:
    figure, axes = _figure(250, 150)
    for run in runs:
        points = np.array(run.train_loss)
        blocks = np.array_split(points, min(len(points), BLOCKS))
        steps, values = np.array([block.mean(axis=0) for block in blocks]).T
        axes.plot(steps, values, color=series.color, linewidth=1.5, alpha=0.9 if len(runs) == 1 else 0.65)
        if len(points) == 1:
            axes.plot(steps, values, color=series.color, marker=series.marker)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=3))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True, min_n_ticks=1))
    axes.set_xlabel("step", color=MUTED)
    return _svg(figure, name, "training loss by step")


def class_dots(comparison: Comparison) -> str | None:
    """IoU of every class and loss as dots on a common scale, the classes by training share, the rare ones shaded."""
    losses = comparison.scored()
    if not losses:
        return None
    row = max(32, SLOT * len(losses) + 12)
    series = dict(zip(comparison.losses, arm_series(comparison), strict=True))
    classes = comparison.data.by_share
    figure, axes = _figure(520, row * len(classes) + 30)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(classes) * row, 0)
    for position, name in enumerate(classes):
        middle = (position + 0.5) * row
        for slot, loss in enumerate(losses):
            height = middle + (slot - (len(losses) - 1) / 2) * SLOT
            _dot(axes, series[loss], height, comparison.class_spread(loss, "iou", name))
    _class_labels(axes, comparison, row)
    axes.xaxis.tick_top()
    axes.spines["bottom"].set_visible(False)
    axes.grid(axis="x", color=RULE, linewidth=0.8)
    return _svg(figure, "classes", "IoU by class and loss")


def _dot(axes: Axes, series: Series, height: float, spread: Spread | None) -> None:
    """A dot on its stem; a zero is a hollow dot with its number, an absent class a word."""
    if spread is None:
        axes.text(0.012, height, "absent", color=MUTED, fontsize=9.5, va="center", fontstyle="italic")
        return
    zero = spread.mean < ZERO
    axes.plot([0, spread.mean], [height, height], color=series.color, linewidth=1.4, alpha=0.45)
    if spread.count > 1:
        axes.plot([spread.low, spread.high], [height, height], color=series.color, linewidth=3.2, alpha=0.55)
    fill = {"color": series.color, "markerfacecolor": PAPER if zero else series.color}
    edge = {"markeredgecolor": series.color if zero else PAPER, "markeredgewidth": 1.3 if zero else 0.6}
    axes.plot(spread.mean, height, series.marker, markersize=6.5 * series.size, clip_on=False, zorder=3, **fill, **edge)
    if zero:
        axes.text(0.012, height, f"{spread.mean:.2f}", color=INK, fontsize=9.5, va="center")


def _class_labels(axes: Axes, comparison: Comparison, row: float) -> None:
    """Name and training share at the left of each row, a hairline between rows, a shade under the rare classes."""
    data = comparison.data
    middles = [(position + 0.5) * row for position in range(len(data.by_share))]
    axes.set_yticks(middles, data.by_share, parse_math=False, color=INK)
    for label in axes.get_yticklabels():
        label.set_verticalalignment("bottom" if data.train_share else "center")
    for above, below in pairwise(middles):
        axes.axhline((above + below) / 2, color=RULE, linewidth=0.8)
    for name, middle in zip(data.by_share, middles, strict=True):
        if name in data.train_share:
            place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "xytext": (-3.5, -1)}
            share = f"{data.train_share[name]:.2f} %"
            axes.annotate(share, (0, middle), ha="right", va="top", color=MUTED, fontsize=9.5, **place)
    if data.rare:
        axes.axhspan((len(middles) - len(data.rare)) * row, len(middles) * row, color=SHADE, zorder=-1, linewidth=0)
        note = f"rare: below {RARE_SHARE:g} %"
        axes.text(
            0.992, (len(middles) - len(data.rare)) * row + 4, note, color=MUTED, fontsize=9.5, ha="right", va="top"
        )


def share_curves(found: Grid) -> str | None:
    """mIoU of the last student against the number of labelled images: a line per method, its intervals and seeds."""
    rows = [row for row in found.rows if any(outcome.scores for outcome in row.outcomes.values())]
    if not rows:
        return None
    figure, axes = _figure(AXIS + 55, 280)
    places, even = _share_places([found.plan.labelled[share] for share in found.shares])
    point = (places[-1] - places[0] or 1.0) / (AXIS - TICK)
    barred = any(outcome.miou and outcome.miou.half for row in rows for outcome in row.outcomes.values())
    step = min(DODGE * point, 0.6 * float(np.diff(places).min(initial=np.inf)) / len(rows)) if barred else 0.0
    for slot, row in enumerate(rows):
        outcomes = [row.outcomes.get(share) for share in found.shares]
        dodged = places + (slot - (len(rows) - 1) / 2) * step
        _share_line(axes, Series(found.rows.index(row)), dodged, outcomes, 0.4 * step)
    axes.set_ylim(*_miou_limits(rows))
    axes.set_xlim(places[0] - 0.5 * TICK * point, places[-1] + 0.5 * TICK * point)
    labels = [f"{found.label(share)} ({found.plan.labelled[share]})" for share in found.shares]
    axes.set_xticks(places, labels, parse_math=False)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_xlabel("labelled share (images)" + (", evenly spaced" if even else ""), color=MUTED)
    axes.set_title("validation mIoU, last student", loc="left", color=INK, fontsize=12)
    return _svg(figure, "shares", "validation mIoU of each method by number of labelled images")


def _share_places(images: list[int]) -> tuple[np.ndarray, bool]:
    """Where the shares lie: logarithmic, or evenly spaced (True) where their labels would then overlap."""
    places = np.log2(np.maximum(images, 1))
    span = places[-1] - places[0]
    crowded = np.diff(places).min(initial=np.inf) * (AXIS - TICK) < TICK * span or (len(images) > 1 and not span)
    return (np.arange(len(images), dtype=float), True) if crowded else (places, False)


def _share_line(axes: Axes, series: Series, places: np.ndarray, outcomes: list[Outcome | None], beside: float) -> None:
    """Means joined where neighbouring shares have one; bars are intervals, the faint dots `beside` them seeds."""
    mious = [outcome.miou if outcome else None for outcome in outcomes]
    means = [np.nan if miou is None else miou.mean for miou in mious]
    axes.plot(places, means, color=series.color, linewidth=1.6, alpha=0.7)
    for place, outcome, miou in zip(places, outcomes, mious, strict=True):
        if outcome is None or miou is None:
            continue
        if miou.half is not None:
            axes.errorbar(place, miou.mean, miou.half, color=series.color, linewidth=1.6)
            scores = list(outcome.scores.values())
            dots = {"markersize": 3.4, "alpha": 0.5, "markeredgewidth": 0}
            axes.plot([place + beside] * len(scores), scores, "o", color=series.color, **dots)
        edge = {"markeredgecolor": PAPER, "markeredgewidth": 0.8}
        axes.plot(place, miou.mean, series.marker, color=series.color, markersize=7 * series.size, zorder=3, **edge)


def _miou_limits(rows: list[Row]) -> tuple[float, float]:
    """Of the axis: all seeds and intervals, as far as a mIoU can be."""
    shown = [outcome for row in rows for outcome in row.outcomes.values() if outcome.miou]
    ends = [score for outcome in shown for score in outcome.scores.values()]
    ends += [end for outcome in shown if outcome.miou and outcome.miou.ends for end in outcome.miou.ends]
    low, high = max(min(ends), 0.0), min(max(ends), 1.0)
    margin = 0.06 * (high - low) or 0.02
    return low - margin, high + margin
