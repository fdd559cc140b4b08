"""What each loss asks for on one of the user's own images: pictures of its gradient, and where it lies."""

from __future__ import annotations

from dataclasses import dataclass

from .overlays import Asked, asked
from .record import Record
from .results import Comparison

MOST = 10
"""True classes whose share of the gradient is shown, those with the largest."""


@dataclass(frozen=True)
class Gradients:
    """The gradients of the losses at one output of one network.

    Args:
        name, of_class, network: id of the sample, the class whose output is pictured, the loss the network is of.
        pictures: image, truth and gradients.
        losses: place and name of those that are shown.
        rows: of each true class its name and the share of the gradient on it, from 0 to 1, of each loss.
        others: how many classes with smaller shares are left out.
    """

    name: str
    of_class: str
    network: str
    pictures: Asked
    losses: list[tuple[int, str]]
    rows: list[tuple[str, list[float]]]
    others: int


def gradients(comparison: Comparison) -> Gradients | None:
    """What gradients.json and the pictures of the runs hold; None where there is neither."""
    if comparison.gradients is None:
        return None
    record = Record(comparison.folder / "gradients.json", comparison.gradients)
    shares = _shares(record, comparison)
    pictures = asked(comparison, record.get("id", str))
    losses = [(index, loss) for index, loss in enumerate(comparison.losses) if index in pictures.pictures]
    losses = [(index, loss) for index, loss in losses if loss in shares]
    if not losses:
        return None
    present = [name for name in comparison.data.by_share if any(name in shares[loss] for _, loss in losses)]
    table = {name: [shares[loss].get(name, 0.0) for _, loss in losses] for name in present}
    shown = sorted(table, key=lambda name: -max(table[name]))[:MOST]
    return Gradients(
        record.get("id", str),
        record.get("class", str),
        record.get("network", str),
        pictures,
        losses,
        [(name, table[name]) for name in present if name in shown],
        len(present) - len(shown),
    )


def _shares(record: Record, comparison: Comparison) -> dict[str, dict[str, float]]:
    """Of each loss that has them, by class."""
    section = record.section("shares")
    by_loss = {loss: section.section(loss) for loss in comparison.losses if loss in section.entries}
    return {loss: {name: of.get(name, float) for name in of.entries} for loss, of in by_loss.items()}
