"""All metrics of one case, class by class."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import find_objects

from delineate.metrics.conventions import Conventions
from delineate.metrics.grid import check_grid, diagonal
from delineate.metrics.instance import detect, find_instances, panoptic
from delineate.metrics.lesions import cc_dice
from delineate.metrics.surface import (
    assd,
    band_width,
    boundary_iou,
    hausdorff,
    nsd,
    surface_distances,
)

SIZE_DIFFERENCE = (("length_difference_mm", 1.0), ("area_difference_mm2", 1.0), ("volume_difference_ml", 1e-3))
"""Key of the absolute difference in 1D, 2D and 3D, and its unit for one mm, mm^2 or mm^3."""


@dataclass(frozen=True)
class ClassScores:
    """The scores of one class in one case."""

    values: dict[str, float | None]
    """Number by metric; None where it is undefined."""
    lesions: list[tuple[float, bool]]
    """Size in mm^3 (mm^2 in 2D) of each true lesion, and whether it was found."""
    false_positive_sizes: list[float]
    """Size in mm^3 (mm^2 in 2D) of each predicted lesion that is false."""
    truth_empty: bool
    prediction_empty: bool

    @property
    def both_empty(self) -> bool:
        """Neither truth nor prediction hold the class."""
        return self.truth_empty and self.prediction_empty


@dataclass(frozen=True)
class _Image:
    """What all classes of a case share."""

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    valid: int
    """Voxels that are not ignored."""
    conventions: Conventions

    @property
    def voxel(self) -> float:
        """Size of a voxel in mm^3 (mm^2 in 2D)."""
        return float(np.prod(self.spacing))


def case_scores(
    prediction: np.ndarray,
    truth: np.ndarray,
    classes: Sequence[str],
    *,
    spacing: Sequence[float],
    ignore_index: int | None = None,
    conventions: Conventions = Conventions(),  # noqa: B008
    foreground: Sequence[int] | None = None,
) -> dict[str, ClassScores]:
    """Scores of each class of a case, by its name.

    Args:
        prediction, truth: label maps (*S) of any integer dtype or bool, one to three dims.
        classes: their names, in the order of the labels from 0.
        spacing: size of a voxel along each axis in mm.
        ignore_index: truth label of voxels that are removed from both maps, whatever is predicted there.
        conventions: definitions where the literature differs.
        foreground: labels to score; None: all but 0.

    Raises:
        ValueError: for unequal shapes, labels out of range, a spacing of wrong length or not positive, and a
            `foreground` that is not of the classes.

    >>> scores = case_scores(np.array([[0, 1, 1, 0]]), np.array([[0, 1, 0, 0]]), ["nothing", "lesion"], spacing=[1, 1])
    >>> round(scores["lesion"].values["dice"], 3), scores["lesion"].lesions
    (0.667, [(1.0, True)])
    """
    prediction, truth = np.asarray(prediction), np.asarray(truth)
    sizes = check_grid(prediction, truth, spacing)
    chosen = _chosen(classes, foreground)
    ignored = None if ignore_index is None else truth == ignore_index
    names = [
        _from_one(name, labels, ignored, len(classes))
        for name, labels in (("prediction", prediction), ("truth", truth))
    ]
    valid = truth.size if ignored is None else truth.size - int(np.count_nonzero(ignored))
    image = _Image(truth.shape, sizes, valid, conventions)
    boxes = [find_objects(labels, len(classes)) for labels in names]
    return {
        classes[label]: _class_scores(*_masks(names, label + 1, [of[label] for of in boxes]), image) for label in chosen
    }


def _chosen(classes: Sequence[str], foreground: Sequence[int] | None) -> list[int]:
    """Labels to score."""
    chosen = list(range(1, len(classes))) if foreground is None else [int(label) for label in foreground]
    if len(set(classes)) < len(classes):
        raise ValueError(f"classes: expected a name of its own for each class; got {list(classes)}.")
    if len(set(chosen)) < len(chosen) or not all(0 <= label < len(classes) for label in chosen):
        raise ValueError(f"foreground: expected different labels from 0 to {len(classes) - 1}; got {chosen}.")
    return chosen


def _from_one(name: str, labels: np.ndarray, ignored: np.ndarray | None, count: int) -> np.ndarray:
    """Labels counted from 1, and 0 where ignored, (*S) int32."""
    if labels.dtype.kind not in "iub":
        raise ValueError(f"{name}: expected integer labels 0..{count - 1}; got {labels.dtype}. Convert it first.")
    valid = labels if ignored is None else labels[~ignored]
    if valid.size and not 0 <= valid.min() <= valid.max() < count:
        raise ValueError(
            f"{name}: expected labels 0..{count - 1}, of {count} classes; got values from {valid.min()} to "
            f"{valid.max()}. Name void labels with ignore_index."
        )
    found = labels.astype(np.int32) + 1
    if ignored is not None:
        found[ignored] = 0
    return found


def _masks(
    names: list[np.ndarray], number: int, boxes: list[tuple[slice, ...] | None]
) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and truth of one class, cut to the box that holds both."""
    there = [box for box in boxes if box is not None] or [(slice(0, 0),) * names[0].ndim]
    box = tuple(slice(min(s.start for s in sides), max(s.stop for s in sides)) for sides in zip(*there, strict=True))
    prediction, truth = (labels[box] == number for labels in names)
    return prediction, truth


def _class_scores(prediction: np.ndarray, truth: np.ndarray, image: _Image) -> ClassScores:
    conventions, spacing = image.conventions, image.spacing
    instances = find_instances(prediction, truth, conventions.connectivity, conventions.min_size)
    pairs = "dice" if conventions.match == "dice" else "iou"
    detection = detect(instances, conventions.match, conventions.panoptic_threshold)
    pq = panoptic(instances, pairs, conventions.panoptic_threshold)
    values = _overlap(prediction, truth, image) | _surfaces(prediction, truth, image)
    values |= {
        "lesion_f1": detection.f1,
        "lesion_sensitivity": detection.sensitivity,
        "lesion_precision": detection.precision,
        "lesions": detection.found.size,
        "found": int(detection.found.sum()),
        "predicted_lesions": detection.right.size,
        "false_positives": detection.false_positives,
        "lesion_dice": detection.lesion_dice,
        "found_dice": detection.found_dice,
        "pq": pq.pq,
        "sq": pq.sq,
        "rq": pq.rq,
        "matched": pq.matched,
        "cc_dice": cc_dice(instances, spacing),
    }
    sizes, false_sizes = instances.true_sizes * image.voxel, instances.predicted_sizes[~detection.right] * image.voxel
    lesions = list(zip(sizes.tolist(), detection.found.tolist(), strict=True))
    return ClassScores(values, lesions, false_sizes.tolist(), not truth.any(), not prediction.any())


def _overlap(prediction: np.ndarray, truth: np.ndarray, image: _Image) -> dict[str, float | None]:
    """What the numbers of voxels say."""
    both = int(np.count_nonzero(prediction & truth))
    predicted, true = int(np.count_nonzero(prediction)), int(np.count_nonzero(truth))
    negative = image.valid - true
    key, unit = SIZE_DIFFERENCE[len(image.shape) - 1]
    return {
        "dice": 2 * both / (predicted + true) if predicted + true else 1.0,
        "iou": both / (predicted + true - both) if predicted + true else 1.0,
        "precision": both / predicted if predicted else None,
        "recall": both / true if true else None,
        "specificity": (negative - predicted + both) / negative if negative else None,
        "volume_error": (predicted - true) / true if true else None,
        key: abs(predicted - true) * image.voxel * unit,
    }


def _surfaces(prediction: np.ndarray, truth: np.ndarray, image: _Image) -> dict[str, float | None]:
    """What the distances between the surfaces say."""
    conventions, within = image.conventions, surface_distances(prediction, truth, image.spacing)
    distances = replace(within, diagonal=diagonal(image.shape, image.spacing))
    definition, empty = conventions.hd_definition, conventions.empty
    values: dict[str, float | None] = {
        "hd": hausdorff(distances, 100, definition, empty),
        conventions.hd_key: hausdorff(distances, conventions.hd_percentile, definition, empty),
        "nsd": nsd(distances, conventions.nsd_tolerance),
        "assd": assd(distances, empty),
    }
    if len(image.shape) == 2:
        values["boundary_iou"] = boundary_iou(prediction, truth, band_width(image.shape, conventions.boundary_share))
    return values
