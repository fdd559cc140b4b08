"""Work on threads of Python, item by item: blocks of voxels, or rows that PyTorch sorts on one core.

PyTorch runs single-threaded in these threads and lets go of the interpreter while it computes, as numpy does.
`torch.set_num_threads` in a thread sets that thread's own number and the default of threads that do not exist yet; the
default is put back as soon as the pool stands, so nothing outside notices.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Lock
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")
_pools: dict[int, ThreadPoolExecutor] = {}
_lock = Lock()
_NUMBER_BY_THREAD = "ATen parallel backend: OpenMP" in torch.__config__.parallel_info()
"""Whether `torch.set_num_threads` means the thread that calls it, as it does with OpenMP."""


def in_threads(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`work` of each item, in order, on as many threads as PyTorch may use here; no gradients are recorded.

    For work on the CPU: the threads know nothing of the caller's CUDA stream.
    """
    threads = torch.get_num_threads() if _NUMBER_BY_THREAD and len(items) > 1 else 1
    with torch.no_grad():
        return list(map(work, items) if threads == 1 else _pool(threads).map(work, items))


def _pool(threads: int) -> ThreadPoolExecutor:
    with _lock:
        if threads not in _pools:
            started = Barrier(threads)
            pool = ThreadPoolExecutor(threads, "delineate", _prepare, (started,))
            for ready in [pool.submit(int) for _ in range(threads)]:
                ready.result()
            torch.set_num_threads(threads)
            _pools[threads] = pool
        return _pools[threads]


def _prepare(started: Barrier) -> None:
    torch.get_num_threads()  # a thread takes over the default at its first look: before its own number, not after
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    started.wait()


def _forget() -> None:
    """A forked process has none of the threads of its parent."""
    global _lock
    _pools.clear()
    _lock = Lock()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_forget)
