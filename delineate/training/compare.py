"""The same training once for every loss and seed, side by side in one folder."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from delineate.data import Source, statistics
from delineate.training.datamodule import DataModule
from delineate.training.results import budget, describe, prepare_run, write_json
from delineate.training.run import build_module, loss_for, train_run
from delineate.training.samples import choose_samples, write_samples
from delineate.training.settings import Settings

SHARES_FROM = 1000
"""Training masks that are read for the class shares, at most."""


def train_alone(source: Source, loss: str, seed: int, settings: Settings, folder: Path) -> dict[str, Any]:
    """One run that stands by itself: `train_run` with all that its own report shows.

    Nothing is written before the loss, the network's data and the masks have been found usable.
    """
    loss_for(loss, source)
    data = _usable(source, settings, seed, loss)
    settings = data.settings
    shares, notes = class_shares(source)
    ids = choose_samples(source, shares)
    prepare_run(folder, run_options(source, settings, loss=loss, seed=seed))
    write_samples(data, ids, folder / "samples")
    context = {"data": describe(source, shares, notes), "budget": budget(data), "samples": ids}
    return train_run(source, loss, seed, settings, folder, samples=ids, context=context)


def compare_losses(
    source: Source,
    losses: list[str],
    seeds: int,
    settings: Settings,
    folder: Path,
    *,
    after_run: Callable[[Path], object] = lambda folder: None,
) -> dict[str, Any]:
    """Train and evaluate every loss with every seed from the same start on the same batches.

    Args:
        losses: expressions, each different.
        seeds: number of seeds, 0 to seeds - 1.
        folder: gets `compare.json`, `config.yaml`, `env.json`, `samples/` and a folder a run. Finished runs in it are
            kept.
        after_run: called with the folder whenever a run has ended.

    Returns:
        What `compare.json` holds.

    Raises:
        ValueError: for an expression or data that cannot be used, before anything is written.
        Interrupted: on Ctrl-C, with everything reached on disk.
    """
    runs = plan(source, losses, seeds)
    data = _usable(source, settings, 0, losses[0])
    settings = data.settings
    shares, notes = class_shares(source)
    ids = choose_samples(source, shares)
    found = {
        "data": describe(source, shares, notes),
        "runs": list(runs),
        "losses": losses,
        "seeds": list(range(seeds)),
        "samples": ids,
        "budget": budget(data),
        "same_start": None,
        "same_batches": None,
        "status": "interrupted",
    }
    prepare_run(folder, run_options(source, settings, losses=losses, seeds=seeds), may_grow=("losses", "seeds"))
    write_samples(data, ids, folder / "samples")
    write_json(folder / "compare.json", found)
    results = []
    for name, (loss, seed) in runs.items():
        result = finished(folder / name)
        if result is None:
            prepare_run(folder / name, run_options(source, settings, loss=loss, seed=seed))
            show = f"{loss}  seed {seed}  " if seeds > 1 else f"{loss}  "
            result = train_run(source, loss, seed, settings, folder / name, samples=ids, show=show)
            after_run(folder)
        results.append(result)
    found["same_start"], found["same_batches"] = _alike(results, "initial_weights"), _alike(results, "batches")
    found["status"] = "finished"
    write_json(folder / "compare.json", found)
    after_run(folder)
    return found


def _usable(source: Source, settings: Settings, seed: int, loss: str) -> DataModule:
    """The data module, its settings complete, once the network has been built with them for a trial."""
    data = DataModule(source, settings, seed)
    build_module(source, data.settings, loss_for(loss, source))
    return data


def run_options(source: Source, settings: Settings, **options: Any) -> dict[str, Any]:
    """The arguments that repeat a run."""
    return {"data": str(source.root.resolve())} | options | asdict(settings)


def class_shares(source: Source) -> tuple[dict[str, float], list[str]]:
    """Percent of the labelled training pixels by class, and a note where not every mask was read for it."""
    found = statistics(source, "train", limit=SHARES_FROM)
    notes = []
    if found.images < found.images_in_split:
        notes.append(f"class shares from {found.images} of {found.images_in_split} training images")
    return {c.name: round(c.share, 4) for c in found.classes}, notes


def plan(source: Source, losses: list[str], seeds: int) -> dict[str, tuple[str, int]]:
    """Folder names of the runs, with the loss and seed of each; every expression is tried out."""
    if not losses:
        raise ValueError('--losses: expected one expression or more, such as "Dice + CE"; got none.')
    if seeds < 1:
        raise ValueError(f"--seeds: expected a whole number of at least 1; got {seeds}.")
    same: dict[str, str] = {}
    for text in losses:
        meaning = loss_for(text, source).expression()
        if meaning in same:
            raise ValueError(f'--losses: "{same[meaning]}" and "{text}" are the same loss. Name each once.')
        same[meaning] = text
    names = {text: re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-") for text in losses}
    if len(set(names.values())) < len(losses):
        names = {text: f"{number}-{name}" for number, (text, name) in enumerate(names.items(), start=1)}
    return {f"{names[text]}/seed{seed}": (text, seed) for text in losses for seed in range(seeds)}


def finished(run: Path) -> dict[str, Any] | None:
    """The result of a run that is complete."""
    path = run / "metrics.json"
    result = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return result if result and result["status"] == "finished" else None


def _alike(results: list[dict[str, Any]], key: str) -> bool | None:
    """Whether all runs of a seed agree in a fingerprint, as far as it is known; None where it is not."""
    known = {(result["seed"], result[key]) for result in results if result[key] is not None}
    return len(known) == len({seed for seed, _ in known}) if known else None
