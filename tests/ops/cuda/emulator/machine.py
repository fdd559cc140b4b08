"""Programs that run side by side: their registers, and which lanes go next."""

import re
from collections.abc import Sequence

import numpy as np

from .memory import Fault, Shared, Tensors
from .operations import OPERATIONS
from .ptx import BITS, TYPES, WARP, Address, Instruction, Kernel, constant, read_as, rounded_to_bfloat16

LANES = 2048
"""That run at once, at most, unless one program has more."""
MOST_STEPS = 2_000_000
CONTROL = {"bra", "ret", "bar", "bar.warp", "call", "trap"}
"""Operations after which lanes may go apart, or wait."""


def run(
    kernel: Kernel, arguments: Sequence[int], grid: Sequence[int], warps: int, shared: int, tensors: Tensors
) -> None:
    """All programs of a grid.

    Args:
        arguments: numbers, and addresses that `tensors` gave. shared: bytes of a program.
    """
    ids = np.stack([axis.ravel() for axis in np.indices(tuple(grid)[::-1])[::-1]], 1)
    together = max(1, LANES // (warps * WARP))
    for first in range(0, len(ids), together):
        Machine(kernel, arguments, ids[first : first + together], grid, warps, shared, tensors).run()


class Machine:
    """Programs that run side by side, and their lanes."""

    def __init__(self, kernel, arguments, ids, grid, warps, shared, tensors):
        self.kernel, self.lanes = kernel, len(ids) * warps * WARP
        self.program = np.repeat(np.arange(len(ids)), warps * WARP)
        self.thread = np.arange(self.lanes) % (warps * WARP)
        self.one_warp = warps == 1
        units = self.thread if self.one_warp else self.thread // WARP
        self.shared = Shared(len(ids), shared, self.program, units)
        self.tensors, self.passed = tensors, {}
        self.pc, self.alive = np.zeros(self.lanes, int), np.ones(self.lanes, bool)
        self.waiting, self.parked = np.zeros((2, self.lanes), bool)  # for their program, for their warp
        self.active, self.whole = self.alive, True
        self.registers, self.unwritten = self._known(ids, grid), {}
        for (_, name), value in zip(kernel.parameters, arguments, strict=True):
            self.registers[name] = np.full(self.lanes, value & (2**64 - 1), np.uint64)

    def _known(self, ids: np.ndarray, grid: Sequence[int]) -> dict[str, np.ndarray]:
        """What is there before the first instruction: where a lane is, and addresses of constants."""
        found = {"%tid.x": self.thread.astype(np.uint32), "global_smem": np.zeros(self.lanes, np.uint64)}
        for axis, name in enumerate("xyz"):
            found[f"%ctaid.{name}"] = ids[self.program, axis].astype(np.uint32)
            found[f"%nctaid.{name}"] = np.full(self.lanes, grid[axis], np.uint32)
        return found | {name: np.full(self.lanes, at, np.uint64) for at, name in enumerate(self.kernel.symbols)}

    def run(self) -> None:
        steps = 0
        with np.errstate(all="ignore"):
            while (ready := self.alive & ~self.waiting & ~self.parked).any():
                steps += self._stretch(ready)
                if steps > MOST_STEPS:
                    raise Fault(f"no end after {steps} instructions")
        if self.alive.any():
            raise Fault("lanes wait for others of their warp, which do not come")

    def _stretch(self, ready: np.ndarray) -> int:
        """Run the lanes that are farthest behind up to a branch, or to where others are; returns how many steps."""
        never = len(self.kernel.code)
        places = np.where(ready, self.pc, never)
        first = at = int(places.min())
        lanes = places == at
        until, whole, go_on = int(places.min(initial=never, where=~lanes)), bool(lanes.all()), True
        while at < until and go_on:
            instruction = self.kernel.code[at]
            go_on = instruction.operation not in CONTROL and (whole or not instruction.by_warp)
            self.active, self.whole = lanes, whole
            if not go_on:
                self.pc[lanes] = at
                self._gather(instruction, at)
            self._step(instruction)
            at += 1
        if go_on:
            self.pc[lanes] = at
        return at - first

    def _gather(self, instruction: Instruction, at: int) -> None:
        """Before a branch, or what warps do as one: lanes of warps that are not complete stay, the others go on."""
        if instruction.by_warp:
            self.parked |= self.active
            here = self.parked & (self.pc == at)
            self.active = np.repeat(here.reshape(-1, WARP).all(1), WARP)
            self.whole = bool(self.active.all())
            self.parked &= ~self.active
        self.pc[self.active] = at + 1

    def _step(self, instruction: Instruction) -> None:
        try:
            if instruction.guard is not None:
                name, wanted = instruction.guard
                self.active = self.active & (self.read(name, "pred") == wanted)
                self.whole = bool(self.active.all())
            if self.whole or self.active.any():
                OPERATIONS[instruction.operation](self, instruction)
        except Fault as fault:
            raise Fault(f"{fault}: {instruction.text}") from fault
        except KeyError as unknown:  # a name, a type
            raise Fault(f"unknown instruction: {instruction.text}") from unknown

    def read(self, name: str, kind: str, checked: bool = True) -> np.ndarray:
        """What is in a register, or a number: of a type, for each lane or for all.

        Args:
            checked: whether it must have been written.
        """
        bits = self.registers.get(name)
        if bits is None and not checked and name.startswith("%"):
            bits = np.array(0, BITS[TYPES[kind].itemsize])
        elif bits is None:
            bits = constant(name, kind)
        elif checked and name in self.unwritten and (self.unwritten[name] & self.active).any():
            raise Fault(f"{name} is read before it was written")
        return read_as(bits, kind)

    def write(self, name: str, values: np.ndarray, kind: str) -> None:
        """Values of a type to a register, for active lanes; wider ones are filled up."""
        if name == "_":
            return
        dtype = self.kernel.registers[re.match(r"%[a-z]+", name)[0]]
        if kind == "bf16":
            values, kind = rounded_to_bfloat16(values), "b16"
        values = np.asarray(values, TYPES[kind])
        if values.itemsize > dtype.itemsize:
            raise Fault(f"{name} is too narrow")
        if values.itemsize < dtype.itemsize:
            values = values.astype(np.dtype(f"i{dtype.itemsize}") if kind[0] == "s" else dtype)
        bits = np.broadcast_to(values.view(dtype), self.lanes)
        if self.whole:
            self.unwritten.pop(name, None)
        elif name in self.registers:
            bits = np.where(self.active, bits, self.registers[name])
            if name in self.unwritten:
                self.unwritten[name] = self.unwritten[name] & ~self.active
        else:
            bits, self.unwritten[name] = bits.copy(), ~self.active
        self.registers[name] = bits

    def address(self, address: Address) -> np.ndarray:
        base = self.read(address.base, "u64")
        return np.broadcast_to(base, self.lanes) + np.uint64(address.offset & (2**64 - 1))

    def arrive(self) -> None:
        """Programs whose lanes all wait, or are gone, go on."""
        arrived = (self.waiting | ~self.alive).reshape(self.shared.programs, -1).all(1)
        if arrived.any():
            released = arrived[self.program]
            places = np.where(released & self.waiting, self.pc, -1).reshape(self.shared.programs, -1)
            if ((places != places.max(1, keepdims=True)) & (places >= 0)).any():
                raise Fault("lanes of a program wait at different barriers")
            self.shared.meet(arrived)
            self.waiting &= ~released
