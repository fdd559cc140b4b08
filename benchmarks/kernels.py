"""What the compiler makes of every kernel, for a GPU that need not be there.

    python benchmarks/kernels.py [--capabilities 90 80] [--classes 2 5 21 ...] [--dtypes fp32 bf16]
                                 [--ops overlap_labels ...] [--variants "Dice + CE" ...]
    python benchmarks/kernels.py --check      few classes, every variant: exit code 1 where one fails or spills

The ops that have a kernel are called as on CUDA, with tensors that have a shape and no memory. Their launchers choose
tiles and grids as ever; in place of a launch Triton compiles the kernel, and the machine code is read. Loops over
blocks have several steps, as on large inputs. Nothing is measured: times follow from a data sheet.

Columns: warps of a program; registers of a thread; bytes of its stack, where spilled registers go; shared memory of a
program; warps that a multiprocessor holds at once; instructions in all, and of the main loop, the longest. Where that
is the loop over blocks, for each logit: instructions of a thread, and those of the special function unit (exp2, log2,
reciprocals).

Two ratios of times, for the blocks of a launch; memory is the limit where both are below 1:

    issue / memory = (instructions of all warps / (4 a clock x multiprocessors x clock)) / (bytes / bandwidth)
    special / memory: the same of special functions, of which a multiprocessor takes 16 threads a clock

Bytes are those of the arguments and results of the op, each once. At the end: Dice + CE, forward and backward, over the
floor (logits read twice, their gradient written), if each pass took as long as the slowest of the three says.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import delineate.losses  # noqa: F401  all ops are defined
from delineate.ops.blocks import table_rows
from delineate.ops.cuda import KERNELS
from delineate.ops.segments import COSTS as OF_COMPONENTS


class Device(NamedTuple):
    """What a data sheet says; none of it is measured here."""

    name: str
    multiprocessors: int
    clock: float  # the highest, Hz
    bandwidth: float  # of memory, bytes a second
    shared: int  # bytes of a multiprocessor


DEVICES = {
    80: Device("A100 80 GB SXM", 108, 1.41e9, 2.039e12, 164 * 1024),
    90: Device("H200 SXM", 132, 1.98e9, 4.8e12, 228 * 1024),
}
"""By compute capability."""
ISSUED, SPECIAL_LANES, LANES = 4, 16, 32
"""A multiprocessor in a clock: instructions its warps issue, threads its special function units take. Of a warp."""
REGISTERS, WARPS, PROGRAMS, KIB = 65536, 64, 32, 1024
"""What a multiprocessor holds; a program takes another KiB of shared memory for itself."""
MOST_SPILLED = 64
"""Bytes of a thread that `--check` lets pass."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CLASSES, FEW_CLASSES = (2, 5, 21, 50, 105, 150, 256), (5, 21, 150)
VOXELS = 3 * 4224 * 256
"""So many that programs have 3 to 24 blocks."""
FOCAL = (2.0, 1.0, 0.0)
"""Its cost, packed."""
MAIN = "Dice + CE"
SPACE, BINS = (128, 128, 128), 201


class Call(NamedTuple):
    """Of an op, as a loss makes it."""

    op: str
    variant: str  # the loss, or what is special about it
    arguments: tuple[Any, ...]
    fixed: bool = False  # whether PyTorch is asked for results that do not change from run to run

    def size(self) -> int:
        """Bytes of the arguments, each once."""
        return sum({id(t): t.nbytes for t in tree_leaves(self.arguments) if isinstance(t, Tensor)}.values())


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def of_logits(classes: int, dtype: torch.dtype) -> Iterator[Call]:
    """Calls of the ops over logits."""
    z, y, log_p = empty(1, classes, VOXELS, dtype=dtype), empty(1, VOXELS, dtype=torch.int64), empty(1, VOXELS)
    nothing, table = empty(1, 0), lambda costs: empty(1, table_rows(costs), classes, dtype=torch.float64)
    for name, squares, costs in ((MAIN, False, []), ("Dice + CE + Focal + TopK", False, FOCAL), ("squared", True, [])):
        kept, options = bool(costs), (None, squares, False, list(costs))
        yield Call("overlap_labels", name, (z, y, None, *options, kept))
        given = (log_p, log_p) if kept else (nothing, None)
        yield Call("overlap_labels_backward", name, (z, y, None, *given, table(costs), *options))
    for name, target, softmax in (("sigmoid", y, False), ("dense", z.clone(), True)):
        options = (None, softmax, False, False, [])
        yield Call("overlap_channels", name, (z, target, None, *options, False))
        yield Call("overlap_channels_backward", name, (z, target, None, None, table([]), *options))


def of_volumes() -> Iterator[Call]:
    """Calls of ops whose kernels depend neither on the number of classes nor on the type of the logits."""
    y, ids, log_p = empty(1, VOXELS, dtype=torch.int64), empty(1, VOXELS, dtype=torch.int32), empty(1, VOXELS)
    for name, squares, costs in (("Blob(Dice)", False, []), ("Blob(Focal), squared", True, FOCAL)):
        g, options = empty(1, OF_COMPONENTS + len(costs) // 3, BINS, dtype=torch.float64), (squares, list(costs))
        for fixed in (False, True):
            yield Call("component_sums", name, (log_p, y, ids, None, BINS - 1, *options), fixed)
        yield Call("component_sums_backward", name, (log_p, ids, None, g, *options))
    for fixed in (False, True):
        yield Call("segment_sums", "Component(Dice)", (empty(1, 1, VOXELS), ids, BINS - 1), fixed)
    yield Call("segment_gather", "Component(Dice)", (empty(1, 1, BINS, dtype=torch.float64), ids, empty(1, 0)))
    labels, dense = empty(1, *SPACE, dtype=torch.int64), empty(1, 4, *SPACE)
    given = (empty(1, *SPACE, dtype=torch.bool), empty(1, 3, dtype=torch.float64))
    for name, target, beside in (
        ("labels", labels, (None, None)),
        ("dense map", dense, (None, None)),
        ("labels, ignored, spacing", labels, given),
    ):
        yield Call("squared_distances", name, (target, 4, *beside))
    yield Call("squared_label_distances", "labels", (labels, None, None))


# --- compiling


class Absent:
    """What Triton asks of a driver, for a GPU that is not there."""

    def __init__(self, capability: int):
        from triton.backends.compiler import GPUTarget

        self.target = GPUTarget("cuda", capability, LANES)

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        return self.target.arch  # what is compiled is kept by device

    def get_current_stream(self, device: int) -> int:
        return 0


class Launch(NamedTuple):
    name: str
    compiled: Any
    programs: int
    arguments: dict[str, Any]  # by their names in the kernel


@contextmanager
def compiled_for(capability: int) -> Iterator[list[Launch]]:
    """Launches compile, and are noted."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    launches: list[Launch] = []
    before, run = driver._active, JITFunction.run

    def build(self, *args, grid, warmup, **kwargs):
        compiled = run(self, *args, grid=grid, warmup=True, **kwargs)
        arguments = dict(zip(self.arg_names, args, strict=False)) | kwargs
        shape = grid(arguments) if callable(grid) else grid
        launches.append(Launch(self.__name__, compiled, prod(shape), arguments))
        return compiled

    driver.set_active(Absent(capability))  # pyright: ignore
    JITFunction.run = build
    try:
        yield launches
    finally:
        JITFunction.run, driver._active = run, before


# --- reading machine code


SHORTEST = 3
"""Loops of no more instructions are none: code ends in a branch to itself."""


def main_loop(listing: str) -> tuple[list[str], int]:
    """The instructions of the longest loop, and how many there are in all.

    Args:
        listing: of nvdisasm. A loop is what lies between a label and a branch back to it, with no way out for good.
    """
    places, code, longest = dict[str, int](), list[str](), list[str]()
    for line in listing.splitlines():
        if label := re.match(r"(\.L_\w+):", line):
            places[label[1]] = len(code)
        elif found := re.search(r"/\*[0-9a-f]{4,}\*/\s+(\S.*?)\s*;", line):
            code.append(found[1])
            target = re.search(r"\bBRA\b.*`\((\.L_\w+)\)", found[1])
            body = code[places[target[1]] :] if target and target[1] in places else []
            if len(body) > max(len(longest), SHORTEST) and not any(re.match(r"(EXIT|RET)\b", step) for step in body):
                longest = body
    return longest, len(code)


def opcode(instruction: str) -> str:
    """`@!P0 FADD.FTZ R1, R2, R3` -> FADD."""
    return re.sub(r"^@!?\w+\s+", "", instruction).split()[0].split(".")[0]


@dataclass(frozen=True)
class Code:
    """What is read off a kernel that was compiled."""

    warps: int
    registers: int
    stack: int
    shared: int
    instructions: int
    loop: int
    special: int  # of the loop

    @classmethod
    def of(cls, compiled: Any) -> "Code":
        from triton import knobs

        with TemporaryDirectory() as folder:
            binary = Path(folder) / "kernel.cubin"
            binary.write_bytes(compiled.asm["cubin"])
            usage = output(knobs.nvidia.cuobjdump.path, "--dump-resource-usage", binary)
            loop, number = main_loop(output(knobs.nvidia.nvdisasm.path, "-c", binary))
        registers, stack = (int(re.search(rf"\b{name}:(\d+)", usage)[1]) for name in ("REG", "STACK"))
        special = sum(opcode(step) == "MUFU" for step in loop)
        shared = compiled.metadata.shared
        return cls(compiled.metadata.num_warps, registers, stack, shared, number, len(loop), special)

    def resident(self, device: Device) -> int:
        """Warps that a multiprocessor holds at once; registers are handed out to a warp by 256."""
        by_registers = REGISTERS // (-(-self.registers * LANES // 256) * 256) // self.warps
        by_shared = device.shared // (self.shared + KIB)
        return self.warps * min(by_registers, by_shared, WARPS // self.warps, PROGRAMS)


def output(*command: Any) -> str:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stdout


@dataclass(frozen=True)
class Row:
    """A kernel of a call."""

    call: Call
    classes: int | None
    dtype: str
    kernel: str
    code: Code
    rounds: int  # how often its loop runs, in all programs; 0: not known
    size: int  # bytes

    def per_logit(self, instructions: int) -> float:
        """Instructions of the loop that a thread runs for each logit."""
        return instructions * self.rounds * self.code.warps * LANES / self.call.arguments[0].numel()

    def limits(self, device: Device) -> tuple[float, float]:
        """Times of issuing and of special functions over that of memory; see the top of this file."""
        clocks = self.rounds * self.code.warps / (device.multiprocessors * device.clock)
        memory = self.size / device.bandwidth
        issue, special = self.code.loop / ISSUED, self.code.special * LANES / SPECIAL_LANES
        return issue * clocks / memory, special * clocks / memory

    def over_floor(self, device: Device) -> float:
        """The slowest of memory, issue and special functions, over the time of three sweeps over the logits."""
        logits = self.call.arguments[0]
        return max(1, *self.limits(device)) * self.size / (3 * logits.numel() * logits.element_size())


def rows_of(call: Call, run: Callable, capability: int, classes: int | None, dtype: str) -> list[Row]:
    """Compile what a call launches.

    Raises:
        ValueError: where nothing is launched.
    """
    with compiled_for(capability) as launches:
        torch.use_deterministic_algorithms(call.fixed)
        try:
            results = run(*call.arguments)
        finally:
            torch.use_deterministic_algorithms(False)
    if not launches:
        raise ValueError("launches no kernel")
    size = call.size() + sum(found.nbytes for found in tree_leaves(results) if isinstance(found, Tensor))
    rows = []
    for launch in launches:
        code, steps = Code.of(launch.compiled), launch.arguments.get("steps", 0)
        rounds = launch.programs * steps if code.loop else 0
        rows.append(Row(call, classes, dtype, launch.name, code, rounds, size))
    return rows


# --- the command

LINE = "{:26}{:38}{:6}{:>3}  {:24}{:>5}{:>5}{:>6}{:>7}{:>9}{:>6}{:>6}{:>9}{:>9}{:>10}{:>10}\n"


def work(options: argparse.Namespace) -> Iterator[tuple[Call, int | None, str]]:
    """All calls, for a number of classes and a type of logits where they depend on these."""
    for classes in options.classes:
        for dtype in options.dtypes:
            yield from ((call, classes, dtype) for call in of_logits(classes, DTYPES[dtype]))
    yield from ((call, None, "") for call in of_volumes())


def line(row: Row, device: Device) -> str:
    code, known = row.code, row.rounds > 0
    issue, special = (f"{ratio:.2f}" if known else "-" for ratio in row.limits(device))
    loop, functions = (f"{row.per_logit(number):.1f}" if known else "-" for number in (code.loop, code.special))
    variant = f"{row.call.variant}, fixed order" if row.call.fixed else row.call.variant
    return LINE.format(
        *(row.call.op, variant, row.dtype, row.classes or "-", row.kernel, code.warps, code.registers, code.stack),
        *(code.shared, code.resident(device), code.instructions, code.loop or "-", loop, functions, issue, special),
    )


def head(capability: int) -> str:
    device = DEVICES[capability]
    names = ("op", "of", "", "C", "kernel", "warps", "regs", "stack", "shared", "resident", "instr", "loop")
    return (
        f"\ncapability {capability}; {device.name} by its data sheet: {device.multiprocessors} multiprocessors, "
        f"{device.clock / 1e9:g} GHz at most, {device.bandwidth / 1e12:g} TB/s\n"
        + LINE.format(*names, "a logit", "special", "issue", "special")
        + LINE.format(*[""] * 12, "", "a logit", "/ memory", "/ memory")
    )


def predicted(rows: Sequence[Row], device: Device) -> Iterator[str]:
    """Dice + CE over the floor, a line for each number of classes."""
    over = dict[tuple[int | None, str], float]()
    for row in (row for row in rows if row.call.variant == MAIN and row.rounds):
        over[row.classes, row.dtype] = over.get((row.classes, row.dtype), 0) + row.over_floor(device)
    for (classes, dtype), ratio in over.items():
        yield f"{MAIN}, {classes} classes, {dtype}: predicted {ratio:.2f} times the floor"


def report(options: argparse.Namespace) -> list[str]:
    """Print all rows; returns what is wrong, a line each."""
    runs, wrong, called = {op._name: run for op, run in KERNELS}, [], set()
    for capability in options.capabilities:
        compiled = []
        print(head(capability), end="", flush=True)
        for call, classes, dtype in work(options):
            called.add(call.op)
            wanted = call.op in (options.ops or runs) and call.variant in (options.variants or [call.variant])
            if not wanted or call.op not in runs:
                continue
            place = f"capability {capability}: {call.op} of {call.variant} {dtype} {classes or ''}".rstrip()
            try:
                rows = rows_of(call, runs[call.op], capability, classes, dtype)
            except Exception as error:  # of any kind: the other kernels are still compiled
                wrong.append(f"{place}: {type(error).__name__}: {str(error).strip().splitlines()[0]}")
                continue
            compiled += rows
            for row in rows:
                print(line(row, DEVICES[capability]), end="", flush=True)
                if row.code.stack > MOST_SPILLED:
                    wrong.append(f"{place}: {row.kernel} spills {row.code.stack} bytes, more than {MOST_SPILLED}")
        print(*predicted(compiled, DEVICES[capability]), sep="\n")
    return wrong + [f"{op}: no call of it is known here, so that it is not compiled" for op in runs.keys() - called]


def refusal() -> str | None:
    """Why nothing can be compiled here."""
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        return "TRITON_INTERPRET is set, so that kernels are interpreted: run this without it"
    try:
        from triton import knobs

        for tool in (knobs.nvidia.ptxas, knobs.nvidia.cuobjdump, knobs.nvidia.nvdisasm):
            assert tool.path
    except ImportError:
        return "Triton is not installed: pip install triton"
    except RuntimeError as error:
        return f"Triton's own tools are missing: {error}"
    return None


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--capabilities", type=int, nargs="+", choices=DEVICES, help="90, and 80 too with --check")
    parser.add_argument("--classes", type=int, nargs="+")
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--ops", nargs="+", metavar="NAME", help="calls of these alone")
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="these alone, by their names in the table")
    parser.add_argument("--check", action="store_true", help=f"exit 1 where one fails or spills > {MOST_SPILLED} bytes")
    options = parser.parse_args(given)
    options.capabilities = options.capabilities or ([80, 90] if options.check else [90])
    options.classes = options.classes or (FEW_CLASSES if options.check else CLASSES)
    if not (options.check or options.ops or options.variants):
        options.variants = [MAIN, *{call.variant for call in of_volumes()}]
    if why := refusal():
        print(f"kernels.py: {why}", file=sys.stderr)
        return 2
    wrong = report(options)
    for fault in wrong:
        print(fault, file=sys.stderr)
    return 1 if wrong and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
