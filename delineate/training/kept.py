"""Says in words when pseudo-labels have stopped to teach: none is kept for long, or the selector keeps all."""

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from delineate.semi.selectors import NoSelection
from delineate.training.module import SegmentationModule
from delineate.training.ranks import is_first

PATIENCE = 3
"""Epochs in a row."""
FEW, NEARLY_ALL = 1e-3, 1 - 1e-3


class KeptWatch(Callback):
    """After three epochs in which a stream kept nothing, or everything, one sentence on it; once per stream."""

    def __init__(self) -> None:
        self.shares: dict[str, list[Tensor]] = {}
        self.epochs: dict[str, int] = {}

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs, batch, batch_idx: int) -> None:
        assert isinstance(module, SegmentationModule)
        for name, share in module.watched.items():
            if name.startswith("kept/"):
                self.shares.setdefault(name.removeprefix("kept/"), []).append(share)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, SegmentationModule)
        for stream, shares in self.shares.items():
            mean = sum(map(float, shares)) / len(shares)
            chosen = not isinstance(module.method.selector, NoSelection)
            stuck = mean < FEW or (chosen and mean > NEARLY_ALL)
            self.epochs[stream] = self.epochs.get(stream, 0) + 1 if stuck else 0
            if self.epochs[stream] == PATIENCE and is_first():
                what = "no pseudo-labels were" if mean < FEW else "all pseudo-labels were"
                remedy = "lower its threshold or train longer" if mean < FEW else "its threshold chooses nothing"
                print(
                    f"note: {what} kept in stream {stream} for {PATIENCE} epochs ({module.method.selector}): {remedy}."
                )
        self.shares = {}
