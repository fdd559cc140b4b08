"""What false positives weigh beside the true lesions, in patches of the size that a run was trained on.

    python docs/experiments/false_positive_mass.py RUN [RUN ...]

The images of the val split are cut into patches of the size of the training crops, and those with a lesion are looked
at. Prints a markdown table, a line a run: the median over patches of S_0, the sum of the lesion probability outside
the truth; the quartiles of |R|, the voxels of a lesion in its patch; and the share of lesions smaller than the S_0 of
their patch. Blob loss adds S_0 to the size of each lesion, so it hardly tells the sizes of these lesions apart.
"""

import argparse
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np
import torch

from delineate.data import SegmentationDataset, collate, eval_transform
from delineate.data.volumes import VolumeDataset, collate_volumes, open_volumes
from delineate.ops.components import connected
from delineate.training.predictor import Predictor

HEAD = (
    "| run | patches | lesions | median S_0 | quartiles of \\|R\\| | \\|R\\| < S_0, % |",
    "|---|---|---|---|---|---|",
)


def maps(predictor: Predictor) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of every val image the probability of label 1, (*S) float, and the labels, (*S) integer."""
    source, settings = predictor.source, predictor.settings
    if source.dims == 2:
        data = SegmentationDataset(source, "val", eval_transform())
    else:
        data = VolumeDataset(open_volumes(source, settings.spacing or (), settings.crop or ()), "val")
    for place in range(len(data)):
        sample = data[place]
        batch = collate([sample], source.pad_label) if source.dims == 2 else collate_volumes([sample])
        with torch.no_grad():
            logits = predictor.module.logits(batch["image"].to(predictor.module.device))
        kept = tuple(slice(side) for side in sample["size"])
        yield logits.softmax(1)[0, 1][kept].double().cpu().numpy(), batch["mask"][0][kept].numpy()


def patches(shape: tuple[int, ...], crop: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Whole patches side by side; what is left at the far borders is not looked at."""
    starts = (range(0, side - step + 1, step) for side, step in zip(shape, crop, strict=True))
    for corner in product(*starts):
        yield tuple(slice(start, start + step) for start, step in zip(corner, crop, strict=True))


def masses(probability: np.ndarray, labels: np.ndarray, crop: tuple[int, ...]) -> list[tuple[float, np.ndarray]]:
    """Of every patch with a lesion: S_0, and the voxels of each lesion in it, (K,)."""
    found = []
    for patch in patches(labels.shape, crop):
        truth = labels[patch] == 1
        if truth.any():
            ids, _ = connected(truth, "full")
            found.append((float(probability[patch][labels[patch] == 0].sum()), np.bincount(ids.ravel())[1:]))
    return found


def line(name: str, found: list[tuple[float, np.ndarray]]) -> str:
    """The row of a run."""
    sizes = np.concatenate([lesions for _, lesions in found])
    smaller = sum(int((lesions < mass).sum()) for mass, lesions in found)
    quartiles = ", ".join(f"{size:g}" for size in np.quantile(sizes, [0.25, 0.5, 0.75]))
    middle = median(mass for mass, _ in found)
    return f"| {name} | {len(found)} | {sizes.size} | {middle:.1f} | {quartiles} | {100 * smaller / sizes.size:.0f} |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What false positives weigh beside the true lesions.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    print("\n".join(HEAD))
    for run in parser.parse_args(arguments).runs:
        predictor = Predictor(run)
        crop = predictor.settings.crop
        if crop is None or len(predictor.source.classes) != 2:
            raise SystemExit(f"{run}: expected a run with a crop, on background and one class. Choose another run.")
        found = [patch for pair in maps(predictor) for patch in masses(*pair, crop)]
        if not found:
            raise SystemExit(f"{run}: expected a patch of {list(crop)} with a lesion; found none. Use a smaller crop.")
        print(line(f"{run.parent.name}/{run.name}", found), flush=True)


if __name__ == "__main__":
    main()
