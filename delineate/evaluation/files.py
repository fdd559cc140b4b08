"""The files of an evaluation: all of them or none."""

import csv
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from delineate.evaluation.cases import case_rows
from delineate.evaluation.evaluate import Evaluation

Rows = Sequence[Mapping[str, object]]


def write_evaluation(
    folder: Path, evaluation: Evaluation, result: Mapping[str, Any], tables: Mapping[str, Rows] | None = None
) -> None:
    """Write `metrics.json`, `per_case.csv` and `worst/` into a folder, in place of those of an earlier evaluation.

    All is written beside the folder first, and moved when complete.

    Args:
        folder: made where it is missing; other files in it stay.
        evaluation: goes under the key "cases" of `metrics.json`.
        result: what else `metrics.json` holds.
        tables: further CSV files by name.
    """
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        pictures = evaluation.worst.save(part / "worst")
        for name, rows in {"per_case.csv": case_rows(evaluation.cases), **(tables or {})}.items():
            _write_csv(part / name, rows)
        content = {**result, "cases": {**evaluation.to_dict(), "worst": pictures}}
        (part / "metrics.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        _move(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def results_folder(verb: str, name: str, out: str | None) -> Path:
    """A folder for the files of a verb: `out`, new or empty, or else the next `runs/VERB-NAME-NUMBER`.

    Raises:
        ValueError: for an `out` that holds something.
    """
    if out is not None:
        if Path(out).is_file() or (Path(out).is_dir() and any(Path(out).iterdir())):
            raise ValueError(f"--out {out}: expected a folder that is new or empty. Choose another one.")
        return Path(out)
    base, number = Path("runs") / f"{verb}-{name}", 1
    while Path(f"{base}-{number}").exists():
        number += 1
    return Path(f"{base}-{number}")


def _move(part: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    shutil.rmtree(folder / "worst", ignore_errors=True)
    for path in sorted(part.iterdir(), key=lambda path: path.name == "metrics.json"):
        os.replace(path, folder / path.name)


def _write_csv(path: Path, rows: Rows) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
