"""One training run: a folder with everything that is needed to judge, repeat and continue it."""

import hashlib
import logging
import math
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from delineate.data import Prepare, Source
from delineate.losses import Loss, parse
from delineate.semi import parse_method
from delineate.training.cases import write_cases
from delineate.training.checkpoints import WholeCheckpoints, check_whole
from delineate.training.cost import GradientNorm, StepCost, loss_ms
from delineate.training.datamodule import DataModule
from delineate.training.kept import KeptWatch
from delineate.training.models import build_model
from delineate.training.module import STUDENT, SegmentationModule
from delineate.training.optimizer import Optimizer
from delineate.training.ranks import is_first
from delineate.training.results import fingerprint, merge_logs, networks_result, val_result, write_json
from delineate.training.samples import save_predictions
from delineate.training.settings import Settings, complete

CHECKPOINT = "checkpoints/last.ckpt"
BEST = {"student": "best", "teacher": "best-teacher"}
"""Checkpoints of the best epoch on val."""


class Interrupted(Exception):
    """The user stopped a run; what was reached is on disk."""


def loss_for(text: str, source: Source) -> Loss:
    """The loss of an expression, for the classes and the void label of a data set.

    Raises:
        ValueError: for an expression that cannot be read, or whose geometry cannot be prepared.
    """
    loss = parse(text, ignore_index=source.pad_label)
    Prepare(loss, len(source.classes))
    return loss


def train_run(
    source: Source,
    loss_text: str,
    seed: int,
    settings: Settings,
    folder: Path,
    *,
    samples: list[str],
    show: str = "",
    context: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train, evaluate the last epoch on the val split, and write `metrics.json`, `metrics.csv` and predictions.

    Args:
        folder: the run's folder; a checkpoint in it is continued.
        samples: ids of val images whose predictions are kept in `samples/`.
        show: what precedes the lines on the terminal.
        context: further entries of `metrics.json`.

    Returns:
        What `metrics.json` holds, its keys as the report reads them.

    Raises:
        Interrupted: on Ctrl-C, after `metrics.json` was written with that status.
    """
    seed_everything(seed, verbose=False)
    loss = loss_for(loss_text, source)
    settings = complete(settings, source)
    data = DataModule(source, settings, seed, prepare=Prepare(loss, len(source.classes), settings.spacing))
    module = build_module(source, settings, loss, seed)
    start = fingerprint(module.model)
    watch = Watch(show if is_first() else None)
    trainer = _trainer(folder, data, [watch, watch.cost, watch.norm, KeptWatch(), *_checkpoints(folder, module)])
    result = {"loss": loss_text, "seed": seed, "dims": source.dims, "initial_weights": start}
    result |= {"semi": settings.semi, "labeled": settings.labeled} | (context or {})
    try:
        _fit(trainer, module, data, folder)
    except Interrupted:
        _finish(folder, result | {"status": "interrupted", "error": None, "val": None}, watch)
        raise
    except FloatingPointError as error:
        return _finish(folder, result | {"status": "failed", "error": str(error), "val": None}, watch)
    if not module.scores:  # continued after its last epoch
        with quiet():
            trainer.validate(module, datamodule=data, verbose=False)
    if not is_first():
        return result
    write_cases(module, data, folder)
    logits, target = save_predictions(module, data, samples, folder / "samples")
    result |= {"status": "finished", "error": None, "networks": networks_result(module.scores, module.best)}
    result |= {"val": val_result(module.scores[STUDENT], source, len(data.eval_set))}
    return _finish(folder, result, watch, loss_ms=round(loss_ms(module.loss, logits, target), 2))


def build_module(source: Source, settings: Settings, loss: Loss, seed: int = 0) -> SegmentationModule:
    """The network that complete settings name, from the weights they name, with its loss and its method."""
    model = build_model(
        str(settings.model),
        len(source.classes),
        encoder=settings.encoder,
        weights=settings.weights,
        dims=source.dims,
        channels=source.channels,
    )
    rates = [None if rate is None else rate * settings.lr_factor for rate in (settings.lr, settings.encoder_lr)]
    optimizer = Optimizer(
        settings.optimizer, rates[0] or 0.0, rates[1], settings.weight_decay, settings.schedule, settings.warm_up
    )
    optimizer.groups(model)
    return SegmentationModule(
        model,
        loss,
        source.classes,
        source.pad_label,
        method=parse_method(settings.semi) if settings.semi else None,
        optimizer=optimizer,
        spacing=settings.spacing,
        window=settings.crop if source.dims == 3 or settings.window == "sliding" else None,
        seed=seed,
    )


class Watch(Callback):
    """One line an epoch, a fingerprint of the first epoch's batches, and a stop when the loss is not finite."""

    EVERY = 50
    """Steps between checks of the loss on a GPU, where looking waits for the device."""

    def __init__(self, show: str | None):
        self.show, self.cost, self.norm = show, StepCost(), GradientNorm()
        self.batches = hashlib.sha256()
        self.seen = self.steps = 0
        self.skipped: dict[str, None] = {}
        """What was said of images that could not be read."""
        self.seconds = 0.0
        self._losses: list[torch.Tensor] = []
        self._start = 0.0
        self._before: str | None = None

    @property
    def batches_seen(self) -> str | None:
        """Fingerprint of the first epoch's batches, also where another process trained it; None where it is unknown."""
        return f"sha256:{self.batches.hexdigest()[:16]}" if self.seen else self._before

    def state_dict(self) -> dict[str, Any]:
        """What a run that is continued would not know."""
        return {
            "batches": self.batches_seen,
            "skipped": list(self.skipped),
            "seconds": self.seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before, self.seconds = state_dict["batches"], state_dict["seconds"]
        self.skipped = dict.fromkeys(state_dict["skipped"])

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._start, self._losses = time.monotonic(), []

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch, batch_idx: int) -> None:
        for message in batch.pop("skipped", ()):
            if message not in self.skipped and self.show is not None:
                print(f"{self.show}skipped, another image taken: {message}", flush=True)
            self.skipped[message] = None
        if trainer.current_epoch == 0:
            self.batches.update("|".join(batch["id"]).encode())
            self.batches.update(batch["image"][:, :, ::16, ::16].cpu().numpy().tobytes())
            self.seen += 1

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs, batch, batch_idx: int) -> None:
        self.steps = trainer.global_step
        self._losses.append(outputs["loss"].detach() * trainer.accumulate_grad_batches)
        if module.device.type == "cpu" or self.steps % self.EVERY == 0 or trainer.is_last_batch:
            value = float(self._losses[-1])
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the loss is {value} at step {trainer.global_step} (epoch {trainer.current_epoch + 1}): "
                    "lower --lr, or use another loss"
                )

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, SegmentationModule)
        seconds = time.monotonic() - self._start
        self.seconds += seconds
        mean = trainer.strategy.reduce(torch.stack(self._losses).double().mean(), reduce_op="mean")
        if self.show is None:
            return
        mious = [f"{scores.miou:.3f}" + f" ({name})" * (name != STUDENT) for name, scores in module.scores.items()]
        place = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        print(
            f"{self.show}{place}  mean loss {float(mean):.4f}  val mIoU {' '.join(mious) or '-'}  {seconds:.0f} s",
            flush=True,
        )


def _checkpoints(folder: Path, module: SegmentationModule) -> list[ModelCheckpoint]:
    """Of few labels the weights of the best epoch by student and by teacher; the state after the last epoch."""
    path = folder / CHECKPOINT
    best = [
        ModelCheckpoint(
            path.parent, BEST[name], monitor=f"val/{'' if name == STUDENT else name + '_'}miou", mode="max",
            save_weights_only=True, enable_version_counter=False,
        )
        for name in (module.networks if module.method.name != "Supervised" else ())
    ]  # fmt: skip
    return [*best, ModelCheckpoint(path.parent, path.stem, save_top_k=1, enable_version_counter=False)]


def _trainer(folder: Path, data: DataModule, callbacks: list[Callback]) -> Trainer:
    attempt = str(len(list((folder / "logs").glob("*"))))
    settings = data.settings
    precision, gpu = settings.precision, torch.cuda.is_available()
    if precision == "auto":
        precision = "32-true" if not gpu else "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
    with quiet():
        return Trainer(
            max_epochs=settings.epochs,
            accelerator="cuda" if gpu else "cpu",  # not MPS, which lacks the float64 of the sums
            devices=settings.devices,
            num_nodes=settings.nodes,
            strategy="ddp" if settings.processes > 1 else "auto",
            sync_batchnorm=gpu and settings.processes > 1,
            accumulate_grad_batches=settings.accumulate,
            use_distributed_sampler=False,
            precision=precision,  # pyright: ignore[reportArgumentType]
            logger=[CSVLogger(folder, "logs", attempt), TensorBoardLogger(folder, "logs", attempt)],
            callbacks=callbacks,
            plugins=[WholeCheckpoints()],
            enable_progress_bar=sys.stderr.isatty() and parent_process() is None,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=min(5, data.steps),
        )


def _fit(trainer: Trainer, module: SegmentationModule, data: DataModule, folder: Path) -> None:
    """Train, from the checkpoint in the folder where there is one. Ctrl-C becomes `Interrupted`."""
    checkpoint = folder / CHECKPOINT
    check_whole(checkpoint)
    handler = signal.getsignal(signal.SIGINT)
    try:
        with quiet():
            trainer.fit(
                module, datamodule=data, ckpt_path=checkpoint if checkpoint.is_file() else None, weights_only=True
            )
    except (KeyboardInterrupt, SystemExit):
        raise Interrupted from None
    finally:
        signal.signal(signal.SIGINT, handler)
        if is_first():
            merge_logs(folder)


def _finish(folder: Path, result: dict[str, Any], watch: Watch, **cost: Any) -> dict[str, Any]:
    """Write `metrics.json`."""
    cost = watch.cost.to_dict() | {"train_seconds": round(watch.seconds, 1), "steps": watch.steps} | cost
    if not is_first():
        return result
    result |= {"cost": cost, "batches": watch.batches_seen, "gradient_norm": watch.norm.median}
    result |= {"skipped": list(watch.skipped)}
    write_json(folder / "metrics.json", result)
    return result


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's advice about machines and loaders off the terminal; warnings of the user's code still show."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*exists and is not empty.*")
        warnings.filterwarnings("ignore", ".*available but not used.*")
        warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")  # the teacher, on purpose
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")  # of depthwise convolutions
        warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")  # inside Lightning
        warnings.filterwarnings("ignore", ".*sync_dist=True.*")  # scores are summed over processes before
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
