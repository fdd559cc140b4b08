"""A pinhole camera that draws flat shapes in space into a picture and, at the same pixels, into its labels."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

VOID = 255
OVERSAMPLING = 2

Colour = tuple[int, int, int]
Point = tuple[float, float, float]


class Scene:
    """One street under construction. Points are (x, y, z) in metres: right of the camera, above the road, ahead."""

    def __init__(self, size: tuple[int, int], rng: np.random.Generator) -> None:
        self.rng = rng
        self.height, self.width = (side * OVERSAMPLING for side in size)
        self.image = Image.new("RGB", (self.width, self.height))
        self.labels = Image.new("L", (self.width, self.height))
        self._brushes = ImageDraw.Draw(self.image), ImageDraw.Draw(self.labels)
        self.focal = self.width * rng.uniform(0.75, 0.95)
        self.camera = rng.uniform(1.9, 3.0)
        self.vanishing = self.width * rng.uniform(0.36, 0.64), self.height * rng.uniform(0.36, 0.46)
        self.road = rng.uniform(3.0, 4.2)  # half width
        self.wall = self.road + rng.uniform(2.2, 3.6)  # where buildings stand

    def project(self, point: Point) -> tuple[float, float]:
        """The pixel of a point in space."""
        x, y, z = point
        scale = self.focal / z
        return self.vanishing[0] + scale * x, self.vanishing[1] + scale * (self.camera - y)

    def polygon(self, points: Sequence[Point], colour: Colour, label: int) -> None:
        """A flat shape with these corners, all ahead of the camera (z > 0)."""
        pixels = [self.project(point) for point in points]
        for brush, ink in zip(self._brushes, (colour, label), strict=True):
            brush.polygon(pixels, fill=ink)

    def face(self, x: tuple[float, float], y: tuple[float, float], z: float, colour: Colour, label: int) -> None:
        """A rectangle that faces the camera."""
        self.polygon([(x[0], y[0], z), (x[1], y[0], z), (x[1], y[1], z), (x[0], y[1], z)], colour, label)

    def side(self, x: float, y: tuple[float, float], z: tuple[float, float], colour: Colour, label: int) -> None:
        """A rectangle along the street."""
        self.polygon([(x, y[0], z[0]), (x, y[0], z[1]), (x, y[1], z[1]), (x, y[1], z[0])], colour, label)

    def disc(self, centre: Point, radii: tuple[float, float], colour: Colour, label: int) -> None:
        """An ellipse that faces the camera, with its half width and half height in metres."""
        (u, v), scale = self.project(centre), self.focal / centre[2]
        box = (u - radii[0] * scale, v - radii[1] * scale, u + radii[0] * scale, v + radii[1] * scale)
        for brush, ink in zip(self._brushes, (colour, label), strict=True):
            brush.ellipse(box, fill=ink)

    def line(self, start: Point, end: Point, thickness: float, colour: Colour, label: int) -> None:
        """A bar of a thickness in metres, at least one pixel of the picture."""
        width = max(round(thickness * self.focal / start[2]), OVERSAMPLING)
        for brush, ink in zip(self._brushes, (colour, label), strict=True):
            brush.line([self.project(start), self.project(end)], fill=ink, width=width)

    def grey(self, low: int, high: int, tint: int = 12) -> Colour:
        """A random grey with a random tint."""
        return shade(np.full(3, self.rng.integers(low, high)) + self.rng.integers(-tint, tint + 1, 3))


def shade(colour: Sequence[int] | np.ndarray, factor: float = 1.0) -> Colour:
    """The colour made darker or lighter."""
    red, green, blue = (int(np.clip(channel * factor, 0, 255)) for channel in colour)
    return red, green, blue


def photograph(scene: Scene, grain: np.ndarray, mottle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The picture as RGB uint8 (H, W, 3) in some weather, and its labels uint8 (H, W).

    Args:
        grain, mottle: for each label the strength of its fine and its coarse texture, in grey levels.
    """
    rng, size = scene.rng, (scene.width // OVERSAMPLING, scene.height // OVERSAMPLING)
    labels = np.array(scene.labels.resize(size, Image.Resampling.NEAREST))
    colours = np.array(scene.image.resize(size, Image.Resampling.BOX), dtype=np.float32)
    texture = grain[labels] * rng.normal(size=labels.shape) + mottle[labels] * _smooth_noise(labels.shape, 6, rng)
    exposure = rng.uniform(0.55, 1.1) * (1 + 0.18 * _smooth_noise(labels.shape, 2, rng))
    tint = 1 + rng.uniform(-0.08, 0.08, 3)
    lit = (colours + texture[..., None]) * exposure[..., None] * tint
    blurred = Image.fromarray(lit.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.6))
    noise = rng.normal(scale=rng.uniform(3, 8), size=lit.shape)
    return (np.array(blurred) + noise).clip(0, 255).astype(np.uint8), labels


def _smooth_noise(shape: tuple[int, ...], cells: int, rng: np.random.Generator) -> np.ndarray:
    """Noise (H, W) of unit strength that varies over about a `cells`-th of the height."""
    coarse = Image.fromarray(rng.normal(size=(cells, cells * shape[1] // shape[0] + 1)).astype(np.float32))
    return np.array(coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC))


def mark_borders(labels: np.ndarray, spared: tuple[int, ...]) -> np.ndarray:
    """Labels with VOID at pixels beside another label to the right or below, except on the classes `spared`.

    >>> mark_borders(np.array([[0, 0, 1, 2, 2]], dtype=np.uint8), spared=(1,)).tolist()
    [[0, 255, 1, 2, 2]]
    """
    border = np.zeros(labels.shape, dtype=bool)
    border[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    border[:-1] |= labels[:-1] != labels[1:]
    return np.where(border & ~np.isin(labels, spared), np.uint8(VOID), labels)
