"""A learning rate for each loss, chosen on a part of train that is held out for it; val is never looked at."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from delineate.data import Source
from delineate.data.splits import make_split
from delineate.evaluation import Measure
from delineate.training.arms import Arm, folder_names
from delineate.training.results import read_cases
from delineate.training.rows import Row, train_rows

HELD_OUT = 0.2
SEED = 0


def held_out(source: Source) -> Source:
    """The train split alone, a fifth of it as val, chosen by a hash of the id."""
    items = {item.id: item for item in source.items("train")}
    if len(items) < 2:
        raise ValueError(f"--lr_sweep: expected two training images or more, to hold one out; got {len(items)}.")
    splits = dict(zip(("train", "val"), make_split(items, HELD_OUT), strict=True))
    return replace(source, splits={name: tuple(items[i] for i in ids) for name, ids in splits.items()})


def sweep(
    arms: Sequence[Arm],
    rates: Sequence[float],
    epochs: int,
    measure: Measure,
    folder: Path,
    at_once: int,
    after_run: Callable[[], object],
) -> dict[str, Any]:
    """Train every arm briefly with every rate, from one start on the same batches, and choose by the measure.

    Args:
        rates: peak learning rates.
        epochs: of each training.
        measure: what is highest for the rate that is chosen, after the last epoch on the images held out.
        folder: gets a folder for each training; finished ones in it are kept.

    Returns:
        What `compare.json` holds of it: "rates", "epochs", "images" held out, and of each arm by name "scores" (None
        where the loss did not stay finite) and "chosen".
    """
    sources = {arm.source: held_out(arm.source) for arm in arms}
    rows = [
        Row(
            replace(arm, source=(source := sources[arm.source]), settings=replace(arm.settings, lr=lr, epochs=epochs)),
            SEED,
            folder / name / f"lr{lr:g}",
            [source.items("val")[0].id],
            f"{arm.name}  lr {lr:g}  ",
        )
        for arm, name in zip(arms, folder_names(list(arms)), strict=True)
        for lr in rates
    ]
    results = train_rows(rows, at_once, after_run)
    scores = [
        measure.of(read_cases(row.folder)) if result["status"] == "finished" else None
        for row, result in zip(rows, results, strict=True)
    ]
    images = len(next(iter(sources.values())).items("val"))
    found: dict[str, Any] = {"rates": list(rates), "epochs": epochs, "images": images, "arms": {}}
    for place, arm in enumerate(arms):
        of_arm = scores[place * len(rates) : (place + 1) * len(rates)]
        found["arms"][arm.name] = {"scores": of_arm, "chosen": _chosen(arm, rates, of_arm)}
    return found


def _chosen(arm: Arm, rates: Sequence[float], scores: Sequence[float | None]) -> float:
    """The rate of the highest score, of equal ones the smallest."""
    known = [(score, -rate) for rate, score in zip(rates, scores, strict=True) if score is not None]
    if not known:
        raise ValueError(f"--lr_sweep: {arm.name} did not stay finite with any of {list(rates)}. Name lower rates.")
    return -max(known)[1]
