"""Where kernels run in tests: on the GPU where there is one, else on the CPU under Triton's interpreter.

On the CPU the ops keep their own code, the definition; `with kernels():` gives them what they run on CUDA.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache

import torch
from torch import Tensor

import delineate.losses  # noqa: F401  all ops are defined
from delineate.ops.cuda import KERNELS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
_off = ExitStack()


@contextmanager
def kernels() -> Iterator[None]:
    """Ops run their kernels on `DEVICE`."""
    if DEVICE == "cuda":
        yield
        return
    _interpreted()
    with ExitStack() as on:
        for op, _ in KERNELS:
            on.enter_context(op.set_kernel_enabled("cpu", True))
        yield


@cache
def _interpreted() -> None:
    """Give all ops their kernels on the CPU too, switched off."""
    for op, kernel in KERNELS:
        op.register_kernel("cpu", kernel)
        _off.enter_context(op.set_kernel_enabled("cpu", False))


def there(*tensors: Tensor | None) -> list[Tensor | None]:
    """Tensors on `DEVICE`."""
    return [None if tensor is None else tensor.to(DEVICE) for tensor in tensors]
