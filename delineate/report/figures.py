"""Learning curves and mIoU by labelled share, as inline SVG in the font of the page."""

from __future__ import annotations

import html
import io
import re
import textwrap
import warnings
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .few_labels import Grid, Outcome, Row, arm_series
from .results import Comparison, Run, Spread
from .series import INK, MUTED, PAPER, RULE, Series, themed

WIDE = 370  # points of a figure that fills a telephone and half a page
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
    """The figure as an SVG element, the same bytes for the same data.

    Args:
        name: keeps its ids apart from those of other figures.
        label: what the figure shows, with its main numbers, as plain text.
    """
    text = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the browser draws the text, in a font that has the glyph
        figure.savefig(text, format="svg", metadata=METADATA, transparent=True)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<defs>\s*<style.*?</defs>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r' width="([\d.]+)pt" height="[\d.]+pt"', r' width="\1"', svg, count=1)
    svg = re.sub(r"font-family: [^;]*; ", "", svg)
    svg = themed(re.sub(r'<g id="[^"]*">', "<g>", svg))
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)


def wrapped(name: str, width: int = 18, lines: int = 2) -> str:
    """A name from the user on a few lines of this many characters, for a figure.

    >>> wrapped("2*DiceCE + Blob(Dice)")
    '2*DiceCE +\\nBlob(Dice)'
    """
    return "\n".join(textwrap.wrap(name, width, max_lines=lines, placeholder=" …")) or name


def miou_curves(comparison: Comparison) -> str | None:
    """Validation mIoU against epochs: the mean over seeds, with their range as a band."""
    figure, axes = _figure(WIDE, 250)
    last = []
    for series, loss in zip(arm_series(comparison), comparison.losses, strict=True):
        points: dict[float, list[float]] = {}
        for run in comparison.of(loss):
            for epoch, value in run.val_miou:
                points.setdefault(epoch, []).append(value)
        if points:
            spreads = {epoch: spread for epoch in sorted(points) if (spread := Spread.of(points[epoch]))}
            _curve(axes, series, spreads)
            last.append(f"{loss} {spreads[max(spreads)].mean:.3f} after {max(spreads):g} epochs")
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    axes.set_xlabel("epochs trained", color=MUTED)
    axes.set_title("validation mIoU", loc="left", color=INK, fontsize=12)
    return _svg(figure, "miou", f"validation mIoU by epoch: {'; '.join(last)}") if last else None


def _curve(axes: Axes, series: Series, spreads: dict[float, Spread]) -> None:
    mean, low, high = zip(*((spread.mean, spread.low, spread.high) for spread in spreads.values()), strict=True)
    axes.fill_between(list(spreads), low, high, color=series.color, alpha=0.14, linewidth=0)
    style = {"marker": series.marker, "markersize": 6.5 * series.size, "markeredgecolor": PAPER, "markeredgewidth": 0.8}
    axes.plot(list(spreads), mean, color=series.color, linewidth=2, clip_on=False, **style)


def loss_curves(comparison: Comparison) -> list[tuple[int, str]]:
    """The training loss of each loss in a panel of its own, since values of different losses do not compare."""
    panels = []
    for index, (series, loss) in enumerate(zip(arm_series(comparison), comparison.losses, strict=True)):
        runs = [run for run in comparison.of(loss) if run.train_loss]
        if runs:
            panels.append((index, _loss_panel(series, runs, f"loss{index}", loss)))
    return panels


def _loss_panel(series: Series, runs: list[Run], name: str, loss: str) -> str:
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
    first, last = (f"{np.mean([run.train_loss[end][1] for run in runs]):.3g}" for end in (0, -1))
    return _svg(figure, name, f"training loss of {loss} by step, from {first} to {last}")


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
    return _svg(figure, "shares", f"validation mIoU by number of labelled images: {'; '.join(map(_means, rows))}")


def _means(row: Row) -> str:
    """The means of a method, as text."""
    told = [f"{outcome.miou.mean:.3f} at {share}" for share, outcome in row.outcomes.items() if outcome.miou]
    return f"{row.name} {', '.join(told)}"


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
