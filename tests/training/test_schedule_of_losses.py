"""Factors of a `Schedule` move as epochs go by, and a run that is continued goes on where it was."""

import pytest
import torch
from lightning import Callback, Trainer
from torch.utils.data import DataLoader

from delineate.losses import parse
from delineate.training.module import SegmentationModule


class Factors(Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.seen.append(module.loss.terms[0].factors().tolist())


@pytest.mark.filterwarnings("ignore")  # remarks of Lightning on a run without validation
def test_epochs_reach_a_schedule_inside_a_sum(tmp_path):
    loss = parse("Schedule(Dice, CE, start=[1, 0], end=[0, 1], epochs=2) + Focal")
    model = torch.nn.Conv2d(3, 2, 1)
    module = SegmentationModule(model, loss, ("background", "object"), None)
    data = [{"image": torch.rand(3, 8, 8), "mask": torch.randint(0, 2, (8, 8)), "name": str(i)} for i in range(2)]
    factors = Factors()
    trainer = Trainer(
        max_epochs=4,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[factors],
        default_root_dir=tmp_path,
    )
    trainer.fit(module, DataLoader(data, batch_size=2))
    assert factors.seen == [[1, 0], [0.5, 0.5], [0, 1], [0, 1]]
    assert {"train/loss/Focal"} < set(trainer.callback_metrics)
