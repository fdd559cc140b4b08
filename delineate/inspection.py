"""Looking at a data set: what is wrong with it, its figures, and the losses they speak for."""

import os
import shutil
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from delineate import __version__
from delineate.advice import Advice, advise
from delineate.data import (
    ClassStatistics,
    DataError,
    Problem,
    Source,
    Statistics,
    find_problems,
    open_source,
    sample,
    statistics,
    without_errors,
)
from delineate.report import inspection_verdict, write_inspection_report
from delineate.terminal import progress
from delineate.training.results import write_json

SHOWN = 10
"""Problems of a kind that are printed; `inspect.json` has all."""
WIDTH = 100
COLUMNS = (
    *("share\n%", "absent\nimages", "inst-\nances", "per\nimage", "small-\nest", "median\nsize", "larg-\nest"),
    *("max :\nmin", "touch\n%", "thin-\nness", "edge\n%"),
)


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Args:
        source: the data set, all of it.
        found: figures of the images that can be read.
        problems: errors first.
        advice: the baseline first, the others by strength.
    """

    source: Source
    found: Statistics
    problems: tuple[Problem, ...]
    advice: tuple[Advice, ...]

    @property
    def errors(self) -> int:
        """Problems that are no mere warning."""
        return sum(problem.severity == "error" for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain dicts, lists and numbers, ready for JSON."""
        source = self.source
        return {
            "data": {
                "name": source.root.resolve().name,
                "root": str(source.root),
                "layout": source.layout,
                "dims": source.dims,
                "splits": {split: len(items) for split, items in source.splits.items()},
                "notes": list(source.notes),
                "delineate": __version__,
            },
            "statistics": self.found.to_dict(),
            "problems": [problem.to_dict() for problem in self.problems],
            "advice": [asdict(advice) for advice in self.advice],
        }


def inspect_data(data: str, split: str, limit: int | None) -> Inspection:
    """Look for problems in all splits, and count in one, leaving out what cannot be read.

    Args:
        data: folder of the data set.
        split: which split the figures and the advice are of.
        limit: look at this many images of each split only, evenly spread.

    Raises:
        ValueError: for a limit below 1, a split without masks, and one in which nothing can be read.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"--limit: expected 1 image or more; got {limit}. Leave it out to look at all of them.")
    source = open_source(data)
    if bare := [item for item in source.items(split) if item.mask is None]:
        raise DataError(
            f"{data}: expected masks in split '{split}'; {len(bare)} of its images have none. "
            "Choose a split that is labelled with --split."
        )
    looked_at = sample(source, limit)
    with progress("reading images and masks") as update:
        problems = find_problems(looked_at, update)
    usable = without_errors(looked_at, problems)
    if not usable.splits[split]:
        _print_problems(problems)
        raise DataError(f"{data}: expected images in split '{split}' that can be used; all have errors. Correct them.")
    with progress("counting") as update:
        found = statistics(usable, split, progress=update)
    found = replace(found, images_in_split=len(source.items(split)))
    return Inspection(source, found, problems, advise(found, data))


def write_inspection(folder: Path, inspection: Inspection) -> Path:
    """Write `inspect.json` and `report.html` into a folder that is new or empty, both or none; returns the page."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        write_json(part / "inspect.json", inspection.to_dict())
        page = write_inspection_report(part)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder / page.name


def print_inspection(inspection: Inspection) -> None:
    """The figures, the problems and the advice."""
    source, found = inspection.source, inspection.found
    held = ", ".join(f"{name} {len(items)}" for name, items in source.splits.items())
    print(f"{source.root}: {source.layout} layout, {source.dims}D, {len(source.classes)} classes; images: {held}")
    _print_statistics(found)
    for note in source.notes:
        print(f"note: {note}")
    _print_problems(inspection.problems)
    _print_advice(inspection.advice)
    print(*inspection_verdict(source.root.resolve().name, [asdict(advice) for advice in inspection.advice]), sep="\n")


def _print_statistics(found: Statistics) -> None:
    sizes = dict.fromkeys("x".join(f"{side:g}" for side in found.image_sizes[key]) for key in ("min", "max"))
    flat = len(found.spacing) == 2
    apart = "" if flat else f" voxels of {'x'.join(f'{step:g}' for step in found.spacing)} mm (median)"
    unit = "pixels" if flat else "voxels"
    of = "" if found.images == found.images_in_split else f" of {found.images_in_split}"
    void = f"void {found.void_share:.2f} % of all {unit}"
    print(f"split {found.split}: {found.images}{of} images of {' to '.join(sizes)}{apart}; {void}")
    table = Table(box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("class", overflow="fold")
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for row in found.classes:
        table.add_row(Text(row.name), *_cells(row))
    _console().print(table)
    print(f"commonest to rarest class: {found.imbalance:.0f} : 1; images without any object: {found.empty_images}")
    print(_definitions(found, unit))


def _cells(row: ClassStatistics) -> list[str]:
    sizes, ratio = row.instance_sizes or {}, row.size_ratio or {}
    return [
        _text(row.share, 2),
        str(row.absent),
        str(row.instances),
        f"{row.instances_per_image['50%']:g}",
        *(_text(sizes.get(key), 0) for key in ("min", "50%", "max")),
        _text(ratio.get("50%"), 0),
        _text(row.touching, 0),
        _text(row.thinness, 2),
        _text(row.boundary, 0),
    ]


def _definitions(found: Statistics, unit: str) -> str:
    """What the columns say, a line each."""
    connected = f"{found.connectivity}-connected components"
    fewer = [c for c in found.classes if c.components is not None and c.components != c.instances]
    mapped = found.instances_from == "maps"
    lines = [
        f"instances: {f'those of instances/, else {connected}' if mapped else connected}; sizes in {unit}",
        *(f"{c.name}: {c.instances} instances are {c.components} components in the masks" for c in fewer),
        "per image: in the median, as is max : min, the largest to the smallest instance of an image",
        "touch: instances next to another of their class; absent: images without the class",
        "thinness: skeleton to area, 1 for a line one wide; edge: with a face to another class",
    ]
    return "\n".join(lines)


def _print_problems(problems: tuple[Problem, ...]) -> None:
    """Each in a line, some of each kind."""
    if not problems:
        print("problems: none found")
        return
    shown: Counter[tuple[str, str]] = Counter()
    print("problems:")
    for problem in problems:
        shown[problem.severity, problem.kind] += 1
        if shown[problem.severity, problem.kind] <= SHOWN:
            print(f"  {problem.severity}, {problem.split}: {problem.sentence}")
    for (severity, kind), count in shown.items():
        if count > SHOWN:
            print(f"  {count - SHOWN} more: {severity}, {kind}")


def _print_advice(advice: tuple[Advice, ...]) -> None:
    table = Table(box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("#", justify="right")
    table.add_column("loss to try", overflow="fold", max_width=42)
    table.add_column("because", overflow="fold")
    for rank, row in enumerate(advice, start=1):
        caution = rank > 1 and row.loss == advice[0].loss
        table.add_row(str(rank), "(a caution)" if caution else Text(row.loss), Text(row.figure))
    _console().print(table)


def _console() -> Console:
    """As wide as the tables need, in a pipe too."""
    return Console(width=max(Console().width, WIDTH))


def _text(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
