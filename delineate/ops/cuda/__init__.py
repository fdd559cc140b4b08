"""Triton kernels behind the ops, for CUDA: each file has the name of the one in `delineate.ops` that defines the op.

The code in `delineate.ops` stays the definition. A kernel gives the same numbers from one read of the logits, without
temporaries of their size; it writes only what it allocated. Triton is imported when the first CUDA tensor arrives.
Where it is missing or too old, and for what a kernel does not take, the definition runs on the GPU as plain PyTorch.
"""

import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

OLDEST = (3, 4)
"""Of Triton: those before do not know the tuples that tiles are kept in."""
KERNELS: list[tuple[Any, Callable]] = []
"""The ops that have a kernel, and what they run on CUDA."""


def on_cuda(op: Any, module: str, name: str) -> None:
    """Let the function `name` of a module of this package do the work of an op on CUDA.

    Args:
        op: made with `torch.library.custom_op`, its first argument a tensor; the function takes its arguments, and
            answers `NotImplemented` for those it does not take.
    """
    definition = op._init_fn

    @op.register_kernel("cuda")
    def run(*args: Any) -> Any:
        kernel = found(module, name)
        with torch.cuda.device_of(args[0]):  # Triton launches on the current device, whatever that of the tensors is
            answer = NotImplemented if kernel is None else kernel(*args)
        return definition(*args) if answer is NotImplemented else answer

    KERNELS.append((op, run))


@cache
def found(module: str, name: str) -> Callable | None:
    """The function, or None where Triton is not installed or too old; which is said once."""
    if not _usable():
        return None
    return getattr(import_module(f"delineate.ops.cuda.{module}"), name)


@cache
def _usable() -> bool:
    """Whether there is a Triton that can build the kernels."""
    have = import_module("triton").__version__ if find_spec("triton") is not None else "none"
    if have != "none" and tuple(int(part) for part in have.split(".")[:2]) >= OLDEST:
        return True
    warnings.warn(
        "delineate: losses run on the GPU as plain PyTorch, with the same numbers from many more passes over the "
        f"logits, for want of Triton {OLDEST[0]}.{OLDEST[1]} or newer; got {have}. It comes with PyTorch 2.8 for "
        "Linux; elsewhere install it for the PyTorch at hand.",
        stacklevel=4,
    )
    return False
