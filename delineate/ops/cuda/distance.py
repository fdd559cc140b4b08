"""Squared distances to the other side, axis by axis; see `delineate.ops.distance`.

Letters: N samples, C channels, (D, H, W) the space, of 1 where there are fewer dims.

Every voxel has a name, its label or its side of a mask, and looks for the nearest voxel of another. Along each axis in
turn, that is the smallest f[j] + (step (i - j))^2 over the voxels j of a line, where f[j] is how far from j the nearest
voxel of another name than i's is, as the axes before found it. If j has another name than i, that is 0. If it has the
same, both look for the same, and f[j] is what was found for j itself: one number for each voxel is enough (`_sides`).
An ignored voxel has no name, and others look through it for different ones. It has the nearest name, and two squared
distances, to it and to any other: from there, f[j] is the second for those of that name, and the first for the others
(`_names`).

A program owns a tile of neighbouring lines and visits the offsets outward from 0, in pairs. It stops when none that is
left can be nearer than what its voxels have, so the result is that of all offsets. Once it has read as much as its
lines hold, it asks what the least is that each line has to offer: where there is nothing to find, it stops there.
The first axis reads the target, the others what the one before wrote, and the last one writes the result.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from delineate.ops.cuda.tiles import bytes_of

LABELS, CHANNEL, DENSE, MAPS = 0, 1, 2, 3
"""What names are: labels, whether they are that of the channel, a dense map above 0.5; or what an axis wrote."""
SIDES_TILE, NAMES_TILE = 512, 256
"""Voxels of a program. It is one warp, so that nothing waits for another."""
_LABELS, _CHANNEL, _DENSE, _MAPS = tl.constexpr(LABELS), tl.constexpr(CHANNEL), tl.constexpr(DENSE), tl.constexpr(MAPS)
_INF = tl.constexpr(float("inf"))


@triton.jit
def _tile(length, lines, ALONG: tl.constexpr, LINES: tl.constexpr, ROWS: tl.constexpr):
    """The group of a program, positions along lines and numbers of lines; neighbours in memory are in dim 1.

    Args:
        ROWS: whether neighbours are of one line.
    """
    program, parts, blocks = tl.program_id(0), tl.cdiv(length, ALONG), tl.cdiv(lines, LINES)
    i = program % parts * ALONG + tl.arange(0, ALONG)
    q = program // parts % blocks * LINES + tl.arange(0, LINES)
    group = (program // parts // blocks).to(tl.int64)
    if ROWS:
        i, q = i[None, :], q[:, None]
    else:
        i, q = i[:, None], q[None, :]
    return group, i, q


@triton.jit
def _beginnings(group, q, groups, H, s_n, s_c, s_d, s_h):
    """Where the lines along the last axis begin, in a tensor (N, C, D, H, W)."""
    return group // groups * s_n + group % groups * s_c + (q // H).to(tl.int64) * s_d + (q % H).to(tl.int64) * s_h


@triton.jit
def _size(spacing, n, b_n, SPACED: tl.constexpr):
    """Of a voxel along the axis."""
    return tl.load(spacing + n * b_n).to(tl.float32) if SPACED else 1.0


@triton.jit
def _name(place, there, channel, KIND: tl.constexpr):
    """Of voxels of the target; see `LABELS`."""
    raw = tl.load(place, there, 0)
    if KIND == _LABELS:
        found = raw
    elif KIND == _CHANNEL:
        found = (raw.to(tl.int64) == channel).to(tl.int8)
    else:
        found = (raw > 0.5).to(tl.int8)
    return found


@triton.jit
def _signed(place, there, channel, KIND: tl.constexpr):
    """What was found for voxels, positive in the mask and negative elsewhere."""
    if KIND == _MAPS:
        found = tl.load(place, there, 0)
    else:
        found = tl.where(_name(place, there, channel, KIND) != 0, _INF, -_INF)
    return found


@triton.jit
def _least_of_sides(
    line, step, length, i, found, there, channel, KIND: tl.constexpr, ALONG: tl.constexpr, ROWS: tl.constexpr
):
    """The least f[j] of each line: 0 where both sides are on it."""
    low, high = found, found
    for start in range(0, length, ALONG):
        j = tl.minimum(start + i % ALONG, length - 1).to(tl.int64)
        found = _signed(line + j * step, there, channel, KIND)
        low, high = tl.minimum(low, found), tl.maximum(high, found)
    low, high = tl.min(low, 1 if ROWS else 0, keep_dims=True), tl.max(high, 1 if ROWS else 0, keep_dims=True)
    return tl.maximum(tl.maximum(low, -high), 0.0)


@triton.jit
def _sides(
    source, into, spacing, height, length, lines, stride, apart, groups,
    s_n, s_c, s_d, s_h, s_w, b_n,
    KIND: tl.constexpr, SPACED: tl.constexpr, LAST: tl.constexpr,
    ALONG: tl.constexpr, LINES: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """One axis, for voxels that are all on one side or the other; the sign of what is written tells which."""
    group, i, q = _tile(length, lines, ALONG, LINES, ROWS)
    there, own, channel = q < lines, tl.minimum(i, length - 1), group % groups + (groups == 1)
    base, step = group * length * lines + q.to(tl.int64) * apart, stride
    line = source + base
    if KIND != _MAPS:
        line, step = source + _beginnings(group, q, groups, height, s_n, s_c, s_d, s_h), s_w
    size = _size(spacing, group // groups, b_n, SPACED)
    found = _signed(line + own.to(tl.int64) * step, there, channel, KIND)
    side, best = tl.where(found > 0, 1.0, -1.0), tl.where(there, tl.abs(found), 0.0)
    least = tl.zeros((LINES, 1) if ROWS else (1, LINES), tl.float32)
    k, far = 1, size * size
    left = tl.max((best > far).to(tl.int32))
    while (k < length) & (left > 0):
        if k == tl.cdiv(length, 2 * ALONG):
            least = _least_of_sides(line, step, length, i, found, there, channel, KIND, ALONG, ROWS)
        before, after = tl.maximum(own - k, 0), tl.minimum(own + k, length - 1)  # past an end: the last voxel again
        before = _signed(line + before.to(tl.int64) * step, there, channel, KIND)
        after = _signed(line + after.to(tl.int64) * step, there, channel, KIND)
        best = tl.minimum(best, tl.maximum(tl.minimum(before * side, after * side), 0.0) + far)
        k += 1
        far = (size * k) * (size * k)
        left = tl.max((best > far + least).to(tl.int32))
    best = tl.where(best == _INF, 1.0, best) if LAST else best * side
    tl.store(into + base + i.to(tl.int64) * stride, best, there & (i < length))


@triton.jit
def _state(names, firsts, seconds, at, void_at, there, channel, KIND: tl.constexpr, HOLES: tl.constexpr):
    """The nearest name of voxels, the squared distance to it, and that to any other.

    Args:
        at: offsets of the voxels. firsts, void_at: at the first axis the ignored voxels, and offsets into them.
    """
    if KIND == _MAPS:
        name = tl.load(names + at, there, 0)
        first, second = tl.load(firsts + at, there, 0), tl.load(seconds + at, there, 0)
    else:
        name = _name(names + at, there, channel, KIND)
        first, second = tl.zeros(at.shape, tl.float32), tl.full(at.shape, _INF, tl.float32)
        if HOLES:
            first = tl.where(tl.load(firsts + void_at, there, 0) != 0, _INF, first)
    return name, first, second


@triton.jit
def _nearer(name, first, second, other, other_first, other_second, far):
    """What voxels have after a look at others, at the squared distance `far`."""
    other_first, other_second = other_first + far, other_second + far
    after_change = tl.minimum(first, other_second)
    of_others = tl.where(other_first < first, after_change, tl.minimum(second, other_first))
    second = tl.where(other == name, tl.minimum(second, other_second), of_others)
    return tl.where(other_first < first, other, name), tl.minimum(first, other_first), second


@triton.jit
def _least_of_names(
    names, firsts, seconds, line, step, void_line, void_step, length, i, there, channel,
    KIND: tl.constexpr, HOLES: tl.constexpr, ALONG: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The least first and second distance that each line has to offer; with two names on it, both are the first."""
    AXIS: tl.constexpr = 1 if ROWS else 0
    start = tl.zeros(i.shape, tl.int64)
    one, first, second = _state(names, firsts, seconds, line + start, void_line + start, there, channel, KIND, HOLES)
    mixed = tl.zeros(first.shape, tl.int32)
    for start in range(0, length, ALONG):
        j = tl.minimum(start + i % ALONG, length - 1).to(tl.int64)
        name, here_first, here_second = _state(
            names, firsts, seconds, line + j * step, void_line + j * void_step, there, channel, KIND, HOLES
        )
        first, second = tl.minimum(first, here_first), tl.minimum(second, here_second)
        mixed = tl.maximum(mixed, (name != one).to(tl.int32))
    first, second = tl.min(first, AXIS, keep_dims=True), tl.min(second, AXIS, keep_dims=True)
    return first, tl.where(tl.max(mixed, AXIS, keep_dims=True) > 0, first, second)


@triton.jit
def _names(
    names, firsts, seconds, into_names, into_firsts, into_seconds,
    spacing, height, length, lines, stride, apart, groups,
    s_n, s_c, s_d, s_h, s_w, v_n, v_c, v_d, v_h, v_w, b_n,
    KIND: tl.constexpr, HOLES: tl.constexpr, SPACED: tl.constexpr, LAST: tl.constexpr,
    ALONG: tl.constexpr, LINES: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """One axis, for any names, where ignored voxels have none."""
    group, i, q = _tile(length, lines, ALONG, LINES, ROWS)
    there, own, channel = q < lines, tl.minimum(i, length - 1), group % groups + (groups == 1)
    base = group * length * lines + q.to(tl.int64) * apart
    line, step, void_line, void_step = base, stride, base, stride
    if KIND != _MAPS:
        line, step = _beginnings(group, q, groups, height, s_n, s_c, s_d, s_h), s_w
        void_line, void_step = _beginnings(group, q, groups, height, v_n, v_c, v_d, v_h), v_w
    size = _size(spacing, group // groups, b_n, SPACED)
    j = own.to(tl.int64)
    name, first, second = _state(
        names, firsts, seconds, line + j * step, void_line + j * void_step, there, channel, KIND, HOLES
    )
    first, second = tl.where(there, first, 0.0), tl.where(there, second, 0.0)
    least = tl.zeros((LINES, 1) if ROWS else (1, LINES), tl.float32)
    least_second = least
    k, far = 1, size * size
    left = tl.max((second > far).to(tl.int32))
    while (k < length) & (left > 0):
        if k == tl.cdiv(length, 2 * ALONG):
            least, least_second = _least_of_names(
                names, firsts, seconds, line, step, void_line, void_step, length, i, there, channel,
                KIND, HOLES, ALONG, ROWS,
            )  # fmt: skip
        for direction in tl.static_range(-1, 2, 2):
            j = tl.minimum(tl.maximum(own + direction * k, 0), length - 1).to(tl.int64)
            other, other_first, other_second = _state(
                names, firsts, seconds, line + j * step, void_line + j * void_step, there, channel, KIND, HOLES
            )
            name, first, second = _nearer(name, first, second, other, other_first, other_second, far)
        k += 1
        far = (size * k) * (size * k)
        left = tl.max(((first > far + least) | (second > far + least_second)).to(tl.int32))
    at, inside = base + i.to(tl.int64) * stride, there & (i < length)
    if LAST:
        second = tl.where(second == _INF, 1.0, second)
        second = tl.where(first == 0, second, 0.0)
    else:
        tl.store(into_names + at, name, inside)
        tl.store(into_firsts + at, first, inside)
    tl.store(into_seconds + at, second, inside)


class Axis(NamedTuple):
    """The lines along one axis of maps (N, C, D, H, W) without gaps, in groups of neighbouring lines."""

    axis: int
    length: int
    lines: int
    """Of a group."""
    stride: int
    """From voxel to voxel of a line."""
    apart: int
    """From line to line."""
    groups: int
    """Of a sample."""

    def tile(self, size: int) -> tuple[int, int]:
        """Voxels along, and lines of a tile: 128 bytes of neighbours in memory, where there are as many."""
        length, lines = triton.next_power_of_2(self.length), min(32, triton.next_power_of_2(self.lines))
        along = min(length, 128 if self.stride == 1 else size // lines)
        return along, size // along if self.stride == 1 else lines

    def programs(self, samples: int, size: int) -> int:
        along, lines = self.tile(size)
        return samples * self.groups * triton.cdiv(self.lines, lines) * triton.cdiv(self.length, along)


def axes_of(channels: int, space: tuple[int, ...]) -> list[Axis]:
    """The last axis, and of the others those that are longer than 1."""
    depth, height, width = (1,) * (3 - len(space)) + space
    last = Axis(2, width, depth * height, 1, width, channels)
    middle = Axis(1, height, width, width, 1, channels * depth)
    first = Axis(0, depth, height * width, height * width, 1, channels)
    return [last] + [axis for axis in (middle, first) if axis.length > 1]


def _strides(tensor: Tensor, channels: bool) -> tuple[int, ...]:
    """Of (N, *S), or of (N, C, *S), as those of (N, C, D, H, W)."""
    samples, *others = tensor.stride()
    channel = others.pop(0) if channels else 0
    return (samples, channel, *[0] * (3 - len(others)), *others)


def _sizes(spacing: Tensor | None, axis: Axis, target: Tensor) -> tuple[Tensor, int]:
    """Sizes of voxels along an axis, and their stride; something to point at where there are none."""
    return (target, 0) if spacing is None else (spacing[:, axis.axis - 3], spacing.stride(0))


def _by_sides(target: Tensor, kind: int, spacing: Tensor | None, found: Tensor) -> Tensor:
    """Of masks without ignored voxels, into `found` (N, C, *S): axes write to it and to another map in turn."""
    axes, height = axes_of(found.shape[1], found.shape[2:]), (1, *found.shape[2:])[-2]
    source, steps, other = target, _strides(target, kind == DENSE), found
    if len(axes) > 1:
        other = torch.empty_like(found)
    for left, axis in zip(reversed(range(len(axes))), axes, strict=True):
        (sizes, b_n), into = _sizes(spacing, axis, target), other if left % 2 else found
        _sides[(axis.programs(len(found), SIDES_TILE),)](
            source, into, sizes, height, *axis[1:], *steps, b_n,
            kind, spacing is not None, left == 0, *axis.tile(SIDES_TILE), axis.stride == 1,
            num_warps=1,
        )  # fmt: skip
        source, kind = into, MAPS
    return found


def _by_names(target: Tensor, kind: int, ignored: Tensor | None, spacing: Tensor | None, found: Tensor) -> Tensor:
    """Of any names, into `found` (N, C, *S): what is between two axes is freed after the second."""
    axes, height = axes_of(found.shape[1], found.shape[2:]), (1, *found.shape[2:])[-2]
    void = target if ignored is None else ignored.view(torch.uint8)
    dtype = target.dtype if kind == LABELS else torch.int8
    steps, void_steps = _strides(target, kind == DENSE), _strides(void, ignored is None and kind == DENSE)
    source = target, void, found
    for left, axis in zip(reversed(range(len(axes))), axes, strict=True):
        (sizes, b_n), into = _sizes(spacing, axis, target), (found, found, found)
        if left:
            seconds = torch.empty_like(found) if left % 2 else found
            into = torch.empty_like(found, dtype=dtype), torch.empty_like(found), seconds
        _names[(axis.programs(len(found), NAMES_TILE),)](
            *source, *into, sizes, height, *axis[1:], *steps, *void_steps, b_n,
            kind, ignored is not None, spacing is not None, left == 0, *axis.tile(NAMES_TILE), axis.stride == 1,
            num_warps=1,
        )  # fmt: skip
        source, kind = into, MAPS
    return found


def squared_distances(target: Tensor, channels: int, ignored: Tensor | None, spacing: Tensor | None) -> Tensor:
    """See `delineate.ops.distance`."""
    kind = DENSE if target.is_floating_point() else CHANNEL
    space = target.shape[2:] if kind == DENSE else target.shape[1:]
    if not 1 <= len(space) <= 3:
        return NotImplemented
    found = target.new_empty(len(target), channels, *space, dtype=torch.float32)
    if not found.numel():
        return found
    if ignored is None:
        return _by_sides(bytes_of(target), kind, spacing, found)
    return _by_names(bytes_of(target), kind, ignored, spacing, found)


def squared_label_distances(labels: Tensor, ignored: Tensor | None, spacing: Tensor | None) -> Tensor:
    """See `delineate.ops.distance`."""
    if not 2 <= labels.ndim <= 4:
        return NotImplemented
    found = labels.new_empty(labels.shape, dtype=torch.float32)
    if found.numel():
        _by_names(bytes_of(labels), LABELS, ignored, spacing, found[:, None])
    return found
