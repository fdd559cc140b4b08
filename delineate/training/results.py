"""What a run leaves on disk besides its weights, in the form that reports read."""

import csv
import hashlib
import json
import os
import platform
import shlex
import sys
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import nn

from delineate.data import Source
from delineate.evaluation import CaseCounts
from delineate.metrics import CONVENTIONS, Scores
from delineate.training.datamodule import DataModule
from delineate.training.settings import Settings

CASES = "cases.json"
"""Counts of every val case, in the folder of a run."""
CHANGE_NOTHING = ("workers", "parallel")
"""Arguments that may differ when a run is continued."""


def val_result(scores: Scores, source: Source, images: int) -> dict[str, Any]:
    """Scores as result files hold them."""
    return scores.to_dict(source.classes) | {"images": images, "conventions": list(CONVENTIONS)}


def networks_result(scores: dict[str, Scores], best: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """mIoU of the student, and of the teacher where there is one: of the last epoch, and of the best on val."""
    return {
        name: {"last_miou": found.miou, "best_miou": best[name]["miou"], "best_epoch": best[name]["epoch"]}
        for name, found in scores.items()
    }


def describe(source: Source, train_share: dict[str, float], notes: list[str]) -> dict[str, Any]:
    """The data set as result files hold it."""
    return {
        "root": str(source.root.resolve()),
        "layout": source.layout,
        "split": "val",
        "train_images": len(source.items("train")),
        "val_images": len(source.items("val")),
        "classes": list(source.classes),
        "palette": source.palette.tolist(),
        "ignore_index": source.ignore_index,
        "train_share": train_share,
        "notes": [*source.notes, *notes],
    }


def run_options(source: Source, settings: Settings, **options: Any) -> dict[str, Any]:
    """The arguments that repeat a run."""
    return {"data": str(source.root.resolve())} | options | asdict(settings)


def read_cases(run: Path) -> list[CaseCounts]:
    """The counts of every val case of a finished run."""
    content = json.loads((run / CASES).read_text(encoding="utf-8"))
    return [CaseCounts.from_dict(entries) for entries in content["cases"]]


def budget(data: DataModule) -> dict[str, Any]:
    """What every loss of a comparison is given, as the report shows it."""
    settings = data.settings
    model = ", ".join([*([settings.encoder] if settings.encoder else []), f"{settings.weights or 'random'} weights"])
    found = asdict(settings) | {"model": f"{settings.model} ({model})", "steps": data.steps * (settings.epochs or 0)}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


def environment() -> dict[str, Any]:
    """Versions, machine and command."""
    return {
        "delineate": _version("delineate"),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "lightning", "torchvision", "segmentation-models-pytorch")},
        "platform": platform.platform(),
        "cpu": platform.processor() or platform.machine(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(["delineate", *sys.argv[1:]]),
    }


def write_json(path: Path, content: Any) -> None:
    """Write all of a JSON file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def check_unchanged(folder: Path, options: dict[str, Any], may_grow: tuple[str, ...]) -> None:
    """Refuse to continue in a folder that was made with other arguments, those of `CHANGE_NOTHING` apart."""
    path = folder / "config.yaml"
    if not path.is_file():
        return
    made = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key in [*options, *(key for key in made if key not in options)]:
        if key not in (*may_grow, *CHANGE_NOTHING) and made.get(key) != options.get(key):
            raise ValueError(
                f"{folder}: was made with {key} = {made.get(key)!r}, and {options.get(key)!r} was asked for now; "
                "it can only be continued with the arguments it was made with. Choose another --out."
            )


def prepare_run(folder: Path, options: dict[str, Any], may_grow: tuple[str, ...] = ()) -> None:
    """Make the folder of a run or a comparison, with its environment and its arguments as `--config` takes them.

    Raises:
        ValueError: for a folder that was made with other arguments, those that `may_grow` apart.
    """
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
    check_unchanged(folder, plain, may_grow)
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, default_flow_style=None)
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    write_json(folder / "env.json", environment())


def fingerprint(model: nn.Module) -> str:
    """A hash of all weights: equal for equal starts."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return f"sha256:{digest.hexdigest()[:16]}"


def merge_logs(folder: Path) -> None:
    """Join the logs of all attempts into `metrics.csv`; steps that a later attempt repeated are taken from it."""
    rows: list[dict[str, str]] = []
    for path in sorted((folder / "logs").glob("*/metrics.csv"), key=lambda path: int(path.parent.name)):
        with path.open(newline="", encoding="utf-8") as file:
            later = list(csv.DictReader(file))
        if later:
            first = min(int(row["step"]) for row in later)
            rows = [row for row in rows if int(row["step"]) < first] + later
    names = list(dict.fromkeys(name for row in rows for name in row))
    names.sort(key=lambda name: (name not in ("epoch", "step"), name))
    with (folder / "metrics.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)


def save_labels(labels: np.ndarray, palette: np.ndarray, path: Path) -> None:
    """Write labels (H, W) as a palette PNG; 16-bit grey where there are more than 256 classes."""
    if len(palette) > 256:
        Image.fromarray(labels.astype(np.uint16)).save(path)
        return
    colours = np.full((256, 3), 224, dtype=np.uint8)  # all 256, or the file is packed to fewer bits and 255 is lost
    colours[: len(palette)] = palette
    picture = Image.fromarray(labels.astype(np.uint8))
    picture.putpalette(colours.tobytes())
    picture.save(path)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
