"""`nnUNetTrainerDelineate`: nnU-Net's trainer with another loss, and its length and learning rate as options."""

import math
import os
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn
from torch.optim import Optimizer

from delineate.losses import Schedule
from delineate.nnunet.loss import NnUNetLoss
from delineate.nnunet.options import Options

FACTORS: dict[str, Callable[[float], float]] = {
    "poly": lambda done: (1 - done) ** 0.9,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "constant": lambda done: 1.0,
}
"""What the learning rate is multiplied by when a share of the epochs is done."""


class Course:
    """The learning rate of each epoch.

    Args:
        optimizer: whose groups all get it.
        lr: of epoch 0.
        epochs: of the training.
        schedule: one of `FACTORS`.
    """

    def __init__(self, optimizer: Optimizer, lr: float, epochs: int, schedule: str):
        self.optimizer, self.lr, self.epochs, self.factor = optimizer, lr, epochs, FACTORS[schedule]

    def step(self, epoch: int) -> None:
        """Set the learning rate of an epoch."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * self.factor(epoch / self.epochs)


class nnUNetTrainerDelineate(nnUNetTrainer):
    """nnU-Net's trainer with the options that environment variables hold; see `delineate.nnunet.options`.

    Network, augmentation, optimizer, deep supervision and its weights are nnU-Net's. Its results have the loss in the
    name of their folder, its checkpoints hold the options, and it continues none that was made with others.

    Raises:
        ValueError: in one line, where options cannot be read or the loss does not fit the data set.
    """

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008
    ):
        self.options = Options.read(os.environ)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.my_init_kwargs["delineate"] = asdict(self.options)
        self.initial_lr, self.num_epochs = self.options.lr, self.options.epochs
        self.num_iterations_per_epoch = self.options.iterations
        self.num_val_iterations_per_epoch = max(self.options.iterations // 5, 1)
        self.folder_with_segs_from_previous_stage = self._of_this_loss(self.folder_with_segs_from_previous_stage)
        self.print_to_log_file(f"delineate: {asdict(self.options)}")

    @property
    def output_folder_base(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Folder of the results of a data set and a configuration, with those of each loss apart."""
        return self._output_folder_base

    @output_folder_base.setter
    def output_folder_base(self, path: str | None) -> None:
        self._output_folder_base = self._of_this_loss(path)

    def _of_this_loss(self, path: str | None) -> str | None:
        """A path of nnU-Net's with the name of this loss in the place of the trainer's."""
        name = type(self).__name__
        return path and path.replace(f"{os.sep}{name}__", f"{os.sep}{self.options.folder(name)}__")

    def _build_loss(self) -> nn.Module:
        labels, plan = self.label_manager, self.configuration_manager
        loss = NnUNetLoss(
            self.options.loss,
            regions=labels.has_regions,
            ignore_label=labels.ignore_label,
            batch_dice=plan.batch_dice,
            patch=plan.patch_size,
            spacing=plan.spacing,
        ).to(self.device)
        heads, patch = labels.num_segmentation_heads, plan.patch_size
        if not self.enable_deep_supervision:
            loss.check(heads, [patch], self.device)
            return loss
        supervised: Any = super()._build_loss()
        scales = zip(self._get_deep_supervision_scales() or [], supervised.weight_factors, strict=True)
        sizes = [[round(side * part) for side, part in zip(patch, scale, strict=True)] for scale, w in scales if w]
        loss.check(heads, sizes, self.device)
        supervised.loss = loss
        return supervised

    def configure_optimizers(self):
        optimizer, _ = super().configure_optimizers()
        return optimizer, Course(optimizer, self.initial_lr, self.num_epochs, self.options.schedule)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        for part in self.loss.modules():  # pyright: ignore[reportOptionalMemberAccess]
            if isinstance(part, Schedule):
                part.set_epoch(self.current_epoch)

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        super().load_checkpoint(filename_or_checkpoint)
        made, wanted = self.my_init_kwargs.get("delineate"), asdict(self.options)
        if made != wanted:
            raise ValueError(
                f"{filename_or_checkpoint}: was trained with {made or 'the options of another trainer'}, and {wanted} "
                "are asked for now. Continue with the options it was trained with, or begin anew without --c."
            )
