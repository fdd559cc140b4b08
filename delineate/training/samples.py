"""The val images that a report shows: which, their pictures, and what a network makes of them.

Of a volume the axial slice with most foreground is shown, seen from above: the patient's front up, the right on the
right.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from delineate.data import Source
from delineate.data.dataset import Sample
from delineate.training.datamodule import DataModule, Seeded
from delineate.training.module import SegmentationModule
from delineate.training.results import save_labels

SAMPLES = 4
"""Images shown in a report."""


def choose_samples(source: Source, shares: dict[str, float], count: int = SAMPLES, looked_at: int = 200) -> list[str]:
    """Ids of val images to show: each adds the rarest classes not yet shown, the rest are spread over the split."""
    items = source.items("val")
    items = items[:: -(-len(items) // looked_at)]
    held = {item.id: {int(label) for label in np.unique(source.read_mask(item))} for item in items}
    rarity = {c: 1 / max(shares[name], 1e-3) for c, name in enumerate(source.classes)}
    chosen: list[str] = []
    missing = set(rarity)
    while len(chosen) < min(count, len(items)):
        best = max(held, key=lambda name: sum(rarity[c] for c in held[name] & missing))
        if not held[best] & missing:
            break
        chosen.append(best)
        missing -= held[best]
    rest = [item.id for item in items if item.id not in chosen]
    wanted = min(count - len(chosen), len(rest))
    return chosen + [rest[(2 * place + 1) * len(rest) // (2 * wanted)] for place in range(wanted)]


def write_samples(data: DataModule, ids: list[str], folder: Path) -> None:
    """Write `<id>.png` and `<id>.truth.png`: the images and the truth that predictions are shown beside."""
    folder.mkdir(parents=True, exist_ok=True)
    source = data.source
    if source.dims == 3:
        for batch in data.samples(ids):
            name, labels = batch["id"][0], trimmed(batch, batch["mask"])
            Image.fromarray(_grey(trimmed(batch, batch["image"][:, 0]), labels, source)).save(folder / f"{name}.png")
            save_labels(shown_slice(labels, labels, source), source.palette, folder / f"{name}.truth.png")
        return
    for item in source.items("val"):
        if item.id in ids:
            Image.fromarray(source.read_image(item)).save(folder / f"{item.id}.png")
            save_labels(source.read_mask(item), source.palette, folder / f"{item.id}.truth.png")


def save_predictions(
    module: SegmentationModule, data: DataModule, ids: list[str], folder: Path
) -> tuple[torch.Tensor, torch.Tensor]:
    """Write `<id>.pred.png` for some images; logits and labels of one batch are returned, of pictures of these."""
    folder.mkdir(parents=True, exist_ok=True)
    module.eval()
    seen = []
    for batch in data.samples(ids):
        with torch.no_grad():
            logits = module.logits(batch["image"].to(module.device))
        labels, name = trimmed(batch, logits.argmax(1)), batch["id"][0]
        shown = labels if data.source.dims == 2 else shown_slice(labels, trimmed(batch, batch["mask"]), data.source)
        save_labels(shown, data.source.palette, folder / f"{name}.pred.png")
        if data.source.dims == 2:
            seen.append((logits.float(), batch["mask"].to(module.device)))
    return training_batch(module, data) if data.source.dims == 3 else _alike(seen)


def _alike(seen: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Those of the size of the first as one batch."""
    size = seen[0][0].shape[2:]
    alike = [pair for pair in seen if pair[0].shape[2:] == size]
    return torch.cat([z for z, _ in alike]), torch.cat([y for _, y in alike])


def training_batch(module: SegmentationModule, data: DataModule) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of one batch of training crops."""
    drawn = Seeded(data.train_set, data.seed)
    batch = data.together([drawn[0, place] for place in range(data.batch_size)])
    with torch.no_grad():
        logits = module(batch["image"].to(module.device))
    return logits.float(), batch["mask"].to(module.device)


def trimmed(batch: Sample, maps: torch.Tensor) -> np.ndarray:
    """A map (1, *S) of a batch of one, without its padding."""
    return maps[(0, *(slice(side) for side in batch["size"][0]))].cpu().numpy()


def shown_slice(volume: np.ndarray, labels: np.ndarray, source: Source) -> np.ndarray:
    """The slice of a volume (*S) in RAS with most foreground in the labels, the middle one without any."""
    foreground = ((labels > 0) & (labels != source.pad_label)).sum(axis=(0, 1))
    place = int(foreground.argmax()) if foreground.any() else labels.shape[2] // 2
    return np.ascontiguousarray(np.rot90(volume[:, :, place]))


def _grey(volume: np.ndarray, labels: np.ndarray, source: Source) -> np.ndarray:
    """The slice as RGB uint8, from the 0.5th percentile of the volume to the 99.5th."""
    low, high = np.percentile(volume, (0.5, 99.5))
    light = (shown_slice(volume, labels, source) - low) / max(high - low, 1e-6)
    return np.repeat((255 * light.clip(0, 1)).astype(np.uint8)[..., None], 3, axis=2)
