"""A finished run put to use: scored on a split, or predicting images."""

import csv
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils.data import DataLoader

from delineate.data import DataError, Item, Source, collate, eval_transform, list_images, open_source
from delineate.data.dataset import SegmentationDataset
from delineate.metrics import ConfusionMatrix
from delineate.training.models import build_model
from delineate.training.module import SegmentationModule
from delineate.training.results import save_labels, val_result, write_json
from delineate.training.run import CHECKPOINT, loss_for
from delineate.training.settings import Settings

Progress = Callable[[int, int], object]


def load_run(folder: Path, data: str | None = None) -> tuple[SegmentationModule, Source]:
    """The network of a run with its last weights, ready to predict, and its data set (or the one given).

    Raises:
        ValueError: where the folder is no run, or its checkpoint cannot be read or does not fit.
    """
    config, checkpoint = folder / "config.yaml", folder / CHECKPOINT
    for path in (config, checkpoint):
        if not path.is_file():
            raise ValueError(
                f"{folder}: expected a run of `delineate train` or `compare` with {path.name}; found none."
            )
    options = yaml.safe_load(config.read_text(encoding="utf-8"))
    names = {field.name for field in fields(Settings)}
    settings = Settings(**{key: _plain(value) for key, value in options.items() if key in names})
    source = open_source(data or options["data"], settings.train_list)
    model = build_model(settings.model, len(source.classes), encoder=settings.encoder)
    module = SegmentationModule(model, loss_for(options["loss"], source), source.classes, source.pad_label)
    try:
        module.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"])
    except Exception as error:
        raise ValueError(
            f"{checkpoint}: does not hold the weights of {settings.model} with {len(source.classes)} classes "
            f"({str(error).splitlines()[0]}). Was the run made with other data or another version?"
        ) from None
    return module.eval().to(_device()), source


def evaluate_run(folder: Path, data: str | None, split: str, progress: Progress) -> tuple[dict[str, Any], Path]:
    """Score a run on a split, into `metrics.json` and `per_image.csv`; returns scores and the folder of these files.

    Raises:
        ValueError: for what is no run, and for a split with images that have no mask.
    """
    module, source = load_run(folder, data)
    dataset = SegmentationDataset(source, split, eval_transform())
    if bare := [item.id for item in dataset.items if item.mask is None]:
        raise DataError(
            f"{source.root}: expected masks in split '{split}' to score against; {len(bare)} of {len(dataset)} images "
            f"have none, {bare[0]} first. Use `delineate predict` for images without masks."
        )
    whole, rows = ConfusionMatrix(len(source.classes), source.pad_label), []
    for done, batch in enumerate(_batches(dataset, source), start=1):
        single = ConfusionMatrix(len(source.classes), source.pad_label)
        single.update(_predict(module, batch["image"]), batch["mask"])
        whole.counts += single.counts
        scores = single.scores().to_dict(source.classes)
        rows.append({"id": batch["id"][0], "miou": scores["miou"], "pixel_accuracy": scores["pixel_accuracy"]})
        rows[-1] |= {f"iou/{name}": value for name, value in scores["iou"].items()}
        progress(done, len(dataset))
    result = {"run": str(folder), "data": str(source.root), "split": split}
    result |= val_result(whole.scores(), source, len(dataset))
    out = folder / "-".join(["evaluation", *([source.root.resolve().name] if data else []), split])
    write_json(out / "metrics.json", result)
    with (out / "per_image.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return result, out


def predict_images(folder: Path, images: Path, out: Path, progress: Progress) -> int:
    """Write a palette PNG of predicted labels, of the image's own size, for a picture or every picture of a folder."""
    module, source = load_run(folder)
    items = list_images(images)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"--out {out}: expected a folder that is new or empty; predictions never overwrite files.")
    dataset = SegmentationDataset(_with_items(source, items), "predict", eval_transform())
    for done, batch in enumerate(_batches(dataset, source), start=1):
        (height, width), name = batch["size"][0], batch["id"][0]
        labels = _predict(module, batch["image"])[0, :height, :width].numpy()
        out.mkdir(parents=True, exist_ok=True)
        save_labels(labels, source.palette, out / f"{name}.png")
        progress(done, len(items))
    return len(items)


def _with_items(source: Source, items: tuple[Item, ...]) -> Source:
    if not items:
        raise DataError(f"{source.root}: expected images to predict; got none.")
    return replace(source, splits={"predict": items})


def _batches(dataset: SegmentationDataset, source: Source) -> DataLoader:
    return DataLoader(dataset, batch_size=1, collate_fn=partial(collate, ignore_index=source.pad_label))


def _predict(module: SegmentationModule, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return module(images.to(module.device)).argmax(1).cpu()


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
