"""What a step costs, time and memory allocated beyond what was held before; and how large its gradient is."""

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from delineate.losses import Loss

MIB = 2**20


def _memory_log() -> profile:
    """A recorder of every allocation on the CPU, whose own remarks stay off the terminal."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    return profile(activities=[ProfilerActivity.CPU], profile_memory=True)


def peak_allocated(run: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Peak bytes that `run` allocates on the device beyond what was held before; on the CPU from the allocation log."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with _memory_log() as log:
        run()
    return _peak(log)


def _peak(log: profile) -> int:
    """Highest running sum of the allocations and releases that a profile recorded."""
    held = peak = 0
    events = [e for e in log.profiler.kineto_results.events() if e.name() == "[memory]"]  # pyright: ignore
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()  # pyright: ignore
        peak = max(peak, held)
    return peak


def median_ms(run: Callable[[], object], repeats: int = 5, warm_up: int = 1, device: str = "cpu") -> float:
    """Median time of a call in milliseconds."""
    times = []
    for turn in range(warm_up + repeats):
        start = time.perf_counter()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        if turn >= warm_up:
            times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def loss_ms(loss: Loss, logits: Tensor, target: Tensor) -> float:
    """Median milliseconds of the loss alone, forward and backward, on a batch as training saw it."""
    return median_ms(step_of(loss, logits, target), device=logits.device.type)


def step_of(loss: Loss, logits: Tensor, target: Tensor) -> Callable[[], None]:
    """Forward and backward of the loss alone."""
    logits = logits.detach().requires_grad_()

    def step() -> None:
        logits.grad = None
        loss(logits, target).backward()

    return step


def in_turns_ms(runs: dict[str, Callable[[], object]], rounds: int = 7, device: str = "cpu") -> dict[str, float]:
    """Median milliseconds of each, timed one after the other in every round, so that a busy machine is so for all."""
    times = {name: list[float]() for name in runs}
    for turn in range(1 + rounds):
        for name, run in runs.items():
            time_of_run = median_ms(run, repeats=1, warm_up=0, device=device)
            times[name] += [time_of_run] if turn else []
    return {name: round(statistics.median(of_run), 3) for name, of_run in times.items()}


class StepCost(Callback):
    """Times every training step and takes the peak memory of the third."""

    MEASURED = 2

    def __init__(self) -> None:
        self.times: list[float] = []
        self.peak_bytes: int | None = None
        self.kind = ""
        self._log: profile | None = None
        self._start = 0.0
        self._held = 0

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch, batch_idx: int) -> None:
        if self.peak_bytes is None and batch_idx == self.MEASURED:
            if module.device.type == "cuda":
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                self._held = torch.cuda.memory_allocated()
            else:
                self._log = _memory_log()
                self._log.__enter__()
        self._start = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs, batch, batch_idx: int) -> None:
        if module.device.type == "cuda":
            torch.cuda.synchronize()
        if self.peak_bytes is not None or batch_idx != self.MEASURED:
            self.times.append(time.perf_counter() - self._start)
        elif module.device.type == "cuda":
            self.peak_bytes, self.kind = torch.cuda.max_memory_allocated() - self._held, "GPU"
        elif self._log is not None:
            self._log.__exit__(None, None, None)
            self.peak_bytes, self.kind, self._log = _peak(self._log), "CPU", None

    def to_dict(self) -> dict[str, object]:
        """`ms_per_step`, `peak_memory_mib` and how the memory was taken."""
        times = self.times[self.MEASURED :] or self.times  # the first steps warm caches up
        return {
            "ms_per_step": round(1e3 * statistics.median(times), 1) if times else None,
            "peak_memory_mib": None if self.peak_bytes is None else round(self.peak_bytes / MIB, 1),
            "memory_kind": f"peak allocated during one training step beyond what was held before it, {self.kind}",
        }


class GradientNorm(Callback):
    """The scale of a loss as the optimizer meets it: the L2 norm of the gradient of all weights in the first steps."""

    STEPS = 10

    def __init__(self) -> None:
        self.norms: list[Tensor] = []

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer) -> None:
        if trainer.global_step < self.STEPS:
            gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
            self.norms.append(nn.utils.get_total_norm(gradients).detach().float().cpu())

    def state_dict(self) -> dict[str, Any]:
        """What a run that is continued goes on from."""
        return {"norms": self.norms}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.norms = list(state_dict["norms"])

    @property
    def median(self) -> float | None:
        """Over the first steps; None where there were none, or one is not finite."""
        norms = torch.stack(self.norms) if self.norms else torch.full((1,), torch.nan)
        return float(f"{norms.median():.6g}") if norms.isfinite().all() else None
