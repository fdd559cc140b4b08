"""Triton kernels behind the ops, for CUDA: each file has the name of the one in `delineate.ops` that defines the op.

The code in `delineate.ops` stays the definition. A kernel gives the same numbers from one read of the logits, without
temporaries of their size; it writes only what it allocated. Triton is imported when the first CUDA tensor arrives.
Where it is not installed, and for what a kernel does not take, the definition runs on the GPU as plain PyTorch.
"""

import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch

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
    """The function, or None where Triton is not installed; says so once for each op."""
    try:
        return getattr(import_module(f"delineate.ops.cuda.{module}"), name)
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("triton"):
            raise
        warnings.warn(
            "delineate: Triton is not installed, so losses run on the GPU as plain PyTorch: the same numbers, from "
            "many more passes over the logits. Install it with `pip install triton`.",
            stacklevel=2,
        )
        return None
