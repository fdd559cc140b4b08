"""Toy street scenes with the labels of every pixel: houses, trees, cars and people along a straight road."""

from collections.abc import Callable

import numpy as np

from delineate.data.scene import Scene, mark_borders, photograph, shade

CLASSES = ("sky", "building", "road", "pavement", "tree", "pole", "sign", "car", "pedestrian", "bicyclist")
SKY, BUILDING, ROAD, PAVEMENT, TREE, POLE, SIGN, CAR, PEDESTRIAN, BICYCLIST = range(10)
PALETTE = (
    *((128, 176, 216), (128, 0, 0), (128, 64, 128), (60, 40, 222), (64, 128, 0)),
    *((192, 192, 128), (240, 180, 40), (64, 0, 128), (230, 60, 60), (0, 200, 200)),
)
THIN = (POLE, SIGN, PEDESTRIAN, BICYCLIST)  # keep their border pixels, or little of them would be left
GRAIN = np.array([2, 9, 6, 7, 24, 5, 6, 5, 9, 9], dtype=np.float32)  # texture of each class, pixel by pixel
MOTTLE = np.array([7, 12, 9, 11, 18, 5, 4, 6, 6, 6], dtype=np.float32)  # and over larger patches, grey levels

Drawer = Callable[[Scene, float, float], None]


def draw_street(size: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A scene as RGB uint8 (H, W, 3) and its labels uint8 (H, W), VOID along the borders of objects."""
    scene = Scene(size, rng)
    _draw_ground(scene)
    for side in (-1, 1):
        _draw_houses(scene, side)
    for _, draw, x, z in sorted(_place(scene), key=lambda thing: -thing[0]):
        draw(scene, x, z)
    image, labels = photograph(scene, GRAIN, MOTTLE)
    return image, mark_borders(labels, spared=THIN)


def _place(scene: Scene) -> list[tuple[float, Drawer, float, float]]:
    """What stands in the street: (distance, how to draw it, x, z)."""
    rng, things = scene.rng, []
    for side in (-1, 1):
        kerb, wall = side * (scene.road + 0.4), side * (scene.wall - 0.6)
        things += [(draw_pole, kerb, z) for z in np.arange(rng.uniform(5, 12), 60, rng.uniform(9, 16))]
        things += [(draw_sign, kerb, z) for z in rng.uniform(6, 32, rng.integers(0, 3))]
        things += [(draw_tree, side * (scene.wall - 1), z) for z in rng.uniform(9, 55, rng.integers(0, 5))]
        things += [(draw_car, side * (scene.road - 1.1), z) for z in rng.uniform(7, 45, rng.integers(0, 4))]
        walkers = rng.uniform(0, 1, rng.integers(0, 4))
        things += [(draw_pedestrian, kerb + (wall - kerb) * share, rng.uniform(7, 28)) for share in walkers]
    if rng.random() < 0.5:
        things.append((draw_car, rng.choice([-1, 1]) * scene.road * 0.4, rng.uniform(9, 30)))
    if rng.random() < 0.25:
        things.append((draw_bicyclist, rng.choice([-1, 1]) * scene.road * rng.uniform(0.2, 0.6), rng.uniform(6, 16)))
    return [(z, draw, x, z) for draw, x, z in things]


def _draw_ground(scene: Scene) -> None:
    """Sky, the end of the street, pavements, road and lane marks."""
    rng, near, far = scene.rng, 1.0, 400.0
    sky = rng.choice([(150, 185, 225), (196, 200, 206), (225, 205, 190)])
    scene.face((-900, 900), (-1, 900), far, shade(sky), SKY)
    for x in rng.uniform(-60, 60, 9):
        scene.face((x, x + rng.uniform(8, 25)), (-1, rng.uniform(6, 26)), 90, scene.grey(90, 180), BUILDING)
    for x in rng.uniform(-40, 40, 4):
        scene.disc((x, 3, 80), (rng.uniform(4, 9), rng.uniform(4, 9)), shade((70, 95, 60), rng.uniform(0.7, 1.3)), TREE)
    tarmac = scene.grey(80, 125, 6)
    for edge, colour, label in ((60.0, scene.grey(125, 175, 10), PAVEMENT), (scene.road, tarmac, ROAD)):
        scene.polygon([(-edge, 0, near), (edge, 0, near), (edge, 0, far), (-edge, 0, far)], colour, label)
    for side in (-1, 1):
        scene.side(side * scene.road, (0, 0.15), (near, far), scene.grey(130, 170), PAVEMENT)
    for z in np.arange(rng.uniform(2, 5), 60, 5).tolist():
        scene.polygon([(-0.08, 0, z), (0.08, 0, z), (0.08, 0, z + 2.2), (-0.08, 0, z + 2.2)], shade(tarmac, 1.8), ROAD)


def _draw_houses(scene: Scene, side: int) -> None:
    """A row of houses with windows, the farthest first, with gaps between some."""
    rng, x = scene.rng, side * scene.wall
    z, houses = rng.uniform(1.5, 4), []
    while z < 80:
        depth = rng.uniform(7, 16)
        houses.append((z, z + depth, rng.uniform(5, 14)))
        z += depth + (rng.uniform(3, 10) if rng.random() < 0.35 else 0)
    for start, end, height in reversed(houses):
        wall = shade(
            rng.choice([(150, 110, 90), (165, 155, 140), (120, 115, 115), (180, 165, 130)]), rng.uniform(0.7, 1.2)
        )
        scene.face((x, x + side * 12), (0, height), start, shade(wall, 0.8), BUILDING)
        scene.side(x, (0, height), (start, end), wall, BUILDING)
        glass = scene.grey(45, 110, 15)
        for floor in np.arange(1.2, height - 1.6, 3).tolist():
            for window in np.arange(start + 0.8, end - 1.4, 2.4).tolist():
                scene.side(x, (floor, floor + 1.5), (window, window + 1.2), glass, BUILDING)


def draw_pole(scene: Scene, x: float, z: float) -> None:
    """A street lamp."""
    height, colour = scene.rng.uniform(4.5, 7.5), scene.grey(60, 150)
    scene.line((x, 0.1, z), (x, height, z), 0.13, colour, POLE)
    scene.line((x, height, z), (x - np.sign(x) * 1.3, height + 0.1, z), 0.1, colour, POLE)


def draw_sign(scene: Scene, x: float, z: float) -> None:
    """A round or square plate on a thin post; the post is labelled pole."""
    height = scene.rng.uniform(2.4, 3.2)
    scene.line((x, 0.1, z), (x, height, z), 0.08, scene.grey(90, 150), POLE)
    colour = shade(scene.rng.choice([(190, 50, 45), (50, 80, 170), (205, 175, 60), (215, 215, 215)]))
    if scene.rng.random() < 0.5:
        scene.disc((x, height, z), (0.42, 0.42), colour, SIGN)
        scene.disc((x, height, z), (0.24, 0.24), shade((225, 225, 220)), SIGN)
    else:
        scene.face((x - 0.4, x + 0.4), (height - 0.45, height + 0.45), z, colour, SIGN)
        scene.face((x - 0.25, x + 0.25), (height - 0.1, height + 0.1), z, shade((225, 225, 220)), SIGN)


def draw_tree(scene: Scene, x: float, z: float) -> None:
    """A trunk and a crown of leafy discs."""
    rng, height = scene.rng, scene.rng.uniform(3.5, 6)
    scene.line((x, 0, z), (x, height, z), 0.3, shade((80, 66, 52), rng.uniform(0.8, 1.2)), TREE)
    leaf, spread = rng.choice([(70, 100, 50), (95, 105, 60), (110, 95, 55)]), rng.uniform(0.8, 1.5)
    for _ in range(22):
        dx, dy = rng.normal(0, 0.55 * spread, 2)
        radii = rng.uniform(0.35, 0.8, 2) * spread
        scene.disc((x + dx, height + dy, z), (radii[0], radii[1]), shade(leaf, rng.uniform(0.6, 1.35)), TREE)


def draw_car(scene: Scene, x: float, z: float) -> None:
    """Seen from behind: body, cabin with windows, wheels and lamps."""
    rng, end = scene.rng, z + 4.0
    paint = shade(
        rng.choice([(60, 60, 66), (150, 152, 155), (200, 200, 198), (130, 40, 38), (48, 66, 110), (96, 98, 90)])
    )
    left, right, flank = x - 0.85, x + 0.85, x - 0.85 * np.sign(x)
    scene.polygon([(left, 0, z), (right, 0, z), (right, 0, end), (left, 0, end)], (38, 38, 40), CAR)
    scene.side(flank, (0.25, 0.95), (z, end), shade(paint, 0.8), CAR)
    scene.polygon([(left, 0.95, z), (right, 0.95, z), (right, 0.95, end), (left, 0.95, end)], shade(paint, 1.15), CAR)
    scene.side(0.85 * flank + 0.15 * x, (0.95, 1.45), (z + 0.5, end - 1.2), (52, 58, 66), CAR)
    scene.face((left + 0.12, right - 0.12), (0.95, 1.5), z + 0.5, shade(paint, 0.95), CAR)
    scene.face((left + 0.22, right - 0.22), (1.02, 1.42), z + 0.5, scene.grey(50, 90), CAR)
    scene.face((left, right), (0.25, 0.98), z, paint, CAR)
    for wheel in (left, right - 0.25):
        scene.face((wheel, wheel + 0.25), (0.0, 0.35), z, (26, 26, 28), CAR)
    for lamp in (left + 0.05, right - 0.3):
        scene.face((lamp, lamp + 0.25), (0.65, 0.85), z, (170, 40, 36), CAR)


def draw_pedestrian(scene: Scene, x: float, z: float) -> None:
    """Legs, coat and head."""
    rng = scene.rng
    coat, legs = scene.grey(40, 190, 45), scene.grey(30, 90, 15)
    size, step = rng.uniform(0.9, 1.1), rng.uniform(0.05, 0.22)
    for foot in (-step, step):
        scene.line((x, 0.85 * size, z), (x + foot, 0.1, z), 0.17, legs, PEDESTRIAN)
    scene.disc((x, 1.12 * size, z), (0.25, 0.42 * size), coat, PEDESTRIAN)
    scene.disc((x, 1.62 * size, z), (0.13, 0.15), shade((196, 150, 125), rng.uniform(0.5, 1.1)), PEDESTRIAN)


def draw_bicyclist(scene: Scene, x: float, z: float) -> None:
    """A bicycle half turned to the camera, and its rider."""
    rng, turn = scene.rng, scene.rng.uniform(0.25, 0.55)
    frame, coat = scene.grey(30, 110, 30), scene.grey(90, 210, 50)
    for wheel in (-turn, turn):
        scene.disc((x + wheel, 0.36, z), (0.2 + 0.25 * turn, 0.34), (34, 34, 36), BICYCLIST)
        scene.disc((x + wheel, 0.36, z), (0.12 + 0.2 * turn, 0.22), scene.grey(90, 120), BICYCLIST)
    scene.line((x - turn, 0.4, z), (x, 0.9, z), 0.08, frame, BICYCLIST)
    scene.line((x, 0.9, z), (x + turn, 0.4, z), 0.08, frame, BICYCLIST)
    for foot in (-0.1, 0.12):
        scene.line((x, 1.0, z), (x + foot, 0.3, z), 0.16, scene.grey(30, 80), BICYCLIST)
    scene.disc((x + 0.05, 1.3, z), (0.24, 0.38), coat, BICYCLIST)
    scene.disc((x + 0.1, 1.76, z), (0.13, 0.15), shade((196, 150, 125), rng.uniform(0.5, 1.1)), BICYCLIST)
