"""The same training once for every arm and seed, side by side in one folder."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from delineate.data import Source, shares, write_split_lists
from delineate.evaluation import METRICS, Measure, groups_of, measure_of, scored_of
from delineate.metrics import INSTANCE
from delineate.training.arms import Arm, few_labels_grid, folder_names
from delineate.training.datamodule import DataModule
from delineate.training.pace import epochs_for, seconds_of
from delineate.training.ranks import is_first
from delineate.training.results import budget, describe, prepare_run, run_options, write_json
from delineate.training.rows import Row, finished, train_rows, visible_gpus
from delineate.training.run import build_module, loss_for, train_run
from delineate.training.samples import choose_samples, write_samples
from delineate.training.settings import Settings
from delineate.training.showcase import write_showcase
from delineate.training.sweep import sweep

SHARES_FROM = 1000
"""Training masks that are read for the class shares, at most."""
COMPARISON = "compare.json"


@dataclass(frozen=True)
class Terms:
    """On what terms losses are compared.

    Args:
        seeds: trainings of each arm, with seeds 0, 1, ...
        groups: regular expression that finds in the name of a val case what it belongs to, such as its patient; None:
            cases are independent.
        metric: what decides, one of `METRICS`; None: mean Dice by case on nnU-Net data, else mIoU.
        lr_sweep: peak learning rates to choose from for each arm, on a fifth of train; none: that of the settings.
        sweep_epochs: of each training of that search.
        budget: duration that all trainings together should take, which then decides the epochs; None: no limit.
        parallel: trainings at the same time; None: as many as there are GPUs, else 1.
    """

    seeds: int = 3
    metric: str | None = None
    groups: str | None = None
    lr_sweep: tuple[float, ...] = ()
    sweep_epochs: int = 2
    budget: str | None = None
    parallel: int | None = None

    def __post_init__(self) -> None:
        for name in ("seeds", "sweep_epochs", "parallel"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name}: expected a whole number of at least 1; got {value}.")
        if self.metric not in (None, *METRICS):
            raise ValueError(f"--metric: expected one of {', '.join(METRICS)}; got {self.metric!r}.")
        rates = self.lr_sweep
        if rates and (len(set(rates)) < max(2, len(rates)) or not all(0 < rate < float("inf") for rate in rates)):
            raise ValueError(f"--lr_sweep: expected two different rates above 0 or more; got {list(rates)}.")
        if self.budget is not None:
            seconds_of(self.budget)

    @property
    def at_once(self) -> int:
        """Trainings at the same time."""
        return self.parallel or max(len(visible_gpus()), 1)

    def measure(self, source: Source) -> Measure:
        """What decides, for a data set."""
        scored = [source.classes[label] for label in scored_of(source)]
        metric = self.metric or ("dice" if source.layout == "nnunet" else "miou")
        return measure_of(metric, source.classes, scored, INSTANCE[source.dims])


def train_alone(source: Source, loss: str, seed: int, settings: Settings, folder: Path) -> dict[str, Any]:
    """One run that stands by itself: `train_run` with all that its own report shows.

    Nothing is written before the loss, the network's data and the masks have been found usable.
    """
    loss_for(loss, source)
    data = _usable(source, settings, seed, loss)
    settings = data.settings
    share, notes = class_shares(source)
    ids = choose_samples(source, share)
    if is_first():
        prepare_run(folder, run_options(source, settings, loss=loss, seed=seed))
        write_samples(data, ids, folder / "samples")
        if settings.semi:
            write_split_lists(source, folder / "splits")
    context = {"data": describe(source, share, notes), "budget": budget(data), "samples": ids}
    return train_run(source, loss, seed, settings, folder, samples=ids, context=context)


def compare_arms(
    arms: list[Arm],
    terms: Terms,
    folder: Path,
    options: dict[str, Any],
    *,
    advice: Sequence[dict[str, Any]] = (),
    after_run: Callable[[Path], object] = lambda folder: None,
) -> dict[str, Any]:
    """Train and evaluate every arm with every seed from the same start on the same batches.

    Args:
        arms: what is compared, each different.
        terms: seeds, and what else holds for all.
        folder: gets `compare.json`, `config.yaml`, `env.json`, `samples/` and a folder a run. Finished runs in it are
            kept.
        options: the arguments that name the arms, as `config.yaml` holds them.
        advice: why these losses, where the data chose them.
        after_run: called with the folder whenever a run has ended.

    Returns:
        What `compare.json` holds.

    Raises:
        ValueError: for arms that cannot be trained, before anything is written; and where a process was killed.
        Interrupted: on Ctrl-C, with everything reached on disk.
    """
    _check(arms, terms)
    arms, time_budget = _within_budget([_completed(arm) for arm in arms], terms, folder)
    source = max((arm.source for arm in arms), key=lambda source: len(source.items("train")))
    data, measure = DataModule(arms[0].source, arms[0].settings, 0), terms.measure(source)
    found = _planned(arms, terms, source, data) | {"time_budget": time_budget, "advice": list(advice)}
    rows = _rows(arms, terms.seeds, folder, found["samples"])
    found["runs"] = [str(row.folder.relative_to(folder)) for row in rows]
    prepare_run(folder, _options(source, arms[0].settings, terms, options), may_grow=(*options, "seeds"))
    write_samples(data, found["samples"], folder / "samples")
    write_json(folder / COMPARISON, found)
    if terms.lr_sweep:
        found["sweep"] = sweep(
            arms, terms.lr_sweep, terms.sweep_epochs, measure, folder / "sweep", terms.at_once, lambda: None
        )
        write_json(folder / COMPARISON, found)
        arms = [_at_rate(arm, found["sweep"]["arms"][arm.name]["chosen"]) for arm in arms]
        rows = _rows(arms, terms.seeds, folder, found["samples"])
    results = train_rows(rows, terms.at_once, lambda: after_run(folder))
    found["same_start"], found["same_batches"] = _alike(results, "initial_weights"), _alike(results, "batches")
    shown = [row for row in rows if row.seed == 0 and finished(row.folder)]
    if shown and not found["few_labels"]:
        found["worst"], found["loss_ms"] = write_showcase(shown, scored_of(source), folder)
    write_json(folder / COMPARISON, found | {"status": "finished"})
    after_run(folder)
    return found | {"status": "finished"}


def _planned(arms: list[Arm], terms: Terms, source: Source, data: DataModule) -> dict[str, Any]:
    """What `compare.json` holds before the first training."""
    share, notes = class_shares(source)
    return {
        "data": describe(source, share, notes),
        "runs": [],
        "losses": [arm.name for arm in arms],
        "few_labels": few_labels_grid(arms),
        "seeds": list(range(terms.seeds)),
        "metric": terms.measure(source).key,
        "groups": terms.groups,
        "samples": choose_samples(source, share),
        "worst": [],
        "loss_ms": {},
        "budget": budget(data) | {"trainings_at_once": terms.at_once},
        "sweep": None,
        "same_start": None,
        "same_batches": None,
        "status": "interrupted",
    }


def _completed(arm: Arm) -> Arm:
    """With all settings, once its network has been built with them for a trial."""
    return replace(arm, settings=_usable(arm.source, arm.settings, 0, arm.loss).settings)


def _usable(source: Source, settings: Settings, seed: int, loss: str) -> DataModule:
    """The data module, its settings complete, once the network has been built with them for a trial."""
    data = DataModule(source, settings, seed)
    build_module(source, data.settings, loss_for(loss, source))
    return data


def class_shares(source: Source) -> tuple[dict[str, float], list[str]]:
    """Percent of the labelled training pixels by class, and a note where not every mask was read for it."""
    (found, masks), images = shares(source, "train", limit=SHARES_FROM), len(source.items("train"))
    notes = [] if masks == images else [f"class shares from {masks} of {images} training images"]
    return {name: round(share, 4) for name, share in found.items()}, notes


def _check(arms: list[Arm], terms: Terms) -> None:
    if any(arm.settings.processes > 1 for arm in arms):
        raise ValueError(
            "--devices, --nodes: expected 1 with compare, whose trainings run side by side (--parallel). Use train for "
            "one training on several."
        )
    if terms.lr_sweep and arms[0].settings.semi:
        raise ValueError("--lr_sweep: expected without --semi, whose few labels leave none to hold out. Name --lr.")
    if terms.groups:
        groups_of(terms.groups, [item.id for item in arms[0].source.items("val")])
    if terms.budget and arms[0].settings.epochs:
        raise ValueError("--budget, --epochs: expected one of them, as the budget decides the epochs; got both.")


def _within_budget(arms: list[Arm], terms: Terms, folder: Path) -> tuple[list[Arm], dict[str, Any] | None]:
    """The arms with the epochs that the budget allows; a comparison that is continued keeps those it began with."""
    if terms.budget is None:
        return arms, None
    path = folder / COMPARISON
    before = json.loads(path.read_text(encoding="utf-8"))["time_budget"] if path.is_file() else None
    if before is None or before["asked"] != terms.budget:
        seconds, of_sweep = seconds_of(terms.budget), (len(terms.lr_sweep), terms.sweep_epochs)
        epochs, measured = epochs_for(seconds, arms, terms.seeds, terms.at_once, of_sweep)
        before = {"asked": terms.budget, "epochs": epochs, "measured": measured}
    print(f"--budget {terms.budget} allows {before['epochs']} epochs for each of {len(arms)} x {terms.seeds} trainings")
    return [replace(arm, settings=replace(arm.settings, epochs=before["epochs"])) for arm in arms], before


def _options(source: Source, settings: Settings, terms: Terms, options: dict[str, Any]) -> dict[str, Any]:
    """The arguments that repeat the comparison; the epochs in place of a budget."""
    of_terms = {"seeds": terms.seeds, "metric": terms.metric, "groups": terms.groups, "parallel": terms.parallel}
    if terms.lr_sweep:
        of_terms |= {"lr_sweep": list(terms.lr_sweep), "sweep_epochs": terms.sweep_epochs}
    return run_options(source, settings) | {"semi": None, "labeled": None} | options | of_terms


def _rows(arms: list[Arm], seeds: int, folder: Path, samples: list[str]) -> list[Row]:
    """A training for every arm and seed."""
    rows = []
    for name, arm in zip(folder_names(arms), arms, strict=True):
        for seed in range(seeds):
            show = f"{arm.name}  seed {seed}  " if seeds > 1 else f"{arm.name}  "
            rows.append(Row(arm, seed, folder / name / f"seed{seed}", samples, show))
    return rows


def _at_rate(arm: Arm, lr: float) -> Arm:
    return replace(arm, settings=replace(arm.settings, lr=lr))


def _alike(results: list[dict[str, Any]], key: str) -> bool | None:
    """Whether all runs of a seed and share agree in a fingerprint, as far as it is known; None where it is not."""
    known = {(result["seed"], result.get("labeled"), result[key]) for result in results if result[key] is not None}
    return len(known) == len({place[:2] for place in known}) if known else None
