"""One training step, one validation pass: the LightningModule."""

from collections.abc import Callable
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from delineate.data import Prepare
from delineate.data.dataset import Sample
from delineate.losses import Loss, Schedule
from delineate.metrics import ConfusionMatrix, Scores

LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}
"""Memory format of images and weights of 2D and 3D, by their number of dims: the fastest in most networks."""
OVERLAP = 0.25
"""Share of a window that the next one covers again."""
WARM_UP = 0.05
"""Share of the steps over which the learning rate rises from 0."""


class SegmentationModule(LightningModule):
    """A network, the loss it is trained with, and the scores it is judged by.

    Args:
        model: images (N, channels, *S) to logits (N, C, *S).
        loss: called with logits and labels, and with the `geometry` of the batch where there is some.
        classes: names of the C classes.
        ignore_index: label of pixels that take no part in the scores.
        lr, weight_decay, schedule: see `Settings`.
        spacing: distance between voxels in mm, for losses of distances; None: 1.
        window: size of the windows, overlapping by a quarter, that whole volumes are predicted in; None: in one go.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        classes: tuple[str, ...],
        ignore_index: int | None,
        *,
        lr: float = 1e-3,
        weight_decay: float = 1e-2,
        schedule: str = "poly",
        spacing: tuple[float, ...] | None = None,
        window: tuple[int, ...] | None = None,
    ):
        super().__init__()
        self.model = _channels_last(model)
        self.loss, self.prepare = loss, Prepare(loss, len(classes), spacing)
        self.predict_whole = _sliding(window) if window else None
        self.classes, self.ignore_index = classes, ignore_index
        self.lr, self.weight_decay, self.schedule = lr, weight_decay, schedule
        self.matrix = ConfusionMatrix(len(classes), ignore_index)
        self.scores: Scores | None = None
        """Scores of the last complete validation pass."""

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images.contiguous(memory_format=LAYOUTS[images.ndim]))

    def logits(self, images: Tensor) -> Tensor:
        """Logits (N, C, *S) of whole images; of volumes window by window, those near the middle counting more."""
        return self.predict_whole(images, self) if self.predict_whole else self(images)

    def on_train_epoch_start(self) -> None:
        for part in self.loss.modules():
            if isinstance(part, Schedule):
                part.set_epoch(self.current_epoch)

    def training_step(self, batch: Sample, batch_idx: int) -> Tensor:
        logits, size = self(batch["image"]), len(batch["image"])
        parts = self.loss.parts(logits, self.prepare.target(batch))
        value = torch.stack(list(parts.values())).sum(0).float()
        if len(parts) > 1:
            self.log_dict({f"train/loss/{name}": part.detach().float() for name, part in parts.items()})
        self.log("train/loss", value.detach(), on_step=True, on_epoch=False, batch_size=size)
        return value

    def on_validation_epoch_start(self) -> None:
        self.matrix = ConfusionMatrix(len(self.classes), self.ignore_index)

    def validation_step(self, batch: Sample, batch_idx: int) -> None:
        self.matrix.update(self.logits(batch["image"]).argmax(1), batch["mask"])

    def on_validation_epoch_end(self) -> None:
        counts = self.matrix.counts.to(self.device)
        self.matrix.counts = self.trainer.strategy.reduce(counts, reduce_op="sum").cpu()  # pyright: ignore
        self.scores = self.matrix.scores()
        values = {"val/miou": self.scores.miou, "val/mdice": self.scores.mdice}
        values |= {f"val/iou/{name}": value for name, value in zip(self.classes, self.scores.iou.tolist(), strict=True)}
        self.log_dict(values, rank_zero_only=True)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.model.parameters(), self.lr, weight_decay=self.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        factor = _factors(self.schedule, steps)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _channels_last(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        if parameter.ndim in LAYOUTS:
            parameter.data = parameter.data.contiguous(memory_format=LAYOUTS[parameter.ndim])
    return model


def _sliding(window: tuple[int, ...]) -> Callable[[Tensor, nn.Module], Tensor]:
    from monai.inferers.inferer import SlidingWindowInferer  # seconds to import, and of no use in 2D

    inferer: Any = SlidingWindowInferer(window, sw_batch_size=2, overlap=OVERLAP, mode="gaussian")
    return inferer


def _factors(schedule: str, steps: int):
    """Learning rate at a step as a share of the peak: a linear warm-up, then the schedule."""
    warm_up = max(1, round(WARM_UP * steps))
    decay = {
        "poly": lambda t: (1 - t) ** 0.9,
        "cosine": lambda t: (1 + torch.cos(torch.tensor(torch.pi * t)).item()) / 2,
        "constant": lambda t: 1.0,
    }[schedule]

    def factor(step: int) -> float:
        return min((step + 1) / warm_up, decay(min(step / max(steps, 1), 1.0)))

    return factor
