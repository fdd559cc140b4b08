"""How long trainings will take, from a few steps of each: what `--budget` chooses the epochs by."""

import re
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer, seed_everything

from delineate.data import Prepare
from delineate.training.arms import Arm
from delineate.training.datamodule import DataModule
from delineate.training.run import build_module, loss_for, quiet

UNITS = {"s": 1, "min": 60, "h": 3600}
STEPS, WARM_UP = 8, 3
IMAGES = 4
"""Val images that are timed."""
KEPT_BACK = 0.1
"""Share of the budget that is not planned for: start-up, reports, noise."""
PASSES = 2
"""Over val after the last epoch: counts of each case, and samples."""


def seconds_of(text: str) -> float:
    """Of a duration.

    >>> seconds_of("30min"), seconds_of("1h30min"), seconds_of("90 s")
    (1800.0, 5400.0, 90.0)
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(h|min|s)", text)
    rest = re.sub(r"(\d+(?:\.\d+)?)\s*(h|min|s)", "", text).strip()
    if not parts or rest or not any(float(number) for number, _ in parts):
        raise ValueError(f'--budget: expected a duration such as 30min, 2h or "1h 30min"; got {text!r}.')
    return float(sum(float(number) * UNITS[unit] for number, unit in parts))


def epochs_for(
    seconds: float, arms: Sequence[Arm], seeds: int, at_once: int, sweep: tuple[int, int] = (0, 0)
) -> tuple[int, dict[str, Any]]:
    """The epochs that every training of a comparison may have so that all end in time.

    Args:
        seconds: for all trainings together.
        seeds: of each arm.
        at_once: trainings at the same time.
        sweep: rates and epochs of the search for a learning rate.

    Returns:
        The epochs, and what was measured, by arm: "seconds_per_epoch" and "seconds_of_val".

    Raises:
        ValueError: where not even one epoch fits.
    """
    measured = {arm.name: _seconds(arm) for arm in arms}
    epoch = sum(of["seconds_per_epoch"] for of in measured.values())
    val = sum(of["seconds_of_val"] for of in measured.values())
    fixed = seeds * PASSES * val + sweep[0] * (sweep[1] * epoch + PASSES * val)
    epochs = int((seconds * (1 - KEPT_BACK) * at_once - fixed) / (seeds * epoch))
    if epochs < 1:
        needed = (fixed + seeds * epoch) / at_once / (1 - KEPT_BACK)
        raise ValueError(
            f"--budget: one epoch of {len(arms)} x {seeds} trainings takes about {in_words(needed)}; got "
            f"{in_words(seconds)}. Allow more time, or compare fewer losses, fewer seeds or a smaller network."
        )
    return epochs, measured


def in_words(seconds: float) -> str:
    """A duration, rounded up to seconds below two minutes, else to minutes.

    >>> in_words(61.2), in_words(1790), in_words(7260)
    ('62 s', '30 min', '2 h 1 min')
    """
    if seconds < 120:
        return f"{-int(-seconds // 1)} s"
    minutes = -int(-seconds // 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


class _Clock(Callback):
    """Seconds from step to step, loading included."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs, batch, batch_idx: int) -> None:
        if module.device.type == "cuda":
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    @property
    def step(self) -> float:
        gaps = [later - earlier for earlier, later in zip(self.ends, self.ends[1:], strict=False)]
        return statistics.median(gaps[WARM_UP:] or gaps)


def _seconds(arm: Arm) -> dict[str, float]:
    """An epoch of an arm, and one pass over val, timed on a few steps that are thrown away."""
    seed_everything(0, verbose=False)
    loss, clock = loss_for(arm.loss, arm.source), _Clock()
    data = DataModule(arm.source, arm.settings, 0, prepare=Prepare(loss, len(arm.source.classes), arm.settings.spacing))
    module = build_module(arm.source, data.settings, loss)
    with quiet():
        trainer = Trainer(
            max_steps=WARM_UP + STEPS, max_epochs=STEPS + WARM_UP, limit_val_batches=0, num_sanity_val_steps=0,
            accelerator="cuda" if torch.cuda.is_available() else "cpu", devices=1, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            use_distributed_sampler=False, callbacks=[clock],
        )  # fmt: skip
        trainer.fit(module, datamodule=data)
    ids = [item.id for item in data.eval_set.items[:IMAGES]]
    start = time.perf_counter()
    with torch.no_grad():
        for batch in data.samples(ids):
            module.eval().logits(batch["image"].to(module.device)).argmax(1).cpu()
    val = (time.perf_counter() - start) / len(ids) * len(data.eval_set)
    return {
        "seconds_per_epoch": round(data.steps * data.settings.accumulate * clock.step + val, 3),
        "seconds_of_val": round(val, 3),
    }
