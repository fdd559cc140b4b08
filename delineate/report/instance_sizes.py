"""Instance sizes by class as boxes on a log axis, as inline SVG in the font of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from .figures import _figure, _svg, wrapped
from .series import INK, LIGHT, MUTED, RULE

ROW = 34  # points of height of a class
WIDTH = 350


def instance_sizes(classes: Sequence[tuple[str, Mapping[str, float]]], unit: str) -> str | None:
    """A row a class: a line from the smallest to the largest, a thick one over 90 %, a box over half, the median.

    Args:
        classes: name, and sizes at "min", "5%", "25%", "50%", "75%", "95%" and "max".
        unit: what is counted, "pixel" or "voxel".
    """
    if not classes:
        return None
    figure, axes = _figure(WIDTH, ROW * len(classes) + 48)
    axes.set_xscale("log")
    axes.set_ylim(len(classes), 0)
    for row, (_, sizes) in enumerate(classes):
        _box(axes, row + 0.5, sizes)
    axes.set_yticks(
        [row + 0.5 for row in range(len(classes))], [wrapped(name) for name, _ in classes], parse_math=False
    )
    for label in axes.get_yticklabels():
        label.set_color(INK)
    axes.xaxis.set_major_locator(LogLocator(numticks=7))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}".replace(",", "\u202f"))
    axes.grid(axis="x", color=RULE, linewidth=0.8)
    axes.set_xlabel(f"{unit}s of an instance, log scale", color=MUTED)
    return _svg(figure, "sizes", _told(classes, unit))


def _told(classes: Sequence[tuple[str, Mapping[str, float]]], unit: str) -> str:
    texts = [f"{name} {sizes['50%']:.0f} ({sizes['min']:.0f} to {sizes['max']:.0f})" for name, sizes in classes]
    return f"sizes of the instances of each class in {unit}s, median and range: {', '.join(texts)}"


def _box(axes: Axes, height: float, sizes: Mapping[str, float]) -> None:
    color = LIGHT[0]
    axes.plot([sizes["min"], sizes["max"]], [height, height], color=color, linewidth=1.2)
    axes.plot([sizes["5%"], sizes["95%"]], [height, height], color=color, linewidth=5, alpha=0.5)
    axes.plot([sizes["25%"], sizes["75%"]], [height, height], color=color, linewidth=13, alpha=0.75)
    axes.plot([sizes["50%"]] * 2, [height - 0.28, height + 0.28], color=INK, linewidth=2.2)
