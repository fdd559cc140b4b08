"""Numbers of a data set that speak for one loss or another, each with its words."""

from typing import NamedTuple

from delineate.data.statistics import ClassStatistics, Statistics


class Measured(NamedTuple):
    """A number of the data, and the same in words."""

    value: float
    words: str


def imbalance(found: Statistics) -> Measured:
    """The largest class over the smallest, in voxels."""
    present = [of_class for of_class in found.classes if of_class.share > 0]
    if not present:
        return Measured(1.0, "no labelled voxels")
    largest, smallest = (choose(present, key=lambda c: c.share) for choose in (max, min))
    words = f"largest to smallest class {in_digits(found.imbalance)} : 1 ({largest.name} to {smallest.name})"
    return Measured(found.imbalance, words)


def easy_background(found: Statistics) -> Measured | None:
    """Voxels of the background for each of all other classes together."""
    rest = _foreground_share(found)
    return None if not rest else Measured((100 - rest) / rest, f"background {in_digits((100 - rest) / rest)} : 1")


def foreground(found: Statistics) -> Measured | None:
    """Percent of the labelled voxels that are not background."""
    rest = _foreground_share(found)
    return Measured(rest, f"foreground {in_digits(rest)} % of the labelled {_unit(found)}") if rest else None


def absent(found: Statistics) -> Measured | None:
    """Percent of the images without a class, of the class that most are without."""
    classes = [of_class for _, of_class in objects(found) if of_class.share > 0]
    if not classes:
        return None
    rarest = max(classes, key=lambda c: c.absent)
    share = 100 * rarest.absent / found.images
    return Measured(share, f"{rarest.name} is missing from {in_digits(share)} % of the images")


def unequal_instances(found: Statistics) -> Measured | None:
    """The largest instance over the smallest in the same image, median over images; classes of several an image."""
    ratios = [(c.size_ratio["50%"], c.name) for c in _many(found) if c.size_ratio]
    if not ratios:
        return None
    ratio, name = max(ratios)
    return Measured(ratio, f"largest to smallest {name} within an image {in_digits(ratio)} : 1 in the median")


def small_instances(found: Statistics) -> Measured | None:
    """The side of a square, or cube, as large as the median instance; classes of several an image."""
    sizes = [(c.instance_sizes["50%"], c.name) for c in _many(found) if c.instance_sizes]
    if not sizes:
        return None
    size, name = min(sizes)
    side = size ** (1 / len(found.spacing))
    words = f"half of all {name} instances have at most {in_digits(size)} {_unit(found)}, {in_digits(side)} a side"
    return Measured(side, words)


def touching(found: Statistics) -> Measured | None:
    """Percent of the instances that touch another of their class, where maps of instances tell them apart."""
    classes = [c for c in found.classes if c.touching is not None and c.components is not None]
    if found.instances_from != "maps" or not classes:
        return None
    most = max(classes, key=lambda c: c.touching or 0)
    words = f"{in_digits(most.touching or 0)} % of {most.name} instances touch another: "
    return Measured(most.touching or 0, words + f"{most.instances} are {most.components} components of the mask")


def thin(found: Statistics) -> Measured | None:
    """Voxels across the thinnest class that is longer than wide: one over its thinness, in 3D the root of that."""
    thinnest = min(widths(found), default=None)
    if thinnest is None:
        return None
    across, label = thinnest
    return Measured(across, f"{found.classes[label].name} is {in_digits(across)} {_unit(found)} across")


def outline(found: Statistics) -> Measured | None:
    """Percent of the voxels of a class that lie at its boundary, of the class with most; data with a background."""
    classes = [(c.boundary, c.name) for _, c in objects(found) if c.boundary is not None]
    if found.background is None or not classes:
        return None
    share, name = max(classes)
    return Measured(share, f"{in_digits(share)} % of {name} at its boundary, the most of any class")


def anisotropy(found: Statistics) -> Measured:
    """The longest side of a voxel over the shortest."""
    ratio = max(found.spacing) / min(found.spacing)
    sides = " x ".join(in_digits(side) for side in found.spacing)
    return Measured(ratio, f"voxels of {sides}, {in_digits(ratio)} : 1")


def scene(found: Statistics) -> Measured | None:
    """Classes that occur in pictures without a background."""
    if found.background is not None or len(found.spacing) != 2:
        return None
    present = sum(of_class.share > 0 for of_class in found.classes)
    return Measured(present, f"{present} classes fill the pictures, with no background")


def void(found: Statistics) -> Measured:
    """Percent of the voxels that are ignored."""
    return Measured(found.void_share, f"{in_digits(found.void_share)} % of the {_unit(found)} are ignored")


def objects(found: Statistics) -> list[tuple[int, ClassStatistics]]:
    """Every class but the background, with its label."""
    return [(label, of_class) for label, of_class in enumerate(found.classes) if label != found.background]


def _many(found: Statistics) -> list[ClassStatistics]:
    """Classes with two instances or more in the median image; none without a background, which instances need as 0."""
    if found.background != 0:
        return []
    return [of_class for _, of_class in objects(found) if of_class.instances_per_image["50%"] >= 2]


def widths(found: Statistics) -> list[tuple[float, int]]:
    """Voxels across, and label, of each class whose piece at the 75 % quantile is three times as long as wide."""
    found_widths = []
    for label, of_class in objects(found):
        if of_class.thinness and of_class.instance_sizes:
            across = of_class.thinness ** (-1 / max(len(found.spacing) - 1, 1))
            if of_class.thinness * of_class.instance_sizes["75%"] >= 3 * across:
                found_widths.append((across, label))
    return found_widths


def _foreground_share(found: Statistics) -> float | None:
    """Percent of the labelled voxels; None without a background."""
    return None if found.background is None else sum(of_class.share for _, of_class in objects(found))


def _unit(found: Statistics) -> str:
    return "pixels" if len(found.spacing) == 2 else "voxels"


def in_digits(value: float) -> str:
    """Two digits, or all before the point."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
