"""The hard skeleton of a mask: parallel topological thinning that keeps components, holes and loops.

Letters: D spatial dims (2 or 3), K = 3^D - 1 neighbours of a voxel, n voxels that are looked at together.

Connectivity: the foreground is connected over all K neighbours (8 in 2D, 26 in 3D), the background over faces (4, 6).

Algorithm: in each iteration

1. mark the border: the voxels with a face neighbour in the background. After the first iteration, only those next to
   a voxel that the last one deleted: around all others nothing has changed, so that they are not simple;
2. leave out the end points, which have exactly one neighbour. Who becomes one later in the same iteration is no end of
   a line but the rest of a layer that is being peeled off; keeping it would put spurs on flat blobs;
3. go through the 2^D subfields, the parity classes of the coordinates, and delete at once all marked voxels of one that
   are simple points by now.

Voxels of one subfield are never neighbours, so that deleting them together is the same as one after the other, and no
deletion of a simple point changes the topology. As an iteration deletes marked voxels only, it takes one layer off all
sides, which keeps the result centred. The end is reached when none is simple but end points.

A voxel is simple (Malandain and Bertrand) if its foreground neighbours are one component, and if of the background in
its 18-neighbourhood (8 in 2D) exactly one component, over faces, has a face in common with it. A neighbourhood is a
number of K bits; components grow in it by looking up, byte by byte, the bits next to those that are set: all voxels at
once, in as many steps as the longest path has. In 2D this is done once for all 256 neighbourhoods.

The border of the image: what lies outside is background for the topology, but at first it marks nothing, as if objects
went on there. A bar that the image cuts off keeps its centre line up to the border; what is cut off lengthwise has its
line on the border. When nothing more changes, outside marks too (a full mask has no other border), until the end.

All this happens by flat index in the bounding box padded by one; no step but the first looks at the whole box. Parity
counts from the corner of the box, so that a mask that is moved in its image keeps its skeleton, unless it is cut off.

References:
    G. Malandain, G. Bertrand: Fast characterization of 3D simple points. ICPR 1992.
    K. Palágyi, G. Németh, P. Kardos: Topology preserving parallel 3D thinning algorithms. In: Digital Geometry
    Algorithms, Springer 2012 (subfields, end points).
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np


def thin(mask: np.ndarray) -> np.ndarray:
    """The skeleton of a mask: lines one voxel wide (and points) with the same components, holes, cavities and loops.

    Axes of length 1 count for nothing: a volume of depth 1 has the skeleton of its image, and an image of one row that
    of a vector, whose runs keep their middle voxel (of two, the first).

    Args:
        mask: bool, 1 to 3 dims, any size and memory layout; is not written.

    Returns:
        The skeleton, a subset of the mask: bool, same shape, contiguous. Thinning it again changes nothing: the loss of
        any voxel that is no end point would change the topology. A solid object without bumps becomes a point or short
        line, and a line ends half a width (square ends) to one width (round ends) before its object does.

    >>> thin(np.ones((3, 7), bool)).astype(int)
    array([[0, 0, 0, 0, 0, 0, 0],
           [0, 1, 1, 1, 1, 1, 0],
           [0, 0, 0, 0, 0, 0, 0]])
    """
    if mask.dtype != bool:
        raise TypeError(f"mask: expected bool, got {mask.dtype}; threshold it first")
    if not 1 <= mask.ndim <= 3:
        raise ValueError(f"mask: expected 1 to 3 dims, got shape {mask.shape}")
    thinned = np.zeros(mask.shape, bool)
    source, out = np.atleast_1d(mask.squeeze(), thinned.squeeze())  # the second is a view, which is written through
    if source.ndim == 1:
        out[_middles(source)] = True
    elif source.any():
        box = _bounding_box(source)
        out[box] = _peeled(source[box], _cut_sides(box, source.shape))
    return thinned


def _middles(line: np.ndarray) -> np.ndarray:
    """The middle of each run of a vector."""
    steps = np.diff(line.astype(np.int8), prepend=0, append=0)
    return (np.flatnonzero(steps == 1) + np.flatnonzero(steps == -1) - 1) // 2


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around a mask that is not empty."""
    box = []
    for axis in range(mask.ndim):
        places = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(places[0]), int(places[-1]) + 1))
    return tuple(box)


def _cut_sides(box: tuple[slice, ...], shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Sides of the box at the border of the image: axis, and 0 or -1 for the first or the last layer."""
    first = [(axis, 0) for axis, side in enumerate(box) if side.start == 0]
    return first + [(axis, -1) for axis, side in enumerate(box) if side.stop == shape[axis]]


def _peeled(mask: np.ndarray, cut: list[tuple[int, int]]) -> np.ndarray:
    """The skeleton of a mask (2 or 3 dims) that fills its box, whose sides `cut` are the border of the image."""
    padded, inside = np.zeros([n + 2 for n in mask.shape], bool), (slice(1, -1),) * mask.ndim
    padded[inside] = mask  # np.pad would keep the order of the axes in memory
    near = _neighbourhood(mask.ndim)
    if cut:
        solid = padded.copy()
        for axis, layer in cut:
            np.moveaxis(solid, axis, 0)[layer] = True
        _peel(padded, solid, near)
    _peel(padded, padded, near)
    return padded[inside]


class _Neighbourhood(NamedTuple):
    """The neighbours of a voxel: bit k of a neighbourhood stands for the k-th of `steps`.

    steps: (K, D) in {-1, 0, 1}, without 0.     faces: the bits of those with a face in common with the voxel.
    around: the bits where background is connected: 18 in 3D, all 8 in 2D.
    touching: (bytes, 256), the bits next to the set bits of one byte, over all neighbours.
    facing: the same over faces, within `around`.
    """

    steps: np.ndarray
    faces: int
    around: int
    touching: np.ndarray
    facing: np.ndarray


@lru_cache
def _neighbourhood(dims: int) -> _Neighbourhood:
    """The neighbourhood in 2 or 3 dims, with its tables."""
    steps = np.stack(np.meshgrid(*[[-1, 0, 1]] * dims, indexing="ij"), -1).reshape(-1, dims)
    steps = steps[steps.any(1)]
    apart = np.abs(steps[:, None] - steps)
    length = np.abs(steps).sum(1)
    around = length <= 2
    facing = (apart.sum(-1) == 1) & around & around[:, None]
    return _Neighbourhood(
        steps, int(_bits(length == 1)), int(_bits(around)), _byte_tables(apart.max(-1) == 1), _byte_tables(facing)
    )


def _bits(flags: np.ndarray) -> np.ndarray:
    """Flags (..., K) as numbers of K bits, int32, the first flag the lowest bit."""
    packed = np.packbits(flags, axis=-1, bitorder="little")
    bits = packed[..., 0].astype(np.int32)
    for k in range(1, packed.shape[-1]):
        bits |= packed[..., k].astype(np.int32) << 8 * k
    return bits


def _byte_tables(adjacent: np.ndarray) -> np.ndarray:
    """For each byte of a neighbourhood and each of its 256 values, the bits adjacent (K, K) to any that is set."""
    rows = np.zeros(-(-len(adjacent) // 8) * 8, np.int32)
    rows[: len(adjacent)] = _bits(adjacent)
    is_set = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little") > 0
    return np.stack([np.bitwise_or.reduce(np.where(is_set, byte, 0), axis=1) for byte in rows.reshape(-1, 8)])


def _grown(seed: np.ndarray, region: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """The bits of each region (n,) that are connected, by the tables, to those of its seed (n,)."""
    while True:
        grown = seed.copy()
        for k, table in enumerate(tables):
            grown |= table[(seed >> 8 * k) & 255]
        grown &= region
        if np.array_equal(grown, seed):
            return seed
        seed = grown


def _are_simple(bits: np.ndarray, near: _Neighbourhood) -> np.ndarray:
    """Which neighbourhoods (n,) make their voxel a simple point."""
    one_object = (bits != 0) & (_grown(bits & -bits, bits, near.touching) == bits)
    faces = ~bits & near.faces
    reached = _grown(faces & -faces, ~bits & near.around, near.facing)
    return one_object & (faces != 0) & (faces & ~reached == 0)


@lru_cache
def _simple_in_2d() -> np.ndarray:
    """`_are_simple` of all 256 neighbourhoods."""
    return _are_simple(np.arange(256, dtype=np.int32), _neighbourhood(2))


def _peel(mask: np.ndarray, solid: np.ndarray, near: _Neighbourhood) -> None:
    """Delete layer after layer of a padded mask, in place, until nothing changes.

    mask: contiguous.
    solid: the mask, and all else that does not make its neighbours border; may be the mask itself, else deleted too.
    """
    strides = np.array(mask.strides)  # of bools: in voxels
    steps, faces = near.steps @ strides, np.concatenate([strides, -strides])
    flat, flat_solid, queued = mask.reshape(-1), solid.reshape(-1), np.zeros(mask.size, bool)
    marked = _border(flat, flat_solid, faces)
    while marked.size:
        bits = _neighbours(marked, flat, steps)
        marked = marked[bits & (bits - 1) != 0]  # no end points, nor single voxels
        gone = []
        for part in _subfields(marked, mask.shape):
            bits = _neighbours(part, flat, steps)
            part = part[_simple_in_2d()[bits] if mask.ndim == 2 else _are_simple(bits, near)]
            flat[part] = flat_solid[part] = False
            gone.append(part)
        marked = _around(np.concatenate(gone), flat, queued, steps)
        marked = marked[~flat_solid[marked[:, None] + faces].all(1)]


def _neighbours(voxels: np.ndarray, flat: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The neighbourhoods (n,) of voxels (n,), as numbers of K bits."""
    bits = np.zeros(voxels.shape, np.int32)
    for k, step in enumerate(steps.tolist()):
        bits |= flat[voxels + step].astype(np.int32) << k
    return bits


def _border(flat: np.ndarray, flat_solid: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Flat indices of all voxels of a padded mask with a face neighbour that is not solid."""
    inner = slice(edge := int(faces.max()), flat.size - edge)
    border = np.zeros_like(flat)
    for step in faces.tolist():
        border[inner] |= ~flat_solid[inner.start + step : inner.stop + step]
    return np.flatnonzero(border & flat)


def _subfields(voxels: np.ndarray, shape: tuple[int, ...]) -> list[np.ndarray]:
    """The voxels (flat indices) by the parity of their coordinates: 2^D parts."""
    parity = np.zeros(voxels.shape, np.uint8)
    for coordinate in np.unravel_index(voxels, shape):
        parity = 2 * parity + (coordinate & 1).astype(np.uint8)
    return [voxels[parity == k] for k in range(1 << len(shape))]


def _around(voxels: np.ndarray, flat: np.ndarray, queued: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The voxels of the mask that are neighbours of given ones (distinct), each once. `queued` is False before, after.

    For one step the neighbours of distinct voxels are distinct, so that a flag removes all doubles.
    """
    found = []
    for step in steps.tolist():
        at = voxels + step
        at = at[flat[at] & ~queued[at]]
        queued[at] = True
        found.append(at)
    around = np.concatenate(found)
    queued[around] = False
    return around
