"""A finished run as an ONNX file, written only where onnxruntime gives the logits that torch gives."""

import importlib.util
import json
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from delineate.data.transforms import MEAN, STD
from delineate.training.predictor import Predictor, Weights

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
TOLERANCE = 1e-4
"""Largest difference between the logits of onnxruntime and of torch, as a share of the largest logit."""
MULTIPLE = 32
"""Height and width of pictures are multiples of it."""
IMAGE, LOGITS = "image", "logits"


@dataclass(frozen=True)
class Exported:
    """An ONNX file: its sizes, those that are free by name, and how far it is from torch, as a share of the logits."""

    path: Path
    image: tuple[int | str, ...]
    logits: tuple[int | str, ...]
    difference: float


def export_run(folder: Path, out: Path | None, weights: Weights) -> Exported:
    """Write the network of a run as an ONNX file, from `image` float32 to `logits`, and compare both on random input.

    Pictures may have any height and width that 32 divides, where the network can be written so, and the size of the
    training crops otherwise; volumes are windows of that size. The number of images is free. What the images must be,
    names of classes, spacing and versions are in the file's metadata.

    Args:
        folder: the run.
        out: a new file; None: model.onnx in the run, its name with that of other weights than the last student's.
        weights: which weights of the run.

    Raises:
        ValueError: for what is no run, a file that exists, packages that are missing, and a network that cannot be
            written or is another one in ONNX; nothing is written then.
    """
    out = folder / f"model{weights.suffix()}.onnx" if out is None else out
    _check(out)
    predictor = Predictor(folder, weights=weights)
    model = predictor.module.networks[weights.network].model.cpu().eval()
    crop, channels = predictor.settings.crop or (), predictor.source.channels if predictor.source.dims == 3 else 3
    part = out.with_name(f".part-{out.name}")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        image, logits, difference = _export(model, (2, channels, *crop), _description(predictor), part)
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)
    return Exported(out, image, logits, difference)


def _check(out: Path) -> None:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f'export: needs {", ".join(missing)}; not installed. Run pip install "delineate[onnx]".')
    if out.suffix != ".onnx":
        raise ValueError(f"--out {out}: expected the name of a file that ends in .onnx.")
    if out.exists():
        raise ValueError(f"--out {out}: exists, and is not overwritten. Choose another name, or remove it.")


def _export(
    model: nn.Module, shape: tuple[int, ...], description: dict[str, str], path: Path
) -> tuple[Any, Any, float]:
    """Write the network and compare it, of pictures with free height and width where that can be done."""
    batch: dict[int, Any] = {0: torch.export.Dim("batch")}
    sides = {2: MULTIPLE * torch.export.Dim("height"), 3: MULTIPLE * torch.export.Dim("width")}
    if len(shape) == 4:
        with suppress(ValueError):
            _write(model, shape, batch | sides, description, path)
            return _compare(model, shape, path)
    _write(model, shape, batch, description, path)
    return _compare(model, shape, path)


def _write(model: nn.Module, shape: tuple[int, ...], free: dict[int, Any], notes: dict[str, str], path: Path) -> None:
    """Write the network with notes for its readers, and without the exporter's on files of this machine."""
    try:
        program = _to_onnx(model, shape, free)
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0].rstrip(".")
        raise ValueError(
            f"export: {type(model).__name__} cannot be written as ONNX ({reason}). "
            "Train another --model, or export it with code of your own."
        ) from error
    for graph in (program.model.graph, *program.model.functions.values()):
        graph.metadata_props.clear()
        for node in graph.all_nodes():
            node.metadata_props.clear()
    program.model.metadata_props.update(notes)
    program.save(str(path))


def _to_onnx(model: nn.Module, shape: tuple[int, ...], free: dict[int, Any]) -> Any:
    with _quiet():
        return torch.onnx.export(
            model,
            (torch.zeros(shape),),
            dynamo=True,
            verbose=False,
            input_names=[IMAGE],
            output_names=[LOGITS],
            dynamic_shapes=(free,),
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what torch tells of its attempts off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            yield
    finally:
        logging.disable(before)


def _compare(model: nn.Module, shape: tuple[int, ...], path: Path) -> tuple[Any, Any, float]:
    """Sizes of a file, and how far it is from torch over batches of two sizes. ValueError where that is too far."""
    import onnxruntime

    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), quiet, providers=["CPUExecutionProvider"])
    image, logits = tuple(session.get_inputs()[0].shape), tuple(session.get_outputs()[0].shape)
    crop, draw, differences = shape[2:], torch.Generator().manual_seed(0), []
    larger = [side if isinstance(name, int) else side + MULTIPLE for side, name in zip(crop, image[2:], strict=True)]
    for samples, size in ((1, crop), (3, larger)):
        images = torch.randn(samples, shape[1], *size, generator=draw)
        with torch.no_grad():
            expected: Tensor = model(images)
        differences.append(_difference(session, images, expected))
    if not max(differences) <= TOLERANCE:
        raise ValueError(
            f"export: logits of onnxruntime differ from those of torch by {max(differences):.2g} of the largest, "
            f"expected at most {TOLERANCE:g}; no file is left. Try other versions of {', '.join(PACKAGES)}."
        )
    return image, logits, max(differences)


def _difference(session: Any, images: Tensor, expected: Tensor) -> float:
    """Largest difference of a file's logits from those expected, as a share of the largest; without bound if none."""
    try:
        (found,) = session.run([LOGITS], {IMAGE: images.numpy()})
    except Exception:  # those of onnxruntime have no base of their own
        return math.inf
    return float(np.abs(found - expected.numpy()).max() / expected.abs().max())


def _description(predictor: Predictor) -> dict[str, str]:
    """What a reader of the file must know, each value as JSON."""
    source, settings = predictor.source, predictor.settings
    pictures = {
        "axes": "N, channel (RGB), height, width",
        "scale": "divided by 255, then minus mean over std of each channel",
        "mean": MEAN,
        "std": STD,
        "padding": f"with 0, after that, at the bottom and right to multiples of {MULTIPLE}",
    }
    volumes = {
        "axes": "N, channel, then to the right, to the front and to the top of the patient (RAS)",
        "scale": "resampled to the spacing; each channel minus the mean of its voxels that are not 0, over their std",
        "padding": "with the minimum, behind the last voxel, to the size of a window",
    }
    found = {
        "classes": source.classes,
        "input": pictures if source.dims == 2 else volumes,
        "output": "logits before softmax, (N, classes, ...)",
        "crop": settings.crop,
        "window": settings.window if source.dims == 2 else "sliding",
        "spacing": settings.spacing,
        "ignore_index": source.ignore_index,
        "model": settings.model,
        "encoder": settings.encoder,
        "loss": predictor.module.loss.expression(),
        "network": predictor.network,
        "versions": {name: version(name) for name in ("delineate", "torch", *PACKAGES)},
    }
    return {name: json.dumps(value) for name, value in found.items()}
