"""The trainings of a comparison, one after the other or several at once, each a run like any other."""

import json
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from delineate.data import write_split_lists
from delineate.training.arms import Arm
from delineate.training.results import prepare_run, run_options
from delineate.training.run import Interrupted, train_run

STOPPED = 130
"""Exit code of a process that was interrupted."""


@dataclass(frozen=True, eq=False)
class Row:
    """One training of a comparison.

    Args:
        arm: what is trained.
        seed: of the weights, the order of the batches and the augmentation.
        folder: of the run.
        samples: ids of val images whose predictions are kept.
        show: what precedes its lines on the terminal.
    """

    arm: Arm
    seed: int
    folder: Path
    samples: list[str]
    show: str

    def train(self) -> dict[str, Any]:
        """Train, from its checkpoint where there is one; returns what `metrics.json` holds."""
        arm = self.arm
        prepare_run(self.folder, run_options(arm.source, arm.settings, loss=arm.loss, seed=self.seed))
        if arm.settings.semi:
            write_split_lists(arm.source, self.folder / "splits")
        context = {"loss": arm.name, "expression": arm.loss}
        return train_run(
            arm.source, arm.loss, self.seed, arm.settings, self.folder,
            samples=self.samples, show=self.show, context=context,
        )  # fmt: skip


def train_rows(rows: Sequence[Row], at_once: int, after_run: Callable[[], object]) -> list[dict[str, Any]]:
    """Train all rows that are not finished; returns what `metrics.json` of every row holds, in their order.

    Args:
        at_once: how many are trained at the same time, each in a process of its own, dealt out to the GPUs; 1 trains
            in this process.
        after_run: called whenever one has ended.

    Raises:
        Interrupted: on Ctrl-C, with everything reached on disk.
        ValueError: where a process was killed, or found its data amiss; the others have then ended as well.
    """
    left = [row for row in rows if finished(row.folder) is None]
    if at_once > 1 and len(left) > 1:
        _train_side_by_side(left, at_once, after_run)
    else:
        for row in left:
            row.train()
            after_run()
    return [json.loads((row.folder / "metrics.json").read_text(encoding="utf-8")) for row in rows]


def finished(run: Path) -> dict[str, Any] | None:
    """The result of a run that is complete."""
    path = run / "metrics.json"
    result = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return result if result and result["status"] == "finished" else None


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (named.split(",") if named else [str(k) for k in range(64)])[: torch.cuda.device_count()]


@dataclass(frozen=True)
class _Running:
    row: Row
    process: BaseProcess
    errors: Connection
    place: int


def _train_side_by_side(rows: Sequence[Row], at_once: int, after_run: Callable[[], object]) -> None:
    """A process for each row, so many at a time. After a failure no further one is begun."""
    waiting, free, failures = deque(rows), list(range(at_once)), list[str]()
    running: dict[int, _Running] = {}
    try:
        while running or (waiting and not failures):
            while free and waiting and not failures:
                begun = _begin(waiting.popleft(), free.pop(0), at_once)
                running[begun.process.sentinel] = begun
            for sentinel in wait(list(running)):
                ended = running.pop(sentinel)  # pyright: ignore[reportArgumentType]
                ended.process.join()
                free.append(ended.place)
                if amiss := _failure(ended):
                    failures += amiss
                else:
                    after_run()
    except KeyboardInterrupt:
        for one in running.values():
            if one.process.pid and one.process.is_alive():
                os.kill(one.process.pid, signal.SIGINT)
        for one in running.values():
            one.process.join()
        raise Interrupted from None
    if failures:
        raise ValueError(failures[0])


def _begin(row: Row, place: int, at_once: int) -> _Running:
    context = multiprocessing.get_context("spawn")  # a fork would share the threads and the GPU of this process
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_in_process, args=(row, place, at_once, visible_gpus(), sender))
    process.start()
    sender.close()
    return _Running(row, process, receiver, place)


def _in_process(row: Row, place: int, at_once: int, gpus: list[str], errors: Connection) -> None:
    """Train a row on the GPU of this place, or on its share of the cores; ends with the process that began it."""
    os.setpgrp()  # Ctrl-C reaches the first process alone, which passes it on once
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[place % len(gpus)]
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // at_once))
    try:
        row.train()
    except (Interrupted, KeyboardInterrupt):
        sys.stdout.flush()
        os._exit(STOPPED)  # an orderly end would kill the processes that load images, and complain of their death
    except (ValueError, OSError) as error:
        errors.send(str(error))
        raise SystemExit(2) from None


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGINT)


def _failure(ended: _Running) -> list[str]:
    """One sentence on a process that did not end well, none on one that did."""
    code, row = ended.process.exitcode, f"{ended.row.arm.name}, seed {ended.row.seed}"
    if not code:
        return []
    if ended.errors.poll():
        try:
            return [f"{row}: {ended.errors.recv()}"]
        except EOFError:
            pass
    if code < 0:
        name = signal.Signals(-code).name
        return [f"{row}: its process was killed ({name}); for want of memory? Train fewer at once (--parallel)."]
    return [f"{row}: its process ended with exit code {code}; what it printed above says why."]
