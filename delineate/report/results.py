"""What a run or a comparison left on disk, read into small dataclasses."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from delineate.evaluation import METRICS as DECIDING
from delineate.evaluation import CaseCounts, scored_labels

from .record import Record, read_text

METRICS = ("iou", "dice", "precision", "recall")
RARE_SHARE = 2.0  # percent of the labelled training pixels below which a class counts as rare
STATUSES = ("finished", "interrupted", "failed")


@dataclass(frozen=True)
class Spread:
    """A number over seeds: its mean and its range."""

    mean: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """Of the values that exist; None where none does.

        >>> Spread.of([0.5, None, 0.25])
        Spread(mean=0.375, low=0.25, high=0.5, count=2)
        """
        known = [value for value in values if value is not None]
        return Spread(math.fsum(known) / len(known), min(known), max(known), len(known)) if known else None


@dataclass(frozen=True)
class Data:
    """The data set: its classes with their share of the labelled training pixels, in percent."""

    root: str
    layout: str
    split: str
    train_images: int
    val_images: int
    classes: list[str]
    palette: list[tuple[int, int, int]]
    ignore_index: int | None
    train_share: dict[str, float]
    notes: list[str]

    @classmethod
    def read(cls, record: Record) -> Data:
        """From the `data` object of compare.json or metrics.json."""
        classes = [str(name) for name in record.get("classes", list)]
        palette = record.get("palette", list)
        if len(palette) != len(classes) or any(not isinstance(c, list) or len(c) != 3 for c in palette):
            raise ValueError(f"{record.path}: expected 'data.palette' to hold {len(classes)} colours [r, g, b]")
        share = record.section("train_share")
        return cls(
            root=record.get("root", str),
            layout=record.get("layout", str),
            split=record.get("split", str),
            train_images=record.get("train_images", int),
            val_images=record.get("val_images", int),
            classes=classes,
            palette=[(int(r), int(g), int(b)) for r, g, b in palette],
            ignore_index=record.optional("ignore_index", int),
            train_share={name: share.get(name, float) for name in classes} if share.entries else {},
            notes=[str(note) for note in record.optional("notes", list) or []],
        )

    @property
    def name(self) -> str:
        """The last part of the root."""
        return self.root.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] or self.root

    @property
    def element(self) -> str:
        """What the images consist of: voxels of the volumes of nnU-Net, else pixels; in the singular."""
        return "voxel" if self.layout == "nnunet" else "pixel"

    @property
    def object_word(self) -> str:
        """What a connected component is called."""
        return "lesion" if self.layout == "nnunet" else "object"

    @property
    def scored(self) -> list[str]:
        """All classes but background, in the order of their labels."""
        labels = scored_labels(self.classes, background=self.layout == "nnunet")
        return [self.classes[label] for label in labels]

    @property
    def by_share(self) -> list[str]:
        """The classes, the most frequent first."""
        return sorted(self.classes, key=lambda name: -self.train_share.get(name, 0.0))

    @property
    def rare(self) -> list[str]:
        """The classes below `RARE_SHARE` of the labelled training pixels."""
        return [name for name in self.by_share if self.train_share.get(name, 100.0) < RARE_SHARE]


@dataclass(frozen=True)
class Scores:
    """A finished run on the validation split; per-class numbers by metric, None for an absent class."""

    miou: float | None
    mdice: float | None
    pixel_accuracy: float | None
    images: int
    conventions: list[str]
    per_class: dict[str, dict[str, float | None]]

    @classmethod
    def read(cls, record: Record, classes: list[str]) -> Scores:
        """From the `val` object of metrics.json."""
        per_class = {}
        for metric in METRICS:
            section = record.section(metric)
            if missing := [name for name in classes if name not in section.entries]:
                raise ValueError(f"{record.path}: expected {section.prefix[:-1]!r} to list the class {missing[0]!r}")
            per_class[metric] = {name: section.optional(name, float) for name in classes}
        miou, mdice, accuracy = (record.optional(key, float) for key in ("miou", "mdice", "pixel_accuracy"))
        conventions = [str(line) for line in record.optional("conventions", list) or []]
        return cls(miou, mdice, accuracy, record.get("images", int), conventions, per_class)


@dataclass(frozen=True)
class Network:
    """Validation mIoU of a student or a teacher: of the last epoch, and of the best, chosen on the same images."""

    last_miou: float | None
    best_miou: float | None
    best_epoch: int | None

    @classmethod
    def read(cls, record: Record) -> Network:
        """From an entry of the `networks` object of metrics.json."""
        last, best = (record.optional(key, float) for key in ("last_miou", "best_miou"))
        return cls(last, best, record.optional("best_epoch", int))


@dataclass(frozen=True)
class FewLabels:
    """What a comparison of few labels crosses: methods, and shares of the training images that are labelled.

    `arms` maps the name of an arm, which is what its runs call their loss, to its method, share and loss.
    """

    methods: list[str]
    shares: list[str]
    labelled: dict[str, int]
    unlabelled: dict[str, int]
    protocol: str | None
    arms: dict[str, tuple[str, str, str]]

    @classmethod
    def read(cls, record: Record, names: list[str]) -> FewLabels:
        """From the `few_labels` object of compare.json, whose arms must be those of these names."""
        methods, shares = ([str(name) for name in record.get(key, list)] for key in ("methods", "labeled"))
        images = [record.section(key) for key in ("labelled_images", "unlabelled_images")]
        labelled, unlabelled = ({share: section.get(share, int) for share in shares} for section in images)
        section, arms = record.section("arms"), {}
        for name in names:
            place = section.get(name, list)
            if len(place) != 3 or place[0] not in methods or place[1] not in shares:
                expected = "[method, share, loss], the first two as listed"
                raise ValueError(f"{record.path}: expected {section.prefix + name!r} to be {expected}, got {place!r}")
            method, share, loss = map(str, place)
            arms[name] = (method, share, loss)
        return cls(methods, shares, labelled, unlabelled, record.optional("protocol", str), arms)


@dataclass(frozen=True)
class Run:
    """One training: a loss (of few labels an arm) and a seed, its scores (None unless it finished), cost and curves."""

    folder: Path
    name: str
    loss: str
    seed: int
    status: str
    error: str | None
    val: Scores | None
    cost: dict[str, Any]
    initial_weights: str | None
    batches: str | None
    val_miou: list[tuple[float, float]] = field(repr=False)  # (epochs trained, value)
    train_loss: list[tuple[float, float]] = field(repr=False)  # (step, value)
    semi: str | None = None  # method of few labels
    labeled: str | None = None  # share of the training images
    networks: dict[str, Network] = field(default_factory=dict)  # student, teacher
    gradient_norm: float | None = None  # of all weights, median over the first steps
    cases: list[CaseCounts] | None = field(default=None, repr=False)  # counts of every val case

    @property
    def title(self) -> str:
        """What a single run is called: its loss, of few labels its method and share."""
        return self.loss if self.semi is None else f"{self.semi} at {self.labeled}"

    @classmethod
    def read(cls, folder: Path, name: str, classes: list[str]) -> Run:
        """From a run folder: metrics.json, and metrics.csv where there is one."""
        record = Record.read(folder / "metrics.json")
        status = record.get("status", str)
        if status not in STATUSES:
            raise ValueError(f"{record.path}: expected 'status' to be one of {', '.join(STATUSES)}, got {status!r}")
        if status == "finished":
            record.get("val", dict)
        has_val = record.optional("val", dict) is not None
        cost = record.section("cost") if record.optional("cost", dict) else Record(record.path, {})
        numbers = ("ms_per_step", "loss_ms", "peak_memory_mib", "train_seconds", "steps")
        curves = read_curves(folder / "metrics.csv")
        return cls(
            folder,
            name,
            loss=record.get("loss", str),
            seed=record.get("seed", int),
            status=status,
            error=record.optional("error", str),
            val=Scores.read(record.section("val"), classes) if has_val else None,
            cost={key: cost.optional(key, float) for key in numbers} | {"memory": cost.optional("memory_kind", str)},
            initial_weights=record.optional("initial_weights", str),
            batches=record.optional("batches", str),
            val_miou=[(epoch + 1, value) for epoch, value in curves("epoch", "val/miou")],
            train_loss=curves("step", "train/loss"),
            semi=record.optional("semi", str),
            labeled=record.optional("labeled", str),
            networks=_networks(record),
            gradient_norm=record.optional("gradient_norm", float),
            cases=read_cases(folder / "cases.json", classes) if has_val else None,
        )


def read_cases(path: Path, classes: list[str]) -> list[CaseCounts] | None:
    """The counts of every val case of a run; None where it has no such file."""
    if not path.is_file():
        return None
    record = Record.read(path)
    if record.get("classes", list) != classes:
        raise ValueError(f"{path}: expected 'classes' to be those of the data, got {record.entries['classes']!r}")
    try:
        return [CaseCounts.from_dict(entries) for entries in record.get("cases", list)]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: expected 'cases' to hold tp, truth, predicted and objects of each, {error}"
        ) from None


def _networks(record: Record) -> dict[str, Network]:
    section = record.section("networks") if record.optional("networks", dict) else Record(record.path, {})
    return {name: Network.read(section.section(name)) for name in section.entries}


def read_curves(path: Path) -> Callable[[str, str], list[tuple[float, float]]]:
    """A reader of (axis, column) pairs from the sparse rows of metrics.csv; of nothing where no file is."""
    rows = list(csv.DictReader(read_text(path).splitlines())) if path.exists() else []

    def column(axis: str, name: str) -> list[tuple[float, float]]:
        """The last finite value at each position of the axis, in order."""
        points = {}
        for line, row in enumerate(rows, start=2):
            try:
                if row.get(name) and row.get(axis) and math.isfinite(float(row[name])):
                    points[float(row[axis])] = float(row[name])
            except ValueError:
                raise ValueError(f"{path}: expected numbers under {axis!r} and {name!r} in line {line}") from None
        return sorted(points.items())

    return column


@dataclass(frozen=True, eq=False)
class Comparison:
    """The runs of several losses, or of one (`single`: the folder of a run by itself), on the same data.

    Of few labels `losses` are the names of the arms.
    """

    folder: Path
    single: bool
    data: Data
    runs: list[Run]
    losses: list[str]
    seeds: list[int]
    status: str
    budget: dict[str, Any]
    claims: dict[str, bool | None]  # same_start, same_batches, as the comparison states them
    samples: list[str]
    config: str
    env: dict[str, Any]
    few_labels: FewLabels | None = None
    metric: str = "miou"  # what decides
    groups: str | None = None  # regular expression that finds in a case's id what it belongs to
    worst: list[str] = field(default_factory=list)  # ids of the worst cases, pictured like the samples
    loss_ms: dict[str, float] = field(default_factory=dict)  # of each loss alone, timed in turns after the trainings
    advice: list[dict[str, Any]] = field(default_factory=list)  # why these losses, where the data chose them
    sweep: dict[str, Any] | None = None  # learning rates tried: rates, epochs, images, arms {name: scores, chosen}
    time_budget: dict[str, Any] | None = None  # asked, epochs, measured
    gradients: dict[str, Any] | None = None  # id, class, network, shares {loss: {class: share}}

    def of(self, loss: str) -> list[Run]:
        """The runs of a loss, by seed."""
        return sorted((run for run in self.runs if run.loss == loss), key=lambda run: run.seed)

    def spread(self, loss: str, number: Callable[[Run], float | None]) -> Spread | None:
        """A number of the loss's runs over seeds."""
        return Spread.of(number(run) for run in self.of(loss))

    def step_ms(self, loss: str) -> float | None:
        """Milliseconds of a training step.

        Where losses were timed in turns: the rest of a step, the median over all runs, and the loss; so that a loss is
        not charged for an hour in which the machine was busy. Else the mean over its runs.
        """
        rest = [
            run.cost["ms_per_step"] - self.loss_ms[run.loss]
            for run in self.runs
            if run.cost["ms_per_step"] is not None and run.loss in self.loss_ms
        ]
        if rest and loss in self.loss_ms:
            return max(statistics.median(rest), 0.0) + self.loss_ms[loss]
        spread = self.spread(loss, lambda run: run.cost["ms_per_step"])
        return spread.mean if spread else None

    def class_spread(self, loss: str, metric: str, name: str) -> Spread | None:
        """The metric of one class over seeds; None where it is absent everywhere or nothing finished."""
        return self.spread(loss, lambda run: run.val.per_class[metric][name] if run.val else None)

    def scored(self) -> list[str]:
        """The losses with at least one evaluated run, in the order given."""
        return [loss for loss in self.losses if any(run.val for run in self.of(loss))]

    def identical(self, fingerprint: str) -> bool | None:
        """Whether `initial_weights` or `batches` agree among the runs of each seed and share; None if unknown."""
        places = {(run.seed, run.labeled) for run in self.runs}
        prints = [
            {getattr(run, fingerprint) for run in self.runs if (run.seed, run.labeled) == place} for place in places
        ]
        known = [found - {None} for found in prints if found - {None}]
        return all(len(found) == 1 for found in known) if known else None


def read_results(folder: Path) -> Comparison:
    """Read the folder of a comparison (compare.json) or of one run (metrics.json)."""
    if (folder / "compare.json").exists():
        record, single = Record.read(folder / "compare.json"), False
    elif (folder / "metrics.json").exists():
        record, single = Record.read(folder / "metrics.json"), True
    else:
        raise ValueError(f"{folder}: expected compare.json (a comparison) or metrics.json (a run), found neither")
    data = Data.read(record.section("data"))
    runs = [Run.read(folder, ".", data.classes)] if single else _runs(folder, record, data.classes)
    losses = [runs[0].loss] if single else [str(loss) for loss in record.get("losses", list)]
    metric = record.optional("metric", str) or "miou"
    if metric not in DECIDING:
        raise ValueError(f"{record.path}: expected 'metric' to be one of {', '.join(DECIDING)}, got {metric!r}")
    gradients = folder / "gradients.json"
    timed = record.section("loss_ms") if record.optional("loss_ms", dict) else Record(record.path, {})
    few = None if single or not record.optional("few_labels", dict) else record.section("few_labels")
    return Comparison(
        folder,
        single,
        data,
        runs,
        losses,
        seeds=[runs[0].seed] if single else [int(seed) for seed in record.get("seeds", list)],
        status=record.get("status", str),
        budget=record.get("budget", dict),
        claims={key: record.optional(key, bool) for key in ("same_start", "same_batches")},
        samples=[str(name) for name in record.optional("samples", list) or []],
        config=read_text(folder / "config.yaml"),
        env=Record.read(folder / "env.json").entries,
        few_labels=None if few is None else FewLabels.read(few, losses),
        metric=metric,
        groups=record.optional("groups", str),
        worst=[str(name) for name in record.optional("worst", list) or []],
        loss_ms={loss: timed.get(loss, float) for loss in losses if loss in timed.entries},
        advice=record.optional("advice", list) or [],
        sweep=record.optional("sweep", dict),
        time_budget=record.optional("time_budget", dict),
        gradients=Record.read(gradients).entries if gradients.is_file() else None,
    )


def _runs(folder: Path, record: Record, classes: list[str]) -> list[Run]:
    """The listed runs; an interrupted comparison may list runs that it never started."""
    names = [str(name) for name in record.get("runs", list)]
    if record.get("status", str) == "interrupted":
        names = [name for name in names if (folder / name / "metrics.json").exists()]
    runs = [Run.read(folder / name, name, classes) for name in names]
    losses = record.get("losses", list)
    for run in runs:
        if run.loss not in losses:
            expected = ", ".join(map(repr, losses))
            raise ValueError(
                f"{run.folder / 'metrics.json'}: expected 'loss' to be one of {expected}, got {run.loss!r}"
            )
    return runs
