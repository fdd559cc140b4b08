"""What the pseudo-labels of a network are worth: kept and right, class by class, on the unlabelled images of a run.

    python docs/experiments/pseudo_labels.py RUN DATA [--semi fixmatch dssn ...]

RUN is a run of few labels, DATA its data set with all masks. Every unlabelled image is predicted whole, in eval mode,
and the labels that each method's selector keeps are held against the mask, which training never saw. Printed as
markdown: of the voxels of a class in truth, the share whose label is kept and right; of those kept as the class, the
share that is right; and, in the last row, of all voxels the share kept, and of these the share right.
"""

import argparse
from pathlib import Path

import torch

from delineate.data import SegmentationDataset, eval_transform, open_source
from delineate.semi import parse_method
from delineate.training.predictor import Predictor


def counts(run: Path, data: str, methods: list[str]) -> dict[str, torch.Tensor]:
    """By method: voxels by true class and kept label, (C, C + 1); the last column are those not kept."""
    predictor = Predictor(run)
    classes, void = len(predictor.source.classes), predictor.source.pad_label
    masks = {item.image.resolve(): item for item in open_source(data).items("train")}
    images = SegmentationDataset(predictor.source, "unlabelled", eval_transform())
    selectors = {method: parse_method(method).selector for method in methods}
    found = {method: torch.zeros(classes * (classes + 1)) for method in methods}
    for sample, item in zip((images[place] for place in range(len(images))), images.items, strict=True):
        batch = predictor.module.predict_whole(_padded(sample["image"]), predictor.module.networks[predictor.network])
        height, width = sample["size"]
        probabilities = batch.detach()[..., :height, :width].float().softmax(1)
        truth = torch.from_numpy(predictor.source.read_mask(masks[item.image.resolve()]).astype("int64"))
        for method, selector in selectors.items():
            labels, keep = (maps[0] for maps in selector(probabilities))
            kept = torch.where(keep, labels, classes)[truth != void]
            places = truth[truth != void] * (classes + 1) + kept
            found[method] += torch.bincount(places, minlength=classes * (classes + 1))
    return {method: table.view(classes, classes + 1) for method, table in found.items()}


def _padded(image: torch.Tensor, multiple: int = 32) -> torch.Tensor:
    height, width = (-side % multiple for side in image.shape[-2:])
    return torch.nn.functional.pad(image.as_subclass(torch.Tensor)[None], (0, width, 0, height))


def table(found: dict[str, torch.Tensor], classes: tuple[str, ...]) -> list[str]:
    """Rows by class and for all."""
    lines = ["| class | share of voxels | " + " | ".join(f"`{method}`: kept, right" for method in found) + " |"]
    lines.append("|---|" + "---|" * (1 + len(found)))
    first = next(iter(found.values()))
    for number, name in enumerate(classes):
        cells = []
        for matrix in found.values():
            right, kept = matrix[number, number], matrix[:, number].sum()
            cells.append(f"{_share(right, matrix[number].sum())}, {_share(right, kept)}")
        lines.append(f"| {name} | {_share(first[number].sum(), first.sum())} | " + " | ".join(cells) + " |")
    cells = []
    for matrix in found.values():
        kept = matrix[:, :-1].sum()
        cells.append(f"{_share(kept, matrix.sum())}, {_share(matrix[:, :-1].diagonal().sum(), kept)}")
    return [*lines, f"| all | {_share(first.sum(), first.sum())} | " + " | ".join(cells) + " |"]


def _share(part: torch.Tensor, whole: torch.Tensor) -> str:
    return f"{part / whole:.3f}" if whole > 0 else "-"


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="What the pseudo-labels of a run are worth, as markdown.")
    parser.add_argument("run", type=Path)
    parser.add_argument("data")
    parser.add_argument("--semi", nargs="+", default=["fixmatch", "dssn", "fixmatch(selector=NoSelection())"])
    given = parser.parse_args(arguments)
    torch.manual_seed(0)
    predictor = Predictor(given.run)
    with torch.no_grad():
        print("\n".join(table(counts(given.run, given.data, given.semi), predictor.source.classes)))


if __name__ == "__main__":
    main()
