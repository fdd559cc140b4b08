"""The page of `inspect`: what the template shows, made from `inspect.json` alone, and writing it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from markupsafe import Markup

from .filters import environment
from .instance_sizes import instance_sizes
from .record import Record
from .series import DARK, LIGHT

ADVICE = ("rule", "loss", "figure", "why", "fails", "source", "command")
PROBLEM = ("kind", "severity", "split", "sentence")
SHOWN = 8
"""Problems of a kind that are shown before the rest is folded away."""
KINDS = {
    "image": "Images",
    "mask": "Masks",
    "instances": "Maps of instances",
    "duplicate": "Images that are in a split twice",
    "leak": "Images that are in two splits",
    "name": "Names",
    "empty": "Masks without an object",
}


@dataclass(frozen=True)
class ClassRow:
    """A class of the table; texts and numbers as in the JSON, None where there is none."""

    name: str
    share: float
    images: int
    absent: int
    absent_ids: list[str]
    instances: int
    per_image: float
    sizes: dict[str, float] | None
    ratio: float | None
    touching: float | None
    thinness: float | None
    boundary: float | None
    components: int | None
    background: bool

    @classmethod
    def read(cls, row: Record, background: bool) -> ClassRow:
        """From the entry of a class."""
        ratio = row.optional("size_ratio", dict)
        return cls(
            name=row.get("name", str),
            share=row.get("share", float),
            images=row.get("images", int),
            absent=row.get("absent", int),
            absent_ids=row.get("absent_ids", list),
            instances=row.get("instances", int),
            per_image=row.section("instances_per_image").get("50%", float),
            sizes=row.optional("instance_sizes", dict),
            ratio=row.section("size_ratio").get("50%", float) if ratio else None,
            touching=row.optional("touching", float),
            thinness=row.optional("thinness", float),
            boundary=row.optional("boundary", float),
            components=row.optional("components", int),
            background=background,
        )


@dataclass(frozen=True)
class Inspected:
    """What `inspect.json` holds, checked as far as the page needs it."""

    data: Record
    found: Record
    classes: list[ClassRow]
    problems: list[dict[str, str]]
    advice: list[dict[str, str]]

    @classmethod
    def read(cls, path: Path) -> Inspected:
        """Raises ValueError, naming the file and the entry, where something is missing or of another kind."""
        record = Record.read(path)
        found = record.section("statistics")
        background = found.optional("background", int)
        rows = _rows(found, "classes")
        problems, advice = _rows(record, "problems"), _rows(record, "advice")
        if not advice:
            raise ValueError(f"{path}: expected 'advice' to hold the baseline at least, found none")
        return cls(
            data=record.section("data"),
            found=found,
            classes=[ClassRow.read(row, label == background) for label, row in enumerate(rows)],
            problems=[{key: row.get(key, str) for key in PROBLEM} for row in problems],
            advice=[{key: row.get(key, str) for key in ADVICE} for row in advice],
        )

    @property
    def unit(self) -> str:
        """What images are made of."""
        return "pixel" if self.data.get("dims", int) == 2 else "voxel"


def _rows(record: Record, key: str) -> list[Record]:
    entries = record.get(key, list)
    if not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{record.path}: expected {record.prefix + key!r} to be a list of objects")
    return [Record(record.path, entry, f"{record.prefix}{key}[{i}].") for i, entry in enumerate(entries)]


def inspection_verdict(name: str, advice: Sequence[Mapping[str, Any]]) -> list[str]:
    """What makes a data set hard and what to try, in a sentence; then a sentence for each stronger caution.

    Args:
        name: of the data set.
        advice: the baseline first, the others by strength, each with its "loss" and "figure". One with the loss of the
            baseline is a caution.

    >>> inspection_verdict("cells", [{"loss": "CE", "figure": "largest to smallest class 2 : 1"}])
    ['Nothing in the labels of cells asks for more than CE: largest to smallest class 2 : 1.']
    """
    base, *others = advice
    cautions = list(takewhile(lambda other: other["loss"] == base["loss"], others))
    if len(cautions) == len(others):
        first = f"Nothing in the labels of {name} asks for more than {base['loss']}: {base['figure']}."
    else:
        hard = others[len(cautions)]
        first = f"What makes {name} hard: {hard['figure']}. Start with {base['loss']}, then try {hard['loss']}."
    return [first, *(f"A caution: {caution['figure']}." for caution in cautions)]


def problems_sentence(problems: Sequence[Mapping[str, Any]]) -> str:
    """How many errors and warnings there are.

    >>> problems_sentence([{"severity": "error"}, {"severity": "warning"}, {"severity": "warning"}])
    '1 error and 2 warnings were found in the files.'
    """
    counts = [(sum(p["severity"] == kind for p in problems), kind) for kind in ("error", "warning")]
    parts = [f"{count} {kind}{'s' if count > 1 else ''}" for count, kind in counts if count]
    one = sum(count for count, _ in counts) == 1
    return f"{' and '.join(parts) or 'No errors'} {'was' if one else 'were'} found in the files."


def share_bars(classes: Sequence[ClassRow]) -> tuple[list[float], float]:
    """Length of the bar of each class in percent, on a log scale up to 100 %, and the share at which it starts."""
    present = [row.share for row in classes if row.share > 0]
    low = min(10 ** math.floor(math.log10(min(present, default=1.0)) - 0.2), 0.1)
    span = math.log(100 / low)
    return [100 * math.log(row.share / low) / span if row.share > 0 else 0.0 for row in classes], low


def grouped_problems(problems: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Errors, then warnings, by kind: title, severity, and the problems."""
    places = list(dict.fromkeys((problem["severity"], problem["kind"]) for problem in problems))
    return [
        {
            "title": KINDS.get(kind, kind),
            "severity": severity,
            "problems": [p for p in problems if (p["severity"], p["kind"]) == (severity, kind)],
        }
        for severity, kind in places
    ]


def facts(inspected: Inspected) -> list[tuple[str, str]]:
    """Figures of the whole split, as terms and texts."""
    found, unit = inspected.found, inspected.unit
    sizes, spacing = found.section("image_sizes"), found.section("spacing_range")
    imbalance = found.get("imbalance", float)
    rows = [
        ("Images looked at", f"{found.get('images', int)} of {found.get('images_in_split', int)}"),
        ("Image size", _extent(sizes, f"{unit}s")),
        ("Commonest to rarest class", f"{imbalance:.3g} : 1" if imbalance < 100 else f"{imbalance:.0f} : 1"),
        ("Ignored", f"{found.get('void_share', float):.2f} % of all {unit}s"),
        ("Images without an object", _empty(found)),
        ("Instances", _instances(inspected)),
    ]
    if unit == "voxel":
        rows.insert(2, ("Voxel size", _extent(spacing, "mm")))
    return rows


def _empty(found: Record) -> str:
    """How many images hold no object, and the first of their names."""
    count, names = found.get("empty_images", int), [str(name) for name in found.get("empty_ids", list)]
    more = " ..." if count > len(names) else ""
    return f"{count}: {', '.join(names)}{more}" if count else "none"


def _extent(record: Record, unit: str) -> str:
    """The median of each axis, and from where to where it goes."""
    least, median, most = (_by(record.get(key, list)) for key in ("min", "median", "max"))
    return f"{median} {unit}" if least == most else f"{median} {unit} in the median, {least} to {most}"


def _by(sides: list[float]) -> str:
    return " × ".join(f"{side:.4g}" for side in sides)


def _instances(inspected: Inspected) -> str:
    components = f"{inspected.found.get('connectivity', int)}-connected components of the masks"
    if inspected.found.get("instances_from", str) == "components":
        return components
    return f"those of the maps in instances/; of classes that these leave out, {components}"


def definitions(inspected: Inspected) -> list[tuple[str, str]]:
    """What every figure means."""
    unit = inspected.unit
    together = "with a border in common" if inspected.found.get("instances_from", str) == "maps" else ""
    apart = f"with one {unit} or less between them"
    return [
        ("Share", f"Percent of the labelled {unit}s of the split; ignored ones are left out."),
        ("Absent", "Images that do not hold the class."),
        ("Instances", f"{_instances(inspected).capitalize()}. “Per image” is their median over all images."),
        ("Size", f"{unit.capitalize()}s of an instance, over all instances of the split."),
        ("Largest to smallest", "Sizes within one image, in the median over the images with two instances or more."),
        (
            "Touching",
            f"Percent of the instances that are next to another of their class, "
            f"{f'{together} where they come from maps, else {apart}' if together else apart}.",
        ),
        (
            "Thinness",
            f"{unit.capitalize()}s of the exact skeleton over {unit}s of the class: 1 is a line one {unit} wide, a "
            "solid object is near 0.",
        ),
        (
            "Boundary",
            f"Percent of the {unit}s of a class with a face to another class; ignored {unit}s and the edge of the "
            "image are none.",
        ),
        ("Background", "Has no touching instances, thinness or ratio of sizes: it is what is left."),
    ]


def render(inspected: Inspected) -> str:
    """The whole page."""
    data, found = inspected.data, inspected.found
    bars, low = share_bars(inspected.classes)
    order = sorted(range(len(inspected.classes)), key=lambda label: -inspected.classes[label].share)
    objects = [inspected.classes[label] for label in order if not inspected.classes[label].background]
    drawn = [(row.name, row.sizes) for row in objects if row.sizes]
    return (
        environment()
        .get_template("inspect.html")
        .render(
            name=data.get("name", str),
            layout=data.get("layout", str),
            root=data.get("root", str),
            version=data.get("delineate", str),
            dims=data.get("dims", int),
            splits=data.get("splits", dict),
            notes=data.get("notes", list),
            split=found.get("split", str),
            images=found.get("images", int),
            in_split=found.get("images_in_split", int),
            unit=inspected.unit,
            verdict=inspection_verdict(data.get("name", str), inspected.advice),
            problems_sentence=problems_sentence(inspected.problems),
            problems=grouped_problems(inspected.problems),
            shown=SHOWN,
            advice=inspected.advice,
            rows=[(inspected.classes[label], bars[label]) for label in order],
            low=low,
            merged=[row for row in objects if row.components not in (None, row.instances)],
            sizes=Markup(instance_sizes(drawn, inspected.unit) or ""),
            facts=facts(inspected),
            definitions=definitions(inspected),
            light=LIGHT,
            dark=DARK,
        )
    )


def write_inspection_report(folder: Path) -> Path:
    """Read `inspect.json` in a folder and write it as one page, `report.html`, beside it."""
    page = render(Inspected.read(folder / "inspect.json"))
    temporary = folder / f".report-{os.getpid()}.tmp"
    temporary.write_text(page, encoding="utf-8")
    path = folder / "report.html"
    os.replace(temporary, path)
    return path
