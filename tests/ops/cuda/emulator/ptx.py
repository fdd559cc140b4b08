"""The text of a program in PTX, read."""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from .memory import Fault

WARP = 32
TYPES = {
    f"{letter}{8 * size}": np.dtype(f"{kind}{size}") for letter, kind in ("bu", "uu", "si") for size in (1, 2, 4, 8)
}
TYPES |= {"f16": np.dtype("f2"), "f32": np.dtype("f4"), "f64": np.dtype("f8"), "pred": np.dtype(bool)}
BITS = {size: np.dtype(f"u{size}") for size in (1, 2, 4, 8)}
NARROW = {"bf16", "bf16x2", "f16x2"}
"""Types that NumPy lacks."""
PLAIN = {"rn", "ftz", "approx", "full", "sync", "aligned", "uni", "gpu", "relaxed", "to", "v2", "v4", "v8"}
PLAIN |= {"m8n8", "x1", "x2", "x4", "cta"}
"""Modifiers that leave an operation what it is, or that it looks for itself."""


class Address(NamedTuple):
    base: str
    offset: int


@dataclass
class Instruction:
    operation: str  # its name in `operations`: opcode, and modifiers that change what it does
    modifiers: frozenset[str]
    types: list[str]
    operands: list[Any]  # names and numbers as text, tuples of them, or an Address
    guard: tuple[str, bool] | None  # a predicate, and what it has to be
    by_warp: bool  # whether all lanes of a warp do it as one, and wait for each other
    text: str

    @classmethod
    def parse(cls, text: str) -> "Instruction":
        guard, name, rest = re.fullmatch(r"(?:@(!?%\w+)\s+)?(\S+)\s*(.*)", text, re.DOTALL).groups()
        parts = [part for part in re.split(r"[.:]+", name) if part]
        types = [part for part in parts if part in TYPES or part in NARROW]
        operation = ".".join(part for part in parts if part not in PLAIN and part not in types)
        operands = [operand(word) for word in re.findall(r"\{.*?\}|\[.*?\]|\(.*?\)|[^\s,]+", rest)]
        by_warp = parts[0] in {"shfl", "redux", "ldmatrix", "stmatrix"} or operation == "bar.warp"
        wanted = None if guard is None else (guard.lstrip("!"), guard[0] != "!")
        return cls(operation, frozenset(parts), types, operands, wanted, by_warp, text)


def operand(text: str) -> Any:
    """`{%r1, %r2}` and `%p1|%p2` -> tuples, `[%rd1 + 8]` -> an address, others as they are."""
    if text.startswith("["):
        base, offset = re.fullmatch(r"\[\s*([^\s+]+)\s*(?:\+\s*(-?\d+)\s*)?\]", text).groups()
        return Address(base, int(offset or 0))
    return tuple(re.findall(r"[^\s,{}()|]+", text)) if text[0] in "{(" or "|" in text else text


@dataclass
class Kernel:
    """A program in PTX, read."""

    parameters: list[tuple[str, str]]  # type and name
    code: list[Instruction]
    labels: dict[str, int]
    registers: dict[str, np.dtype]  # by what their names begin with
    symbols: list[str]  # of constants in memory
    messages: list[str]  # those constants as text

    @classmethod
    def parse(cls, ptx: str) -> "Kernel":
        head, body = re.sub(r"//.*", "", ptx).split(".entry", 1)[1].split("\n{", 1)
        parameters = re.findall(r"\.param \.(\w+) [^,]*?(\w+),?\s*\n", head + "\n")
        constants = re.findall(r"\.b8 (\w+)\[\d+\] = \{([\d, ]*)\}", ptx)
        registers = {f"%{name}": bits_of(kind) for kind, name in re.findall(r"\.reg \.(\w+)\s+%(\w+)<", body)}
        code, labels = [], {}
        for line in re.sub(r"^\s*([{}]|\.(loc|file|section)\b.*)\s*$", "", body, flags=re.MULTILINE).split(";"):
            while label := re.match(r"\s*(\$?[\w$]+):(?!:)", line):
                labels[label[1]] = len(code)
                line = line[label.end() :]
            if line.strip() and not line.strip().startswith((".", "}")):
                code.append(Instruction.parse(line.strip()))
        messages = [bytes(int(byte) for byte in data.split(",")).decode().rstrip("\0") for _, data in constants]
        return cls(parameters, code, labels, registers, [name for name, _ in constants], messages)


def bits_of(kind: str) -> np.dtype:
    """What registers of a type are kept as."""
    return TYPES[kind] if kind == "pred" else BITS[TYPES[kind].itemsize]


@cache
def constant(text: str, kind: str) -> np.ndarray:
    """A number written in an instruction, as bits."""
    if kind == "pred":
        return np.array(int(text) != 0)
    if found := re.fullmatch(r"0[fFdD]([0-9a-fA-F]+)", text):
        return np.array(int(found[1], 16), BITS[len(found[1]) // 2])
    if not re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)U?", text):
        raise Fault(f"{text} is read before it was written")
    size = 2 if kind == "bf16" else TYPES[kind].itemsize
    return np.array(int(text.rstrip("U"), 0) & (2 ** (8 * size) - 1), BITS[size])


def read_as(bits: np.ndarray, kind: str) -> np.ndarray:
    """The lower bits of registers, as values of a type."""
    if kind == "bf16":
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    dtype = TYPES[kind]
    return (bits if bits.itemsize == dtype.itemsize else bits.astype(BITS[dtype.itemsize])).view(dtype)


def rounded_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 -> bits, to nearest even."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    found = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), 0x7FFF, found).astype(np.uint16)
