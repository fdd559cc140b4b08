"""A finished run put to use: the labels it predicts, in the geometry of the file they are predicted for."""

import os
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml

from delineate.data import Item, Source, collate, eval_transform, list_images, list_volumes, open_source
from delineate.data.dataset import SegmentationDataset
from delineate.data.nifti import write_labels
from delineate.training.arms import open_data
from delineate.training.module import STUDENT, TEACHER, SegmentationModule
from delineate.training.results import save_labels
from delineate.training.run import BEST, CHECKPOINT, build_module, loss_for
from delineate.training.settings import Settings

if TYPE_CHECKING:
    from delineate.data.volumes import Volumes


@dataclass(frozen=True)
class Weights:
    """Which weights of a run are meant.

    Args:
        checkpoint: "last", or of runs of few labels "best": of the epoch with the highest mIoU on val.
        network: "student", or "teacher" of a method that has one.
    """

    checkpoint: str = "last"
    network: str = STUDENT

    def __post_init__(self) -> None:
        for name, allowed in (("checkpoint", ("last", "best")), ("network", (STUDENT, TEACHER))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"--{name}: expected {' or '.join(allowed)}; got {getattr(self, name)!r}.")

    def path(self, folder: Path) -> Path:
        """The checkpoint in the folder of a run."""
        path = folder / CHECKPOINT
        return path if self.checkpoint == "last" else path.with_name(f"{BEST[self.network]}.ckpt")

    def suffix(self) -> str:
        """What names of files of these weights end in, nothing for those of the student after the last epoch."""
        return "".join(f"-{name}" for name in (self.checkpoint, self.network) if name not in ("last", STUDENT))


class Predictor:
    """The network of a run with its weights, ready to predict.

    Args:
        folder: the run.
        data: another data set with the same classes; None is the one of the run, with its split lists.
        weights: which weights of the run.

    Raises:
        ValueError: where the folder is no run, or its checkpoint cannot be read or does not fit.
    """

    def __init__(self, folder: Path, data: str | None = None, weights: Weights = Weights()):
        options = _options(folder)
        names = {field.name for field in fields(Settings)}
        self.settings = Settings(**{key: _plain(value) for key, value in options.items() if key in names})
        self.source: Source = open_source(data) if data else open_data(options["data"], self.settings)
        self.network = weights.network
        self.module = self._load(weights.path(folder), options["loss"])
        if self.network not in self.module.networks:
            raise ValueError(
                f"--network {self.network}: the run {folder} has none; its method keeps no second network."
            )

    def labels(self, item: Item) -> np.ndarray:
        """Predicted labels of an item, integer (H, W) or (*S), on the grid of its file."""
        return self._of_volume(item) if self.source.dims == 3 else self._of_picture(item)

    def check(self, item: Item) -> None:
        """Read an item in full. Raises DataError where it cannot be predicted."""
        if self.source.dims == 3:
            self._volumes().check(item)
        else:
            self.source.read_image(item)

    def _of_picture(self, item: Item) -> np.ndarray:
        alone = replace(self.source, splits={"predict": (item,)})
        sample = SegmentationDataset(alone, "predict", eval_transform())[0]
        height, width = sample["size"]
        logits = self._logits(collate([sample], self.source.pad_label)["image"])
        return logits[:, :height, :width].argmax(0).cpu().numpy()

    def _of_volume(self, item: Item) -> np.ndarray:
        volumes = self._volumes()
        sample = volumes.read(replace(item, mask=None))
        return volumes.restore(self._logits(sample["image"][None]), sample, item)

    def _volumes(self) -> "Volumes":
        from delineate.data.volumes import Volumes  # imports MONAI: seconds, and of no use in 2D

        return Volumes(self.source, self.settings.spacing or (), self.settings.crop or (), held=0)

    def _logits(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.module.logits(images.to(self.module.device), self.network)[0]

    def _load(self, checkpoint: Path, loss: str) -> SegmentationModule:
        source, settings = self.source, self.settings
        if len(settings.crop or (1, 1)) != source.dims:
            raise ValueError(
                f"{source.root}: expected data of {len(settings.crop or (1, 1))}D, as the run was trained "
                f"on; got {source.dims}D. Name other data."
            )
        module = build_module(source, replace(settings, weights=None), loss_for(loss, source))
        if not checkpoint.is_file():
            raise ValueError(f"{checkpoint}: expected it in the run; only runs of few labels keep their best epoch.")
        try:
            module.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"])
        except Exception as error:
            raise ValueError(
                f"{checkpoint}: does not hold the weights of {settings.model} with {len(source.classes)} classes "
                f"({str(error).splitlines()[0]}). Was the run made with other data or another version?"
            ) from None
        return module.eval().to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def predict_images(
    folder: Path,
    images: Path,
    out: Path,
    progress: Callable[[int, int], object],
    weights: Weights = Weights(),
) -> int:
    """Write a label map for an image or every image of a folder, on its own grid; returns how many.

    Of a picture a palette PNG, of a volume CASE.nii.gz with the affine of its file. All images are read before the
    first is predicted.

    Args:
        folder: the run.
        images: a picture or a folder of them; CASE_0000.nii.gz, the first channel of a volume, or a folder of them.
        out: a folder that is new or empty.
        progress: called with the number of images done and of all.
        weights: which weights of the run.

    Raises:
        ValueError: for what is no run, images that cannot be read, and a folder that holds files.
    """
    predictor = Predictor(folder, weights=weights)
    volumes = predictor.source.dims == 3
    items = list_volumes(images) if volumes else list_images(images)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out}: expected a folder that is new or empty; predictions never overwrite files.")
    for item in items:
        predictor.check(item)
    out.mkdir(parents=True, exist_ok=True)
    for done, item in enumerate(items, start=1):
        labels, path = predictor.labels(item), out / f"{item.id}{'.nii.gz' if volumes else '.png'}"
        part = path.with_name(f".part-{path.name}")
        if volumes:
            write_labels(labels, part, like=item.image)
        else:
            save_labels(labels, predictor.source.palette, part)
        os.replace(part, path)
        progress(done, len(items))
    return len(items)


def refuse_comparison(folder: Path) -> None:
    """Raise ValueError where a folder holds the runs of a comparison, or those of one of its losses."""
    runs = sorted(path.parent for path in folder.glob("**/seed*/config.yaml"))
    if runs and any((place / "compare.json").is_file() for place in (folder, folder.resolve().parent)):
        named = next((run for run in runs if (run / CHECKPOINT).is_file()), runs[0])
        raise ValueError(f"{folder}: expected one run; got a comparison. Name one of its runs, such as {named}.")


def _options(folder: Path) -> dict[str, Any]:
    """The arguments that a run was made with."""
    refuse_comparison(folder)
    for path in (folder / "config.yaml", folder / CHECKPOINT):
        if not path.is_file():
            raise ValueError(
                f"{folder}: expected a run of `delineate train` or `compare` with {path.name}; found none."
            )
    return yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
