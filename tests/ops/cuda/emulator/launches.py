"""Launches that compile kernels for a GPU that is not there, and run the machine code on the CPU; see `ptx`.

Triton decides when a kernel is defined whether it is interpreted: `TRITON_INTERPRET` must not be set then.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from .machine import run
from .memory import Tensors
from .ptx import Kernel

LAUNCHES: Counter[str] = Counter()
"""Of every kernel, by its file and name."""
read = cache(Kernel.parse)


class Absent:
    """What Triton asks of a driver, for a GPU that is not there."""

    def __init__(self, capability: int):
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return self.target.arch  # what is compiled is kept by device

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def emulated(capability: int) -> Iterator[None]:
    """Kernels are compiled for GPUs of this capability, and take tensors on the CPU."""
    before, compiled_and_run = driver._active, JITFunction.run

    def launch(self, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        compiled = compiled_and_run(self, *args, grid=grid, warmup=True, **kwargs)
        if not warmup:
            LAUNCHES[f"{self.module.rpartition('.')[2]}.{self.__name__}"] += 1
            given = dict(zip(self.arg_names, args, strict=False)) | kwargs
            emulate(compiled, given, grid(given) if callable(grid) else grid)
        return compiled

    driver.set_active(Absent(capability))  # pyright: ignore
    JITFunction.run = launch
    try:
        yield
    finally:
        JITFunction.run, driver._active = compiled_and_run, before


def emulate(compiled: Any, given: dict[str, Any], grid: tuple[int, ...]) -> None:
    """Run what was compiled on its arguments, by their names in the kernel."""
    kernel, tensors = read(compiled.asm["ptx"]), Tensors()
    values = [given[name] for name, kind in compiled.src.signature.items() if kind != "constexpr"]
    arguments = [tensors.add(value) if isinstance(value, Tensor) else int(value) for value in values]
    arguments += [0] * (len(kernel.parameters) - len(arguments))  # room of Triton's own, of which none is asked for
    run(kernel, arguments, (*grid, 1, 1)[:3], compiled.metadata.num_warps, compiled.metadata.shared, tensors)
