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
CASES = 12
ENV = {"delineate": "0.1.0", "python": "3.11.2", "torch": "2.9.0", "lightning": "2.6.4", "platform": "Linux"}
ENV |= {"cpu": "a CPU", "gpu": None, "threads": 2, "date": "2026-01-02T03:04:05"}
CONVENTIONS = ["one confusion matrix over the split", "a class absent from truth and prediction is left out (null)"]


def data_section(classes: dict[str, float] = CLASSES) -> dict[str, Any]:
    """The `data` object; label 255 is void."""
    return {
        "root": "/data/camvid <small> & co",
        "layout": "voc",
        "train_images": 367,
        "val_images": CASES,
        "split": "val",
        "classes": list(classes),
        "palette": PALETTE[: len(classes)],
        "ignore_index": 255,
        "train_share": classes,
        "notes": ["11 masks are empty & kept"],
    }


def counts(
    classes: dict[str, float], level: float, rng: np.random.Generator, cases: int = CASES
) -> list[dict[str, Any]]:
    """The `cases` of cases.json: the truth is the same for all, IoU falls with rarity and varies with `rng`.

    The rarest class but one is missed, the last absent from truth and prediction.
    """
    truth_rng, found = np.random.default_rng(7), []
    for place in range(cases):
        truth = [int(20000 * share / 100 * truth_rng.uniform(0.6, 1.4)) for share in classes.values()]
        hard = truth_rng.normal(0, 0.06)
        good = [float(np.clip(level + hard + 0.16 * np.log10(s + 0.1), 0.02, 0.97)) for s in classes.values()]
        good = [float(np.clip(q + rng.normal(0, 0.02), 0.01, 0.98)) for q in good]
        tp = [round(t * 2 * q / (1 + q)) for t, q in zip(truth, good, strict=True)]
        tp[-2], predicted = 0, list(truth)
        predicted[-2] = 0
        objects = {}
        for name, t, q, p in zip(classes, truth, good, predicted, strict=True):
            sizes = np.round(np.sort(truth_rng.lognormal(3, 1.2, min(3, t))), 1).tolist()
            hit = [int(p > 0 and rng.random() < min(0.95, q * (0.4 + 0.2 * np.log10(size)))) for size in sizes]
            objects[name] = {"sizes": sizes, "found": hit, "predicted": sum(hit) + int(p > 0), "right": sum(hit)}
        case = {"id": f"street{place + 1:02}", "tp": tp, "truth": truth, "predicted": predicted, "objects": objects}
        found.append(case)
    return found


def scores(classes: dict[str, float], cases: list[dict[str, Any]]) -> dict[str, Any]:
    """The `val` object of these cases."""
    sums = {key: np.sum([case[key] for case in cases], axis=0) for key in ("tp", "truth", "predicted")}
    tp, truth, predicted = sums.values()

    def by_class(part: Any, whole: Any) -> dict[str, float | None]:
        return {name: round(float(p / w), 6) if w else None for name, p, w in zip(classes, part, whole, strict=True)}

    iou, dice = by_class(tp, truth + predicted - tp), by_class(2 * tp, truth + predicted)
    return {
        "miou": round(float(np.mean([value for value in iou.values() if value is not None])), 6),
        "mdice": round(float(np.mean([value for value in dice.values() if value is not None])), 6),
        "pixel_accuracy": round(float(tp.sum() / truth.sum()), 6),
        "iou": iou,
        "dice": dice,
        "precision": by_class(tp, predicted),
        "recall": by_class(tp, truth),
        "images": len(cases),
        "conventions": CONVENTIONS,
    }


def write_run(
    folder: Path, loss: str, seed: int, status: str = "finished", level: float = 0.5, error: str | None = None
) -> None:
    """A run folder without samples; what is finished holds its cases."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, len(loss)])
    cases = counts(CLASSES, level, rng) if status == "finished" else None
    val = scores(CLASSES, cases) if cases else None
    if cases:
        write_cases(folder, cases)
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
    record |= {"gradient_norm": round(float(len(loss) * rng.uniform(0.9, 1.1)), 4) if cases else None}
    record |= {"initial_weights": f"sha256:a{seed}", "batches": f"sha256:b{seed}"}
    write_json(folder / "metrics.json", record)
    (folder / "config.yaml").write_text(f"loss: {loss}\n")
    write_json(folder / "env.json", ENV)
    if status != "failed":
        write_curves(folder / "metrics.csv", val["miou"] if val else 0.2, epochs=4 if val else 2, rng=rng)


def write_cases(folder: Path, cases: list[dict[str, Any]], classes: dict[str, float] = CLASSES) -> None:
    """The cases.json of a run."""
    write_json(folder / "cases.json", {"classes": list(classes), "cases": cases})


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
    record |= {"status": "finished", "samples": ["street01", "street02"], "metric": "miou"}
    write_json(folder / "compare.json", record)
    write_json(folder / "env.json", ENV | {"command": "delineate compare camvid --losses " + " ".join(losses)})
    (folder / "config.yaml").write_text("losses: [CE, '<i>Dice</i>']\n")
    return folder


def write_extras(folder: Path) -> Path:
    """What a comparison may hold besides: worst cases, gradients, advice, learning rates tried, a time budget."""
    record = json.loads((folder / "compare.json").read_text())
    losses, runs = record["losses"], [folder / name for name in record["runs"]]
    firsts = {json.loads((run / "metrics.json").read_text())["loss"]: run for run in reversed(runs)}
    write_sample(folder, "street07", runs)
    rng = np.random.default_rng(3)
    for loss in losses:
        Image.fromarray(rng.integers(0, 255, (44, 60, 3), np.uint8)).save(firsts[loss] / "gradient.png")
    names = record["data"]["classes"][:3]
    shares = {loss: dict(zip(names, (0.5, 0.25, 0.25), strict=True)) for loss in losses}
    about = {"id": "street01", "class": names[2], "network": losses[0], "shares": shares}
    write_json(folder / "gradients.json", about)
    rule = {"rule": "rare", "loss": losses[-1], "figure": "the rarest class has 0.5 %", "value": 0.5, "why": "Say `CE`"}
    rule |= {"fails": "it may", "source": "a paper", "command": "delineate compare DATA"}
    scores = [[0.31, 0.345], [0.36, None]]
    arms = {loss: {"scores": scores[i % 2], "chosen": [0.003, 0.001][i % 2]} for i, loss in enumerate(losses)}
    sweep = {"rates": [0.001, 0.003], "epochs": 2, "images": 73, "arms": arms}
    budget = {"asked": "30min", "epochs": 4, "measured": {}}
    edit_json(folder / "compare.json", worst=["street07"], advice=[rule], sweep=sweep, time_budget=budget)
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
