"""What instructions do to the active lanes of a machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .memory import Fault, Shared, Tensors
from .ptx import TYPES, WARP, Instruction, bits_of, read_as, rounded_to_bfloat16

if TYPE_CHECKING:
    from .machine import Machine


def same_type(function: Callable) -> Callable:
    """An operation whose operands and result are of one type."""

    def run(m: Machine, i: Instruction) -> None:
        values = [m.read(name, i.types[-1]) for name in i.operands[1:]]
        if "ftz" in i.modifiers:
            values = [flushed(value) for value in values]
        found = function(*values)
        m.write(i.operands[0], flushed(found) if "ftz" in i.modifiers else found, i.types[-1])

    return run


def flushed(values: np.ndarray) -> np.ndarray:
    """0 in place of numbers that are not normal."""
    return np.where(np.abs(values) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), values), values)


def multiply_add(a, b, c):
    wide = [x.astype(np.float64) if x.dtype == np.float32 else x for x in (a, b, c)]
    return (wide[0] * wide[1] + wide[2]).astype(a.dtype)


def divide(a, b):
    return a / b if a.dtype.kind == "f" else (a - np.fmod(a, b)) // b


def wide_product(m: Machine, i: Instruction) -> None:
    """Of integers, in twice their bits, and a sum with a third."""
    wide = f"{i.types[0][0]}{16 * TYPES[i.types[0]].itemsize}"
    a, b = (m.read(name, i.types[0]).astype(TYPES[wide]) for name in i.operands[1:3])
    m.write(i.operands[0], a * b + (m.read(i.operands[3], wide) if len(i.operands) > 3 else 0), wide)


def shift(m: Machine, i: Instruction) -> None:
    """By more than the width: as by the width."""
    x, by = m.read(i.operands[1], i.types[0]), m.read(i.operands[2], "u32")
    width = 8 * x.itemsize
    move, most = np.left_shift if i.operation == "shl" else np.right_shift, np.minimum(by, width - 1).astype(x.dtype)
    gone = (by >= width) & (i.types[0][0] != "s")
    m.write(i.operands[0], np.where(gone, x.dtype.type(0), move(x, most)), i.types[0])


def extract(m: Machine, i: Instruction) -> None:
    """`bfe`: some bits of 32, with their sign if the type has one."""
    wide = np.int64 if i.types[0][0] == "s" else np.uint64
    x, start, length = m.read(i.operands[1], i.types[0]), *(m.read(name, "u32") for name in i.operands[2:])
    if (length == 0).any() or (start + length > 8 * x.itemsize).any():
        raise Fault("bits beyond the register")
    start, length = start.astype(wide), length.astype(wide)
    m.write(i.operands[0], x.astype(wide) << (64 - start - length) >> (64 - length), i.types[0])


def permute(m: Machine, i: Instruction) -> None:
    """`prmt`: any four of eight bytes, or their signs."""
    a, b, pick = (m.read(name, "u32").astype(np.uint64) for name in i.operands[1:])
    found, both = np.uint64(0), b << np.uint64(32) | a
    for place in range(4):
        one = pick >> np.uint64(4 * place)
        byte = both >> (one & np.uint64(7)) * np.uint64(8) & np.uint64(255)
        sign = np.where(byte > 127, np.uint64(255), np.uint64(0))
        found = found | np.where(one & np.uint64(8) > 0, sign, byte) << np.uint64(8 * place)
    m.write(i.operands[0], found.astype(np.uint32), "b32")


def comparison(function: Callable, with_nan: bool) -> Callable:
    def run(m: Machine, i: Instruction) -> None:
        a, b = (m.read(name, i.types[0]) for name in i.operands[1:])
        found = function(a, b)
        if a.dtype.kind == "f":
            nan = np.isnan(a) | np.isnan(b)
            found = found | nan if with_nan else found & ~nan
        m.write(i.operands[0], found, "pred")

    return run


def select(m: Machine, i: Instruction) -> None:
    a, b = (m.read(name, i.types[0]) for name in i.operands[1:3])
    m.write(i.operands[0], np.where(m.read(i.operands[3], "pred"), a, b), i.types[0])


def move(m: Machine, i: Instruction) -> None:
    """Also of a register into several, the lowest bits first, or of several into one, of which some may be empty."""
    (into, source), kind = i.operands, i.types[-1]
    width = None if kind == "pred" else 8 * TYPES[kind].itemsize
    if isinstance(into, tuple):
        bits, part = m.read(source, f"u{width}"), width // len(into)
        for place, name in enumerate(into):
            m.write(name, read_as(bits >> bits.dtype.type(part * place), f"u{part}"), f"u{part}")
    elif isinstance(source, tuple):
        part = width // len(source)
        parts = [m.read(name, f"u{part}", False).astype(np.uint64) << part * k for k, name in enumerate(source)]
        m.write(into, np.bitwise_or.reduce(np.broadcast_arrays(*parts)), f"u{width}")
    else:
        m.write(into, m.read(source, kind), kind)


def convert(m: Machine, i: Instruction) -> None:
    """To another type; two float32 to narrow ones in one register, the first above."""
    into, source = i.types
    values = [m.read(name, source) for name in i.operands[1:]]
    if values[0].dtype.kind == "f" and TYPES.get(into, np.dtype("f4")).kind != "f":
        raise Fault("unknown instruction")
    if into.endswith("x2"):
        narrow = [rounded_to_bfloat16(x) if into == "bf16x2" else x.astype(np.float16).view(np.uint16) for x in values]
        m.write(i.operands[0], narrow[0].astype(np.uint32) << np.uint32(16) | narrow[1], "b32")
    else:
        m.write(i.operands[0], values[0].astype(TYPES.get(into, np.float32)), into)


# --- memory


def load_parameter(m: Machine, i: Instruction) -> None:
    m.write(i.operands[0], m.registers[i.operands[1].base].astype(bits_of(i.types[0])), i.types[0])


def load(m: Machine, i: Instruction) -> None:
    into, width = several(i.operands[0]), TYPES[i.types[0]].itemsize
    lanes = np.flatnonzero(m.active)
    data = space(m, i).load(lanes, m.address(i.operands[1])[lanes], width * len(into))
    for place, name in enumerate(into):
        values = np.zeros(m.lanes, TYPES[i.types[0]])
        values[lanes] = np.ascontiguousarray(data[:, place * width : (place + 1) * width]).view(values.dtype)[:, 0]
        m.write(name, values, i.types[0])


def store(m: Machine, i: Instruction) -> None:
    lanes, dtype = np.flatnonzero(m.active), TYPES[i.types[0]]
    values = [np.broadcast_to(m.read(name, i.types[0]), m.lanes)[lanes] for name in several(i.operands[1])]
    data = np.stack(values, 1).astype(dtype).view(np.uint8)
    space(m, i).store(lanes, m.address(i.operands[0])[lanes], data)


def several(names: Any) -> tuple[str, ...]:
    return names if isinstance(names, tuple) else (names,)


def space(m: Machine, i: Instruction) -> Tensors | Shared:
    return m.shared if "shared" in i.modifiers else m.tensors


def atomic_add(m: Machine, i: Instruction) -> None:
    """Lane after lane."""
    dtype, lanes = TYPES[i.types[0]], np.flatnonzero(m.active)
    addresses, values = m.address(i.operands[1]), np.broadcast_to(m.read(i.operands[2], i.types[0]), m.lanes)
    before = np.zeros(m.lanes, dtype)
    for lane in lanes:
        one = lanes[:1] * 0 + lane
        before[lane] = space(m, i).load(one, addresses[one], dtype.itemsize).view(dtype)[0, 0]
        space(m, i).store(one, addresses[one], (before[one] + values[one]).view(np.uint8)[None])
    m.write(i.operands[0], before, i.types[0])


def matrices(m: Machine, i: Instruction) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Of `ldmatrix` and `stmatrix`: registers, and the lanes and addresses of rows, (matrices x warps x 8)."""
    registers, address = i.operands if i.operation.startswith("ld") else i.operands[::-1]
    by_warp = np.flatnonzero(m.active).reshape(-1, WARP)
    registers = several(registers)
    lanes = by_warp[:, : 8 * len(registers)].reshape(-1, len(registers), 8).swapaxes(0, 1).ravel()
    return registers, lanes, m.address(address)[lanes]


def load_matrices(m: Machine, i: Instruction) -> None:
    """Of 8 x 8 numbers of 16 bits, each in a register of a warp, two neighbours of a row in a lane."""
    registers, lanes, addresses = matrices(m, i)
    data = m.shared.load(lanes, addresses, 16).view(np.uint16).reshape(len(registers), -1, 8, 8)
    data = data.swapaxes(2, 3) if "trans" in i.modifiers else data
    for name, matrix in zip(registers, data, strict=True):
        values = np.zeros(m.lanes, np.uint32)
        values[m.active] = np.ascontiguousarray(matrix).view(np.uint32).ravel()
        m.write(name, values, "b32")


def store_matrices(m: Machine, i: Instruction) -> None:
    registers, lanes, addresses = matrices(m, i)
    data = np.stack([m.read(name, "b32")[m.active] for name in registers]).view(np.uint16)
    data = data.reshape(len(registers), -1, 8, 8)
    data = data.swapaxes(2, 3) if "trans" in i.modifiers else data
    m.shared.store(lanes, addresses, np.ascontiguousarray(data).view(np.uint8).reshape(-1, 16))


# --- between lanes, and where to go on


def shuffle(m: Machine, i: Instruction) -> None:
    """A value of another lane of the warp, or one's own where that is out of bounds."""
    source, by, limits = (np.broadcast_to(m.read(name, "u32"), m.lanes) for name in i.operands[1:4])
    lane, (by, fixed, last) = m.thread % WARP, (x.astype(int) for x in (by, limits >> 8 & 31, limits & 31))
    lowest, highest = lane & fixed, lane & fixed | last & ~fixed
    kind = i.operation.split(".")[1]
    other = {"bfly": lane ^ by, "up": lane - by, "down": lane + by, "idx": lowest | by & ~fixed}[kind]
    valid = other >= highest if kind == "up" else other <= highest
    into = several(i.operands[0])
    m.write(into[0], source[np.arange(m.lanes) - lane + np.where(valid, other, lane)], "u32")
    if len(into) > 1:
        m.write(into[1], valid, "pred")


def reduce_warp(m: Machine, i: Instruction) -> None:
    values = np.broadcast_to(m.read(i.operands[1], i.types[0]), m.lanes).reshape(-1, WARP)
    function = {"max": np.max, "min": np.min, "add": np.sum}[i.operation.split(".")[1]]
    m.write(i.operands[0], np.repeat(function(values, 1), WARP), i.types[0])


def branch(m: Machine, i: Instruction) -> None:
    m.pc[m.active] = m.kernel.labels[i.operands[0]]


def leave(m: Machine, i: Instruction) -> None:
    m.alive = m.alive & ~m.active
    m.arrive()


def barrier(m: Machine, i: Instruction) -> None:
    """For all lanes of a program; for those of a warp, nothing more than a program of one warp needs."""
    if i.operation == "bar.warp" and not m.one_warp:
        return
    m.waiting = m.waiting | m.active
    m.arrive()


def pass_on(m: Machine, i: Instruction) -> None:
    """An argument of a call."""
    m.passed[i.operands[0].base] = int(np.broadcast_to(m.read(i.operands[1], "u64"), m.lanes)[m.active][0])


def call(m: Machine, i: Instruction) -> None:
    if i.operands[0] != "__assertfail":
        raise Fault("unknown instruction")
    raise Fault(f"assertion on the device: {m.kernel.messages[m.passed[i.operands[1][0]]]}")


def trap(m: Machine, i: Instruction) -> None:
    raise Fault("trap")


COMPARISONS = {
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal,
}  # fmt: skip
OPERATIONS: dict[str, Callable[[Machine, Instruction], None]] = {
    **{f"setp.{name}": comparison(function, False) for name, function in COMPARISONS.items()},
    **{f"setp.{name}u": comparison(function, True) for name, function in COMPARISONS.items()},
    "add": same_type(np.add), "sub": same_type(np.subtract),
    "mul": same_type(np.multiply), "mul.lo": same_type(np.multiply),
    "fma": same_type(multiply_add), "mad.lo": same_type(lambda a, b, c: a * b + c), "mul.wide": wide_product,
    "mad.wide": wide_product, "div": same_type(divide), "rem": same_type(np.fmod), "neg": same_type(np.negative),
    "abs": same_type(np.abs), "min": same_type(np.fmin), "max": same_type(np.fmax), "ex2": same_type(np.exp2),
    "min.NaN": same_type(np.minimum), "max.NaN": same_type(np.maximum), "lg2": same_type(np.log2),
    "rcp": same_type(np.reciprocal), "and": same_type(np.bitwise_and), "or": same_type(np.bitwise_or),
    "xor": same_type(np.bitwise_xor), "not": same_type(np.invert), "shl": shift, "shr": shift, "bfe": extract,
    "prmt": permute, "selp": select, "mov": move, "cvta.global": move, "cvt": convert,
    "ld.param": load_parameter, "ld.global": load, "ld.shared": load, "st.global": store, "st.shared": store,
    "atom.global.add": atomic_add, "ldmatrix.shared": load_matrices, "ldmatrix.trans.shared": load_matrices,
    "stmatrix.shared": store_matrices, "stmatrix.trans.shared": store_matrices,
    **{f"shfl.{kind}": shuffle for kind in ("bfly", "up", "down", "idx")},
    **{f"redux.{kind}": reduce_warp for kind in ("max", "min", "add")},
    "bra": branch, "ret": leave, "bar": barrier, "bar.warp": barrier, "st.param": pass_on, "call": call, "trap": trap,
}  # fmt: skip
