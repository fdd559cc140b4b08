"""Toy brain volumes with lesions of very unequal size."""

import numpy as np
from scipy.ndimage import gaussian_filter

SPACING = (1.0, 1.0, 1.5)


def draw_brain(shape: tuple[int, int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A volume, int16 (*S) in arbitrary units that differ from case to case, and its labels, uint8 (*S) of 0 and 1.

    An ellipsoid of two tissues with a dark ventricle, and 15 to 45 bright ellipsoids whose sizes spread from one voxel
    to thousands. Lesions may touch, and merge into one.
    """
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij"))
    radius = np.sqrt(((grid / np.array([0.86, 0.92, 0.88])[:, None, None, None]) ** 2).sum(axis=0))
    brain = radius + 0.05 * _smooth(shape, 6, rng) < 1
    ventricle = np.sqrt(((grid / np.array([0.16, 0.34, 0.3])[:, None, None, None]) ** 2).sum(axis=0)) < 1
    white = gaussian_filter((_smooth(shape, 4, rng) > 1.2 * (radius - 0.6)).astype(np.float32), 0.7)
    tissue = np.where(brain, np.where(ventricle, 0.22, 0.52 + 0.16 * white), 0.03)

    lesions = np.zeros(shape, dtype=np.float32)
    allowed = np.argwhere(brain & ~ventricle & (radius < 0.85))
    for centre in allowed[rng.integers(0, len(allowed), rng.integers(15, 46))]:
        inside = _ellipsoid(shape, centre, min(np.exp(rng.normal(2.3, 2.0)), 4000.0), rng) & brain & ~ventricle
        lesions[inside] = np.maximum(lesions[inside], rng.uniform(0.12, 0.3))
    bright = gaussian_filter(lesions, 0.4)
    volume = tissue + bright + 0.03 * _smooth(shape, 3, rng) * brain + rng.normal(scale=0.035, size=shape)
    scale = 10 ** rng.uniform(2, 4)
    return (volume.clip(0) * scale).astype(np.int16), (lesions > 0).astype(np.uint8)


def _ellipsoid(shape: tuple[int, ...], centre: np.ndarray, voxels: float, rng: np.random.Generator) -> np.ndarray:
    """A turned ellipsoid of about so many voxels, at least the one of its centre; bool (*S)."""
    stretch = np.exp(rng.normal(0, 0.25, 3))
    axes = np.cbrt(voxels * 3 / (4 * np.pi)) * stretch / np.cbrt(stretch.prod())
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    offsets = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")) - centre[:, None, None, None]
    distance = ((np.tensordot(turn, offsets, axes=1) / axes[:, None, None, None]) ** 2).sum(axis=0)
    return (distance <= 1) | (offsets == 0).all(axis=0)


def _smooth(shape: tuple[int, ...], scale: float, rng: np.random.Generator) -> np.ndarray:
    """Noise (*S) of unit variance that varies over about `scale` voxels."""
    noise = gaussian_filter(rng.normal(size=shape).astype(np.float32), scale)
    return noise / noise.std()
