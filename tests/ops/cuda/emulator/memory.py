"""Memory of kernels that are emulated: every access is checked; see `ptx`."""

import ctypes
from collections.abc import Iterator

import numpy as np
from torch import Tensor


class Fault(Exception):
    """A program did what it may not do, or what the emulator does not know."""


class Tensors:
    """Those passed to a kernel, each in a space of addresses of its own: from one there is no way into another."""

    SPACE = 44
    """Bits of an address within a space; above them is the number of the tensor, from 1 on."""
    KEPT = 2**16 - 1
    """Of the true address, so that what is aligned stays so."""

    def __init__(self):
        self._begin: list[int] = []
        self._bytes: list[np.ndarray] = []

    def add(self, tensor: Tensor) -> int:
        """The address of a tensor on the CPU; from there to its last value may be read and written."""
        last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
        length = (last + 1) * tensor.element_size() if tensor.numel() else 0
        self._bytes.append(
            np.frombuffer((ctypes.c_uint8 * length).from_address(tensor.data_ptr() or id(self)), np.uint8)
        )
        self._begin.append(len(self._begin) + 1 << self.SPACE | tensor.data_ptr() & self.KEPT)
        return self._begin[-1]

    def load(self, lanes: np.ndarray, addresses: np.ndarray, width: int) -> np.ndarray:
        """Bytes (lanes, width)."""
        found = np.empty((len(addresses), width), np.uint8)
        for data, here, at in self._places(addresses, width):
            found[here] = data[at]
        return found

    def store(self, lanes: np.ndarray, addresses: np.ndarray, values: np.ndarray) -> None:
        """Bytes (lanes, width)."""
        for data, here, at in self._places(addresses, values.shape[1]):
            data[at] = values[here]

    def _places(self, addresses: np.ndarray, width: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """By tensor: its bytes, which addresses are in it, and where in it their bytes are."""
        check_alignment(addresses, width)
        numbers = (addresses >> np.uint64(self.SPACE)).astype(np.int64) - 1
        for number in set(numbers.tolist()):
            here = np.flatnonzero(numbers == number)
            known = 0 <= number < len(self._bytes)
            start = addresses[here].astype(np.int64) - self._begin[number] if known else np.array([-1])
            if not known or start.min() < 0 or start.max() + width > len(self._bytes[number]):
                raise Fault("outside of every tensor" if not known else f"outside of tensor {number} of the arguments")
            yield self._bytes[number], here, start[:, None] + np.arange(width)


NOBODY, SEVERAL = -1, -2


class Shared:
    """Shared memory of programs side by side, and who touched what since the last barrier.

    Units, of which no two may touch the same byte between two barriers, one of them to write, are warps of a program,
    or its lanes if it has one warp. Several may write the same value, which Triton has them do.
    """

    def __init__(self, programs: int, size: int, program: np.ndarray, unit: np.ndarray):
        """
        Args:
            size: bytes of a program. program, unit: of each lane.
        """
        self.programs, self._size, self._program, self._unit = programs, size, program, unit
        self._bytes, self._known = np.zeros((programs, size), np.uint8), np.zeros((programs, size), bool)
        self._writer, self._reader = np.full((2, programs, size), NOBODY)

    def load(self, lanes: np.ndarray, addresses: np.ndarray, width: int) -> np.ndarray:
        """Bytes (lanes, width)."""
        at, unit = self._places(lanes, addresses, width)
        if not self._known[at].all():
            raise Fault("shared memory is read before it was written")
        if by_another(self._writer[at], unit).any():
            raise Fault("a race in shared memory: written by another lane or warp, and no barrier since")
        before = self._reader[at]
        self._reader[at] = unit
        several = by_another(before, unit) | (self._reader[at] != unit)
        self._reader[at] = np.where(several, SEVERAL, self._reader[at])
        return self._bytes[at]

    def store(self, lanes: np.ndarray, addresses: np.ndarray, values: np.ndarray) -> None:
        """Bytes (lanes, width)."""
        at, unit = self._places(lanes, addresses, values.shape[1])
        if by_another(self._reader[at], unit).any():
            raise Fault("a race in shared memory: read by another lane or warp, and no barrier since")
        changed = by_another(self._writer[at], unit) & (self._bytes[at] != values)
        self._bytes[at] = values
        if changed.any() or (self._bytes[at] != values).any():
            raise Fault("a race in shared memory: another value written by another lane or warp, and no barrier since")
        self._writer[at], self._known[at] = unit, True

    def _places(self, lanes: np.ndarray, addresses: np.ndarray, width: int) -> tuple[tuple, np.ndarray]:
        """Where the bytes are, and units of the lanes, (lanes, 1)."""
        check_alignment(addresses, width)
        if addresses.max() + np.uint64(width) > self._size:
            raise Fault(f"beyond the {self._size} bytes of shared memory")
        at = addresses.astype(np.int64)[:, None] + np.arange(width)
        return (self._program[lanes][:, None], at), self._unit[lanes][:, None]

    def meet(self, programs: np.ndarray) -> None:
        """At a barrier of some programs."""
        self._writer[programs] = self._reader[programs] = NOBODY


def by_another(units: np.ndarray, unit: np.ndarray) -> np.ndarray:
    return (units != NOBODY) & (units != unit)


def check_alignment(addresses: np.ndarray, width: int) -> None:
    if (addresses % np.uint64(width)).any():
        raise Fault(f"not aligned to its {width} bytes")
