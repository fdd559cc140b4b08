"""One training step, one validation pass: the LightningModule."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from delineate.data import Prepare
from delineate.data.dataset import Sample
from delineate.losses import Loss, Schedule
from delineate.metrics import ConfusionMatrix, Scores
from delineate.semi import At, Method, Network, Supervised, Unlabelled
from delineate.semi.network import LAYOUTS
from delineate.training.optimizer import Optimizer
from delineate.training.ranks import balanced_over_ranks
from delineate.training.windows import sliding_log_probabilities

OVERLAP = 0.25
"""Share of a window of volumes that the next one covers again."""
STUDENT, TEACHER = "student", "teacher"
Predict = Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]
"""Logits of whole images, from images and a network."""


class SegmentationModule(LightningModule):
    """A network, the loss and the method it is trained with, and the scores it is judged by.

    Args:
        model: images (N, channels, *S) to logits (N, C, *S).
        loss: called with logits and labels, and with the `geometry` of the batch where there is some.
        classes: names of the C classes.
        ignore_index: label of pixels that take no part in the scores.
        method: how labelled and unlabelled images are used; None: all are labelled.
        optimizer: and the course of its learning rate.
        spacing: distance between voxels in mm, for losses of distances; None: 1.
        window: size of the windows that whole images are predicted in; None: in one go.
        seed: of what the network itself draws, such as dropout: anew for every epoch.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        classes: tuple[str, ...],
        ignore_index: int | None,
        *,
        method: Method | None = None,
        optimizer: Optimizer = Optimizer(),  # noqa: B008
        spacing: tuple[float, ...] | None = None,
        window: tuple[int, ...] | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.model = _channels_last(model)
        self.method = method or Supervised()
        self.method.attach(self.model, len(classes))
        self.loss, self.prepare = loss, Prepare(loss, len(classes), spacing)
        self.predict_whole: Predict = _sliding(window) if window else lambda images, network: network(images)
        self.classes, self.ignore_index = classes, ignore_index
        self.optimizer, self.seed = optimizer, seed
        self.matrices: dict[str, ConfusionMatrix] = {}
        self.scores: dict[str, Scores] = {}
        """Scores of the last complete validation pass, of the student and, where there is one, of the teacher."""
        self.best: dict[str, dict[str, Any]] = {}
        """`epoch` and `miou` of the best validation pass of each."""
        self.watched: dict[str, Tensor] = {}
        """What the method let see of the last step: shares of labels kept, and the like."""
        self._at = At()

    @property
    def networks(self) -> dict[str, Network]:
        """The student, and the teacher where there is one."""
        teacher = self.method.teacher
        return {STUDENT: Network(self.model)} | ({TEACHER: Network(teacher)} if teacher is not None else {})

    def forward(self, images: Tensor) -> Tensor:
        return Network(self.model)(images)

    def logits(self, images: Tensor, network: str = STUDENT) -> Tensor:
        """Logits (N, C, *S) of whole images; of volumes window by window, those near the middle counting more."""
        return self.predict_whole(images, self.networks[network])

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(hash((self.seed, self.current_epoch, self.global_rank)) % 2**63)
        for part in self.loss.modules():
            if isinstance(part, Schedule):
                part.set_epoch(self.current_epoch)

    def training_step(self, batch: Sample, batch_idx: int) -> Tensor:
        steps = max(int(self.trainer.estimated_stepping_batches), 1)
        self._at = At(self.global_step, self.current_epoch, self.global_step / steps)
        views = batch.get("unlabelled")
        unlabelled = Unlabelled.of(views) if views else None
        found = self.method(Network(self.model), batch["image"], unlabelled, partial(self._supervised, batch), self._at)
        self.watched = found.watched
        self._log_step(found.terms, found.loss.detach(), len(batch["image"]))
        return found.loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.global_step > self._at.step:  # not between the batches of one step
            self.method.after_step(self.model, self._at)

    def on_validation_epoch_start(self) -> None:
        self.matrices = {name: ConfusionMatrix(len(self.classes), self.ignore_index) for name in self.networks}

    def validation_step(self, batch: Sample, batch_idx: int) -> None:
        for name, matrix in self.matrices.items():
            matrix.update(self.logits(batch["image"], name).argmax(1), batch["mask"])

    def on_validation_epoch_end(self) -> None:
        for name, matrix in self.matrices.items():
            counts = matrix.counts.to(self.device)
            matrix.counts = self.trainer.strategy.reduce(counts, reduce_op="sum").cpu()  # pyright: ignore
            self.scores[name] = matrix.scores()
            miou = self.scores[name].miou
            if miou > self.best.get(name, {"miou": -1.0})["miou"]:
                self.best[name] = {"miou": miou, "epoch": self.current_epoch + 1}
        self.log_dict(self._val_logs())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["best"] = self.best

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.best = checkpoint["best"]

    def configure_optimizers(self) -> Any:
        return self.optimizer.build(self.model, int(self.trainer.estimated_stepping_batches))

    def _supervised(self, batch: Sample, logits: Tensor) -> dict[str, Tensor]:
        parts = self.loss.parts(logits, self.prepare.target(batch))
        return balanced_over_ranks(self.loss, parts, batch["mask"])

    def _log_step(self, terms: dict[str, Tensor], loss: Tensor, size: int) -> None:
        logs = {f"train/loss/{name}": term.detach().float() for name, term in terms.items()} if len(terms) > 1 else {}
        logs |= {f"train/{name}": value.float() for name, value in self.watched.items() if value.ndim == 0}
        for name, table in self.watched.items():
            if table.ndim:
                logs |= {f"train/{name}/{c}": value for c, value in zip(self.classes, table, strict=True)}
        many = self.trainer.world_size > 1
        self.log_dict(logs | {"train/loss": loss}, on_step=True, on_epoch=False, batch_size=size, sync_dist=many)

    def _val_logs(self) -> dict[str, float]:
        student = self.scores[STUDENT]
        logs = {"val/miou": student.miou, "val/mdice": student.mdice}
        logs |= {f"val/iou/{name}": value for name, value in zip(self.classes, student.iou.tolist(), strict=True)}
        return logs | ({"val/teacher_miou": self.scores[TEACHER].miou} if TEACHER in self.scores else {})


def _channels_last(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        if parameter.ndim in LAYOUTS:
            parameter.data = parameter.data.contiguous(memory_format=LAYOUTS[parameter.ndim])
    return model


def _sliding(window: tuple[int, ...]) -> Predict:
    if len(window) == 2:
        return lambda images, network: sliding_log_probabilities(network, images, (window[0], window[1]))
    from monai.inferers.inferer import SlidingWindowInferer  # seconds to import, and of no use in 2D

    inferer: Any = SlidingWindowInferer(window, sw_batch_size=2, overlap=OVERLAP, mode="gaussian")
    return inferer
