"""Draws the gradient that each loss sends to one small example: `python docs/gradients.py`.

Writes docs/gradients/<Name>.png for each public loss, the overview docs/gradients.png, and the shares, from which
build.py writes the texts, to docs/gradients.json.
"""

import io
import json
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from build import DOCS, families
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from scipy.ndimage import distance_transform_edt

from delineate.losses import DiceLoss

SIZE = 64
SURE, BACKGROUND = 3.0, -5.0
"""The logit in the middle of what is predicted, minus that of what is missed; and that of the background."""
REACH = 3
"""Voxels around an object that count as its own."""
INK, MUTED, RAISE, LOWER = "#222222", "#5f5f5f", "#b2182b", "#2166ac"
SHORT = {"found": "found", "missed": "missed", "false": "false positive", "thin": "thin line", "rest": "rest"}
LABEL_AT = {"found": (16, 3.5), "missed": (47, 3.5), "false": (16, 35), "thin": (47, 35)}


class Example(NamedTuple):
    target: np.ndarray
    false: np.ndarray
    """The false positive."""
    logit: np.ndarray
    """Foreground logit; that of the background is 0."""
    objects: dict[str, np.ndarray]
    """Which voxels count as which object."""


def disc(row: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def line(start: int, stop: int) -> np.ndarray:
    """A slanted line two voxels thick between two columns."""
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    for column in range(start, stop):
        row = 54 - (column - 34) // 2
        mask[row : row + 2, column] = True
    return mask


def soft(mask: np.ndarray, peak: float) -> np.ndarray:
    """Logits that rise from the background to about `peak` inside `mask`, with a soft border."""
    depth = distance_transform_edt(mask) - distance_transform_edt(~mask)
    return BACKGROUND + (peak - BACKGROUND) * (1 + np.tanh((depth + 0.5) / 2)) / 2


def example() -> Example:
    found, missed, false, thin = disc(18, 16, 8.6), disc(18, 47, 6.4), disc(49, 16, 6.4), line(34, 60)
    said = [soft(found, SURE), soft(missed, -SURE), soft(false, SURE), soft(line(34, 47), SURE), soft(thin, -SURE)]
    parts = {"found": found, "missed": missed, "false": false, "thin": thin}
    objects = {name: distance_transform_edt(~mask) <= REACH for name, mask in parts.items()}
    objects["rest"] = ~np.logical_or.reduce(list(objects.values()))
    return Example(found | missed | thin, false, np.maximum.reduce(said), objects)


def asked(cls: type, shown: Example) -> np.ndarray:
    """Minus the gradient to the foreground logit: where the loss wants more of it, and where less."""
    logit = torch.from_numpy(shown.logit)
    logits = torch.stack([torch.zeros_like(logit), logit])[None].requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a background wider than a loss of skeletons reaches
        loss = cls(DiceLoss()) if cls.takes_losses else cls()
        loss(logits, torch.from_numpy(shown.target).long()[None]).backward()
    return -logits.grad[0, 1].numpy()


def summary(wish: np.ndarray, shown: Example) -> dict:
    """Shares of the absolute gradient by object, the part of each that asks for more, and the largest value."""
    total = np.abs(wish).sum()
    shares = {name: round(float(np.abs(wish[mask]).sum() / total), 4) for name, mask in shown.objects.items()}
    raised = {name: round(float(wish[mask].clip(0).sum() / total), 4) for name, mask in shown.objects.items()}
    return {"max": float(f"{np.abs(wish).max():.3g}"), "shares": shares, "raised": raised}


def compute() -> dict[str, dict]:
    shown = example()
    return {cls.__name__: summary(asked(cls, shown), shown) for losses in families().values() for cls in losses}


def picture_axes(figure: Figure, left: int, title: str) -> Axes:
    """A square panel whose left edge is at this pixel of a picture of 900 x 260."""
    axes = figure.add_axes((left / 900, 14 / 260, 196 / 900, 196 / 260))
    axes.set_title(title, fontsize=9.5, color=INK, pad=5)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#bbbbbb")
    return axes


def draw(name: str, wish: np.ndarray, facts: dict, shown: Example) -> Figure:
    figure = Figure(figsize=(9, 2.6), dpi=100)
    figure.text(12 / 900, 1 - 14 / 260, name, fontsize=11, weight="bold", color=INK, va="center")
    draw_target(picture_axes(figure, 12, "target"), shown)
    axes = picture_axes(figure, 220, "prediction")
    axes.imshow(1 / (1 + np.exp(-shown.logit)), cmap="gray_r", vmin=0, vmax=1)
    outline(axes, shown)
    draw_wish(figure, wish, facts["max"], shown)
    draw_shares(figure.add_axes((762 / 900, 24 / 260, 112 / 900, 186 / 260)), facts)
    return figure


def draw_target(axes: Axes, shown: Example) -> None:
    axes.imshow(shown.target, cmap="gray_r", vmin=0, vmax=1.6)
    axes.contour(shown.false, [0.5], colors=MUTED, linewidths=0.8, linestyles="dotted")
    for name, (column, row) in LABEL_AT.items():
        axes.text(column, row, SHORT[name], fontsize=8, color=INK, ha="center", va="center")


def outline(axes: Axes, shown: Example) -> None:
    axes.contour(shown.target, [0.5], colors="#444444", linewidths=0.7)


def draw_wish(figure: Figure, wish: np.ndarray, scale: float, shown: Example) -> None:
    axes = picture_axes(figure, 428, "")
    axes.set_title("asks to raise,", fontsize=9.5, color=RAISE, pad=5, loc="left")
    axes.set_title("to lower  ", fontsize=9.5, color=LOWER, pad=5, loc="right")
    image = axes.imshow(wish, cmap="RdBu_r", vmin=-scale, vmax=scale)
    outline(axes, shown)
    bar = figure.colorbar(image, cax=figure.add_axes((630 / 900, 14 / 260, 8 / 900, 196 / 260)), ticks=[])
    bar.outline.set_visible(False)
    for height, text in ((210, f"+{scale:.1e}"), (112, "0"), (14, f"\N{MINUS SIGN}{scale:.1e}")):
        place = {210: "top", 112: "center", 14: "bottom"}[height]
        figure.text(641 / 900, height / 260, text, fontsize=7, color=MUTED, va=place)


def draw_shares(axes: Axes, facts: dict) -> None:
    """Shares of the absolute gradient: red the part that asks for more, blue the part that asks for less."""
    raised, shares = (np.array([facts[key][name] for name in SHORT]) for key in ("raised", "shares"))
    axes.barh(range(len(SHORT)), raised, color=RAISE, height=0.6)
    axes.barh(range(len(SHORT)), shares - raised, left=raised, color=LOWER, height=0.6)
    for place, share in enumerate(shares):
        axes.text(share + 0.02, place, f"{100 * share:.0f} %", fontsize=8.5, color=INK, va="center")
    axes.set_yticks(range(len(SHORT)), SHORT.values(), fontsize=8.5, color=INK)
    axes.set_xlim(0, 1)
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.set_title("share of the gradient", fontsize=9.5, color=INK, pad=5)


def draw_overview(facts: dict[str, dict]) -> Figure:
    """Rows: losses by family; columns: objects; numbers: shares in per cent."""
    names = [cls.__name__ for losses in families().values() for cls in losses]
    table = np.array([[100 * facts[name]["shares"][part] for part in SHORT] for name in names])
    height = 0.9 + 0.27 * len(names)
    figure = Figure(figsize=(9, height), dpi=100)
    axes = figure.add_axes((0.37, 0.12 / height, 0.61, 1 - 0.62 / height))
    axes.imshow(table, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for row, column in np.ndindex(*table.shape):
        value = table[row, column]
        axes.text(
            column, row, f"{value:.0f}", ha="center", va="center", fontsize=9, color="white" if value > 55 else INK
        )
    axes.set_yticks(range(len(names)), [name.removesuffix("Loss") for name in names], fontsize=9, color=INK)
    axes.set_xticks(range(len(SHORT)), SHORT.values(), fontsize=9, color=INK)
    axes.tick_params(length=0, top=True, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    mark_families(figure, axes)
    figure.text(0.01, 1 - 0.2 / height, "% of the gradient", fontsize=9.5, weight="bold", color=INK, va="center")
    return figure


def mark_families(figure: Figure, axes: Axes) -> None:
    first = 0
    for family, losses in families().items():
        axes.axhline(first - 0.5, color="white", linewidth=4)
        place = axes.get_position()
        rows = sum(map(len, families().values()))
        figure.text(
            0.01, place.y1 - place.height * (first + 0.5) / rows, family, fontsize=9.5, color=MUTED, va="center"
        )
        first += len(losses)


def save(figure: Figure, path: Path) -> None:
    """As a PNG of at most 256 colours, the same bytes for the same picture."""
    raw = io.BytesIO()
    figure.savefig(raw, format="png", facecolor="white")
    Image.open(raw).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    shown, facts = example(), compute()
    (DOCS / "gradients").mkdir(exist_ok=True)
    for losses in families().values():
        for cls in losses:
            name = cls.__name__
            save(draw(name, asked(cls, shown), facts[name], shown), DOCS / "gradients" / f"{name}.png")
    save(draw_overview(facts), DOCS / "gradients.png")
    (DOCS / "gradients.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
