"""Calls timed side by side in one run: what the scripts of this folder share.

Rounds are interleaved (each round runs every call once), so that a noisy moment of the machine meets them all; the
figure is the median over rounds.
"""

import csv
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from delineate.training.cost import peak_allocated

SLOW = 20  # seconds: a call that takes longer is not worth a warm-up
RESULTS = Path(__file__).parent / "results"

LossFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Row:
    """What one loss costs, forward and backward."""

    library: str
    ms: float
    memory: float  # peak allocated beyond the inputs, in multiples of the logits
    rounds: int


def wall(call: Callable[[], object]) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(
    calls: dict[str, Callable[[], object]],
    rounds: int,
    seconds: float = math.inf,
    clock: Callable[[Callable[[], object]], float] = wall,
) -> dict[str, list[float]]:
    """Seconds of each call by round, after a round to warm up.

    Under a limit of `seconds` in all, rounds end early, with at least one time of each call; and the warm-up of a slow
    call counts as its first round.
    """
    begin = time.perf_counter()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        late = time.perf_counter() - begin > seconds
        for name, call in calls.items():
            if times[name] and (late or len(times[name]) == rounds):
                continue
            taken = clock(call)
            if turn or (taken > SLOW and seconds < math.inf):  # without a limit it may be slow because it compiles
                times[name].append(taken)
    return times


def measure(
    logits: Tensor, labels: Tensor, losses: dict[str, LossFunction], repeats: int, seconds: float = math.inf
) -> list[Row]:
    """One row per loss; for the gradient of the logits too."""
    size = logits.numel() * logits.element_size()

    def step(loss: LossFunction) -> None:
        logits.grad = None
        loss(logits, labels).backward()

    calls = {name: lambda loss=loss: step(loss) for name, loss in losses.items()}
    times = interleaved(calls, repeats, seconds)
    rows = []
    for name, call in calls.items():
        logits.grad = None
        memory = peak_allocated(call) / size
        rows.append(Row(name, 1e3 * statistics.median(times[name]), memory, len(times[name])))
    return rows


def sizes(shape: str) -> tuple[int, ...]:
    """8x21x512x512 as numbers.

    Raises:
        ValueError: if it is not NxCx... with a class and a side at least.
    """
    try:
        found = tuple(int(side) for side in shape.split("x"))
    except ValueError:
        found = ()
    if len(found) < 3 or min(found) < 1:
        raise ValueError(f"--shapes: expected NxCx... such as 8x21x512x512; got {shape}")
    return found


def save(results: Path, rows: list[dict[str, object]], packages: Sequence[str]) -> None:
    """Append rows to a table, with the day, the machine and the versions of the packages."""
    place = {
        "date": date.today().isoformat(),
        "cpu": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        **{name: version(name) for name in ("torch", *packages)},
    }
    new = not results.exists()
    with results.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], *place])
        if new:
            writer.writeheader()
        writer.writerows(row | place for row in rows)
