"""Where the two terms of the structural similarity loss (CMSSL) look, class by class, in a run that used it.

    python docs/experiments/selected_pixels.py RUN [--images 60]

Prints a markdown table: of the pixels, of the cross entropy, and of what the second term adds, the share that lies on
pixels labelled with each class; and how many of the pairs of a pixel and a class the second term selects.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from delineate.data import SegmentationDataset, collate, eval_transform
from delineate.losses import StructuralSimilarityLoss
from delineate.losses.inputs import Inputs
from delineate.training.predictor import Predictor


def costs(loss: StructuralSimilarityLoss, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """By pixel, summed over classes: cross entropy, the second term before it is divided, and pairs it selects."""
    inputs = Inputs("CMSSL", logits, labels, None, ())
    errors, cuts = loss._errors(inputs, loss.scored(logits.shape[1], logits.device))
    selected = errors > cuts[:, :, None]
    plain = binary_cross_entropy_with_logits(inputs.logits, inputs.channels_on().float(), reduction="none")
    return plain.sum(1), (errors * selected * plain).sum(1), selected.sum(1)


def shares(run: Path, images: int) -> tuple[tuple[str, ...], Tensor, float]:
    """Names of the classes; their share of pixels, cross entropy and second term (3, C); share of pairs selected."""
    predictor = Predictor(run)
    module, source = predictor.module, predictor.source
    if not isinstance(module.loss, StructuralSimilarityLoss):
        raise SystemExit(f"{run}: expected a run with StructuralSimilarity; got {module.loss.expression()}.")
    data = SegmentationDataset(source, "train", eval_transform())
    sums, pairs = torch.zeros(3, len(source.classes), dtype=torch.float64), 0
    for place in range(0, len(data), max(1, len(data) // images)):
        batch = collate([data[place]], source.pad_label)
        with torch.no_grad():
            logits = module(batch["image"].to(module.device)).cpu()
        plain, second, selected = costs(module.loss, logits, batch["mask"])
        labels = batch["mask"].flatten(1)
        valid = labels != source.pad_label
        for row, values in enumerate((torch.ones_like(plain), plain, second)):
            sums[row].scatter_add_(0, labels[valid], values[valid].double())
        pairs += int(selected[valid].sum())
    chosen = pairs / (sums[0].sum().item() * len(source.classes))
    return source.classes, sums / sums.sum(1, keepdim=True), chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=60)
    options = parser.parse_args()
    names, found, chosen = shares(options.run, options.images)
    print("| class | % of pixels | % of the cross entropy | % of the second term |\n|---|---|---|---|")
    for name, column in zip(names, (100 * found.T).tolist(), strict=True):
        print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in column) + " |")
    print(f"\nThe second term selects {100 * chosen:.0f} % of the pairs of a pixel and a class.")


if __name__ == "__main__":
    main()
