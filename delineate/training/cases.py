"""The counts of every val case under the final weights, which comparisons of losses are tested on."""

from pathlib import Path

import torch

from delineate.evaluation import CaseCounts, count_case, scored_of
from delineate.training.datamodule import DataModule
from delineate.training.module import SegmentationModule
from delineate.training.results import CASES, write_json


def count_cases(module: SegmentationModule, data: DataModule) -> list[CaseCounts]:
    """Predict the val images one by one and count, on the grid that `val` scores are taken on."""
    source = data.source
    spacing = data.settings.spacing or (1.0,) * source.dims
    module.eval()
    found = []
    for batch in data.samples([item.id for item in data.eval_set.items]):
        inside = (0, *(slice(side) for side in batch["size"][0]))
        with torch.no_grad():
            labels = module.logits(batch["image"].to(module.device)).argmax(1)[inside].cpu().numpy()
        found.append(
            count_case(
                batch["id"][0],
                labels,
                batch["mask"][inside].numpy(),
                source.classes,
                ignore_index=source.pad_label,
                spacing=spacing,
                scored=scored_of(source),
            )
        )
    return found


def write_cases(module: SegmentationModule, data: DataModule, folder: Path) -> None:
    """Write what `count_cases` finds into a run: names of the classes, and the counts of each case."""
    cases = [case.to_dict() for case in count_cases(module, data)]
    write_json(folder / CASES, {"classes": list(data.source.classes), "cases": cases})
