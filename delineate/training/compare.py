"""The same training once for every arm and seed, side by side in one folder."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from delineate.data import Source, shares, write_split_lists
from delineate.training.arms import Arm, few_labels_grid, folder_names
from delineate.training.datamodule import DataModule
from delineate.training.ranks import is_first
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
    if is_first():
        prepare_run(folder, run_options(source, settings, loss=loss, seed=seed))
        write_samples(data, ids, folder / "samples")
        if settings.semi:
            write_split_lists(source, folder / "splits")
    context = {"data": describe(source, shares, notes), "budget": budget(data), "samples": ids}
    return train_run(source, loss, seed, settings, folder, samples=ids, context=context)


def compare_arms(
    arms: list[Arm],
    seeds: int,
    folder: Path,
    options: dict[str, Any],
    *,
    after_run: Callable[[Path], object] = lambda folder: None,
) -> dict[str, Any]:
    """Train and evaluate every arm with every seed from the same start on the same batches.

    Args:
        arms: what is compared, each different.
        seeds: number of seeds, 0 to seeds - 1.
        folder: gets `compare.json`, `config.yaml`, `env.json`, `samples/` and a folder a run. Finished runs in it are
            kept.
        options: the arguments that name the arms, as `config.yaml` holds them.
        after_run: called with the folder whenever a run has ended.

    Returns:
        What `compare.json` holds.

    Raises:
        ValueError: for arms that cannot be trained, before anything is written.
        Interrupted: on Ctrl-C, with everything reached on disk.
    """
    plan(arms, seeds)
    usable = [_usable(arm.source, arm.settings, 0, arm.loss) for arm in arms]
    arms = [replace(arm, settings=data.settings) for arm, data in zip(arms, usable, strict=True)]
    runs, data = plan(arms, seeds), usable[0]
    source = max((arm.source for arm in arms), key=lambda source: len(source.items("train")))
    shares, notes = class_shares(source)
    ids = choose_samples(source, shares)
    found = {
        "data": describe(source, shares, notes),
        "runs": list(runs),
        "losses": [arm.name for arm in arms],
        "few_labels": few_labels_grid(arms),
        "seeds": list(range(seeds)),
        "samples": ids,
        "budget": budget(data),
        "same_start": None,
        "same_batches": None,
        "status": "interrupted",
    }
    shared = run_options(source, data.settings) | {"semi": None, "labeled": None} | options | {"seeds": seeds}
    prepare_run(folder, shared, may_grow=(*options, "seeds"))
    write_samples(data, ids, folder / "samples")
    write_json(folder / "compare.json", found)
    results = []
    for name, (arm, seed) in runs.items():
        result = finished(folder / name)
        if result is None:
            prepare_run(folder / name, run_options(arm.source, arm.settings, loss=arm.loss, seed=seed))
            if arm.settings.semi:
                write_split_lists(arm.source, folder / name / "splits")
            show = f"{arm.name}  seed {seed}  " if seeds > 1 else f"{arm.name}  "
            context = {"loss": arm.name, "expression": arm.loss}
            result = train_run(
                arm.source, arm.loss, seed, arm.settings, folder / name, samples=ids, show=show, context=context
            )
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
    (found, masks), images = shares(source, "train", limit=SHARES_FROM), len(source.items("train"))
    notes = [] if masks == images else [f"class shares from {masks} of {images} training images"]
    return {name: round(share, 4) for name, share in found.items()}, notes


def plan(arms: list[Arm], seeds: int) -> dict[str, tuple[Arm, int]]:
    """Folder names of the runs, with the arm and seed of each."""
    if seeds < 1:
        raise ValueError(f"--seeds: expected a whole number of at least 1; got {seeds}.")
    if any(arm.settings.processes > 1 for arm in arms):
        raise ValueError("--devices, --nodes: expected 1 with compare, which trains run by run. Use train for several.")
    names = folder_names(arms)
    return {f"{name}/seed{seed}": (arm, seed) for name, arm in zip(names, arms, strict=True) for seed in range(seeds)}


def finished(run: Path) -> dict[str, Any] | None:
    """The result of a run that is complete."""
    path = run / "metrics.json"
    result = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return result if result and result["status"] == "finished" else None


def _alike(results: list[dict[str, Any]], key: str) -> bool | None:
    """Whether all runs of a seed and share agree in a fingerprint, as far as it is known; None where it is not."""
    known = {(result["seed"], result.get("labeled"), result[key]) for result in results if result[key] is not None}
    return len(known) == len({place[:2] for place in known}) if known else None
