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
COUNTS = 4
"""Columns of the second table: voxels that are not ignored, targets that may not be, the weight of the former, weights
that may not be."""
BAD_TARGET = tl.constexpr(
    "target: labels must be in 0..C-1 (pass ignore_index=... for void labels), and a dense target in [0, 1]"
)
BAD_WEIGHT = tl.constexpr("weight: voxel weights must be at least 0")


class Tiling(NamedTuple):
    """How one block of voxels is laid out."""

    classes: int
    """Of a tile, T: a power of 2."""
    voxels: int
    """Of a block, B: a power of 2."""
    fold: int
    """Neighbouring voxels that one thread holds."""
    warps: int

    @classmethod
    def of(cls, classes: int, rows: int) -> "Tiling":
        """For so many classes, and accumulators of each: what keeps both in registers, with the fewest instructions
        for each logit that the compiler was seen to make of it (`benchmarks/kernels.py`)."""
        return _TILINGS[min(most for most in _TILINGS if classes * max(rows, 4) <= 4 * most or most == MOST_CLASSES)]

    def tiles(self, classes: int) -> int:
        return triton.cdiv(classes, self.classes)


_TILINGS = {
    8: Tiling(1, 128, 4, 1),
    24: Tiling(1, 64, 2, 1),
    32: Tiling(4, 32, 4, 1),
    64: Tiling(8, 32, 4, 1),
    112: Tiling(16, 32, 4, 2),
    192: Tiling(16, 32, 4, 4),
    MOST_CLASSES: Tiling(32, 32, 4, 8),
}
"""By the number of classes up to which it serves, with four accumulators for each."""


def takes(logits: Tensor) -> bool:
    """Whether the kernels take such logits."""
    return logits.dtype != torch.float64 and logits.shape[1] <= MOST_CLASSES and logits.numel() > 0


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
    """Values (T, B) -> (T, B / FOLD): those that one thread holds are added there.

    No bare products: where several threads add the same values, each its own to what the others hand over, a product is
    fused with the sum and rounded by the others only, and it is not defined whose sum is kept. What comes out of
    tl.where is no product.
    """
    return tl.sum(tl.reshape(values, (values.shape[0], values.shape[1] // FOLD, FOLD)), 2)


@triton.jit
def block_of(step, steps, voxels, B: tl.constexpr):
    """The first voxel of a program's block, and which of its voxels there are, (B,)."""
    start = (tl.program_id(0).to(tl.int64) * steps + step) * B
    return start, tl.arange(0, B) < tl.minimum(voxels - start, B).to(tl.int32)


@triton.jit
def load_tiles(
    place, class_step, voxel_step, inside, valid, C: tl.constexpr, T: tl.constexpr, TILES: tl.constexpr,
    IGNORE: tl.constexpr,
):  # fmt: skip
    """Logits of a block in float32, tile by tile; -inf where there is none, or where a voxel is not valid.

    Args:
        place: where those of the block begin. class_step, voxel_step: strides.
        inside: voxels that there are; a mask of neighbours in one piece, so that loads stay wide.
    """
    found = ()
    NONE: tl.constexpr = float("-inf")
    for t in tl.static_range(TILES):
        z = tl.load(tile_of(place, class_step, voxel_step, t, T, inside.shape[0]), tile_mask(inside, t, C, T), NONE)
        z = z.to(tl.float32)
        found = found + (tl.where(valid[None, :], z, NONE) if IGNORE else z,)
    return found


@triton.jit
def tile_of(place, class_step, voxel_step, t: tl.constexpr, T: tl.constexpr, B: tl.constexpr):
    """Where the values of a tile are, (T, B)."""
    c = (t * T + tl.arange(0, T)).to(tl.int64) * class_step
    return place + c[:, None] + (tl.arange(0, B).to(tl.int64) * voxel_step)[None, :]


@triton.jit
def tile_mask(inside, t: tl.constexpr, C: tl.constexpr, T: tl.constexpr):
    """Which values of a tile there are, (T, B)."""
    return (t * T + tl.arange(0, T) < C)[:, None] & inside[None, :]


@triton.jit
def softmax_of(tiles, valid):
    """Of tiles of logits: z - peak and exp(z - peak), tile by tile; peak, log of the norm and 1 / norm, (B,).

    The norm is at least 1, so that log p = z - peak - log norm is never above 0. Where a voxel is not valid the
    powers and the logarithm are 0.
    """
    highest = tiles[0]
    for t in tl.static_range(1, len(tiles)):
        highest = tl.maximum(highest, tiles[t])
    peak = tl.where(valid, tl.max(highest, 0), 0.0)
    shifted, powers = (), ()
    for t in tl.static_range(len(tiles)):
        shifted = shifted + (tiles[t] - peak[None, :],)
        powers = powers + (exp(shifted[t]),)
    total = powers[0]
    for t in tl.static_range(1, len(tiles)):
        total = total + powers[t]
    norm = tl.where(valid, tl.sum(total, 0), 1.0)
    return shifted, powers, peak, log(norm), 1 / norm


@triton.jit
def read_labels(place, voxel_step, inside, ignore, C: tl.constexpr, IGNORE: tl.constexpr):
    """Labels of a block, -1 where there is none that counts; valid voxels; and voxels whose label may not be."""
    raw = tl.load(place + tl.arange(0, inside.shape[0]).to(tl.int64) * voxel_step, inside, 0).to(tl.int64)
    valid = inside & (raw != ignore) if IGNORE else inside
    allowed = raw.to(tl.uint64, bitcast=True) < C
    return tl.where(valid & allowed, raw.to(tl.int32), -1), valid, valid & (allowed == 0)


@triton.jit
def read_weights(place, voxel_step, inside, valid, WEIGHTED: tl.constexpr):
    """Weights of a block, 0 where a voxel is not valid; and which may not be."""
    if WEIGHTED:
        raw = tl.load(place + tl.arange(0, inside.shape[0]).to(tl.int64) * voxel_step, inside, 0).to(tl.float32)
        found, bad = tl.where(valid, raw, 0.0), inside & ((raw >= 0) == 0)
    else:
        found, bad = tl.where(valid, 1.0, 0.0), inside
    return found, bad


@triton.jit
def count(found, valid, w, bad_targets, bad_weights, WEIGHTED: tl.constexpr):
    """Add to the columns of the second table, (B,) each; without weights to two of them."""
    sums = (found[0] + valid.to(tl.float32), found[1] + bad_targets.to(tl.float32))
    if WEIGHTED:
        sums = sums + (found[2] + w, found[3] + bad_weights.to(tl.float32))
    return sums


@triton.jit
def row_of(g, row: tl.constexpr, t: tl.constexpr, C: tl.constexpr, T: tl.constexpr):
    """A row of the gradients to the sums (rows, C), for the classes of a tile: (T, 1)."""
    c = t * T + tl.arange(0, T)
    return tl.load(g + row * C + c, c < C, 0.0).to(tl.float32)[:, None]


@triton.jit
def write_sums(
    sums, totals, partial, counts, ROWS: tl.constexpr, TILES: tl.constexpr, T: tl.constexpr, WEIGHTED: tl.constexpr
):
    """What a program found, ROWS accumulators for each tile: (P of all samples, ROWS, TILES T) and (P, 4)."""
    program = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    for t in tl.static_range(TILES):
        for row in tl.static_range(ROWS):
            place = partial + (program * ROWS + row) * (TILES * T) + t * T + tl.arange(0, T)
            tl.store(place, tl.sum(sums[t * ROWS + row], 1))
    valid, bad_targets = tl.sum(totals[0], 0), tl.sum(totals[1], 0)
    tl.store(counts + program * 4, valid)
    tl.store(counts + program * 4 + 1, bad_targets)
    tl.store(counts + program * 4 + 2, tl.sum(totals[2], 0) if WEIGHTED else valid)
    tl.store(counts + program * 4 + 3, tl.sum(totals[3], 0) if WEIGHTED else 0.0)


@triton.jit(debug=True)
def _add_up(
    partial, counts, table, totals, programs,
    C: tl.constexpr, WIDTH: tl.constexpr, GOES_TO: tl.constexpr, VALID_TO: tl.constexpr, TABLE_ROWS: tl.constexpr,
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
    total, column = tl.sum(count, 0), tl.arange(0, 4)
    for line in tl.static_range(TABLE_ROWS):
        value = tl.zeros((CLASSES,), tl.float64)
        if (VALID_TO >> line) & 1:
            value += tl.sum(tl.where(column == 0, total, 0.0), 0)
        for row in tl.static_range(ROWS):
            if (GOES_TO[row] >> line) & 1:
                value += tl.sum(sums[row], 0)
        tl.store(table + (n * TABLE_ROWS + line) * C + c, value, c < C)
    if tl.program_id(0) == 0:
        tl.device_assert((column != 1) | (total == 0), BAD_TARGET)
        tl.device_assert((column != 3) | (total == 0), BAD_WEIGHT)
        tl.store(totals + n * 2 + column // 2, total, column % 2 == 0)


def add_up(
    partial: Tensor,
    counts: Tensor,
    samples: int,
    classes: int,
    goes_to: Sequence[Sequence[int]],
    rows: int,
    valid_to: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """The sums of all programs in float64: (N, rows, C), 0 where nothing goes, and totals (N, 2).

    Args:
        partial: (N P, R, width) float32, counts: (N P, 4), see `write_sums`.
        goes_to: for each of R, the rows of the table it is added to. valid_to: those that the number of valid voxels
            goes to.
    """
    table = partial.new_empty(samples, rows, classes, dtype=torch.float64)
    totals = partial.new_empty(samples, 2, dtype=torch.float64)
    *bits, valid_bits = (sum(1 << line for line in lines) for lines in (*goes_to, valid_to))
    width = min(8, triton.next_power_of_2(classes))
    _add_up[(triton.cdiv(classes, width), samples)](
        partial, counts, table, totals, len(partial) // samples,
        classes, partial.shape[2], tuple(bits), valid_bits, rows, 512 // width, width,
        num_warps=4,
    )  # fmt: skip
    return table, totals
