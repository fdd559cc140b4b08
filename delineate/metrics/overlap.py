"""Overlap of label maps from one confusion matrix: IoU, Dice, precision, recall, pixel accuracy."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CONVENTIONS = (
    "One confusion matrix over all pixels or voxels of the split, as VOC and Cityscapes do; not a mean over images.",
    "Ignored ones take no part, neither as truth nor as prediction.",
    "mIoU and mean Dice are means over the classes that occur in the truth or in the prediction. A class that occurs "
    "in neither is left out and shown as absent; one that is only predicted scores 0.",
    "Precision of a class that is never predicted, and recall of one that never occurs, are left out.",
)
"""What the numbers of this module mean, sentence by sentence; printed with every result."""


@dataclass(frozen=True)
class Scores:
    """Scores by class, (C,) float64 with NaN where undefined, and their means; see `CONVENTIONS`."""

    iou: Tensor
    dice: Tensor
    precision: Tensor
    recall: Tensor
    pixel_accuracy: float

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that occur."""
        return self.iou.nanmean().item()

    @property
    def mdice(self) -> float:
        """Mean Dice over the classes that occur."""
        return self.dice.nanmean().item()

    def to_dict(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """Plain numbers by class name, None where undefined: what result files hold."""
        found: dict[str, Any] = {key: _number(getattr(self, key)) for key in ("miou", "mdice", "pixel_accuracy")}
        for metric in ("iou", "dice", "precision", "recall"):
            values = getattr(self, metric).tolist()
            found[metric] = {name: _number(value) for name, value in zip(classes, values, strict=True)}
        return found


def _number(value: float) -> float | None:
    return None if value != value else round(value, 6)


class ConfusionMatrix:
    """Counts of (truth, prediction) pairs, added up batch by batch.

    Args:
        classes: number of classes C.
        ignore_index: truth value of pixels that take no part.

    >>> matrix = ConfusionMatrix(2)
    >>> matrix.update(torch.tensor([[0, 1, 1, 1]]), torch.tensor([[0, 0, 1, 1]]))     # prediction, truth
    >>> matrix.counts.tolist(), [round(v, 3) for v in matrix.scores().iou.tolist()]
    ([[1, 1], [0, 2]], [0.5, 0.667])
    """

    def __init__(self, classes: int, ignore_index: int | None = None):
        self.classes, self.ignore_index = classes, ignore_index
        self.counts = torch.zeros(classes, classes, dtype=torch.int64)
        """(C, C) int64: rows are the truth, columns the prediction."""

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add label maps of any equal shape.

        Raises:
            ValueError: for unequal shapes, or labels that are neither a class nor `ignore_index`.
        """
        if prediction.shape != target.shape:
            raise ValueError(
                f"ConfusionMatrix: `prediction` {tuple(prediction.shape)} and `target` {tuple(target.shape)} must have "
                "one shape. Bring both to the same grid."
            )
        target, prediction = target.flatten().long(), prediction.flatten().long()
        if self.ignore_index is not None:
            valid = target != self.ignore_index
            target, prediction = target[valid], prediction[valid]
        for name, labels in (("target", target), ("prediction", prediction)):
            if labels.numel() and not 0 <= labels.min() <= labels.max() < self.classes:
                raise ValueError(
                    f"ConfusionMatrix: `{name}` must hold labels 0..{self.classes - 1}; got values from {labels.min()} "
                    f"to {labels.max()}. Name void labels with ignore_index."
                )
        pairs = torch.bincount(target * self.classes + prediction, minlength=self.classes**2)
        self.counts += pairs.view_as(self.counts).to(self.counts.device)

    def scores(self) -> Scores:
        """The scores of what was added so far."""
        counts = self.counts.double()
        tp, truth, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
        return Scores(
            iou=tp / (truth + predicted - tp),  # 0 / 0 is NaN: undefined
            dice=2 * tp / (truth + predicted),
            precision=tp / predicted,
            recall=tp / truth,
            pixel_accuracy=(tp.sum() / counts.sum()).item(),
        )
