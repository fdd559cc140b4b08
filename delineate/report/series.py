"""One colour and one marker per loss, the same in every figure and table; of few labels one colour per method.

Figures are drawn in the colours of the light page; `themed` then turns each into a CSS variable with that colour as
its fallback, so that the page may restate them for a dark screen. The first eight colours stay apart under the common
forms of colour blindness; beyond that the markers tell the losses apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from matplotlib.markers import MarkerStyle
from matplotlib.path import Path

INK, MUTED, RULE, PAPER, SHADE = "#15181d", "#626a75", "#dfe3e8", "#fefefe", "#f3f1ea"
ROLES = {INK: "ink", MUTED: "muted", RULE: "rule", PAPER: "paper", SHADE: "shade"}
LIGHT = ["#0072b2", "#d55e00", "#2f9e86", "#7d0333", "#b495fe", "#44219a", "#75706c", "#e8a01c", "#a83a96", "#8a8420"]
DARK = ["#4aa3e0", "#f58742", "#60e8c8", "#c8406f", "#cdbdff", "#7a5fd6", "#a8a29c", "#f3df52", "#e884d4", "#96862a"]
SIZES = {
    "^": 1.2,
    "D": 0.9,
    "v": 1.2,
    "P": 1.15,
    "X": 1.15,
    "p": 1.15,
    "<": 1.2,
    "*": 1.5,
}  # to look like a circle of 1
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "p", "<", "*"]
LETTERS = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C", Path.CLOSEPOLY: "Z"}


@dataclass(frozen=True)
class Series:
    """How the loss at `index` (in the order given) looks; beyond ten, colours return with another marker.

    Of few labels an arm has the colour of its method and the marker at `shape`, that of its share.
    """

    index: int
    shape: int | None = None

    @property
    def color(self) -> str:
        """The colour on a light page, to draw with."""
        return LIGHT[self.index % len(LIGHT)]

    @property
    def variable(self) -> str:
        """The colour as the page knows it, light or dark."""
        return f"var(--s{self.index % len(LIGHT)})"

    @property
    def marker(self) -> str:
        """The matplotlib marker."""
        if self.shape is not None:
            return MARKERS[self.shape % len(MARKERS)]
        return MARKERS[(self.index + self.index // len(LIGHT)) % len(MARKERS)]

    @property
    def size(self) -> float:
        """Its size, relative to a circle that looks as large."""
        return SIZES.get(self.marker, 1.0)

    @property
    def chip(self) -> str:
        """The marker in its colour, as a small inline SVG for running text."""
        style = MarkerStyle(self.marker)
        shape = style.get_path().transformed(style.get_transform())
        parts = []
        for points, code in shape.iter_segments():
            numbers = "" if code == Path.CLOSEPOLY else " ".join(f"{value:.3g}" for value in points)
            parts.append(LETTERS[Path.code_type(code)] + numbers)
        scale = f"scale({1.2 * self.size:.3g} {-1.2 * self.size:.3g})"
        return (
            '<svg class="chip" viewBox="-.8 -.8 1.6 1.6" aria-hidden="true">'
            f'<path transform="{scale}" style="fill: {self.variable}" d="{"".join(parts)}"/></svg>'
        )


def themed(svg: str) -> str:
    """Replace the colours of the light page in style attributes by CSS variables.

    >>> themed('<path style="fill: #0072b2"/>')
    '<path style="fill: var(--s0, #0072b2)"/>'
    """
    roles = ROLES | {color: f"s{index}" for index, color in enumerate(LIGHT)}
    return re.sub(
        r"(?<=: )#[0-9a-f]{6}\b",
        lambda match: f"var(--{roles[match[0]]}, {match[0]})" if match[0] in roles else match[0],
        svg,
    )
