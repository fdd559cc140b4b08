"""What a comparison shows of its losses on the user's own images: the worst cases, and what each gradient asks for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from delineate.evaluation import CaseCounts
from delineate.losses import Schedule
from delineate.training.cost import in_turns_ms, step_of
from delineate.training.datamodule import DataModule
from delineate.training.module import SegmentationModule
from delineate.training.results import read_cases, write_json
from delineate.training.rows import Row
from delineate.training.run import CHECKPOINT, build_module, loss_for
from delineate.training.samples import save_predictions, shown_slice, training_batch, trimmed, write_samples

WORST = 3
"""Cases shown."""
COLOURS = "RdBu_r"
"""Red asks for more of a class, blue for less: apart under all common forms of colour blindness."""
CLIPPED = 99.5
"""Percentile of the absolute gradient at which the colours end."""


def worst_cases(runs: Sequence[Sequence[CaseCounts]], scored: Sequence[int]) -> list[str]:
    """Ids of the cases with the lowest Dice over the scored classes that they hold, mean over all runs."""
    means = {cases[0].id: float(np.mean([_dice(case, scored) for case in cases])) for cases in zip(*runs, strict=True)}
    return sorted(means, key=lambda name: means[name])[:WORST]


def _dice(case: CaseCounts, scored: Sequence[int]) -> float:
    places = [label for label in scored if case.truth[label]]
    both = [case.truth[label] + case.predicted[label] for label in places]
    return float(np.mean([2 * case.tp[c] / b for c, b in zip(places, both, strict=True)])) if places else 1.0


def write_showcase(rows: Sequence[Row], scored: Sequence[int], folder: Path) -> tuple[list[str], dict[str, float]]:
    """Write pictures of the worst cases, predictions of each loss for them, and gradients.

    Args:
        rows: one finished training of each loss, all with one seed.
        scored: labels that cases are judged by.
        folder: of the comparison.

    Returns:
        The ids of the worst cases, and milliseconds of each loss alone on a batch of training, timed in turns.
    """
    source = rows[0].arm.source
    ids = worst_cases([read_cases(row.folder) for row in rows], scored)
    data = DataModule(source, rows[0].arm.settings, rows[0].seed)
    write_samples(data, ids, folder / "samples")
    logits, crops, shares, steps = None, None, {}, {}
    for row in rows:
        module = _trained(row)
        crops = training_batch(module, data) if crops is None else crops
        steps[row.arm.name] = step_of(module.loss, *crops)
        save_predictions(module, data, ids, row.folder / "samples")
        batch = next(data.samples(row.samples[:1]))
        if logits is None:
            with torch.no_grad():
                logits = module.logits(batch["image"].to(module.device)).float()
            label = _rarest(batch["mask"], scored)
        gradient = _gradient(module, logits, batch)
        shares[row.arm.name] = _shares(gradient, batch["mask"], source.classes)
        _save(trimmed(batch, gradient[:, label]), trimmed(batch, batch["mask"]), data, row.folder / "gradient.png")
    about = {"id": rows[0].samples[0], "class": source.classes[label], "network": rows[0].arm.name}
    write_json(folder / "gradients.json", about | {"shares": shares})
    return ids, in_turns_ms(steps, device=crops[0].device.type if crops else "cpu")


def _trained(row: Row) -> SegmentationModule:
    """The network of a finished run, with the loss as in its last epoch."""
    source, settings = row.arm.source, row.arm.settings
    module = build_module(source, settings, loss_for(row.arm.loss, source), row.seed)
    state = torch.load(row.folder / CHECKPOINT, map_location="cpu", weights_only=True)["state_dict"]
    module.load_state_dict(state)
    for part in module.loss.modules():
        if isinstance(part, Schedule):
            part.set_epoch((settings.epochs or 1) - 1)
    return module.eval()


def _gradient(module: SegmentationModule, logits: Tensor, batch: dict[str, Any]) -> Tensor:
    """Minus the gradient of the loss, (1, C, *S): where it asks for more of a class it is positive."""
    logits = logits.clone().requires_grad_()
    target = module.prepare.target({"mask": batch["mask"].to(logits.device)})
    module.loss(logits, target).backward()
    assert logits.grad is not None
    return -logits.grad


def _rarest(mask: Tensor, scored: Sequence[int]) -> int:
    """The scored label with the fewest voxels in a mask, of those that it holds."""
    counts = {label: int((mask == label).sum()) for label in scored}
    return min((c for c in counts if counts[c]), key=lambda c: counts[c], default=scored[0])


def _shares(gradient: Tensor, mask: Tensor, classes: Sequence[str]) -> dict[str, float]:
    """Share of the absolute gradient, over all channels, on the voxels of each true class that occurs."""
    size = gradient.abs().sum(1).double()
    total = float(size.sum()) or 1.0
    inside = {name: mask.to(size.device) == label for label, name in enumerate(classes)}
    return {name: round(float(size[where].sum()) / total, 4) for name, where in inside.items() if where.any()}


def _save(gradient: np.ndarray, labels: np.ndarray, data: DataModule, path: Path) -> None:
    """The gradient of one channel in colours that are the same for plus and minus; of a volume the slice shown."""
    shown = gradient if gradient.ndim == 2 else shown_slice(gradient, labels, data.source)
    scale = float(np.percentile(np.abs(shown[shown != 0]), CLIPPED)) if shown.any() else 1.0
    colours = matplotlib.colormaps[COLOURS](0.5 + 0.5 * np.clip(shown / scale, -1, 1))
    Image.fromarray((255 * colours[..., :3]).astype(np.uint8)).save(path)
