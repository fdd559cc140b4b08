"""What the kernels of both passes share: tiles of logits in registers, sums by class, and the table they end in.

Letters: N samples, C classes, V voxels, B voxels of a block, T classes of a tile, P programs of a sample, R rows.

A program keeps all classes of a block of voxels in registers, as tiles of T classes: the logits are read once, however
many classes there are. What is summed over voxels is added to accumulators of its own from block to block, each a
FOLD-th of a tile, since voxels that one thread holds are added there and then. At its end a program writes its sums,
and one more kernel adds those of all programs in float64, in a fixed order: results do not change from run to run.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from delineate.ops.cuda.arithmetic import exp, log

MOST_CLASSES = 256
"""More do not fit into the registers."""
PROGRAMS = 4224
"""How many programs the sums are shared among, at least, before a program gets a second block: 32 for each of 132
multiprocessors."""
BLOCKS = 64
"""Blocks of one program, at most."""
VALID, TOTAL, BAD_TARGETS, BAD_WEIGHTS, TOTALS = 0, 1, 2, 3, 4
"""Columns of the second table: voxels that are not ignored, their weight, and what may not be."""
BAD_TARGET = tl.constexpr(
    "target: labels must be in 0..C-1 (pass ignore_index=... for void labels), and a dense target in [0, 1]"
)
BAD_WEIGHT = tl.constexpr("weight: voxel weights must be at least 0")


class Tiling(NamedTuple):
    """How one block of voxels is laid out."""

    classes: int
    """Of a tile, T: a power of 2."""
    tiles: int
    voxels: int
    """Of a block, B: a power of 2."""
    fold: int
    """Neighbouring voxels that one thread holds: what it reads at once."""
    warps: int

    @classmethod
    def of(cls, logits: Tensor) -> "Tiling":
        """For logits (N, C, V): 128 bytes in a row at least, and some 20 to 70 numbers for each thread."""
        number, fold = logits.shape[1], 16 // logits.element_size()
        if number <= 8:
            return cls(1, number, 32 * fold, fold, 1)
        if number <= 64:
            return cls(8, triton.cdiv(number, 8), 8 * fold, fold, 1 if number <= 32 else 2)
        return cls(32, triton.cdiv(number, 32), 8 * fold, fold, fold)


def takes(logits: Tensor) -> bool:
    """Whether the kernels take such logits."""
    return logits.dtype != torch.float64 and 1 <= logits.shape[1] <= MOST_CLASSES and logits.numel() > 0


def shares(logits: Tensor, block: int) -> tuple[int, int]:
    """Programs for each sample, and blocks for each program."""
    samples, _, voxels = logits.shape
    blocks = triton.cdiv(voxels, block)
    steps = min(BLOCKS, max(1, blocks * samples // PROGRAMS))
    return triton.cdiv(blocks, steps), steps


def bytes_of(target: Tensor) -> Tensor:
    """Bool as bytes, which kernels can read."""
    return target.view(torch.uint8) if target.dtype == torch.bool else target


def strides(tensor: Tensor | None, dims: int) -> tuple[int, ...]:
    """Of a tensor of so many dims, 0 where there is none."""
    return (0,) * dims if tensor is None else tensor.stride()


@triton.jit
def zeros(NUMBER: tl.constexpr, T: tl.constexpr, LANES: tl.constexpr):
    """Accumulators (T, LANES)."""
    found = ()
    for _ in tl.static_range(NUMBER):
        found = found + (tl.zeros((T, LANES), tl.float32),)
    return found


@triton.jit
def fold(values, FOLD: tl.constexpr):
    """Values (T, B) -> (T, B / FOLD): those that one thread holds are added there."""
    return tl.sum(tl.reshape(values, (values.shape[0], values.shape[1] // FOLD, FOLD)), 2)


@triton.jit
def load_tiles(
    place, voxel_step, class_step, inside, valid, C: tl.constexpr, T: tl.constexpr, TILES: tl.constexpr,
    IGNORE: tl.constexpr, SOFTMAX: tl.constexpr = True,
):  # fmt: skip
    """Logits of a block in float32, tile by tile. What there is not, or is not valid, is -inf; in sigmoid mode 0.

    Args:
        place: the logits of the sample. voxel_step: offsets of the voxels, (B,). class_step: stride of the classes.
        inside: voxels that there are; a mask of neighbours in one piece, so that loads stay wide.
    """
    found = ()
    NONE: tl.constexpr = float("-inf") if SOFTMAX else 0.0
    for t in tl.static_range(TILES):
        c = t * T + tl.arange(0, T)
        there = (c < C)[:, None] & inside[None, :]
        z = tl.load(place + c.to(tl.int64)[:, None] * class_step + voxel_step[None, :], there, NONE)
        z = z.to(tl.float32)
        found = found + (tl.where(valid[None, :], z, NONE) if IGNORE else z,)
    return found


@triton.jit
def softmax_of(tiles, valid):
    """Of tiles of logits: exp(z - peak) tile by tile, and peak, log of the norm and its reciprocal, (B,).

    Where a voxel is not valid the first three are 0.
    """
    highest = tiles[0]
    for t in tl.static_range(1, len(tiles)):
        highest = tl.maximum(highest, tiles[t])
    peak = tl.where(valid, tl.max(highest, 0), 0.0)
    powers = ()
    for t in tl.static_range(len(tiles)):
        powers = powers + (exp(tiles[t] - peak[None, :]),)
    total = powers[0]
    for t in tl.static_range(1, len(tiles)):
        total = total + powers[t]
    norm = tl.where(valid, tl.sum(total, 0), 1.0)
    return powers, peak, log(norm), 1 / norm


@triton.jit
def read_labels(place, step, inside, ignore, C: tl.constexpr, IGNORE: tl.constexpr):
    """Labels of a block, -1 where there is none that counts; valid voxels; and voxels whose label may not be."""
    raw = tl.load(place + step, inside, 0).to(tl.int64)
    valid = inside & (raw != ignore) if IGNORE else inside
    allowed = (raw >= 0) & (raw < C)
    return tl.where(valid & allowed, raw, -1).to(tl.int32), valid, valid & (allowed == 0)


@triton.jit
def read_weights(place, step, inside, valid, WEIGHTED: tl.constexpr):
    """Weights of a block, 0 where a voxel is not valid; and which may not be."""
    if WEIGHTED:
        raw = tl.load(place + step, inside, 0).to(tl.float32)
        found, bad = tl.where(valid, raw, 0.0), inside & ((raw >= 0) == 0)
    else:
        found, bad = tl.where(valid, 1.0, 0.0), inside & (inside == 0)
    return found, bad


@triton.jit
def count(found, valid, w, bad_targets, bad_weights):
    """Add the columns of the second table, (B,) each."""
    return (
        found[0] + valid.to(tl.float32),
        found[1] + w,
        found[2] + bad_targets.to(tl.float32),
        found[3] + bad_weights.to(tl.float32),
    )


@triton.jit
def write_sums(sums, totals, partial, counts, ROWS: tl.constexpr, TILES: tl.constexpr, T: tl.constexpr):
    """What a program found, ROWS accumulators for each tile: (P of all samples, ROWS, TILES T) and (P, 4)."""
    program = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    for t in tl.static_range(TILES):
        for row in tl.static_range(ROWS):
            place = partial + (program * ROWS + row) * (TILES * T) + t * T + tl.arange(0, T)
            tl.store(place, tl.sum(sums[t * ROWS + row], 1))
    for column in tl.static_range(4):
        tl.store(counts + program * 4 + column, tl.sum(totals[column], 0))


@triton.jit(debug=True)
def _add_up(
    partial, counts, table, totals, programs,
    C: tl.constexpr, WIDTH: tl.constexpr, GOES_TO: tl.constexpr, TABLE_ROWS: tl.constexpr,
    PROGRAMS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """Add what the programs of a sample found, and write every row of its table."""
    n = tl.program_id(1).to(tl.int64)
    c = tl.program_id(0) * CLASSES + tl.arange(0, CLASSES)
    ROWS: tl.constexpr = len(GOES_TO)
    sums = ()
    for _ in tl.static_range(ROWS):
        sums = sums + (tl.zeros((PROGRAMS, CLASSES), tl.float64),)
    count = tl.zeros((PROGRAMS, 4), tl.float64)
    for start in range(0, programs, PROGRAMS):
        p = start + tl.arange(0, PROGRAMS)
        program, there = n * programs + p, (p < programs)[:, None]
        found = ()
        for row in tl.static_range(ROWS):
            place = partial + (program * ROWS + row)[:, None] * WIDTH + c[None, :]
            found = found + (sums[row] + tl.load(place, there & (c < C)[None, :], 0.0),)
        sums = found
        count += tl.load(counts + program[:, None] * 4 + tl.arange(0, 4)[None, :], there, 0.0)
    for line in tl.static_range(TABLE_ROWS):
        value = tl.zeros((CLASSES,), tl.float64)
        for row in tl.static_range(ROWS):
            if (GOES_TO[row] >> line) & 1:
                value += tl.sum(sums[row], 0)
        tl.store(table + (n * TABLE_ROWS + line) * C + c, value, c < C)
    if tl.program_id(0) == 0:
        total, column = tl.sum(count, 0), tl.arange(0, 4)
        tl.device_assert((column != 2) | (total == 0), BAD_TARGET)
        tl.device_assert((column != 3) | (total == 0), BAD_WEIGHT)
        tl.store(totals + n * 2 + column, total, column < 2)


def add_up(
    partial: Tensor, counts: Tensor, samples: int, classes: int, goes_to: Sequence[Sequence[int]], rows: int
) -> tuple[Tensor, Tensor]:
    """The sums of all programs in float64: (N, rows, C), 0 where nothing goes, and totals (N, 2).

    Args:
        partial: (N P, R, width) float32, counts: (N P, 4), see `write_sums`.
        goes_to: for each of R, the rows of the table it is added to.
    """
    table = partial.new_empty(samples, rows, classes, dtype=torch.float64)
    totals = partial.new_empty(samples, 2, dtype=torch.float64)
    bits = tuple(sum(1 << line for line in lines) for lines in goes_to)
    width = min(8, triton.next_power_of_2(classes))
    _add_up[(triton.cdiv(classes, width), samples)](
        partial, counts, table, totals, len(partial) // samples,
        classes, partial.shape[2], bits, rows, 512 // width, width,
        num_warps=4,
    )  # fmt: skip
    return table, totals
