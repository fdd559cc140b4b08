"""Result folders as `train` and `compare` leave them, with made-up but plausible numbers."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = {
    "sky": 17.6,
    "road & kerb": 29.2,
    "building": 24.1,
    "tree": 11.0,
    "car": 6.2,
    "<script>alert(1)</script>": 1.1,
}
CLASSES |= {"bicyclist": 0.49, "道路 $x$": 0.0}
PALETTE = [
    [128, 128, 128],
    [128, 64, 128],
    [128, 0, 0],
    [128, 128, 0],
    [64, 0, 128],
    [64, 64, 0],
    [0, 128, 192],
    [9, 9, 9],
]
BUDGET = {"epochs": 4, "batch_size": 8, "crop": [160, 224], "model": "Unet(resnet18)", "lr": 0.001, "schedule": "poly"}
ENV = {"delineate": "0.1.0", "python": "3.11.2", "torch": "2.9.0", "lightning": "2.6.4", "platform": "Linux"}
ENV |= {"cpu": "a CPU", "gpu": None, "threads": 2, "date": "2026-01-02T03:04:05"}
CONVENTIONS = ["one confusion matrix over the split", "a class absent from truth and prediction is left out (null)"]


def data_section(classes: dict[str, float] = CLASSES) -> dict[str, Any]:
    """The `data` object; label 255 is void."""
    return {
        "root": "/data/camvid <small> & co",
        "layout": "voc",
        "train_images": 367,
        "val_images": 101,
        "split": "val",
        "classes": list(classes),
        "palette": PALETTE[: len(classes)],
        "ignore_index": 255,
        "train_share": classes,
        "notes": ["11 masks are empty & kept"],
    }


def scores(classes: dict[str, float], level: float, rng: np.random.Generator) -> dict[str, Any]:
    """The `val` object: IoU falls with rarity; the rarest but one is missed, the last absent."""
    iou: dict[str, float | None] = {}
    for name, share in classes.items():
        iou[name] = round(float(np.clip(level + 0.16 * np.log10(share + 0.1) + rng.normal(0, 0.03), 0, 1)), 6)
    *_, missed, absent = classes
    iou |= {missed: 0.0, absent: None}
    dice = {name: None if value is None else round(2 * value / (1 + value), 6) for name, value in iou.items()}
    known = [value for value in iou.values() if value is not None]
    return {
        "miou": round(float(np.mean(known)), 6),
        "mdice": round(float(np.mean([value for value in dice.values() if value is not None])), 6),
        "pixel_accuracy": round(0.5 + level / 2, 6),
        "iou": iou,
        "dice": dice,
        "precision": dice,
        "recall": iou,
        "images": 101,
        "conventions": CONVENTIONS,
    }


def write_run(
    folder: Path, loss: str, seed: int, status: str = "finished", level: float = 0.5, error: str | None = None
) -> None:
    """A run folder without samples."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, len(loss)])
    val = scores(CLASSES, level, rng) if status == "finished" else None
    cost = {
        "ms_per_step": round(700 + 100 * rng.random(), 2),
        "loss_ms": round(4 + 8 * rng.random(), 3) if loss != "CE" else None,
        "peak_memory_mib": round(500 + 90 * rng.random(), 1),
        "memory_kind": "allocated in one training step, CPU",
        "train_seconds": 160,
        "steps": 184,
    }
    record = {"loss": loss, "seed": seed, "status": status, "error": error, "val": val, "dims": 2}
    record |= {"cost": None if status == "failed" else cost}
    record |= {"initial_weights": f"sha256:a{seed}", "batches": f"sha256:b{seed}"}
    write_json(folder / "metrics.json", record)
    (folder / "config.yaml").write_text(f"loss: {loss}\n")
    write_json(folder / "env.json", ENV)
    if status != "failed":
        write_curves(folder / "metrics.csv", val["miou"] if val else 0.2, epochs=4 if val else 2, rng=rng)


def write_curves(path: Path, final: float, epochs: int, rng: np.random.Generator) -> None:
    """A metrics.csv with sparse rows, training and validation apart."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["epoch", "step", "lr", "train/loss", "val/miou"])
        writer.writeheader()
        for epoch in range(epochs):
            for step in range(epoch * 46, (epoch + 1) * 46, 5):
                value = 1.1 * np.exp(-step / 60) + 0.5 + rng.normal(0, 0.04)
                writer.writerow({"epoch": epoch, "step": step, "lr": 0.001, "train/loss": value})
            miou = final * (1 - np.exp(-(epoch + 1))) / (1 - np.exp(-epochs))
            writer.writerow({"epoch": epoch, "step": epoch * 46 + 45, "val/miou": miou})


def write_sample(folder: Path, name: str, predictions: list[Path], size: tuple[int, int] = (60, 44)) -> None:
    """An image, its truth with a void border, and a slightly different prediction in each run folder."""
    width, height = size
    rng = np.random.default_rng(len(name))
    rows, columns = np.indices((height, width))
    truth = (rows * 3 // height + 3 * (columns * 2 // width)).astype(np.uint8)
    image = np.array(PALETTE, np.uint8)[truth] // 2 + rng.integers(0, 90, (height, width, 3), np.uint8)
    truth[:3] = 255
    samples = folder / "samples"
    samples.mkdir(exist_ok=True)
    Image.fromarray(image).save(samples / f"{name}.png")
    Image.fromarray(truth).save(samples / f"{name}.truth.png")
    for shift, run in enumerate(predictions, start=1):
        (run / "samples").mkdir(exist_ok=True)
        labels = np.roll(np.where(truth == 255, 0, truth), 2 * shift, axis=1)
        Image.fromarray(labels).save(run / "samples" / f"{name}.pred.png")


def write_comparison(folder: Path, losses: list[str], seeds: list[int], **stopped: str) -> Path:
    """A comparison with two samples; `stopped` maps the name of a loss to another status than finished."""
    folder.mkdir(exist_ok=True)
    runs = []
    for position, loss in enumerate(losses):
        for seed in seeds:
            status = stopped.get(loss, "finished")
            run = folder / f"{loss.replace(' ', '').replace('*', '')}" / f"seed{seed}"
            error = "RuntimeError: <b>out of memory</b>" if status == "failed" else None
            write_run(run, loss, seed, status, 0.45 + 0.04 * position, error)
            runs.append(run)
    shown = [run for run in runs if json.loads((run / "metrics.json").read_text())["val"]]
    for name in ("street01", "street02"):
        write_sample(folder, name, shown)
    record = {"data": data_section(), "runs": [str(run.relative_to(folder)) for run in runs], "losses": losses}
    record |= {"seeds": seeds, "budget": BUDGET, "same_start": True, "same_batches": True}
    record |= {"status": "finished", "samples": ["street01", "street02"]}
    write_json(folder / "compare.json", record)
    write_json(folder / "env.json", ENV | {"command": "delineate compare camvid --losses " + " ".join(losses)})
    (folder / "config.yaml").write_text("losses: [CE, '<i>Dice</i>']\n")
    return folder


def write_few_labels(
    folder: Path, scores: Mapping[tuple[str, str, str], Sequence[float | None]], images: dict[str, int], **entries: Any
) -> Path:
    """A comparison of few labels: mIoU of every seed by (method, share, loss), None where the run was interrupted.

    A teacher of the methods other than supervised is .01 better; the best epochs are .02 better than the last.
    Without curves and samples.
    """
    arms = {f"{method}, {share}, {loss}": [method, share, loss] for method, share, loss in scores}
    runs = []
    for number, (arm, values) in enumerate(zip(arms, scores.values(), strict=True)):
        for seed, value in enumerate(values):
            run = folder / f"arm{number}" / f"seed{seed}"
            write_run(run, arm, seed, "interrupted" if value is None else "finished")
            few = {"semi": arms[arm][0], "labeled": arms[arm][1], "expression": arms[arm][2]}
            few |= {"batches": f"sha256:b{seed} {arms[arm][1]}"}
            if value is not None:
                val = json.loads((run / "metrics.json").read_text())["val"] | {"miou": value}
                few |= {"val": val, "networks": networks(value, few["semi"] != "supervised", seed)}
            edit_json(run / "metrics.json", **few)
            (run / "metrics.csv").unlink()
            runs.append(run)
    grid = {"methods": [arm[0] for arm in arms.values()], "labeled": list(images), "labelled_images": images}
    grid |= {"unlabelled_images": {share: 367 - count for share, count in images.items()}, "protocol": "own"}
    record = {"data": data_section(), "runs": [str(run.relative_to(folder)) for run in runs], "losses": list(arms)}
    record |= {"seeds": list(range(max(map(len, scores.values())))), "budget": BUDGET | {"labeled": "1/8"}}
    record |= {"same_start": True, "same_batches": True, "status": "finished", "samples": []}
    write_json(folder / "compare.json", record | {"few_labels": grid | {"arms": arms}} | entries)
    write_json(folder / "env.json", ENV)
    (folder / "config.yaml").write_text("seeds: 1\n")
    return folder


def networks(last: float, teacher: bool, seed: int) -> dict[str, Any]:
    """The `networks` object of metrics.json."""
    found = {"student": {"last_miou": last, "best_miou": last + 0.02, "best_epoch": 2 + seed}}
    if teacher:
        found["teacher"] = {"last_miou": last + 0.01, "best_miou": last + 0.03, "best_epoch": 4}
    return found


def write_single(folder: Path, status: str = "finished") -> Path:
    """A run folder that stands alone."""
    write_run(folder, "Dice + CE", 0, status)
    write_sample(folder, "street01", [folder])
    edit_json(folder / "metrics.json", data=data_section(), budget=BUDGET, samples=["street01"])
    return folder


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write `record`."""
    path.write_text(json.dumps(record))


def edit_json(path: Path, **entries: Any) -> None:
    """Replace entries of a JSON file."""
    write_json(path, json.loads(path.read_text()) | entries)
