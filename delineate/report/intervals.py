"""Scores with their intervals, as inline SVG: against cost, class by class, and by size of the objects."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from delineate.evaluation import Difference

from .analysis import SizeClass, analyse
from .few_labels import arm_series
from .figures import WIDE, _figure, _svg, wrapped
from .results import RARE_SHARE, Comparison, Spread
from .series import INK, MUTED, PAPER, RULE, SHADE, Series

ZERO = 0.005  # an IoU below this reads 0.00 in the tables
LINE = 13  # points of height of a line of text
NAME = 20  # characters of a label in a line
PLOT = 210  # points of height of score against cost
MARGIN = 0.15  # of the longest time, left free on either side
PANEL = (290, 190)  # points of the panel of a class

Bar = tuple[float, float | None, float | None]
"""A mean with both ends of its interval, None where it has none."""


def cost_scatter(comparison: Comparison) -> str | None:
    """The score that decides against milliseconds of a step, each loss named beside the plot; None for fewer than two.

    The names stand in the order of the scores and a line leads from each to its marker.
    """
    found = analyse(comparison)
    if found is None:
        return None
    scores, points = found.scores[found.deciding.key], {}
    for loss in found.ranked:
        if (time := comparison.step_ms(loss)) is not None:
            points[loss] = (time, _bar(scores[loss]))
    if len(points) < 2:
        return None
    names = {loss: wrapped(loss, NAME, 3) for loss in points}
    lines = [name.count("\n") + 1.3 for name in names.values()]
    height = max(PLOT, LINE * sum(lines))
    figure, axes = _figure(WIDE, height + 52)
    series = dict(zip(comparison.losses, arm_series(comparison), strict=True))
    for loss, (time, bar) in points.items():
        _mark(axes, series[loss], time, bar)
    _limits(axes, [time for time, _ in points.values()], [bar for _, bar in points.values()])
    low, high = axes.get_ylim()
    places = spread_out(
        [(bar[0] - low) / (high - low) for _, bar in points.values()], [LINE * n / height for n in lines]
    )
    for (loss, (time, bar)), place in zip(points.items(), places, strict=True):
        arrow = {"arrowstyle": "-", "color": series[loss].color, "alpha": 0.45, "relpos": (0, 0.5), "shrinkB": 5}
        where = {"xytext": (1.04, place), "textcoords": "axes fraction", "va": "center", "annotation_clip": False}
        axes.annotate(
            names[loss], (time, bar[0]), color=INK, arrowprops=arrow, parse_math=False, fontsize=10.5, **where
        )
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_xlabel("milliseconds of a training step", color=MUTED)
    axes.set_title(found.deciding.title, loc="left", color=INK, fontsize=12)
    told = [f"{loss} {_told(bar)} at {time:.0f} ms" for loss, (time, bar) in points.items()]
    return _svg(figure, "cost", f"{found.deciding.title} against time per step: {'; '.join(told)}")


def _bar(score: Difference) -> Bar:
    low, high = score.interval or (None, None)
    return score.mean, low, high


def spread_out(wanted: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Places in [0, 1] for labels in descending order, near those wanted and without overlap.

    >>> [round(place, 3) for place in spread_out([0.9, 0.88, 0.2], [0.1, 0.1, 0.1])]
    [0.9, 0.8, 0.2]
    """
    places: list[float] = []
    for want, size in zip(wanted, sizes, strict=True):
        top = places[-1] - (sizes[len(places) - 1] + size) / 2 if places else 1 - size / 2
        places.append(min(want, top))
    floor = sizes[-1] / 2
    for place in reversed(range(len(places))):
        places[place] = max(places[place], floor)
        floor = places[place] + (sizes[place] + sizes[place - 1]) / 2
    return places


def _mark(axes: Axes, series: Series, place: float, bar: Bar, size: float = 8) -> None:
    """A marker with an upright bar for its interval."""
    mean, low, high = bar
    if low is not None and high is not None:
        axes.plot([place, place], [max(low, 0), min(high, 1)], color=series.color, linewidth=1.6, alpha=0.8)
    edge = {"markeredgecolor": PAPER, "markeredgewidth": 0.8, "clip_on": False, "zorder": 3}
    axes.plot(place, mean, series.marker, color=series.color, markersize=size * series.size, **edge)


def _limits(axes: Axes, times: Sequence[float], bars: Sequence[Bar]) -> None:
    """Room around the markers; all of the intervals, as far as a score can be."""
    room = MARGIN * max(times)
    axes.set_xlim(min(times) - room, max(times) + room)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, min_n_ticks=2))
    ends = [end for bar in bars for end in bar if end is not None]
    low, high = max(min(ends), 0.0), min(max(ends), 1.0)
    margin = 0.06 * (high - low) or 0.02
    axes.set_ylim(low - margin, high + margin)


def _told(bar: Bar) -> str:
    """A score with its interval, as text."""
    mean, low, high = bar
    return f"{mean:.3f}" if low is None or high is None else f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def class_dots(comparison: Comparison, names: Sequence[str]) -> str | None:
    """IoU of these classes and every loss as dots on a common scale, in the order given, the rare ones shaded."""
    losses = comparison.scored()
    if not losses:
        return None
    slot = 12 if len(losses) < 5 else 9
    row = max(34, slot * len(losses) + 12)
    series = dict(zip(comparison.losses, arm_series(comparison), strict=True))
    figure, axes = _figure(WIDE, row * len(names) + 30)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(names) * row, 0)
    told = []
    for position, name in enumerate(names):
        bars = [_class_bar(comparison, loss, name) for loss in losses]
        for place, (loss, bar) in enumerate(zip(losses, bars, strict=True)):
            if bar:
                _dot(axes, series[loss], (position + 0.5) * row + (place - (len(losses) - 1) / 2) * slot, bar)
        if not any(bars):
            words = {"color": MUTED, "fontsize": 9.5, "fontstyle": "italic"}
            axes.text(0.012, (position + 0.5) * row, "absent", va="center", **words)
        told.append(f"{name} {_range([bar[0] for bar in bars if bar])}")
    _class_labels(axes, comparison, names, row)
    axes.xaxis.tick_top()
    axes.spines["bottom"].set_visible(False)
    axes.grid(axis="x", color=RULE, linewidth=0.8)
    return _svg(figure, "classes", f"IoU by class, from the lowest loss to the highest: {'; '.join(told)}")


def _class_bar(comparison: Comparison, loss: str, name: str) -> Bar | None:
    """IoU of a class with its 95 % interval, of runs without cases with its range over seeds; None where absent."""
    found = analyse(comparison)
    if found and (score := found.scores[f"iou/{name}"].get(loss)):
        return _bar(score)
    spread: Spread | None = comparison.class_spread(loss, "iou", name)
    if spread is None:
        return None
    return (spread.mean, spread.low, spread.high) if spread.count > 1 else (spread.mean, None, None)


def _range(values: Sequence[float]) -> str:
    if not values:
        return "absent"
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def _dot(axes: Axes, series: Series, height: float, bar: Bar) -> None:
    """A dot with its interval; a zero is a hollow dot with its number."""
    mean, low, high = bar
    zero = mean < ZERO
    if low is not None and high is not None and not zero:
        ends = [max(low, 0), min(high, 1)]
        axes.plot(ends, [height, height], color=series.color, linewidth=2, alpha=0.6)
    fill = {"color": series.color, "markerfacecolor": PAPER if zero else series.color}
    edge = {"markeredgecolor": series.color if zero else PAPER, "markeredgewidth": 1.3 if zero else 0.6}
    axes.plot(mean, height, series.marker, markersize=6.5 * series.size, clip_on=False, zorder=3, **fill, **edge)
    if zero:
        axes.text(0.02, height, f"{mean:.2f}", color=INK, fontsize=9.5, va="center")


def _class_labels(axes: Axes, comparison: Comparison, names: Sequence[str], row: float) -> None:
    """Name and training share at the left of each row, a hairline between rows, a shade under the rare classes."""
    data = comparison.data
    middles = [(position + 0.5) * row for position in range(len(names))]
    axes.set_yticks(middles, [wrapped(name) for name in names], parse_math=False, color=INK)
    axes.tick_params(axis="y", pad=8)
    for label in axes.get_yticklabels():
        label.set_verticalalignment("bottom" if data.train_share else "center")
        label.set_multialignment("right")
    for above, below in pairwise(middles):
        axes.axhline((above + below) / 2, color=RULE, linewidth=0.8)
    for name, middle in zip(names, middles, strict=True):
        if name in data.train_share:
            place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "xytext": (-8, -1)}
            share = f"{data.train_share[name]:.2f} %"
            axes.annotate(share, (0, middle), ha="right", va="top", color=MUTED, fontsize=9.5, **place)
    if rare := sum(name in data.rare for name in names):
        top = (len(names) - rare) * row
        axes.axhspan(top, len(names) * row, color=SHADE, zorder=-1, linewidth=0)
        note = f"rare: below {RARE_SHARE:g} %"
        axes.text(0.992, top + 3, note, color=MUTED, fontsize=9.5, ha="right", va="top")


def size_panels(comparison: Comparison) -> list[tuple[str, str]]:
    """Of each class with objects enough, its name and the share found by size class, a marker for each loss."""
    found = analyse(comparison)
    sizes = found.sizes if found else {}
    return [
        (name, _size_panel(comparison, f"sizes{place}", name, classes))
        for place, (name, classes) in enumerate(sizes.items())
        if classes
    ]


def _size_panel(comparison: Comparison, key: str, name: str, classes: list[SizeClass]) -> str:
    figure, axes = _figure(*PANEL)
    losses = [loss for loss in comparison.losses if any(loss in of.recall for of in classes)]
    series = dict(zip(comparison.losses, arm_series(comparison), strict=True))
    step = min(0.12, 0.75 / len(losses))
    for place, of in enumerate(classes):
        for slot, loss in enumerate(losses):
            if score := of.recall.get(loss):
                beside = place + (slot - (len(losses) - 1) / 2) * step
                _mark(axes, series[loss], beside, _bar(score), 6.5)
    words = size_words(classes)
    labels = [f"{word}\n{of.objects}" for word, of in zip(words, classes, strict=True)]
    axes.set_xticks(range(len(classes)), labels)
    axes.set_xlim(-0.5, len(classes) - 0.5)
    axes.set_ylim(0, 1)
    axes.set_yticks(np.arange(0, 1.01, 0.25), ["0", "", "0.5", "", "1"])
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_xlabel(f"size in {size_unit(comparison)}; below, how many", color=MUTED)
    told = [
        f"of size {word}: {', '.join(f'{loss} {score.mean:.2f}' for loss, score in of.recall.items())}"
        for word, of in zip(words, classes, strict=True)
    ]
    return _svg(figure, key, f"share of the {comparison.data.object_word}s of {name} that are found, {'; '.join(told)}")


def size_unit(comparison: Comparison) -> str:
    """What sizes of objects are told in."""
    return "mm³" if comparison.data.layout == "nnunet" else "pixels"


def size_words(classes: Sequence[SizeClass]) -> list[str]:
    """The size classes as short texts.

    >>> size_words([SizeClass(0, 1.5, 9, {}), SizeClass(1.5, 57, 9, {}), SizeClass(57, 4735.5, 9, {})])
    ['≤ 1.5', '1.5–57', '> 57']
    """
    words = [f"{_short(of.low)}–{_short(of.high)}" for of in classes]
    words[0] = f"≤ {_short(classes[0].high)}"
    if len(classes) > 1:
        words[-1] = f"> {_short(classes[-1].low)}"
    return words


def _short(size: float) -> str:
    """A size with three digits at most, thousands as k.

    >>> [_short(size) for size in (1.5, 57.25, 230, 4735.5, 1.2e6)]
    ['1.5', '57.2', '230', '4.74k', '1200k']
    """
    if size < 1000:
        return f"{size:.3g}"
    return f"{size / 1000:.3g}k" if size < 1e6 else f"{size / 1000:.0f}k"
