"""What one case adds to the scores of a split: counts whose sums over cases give every score of a comparison."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from delineate.metrics import Conventions, detect, find_instances


@dataclass(frozen=True)
class Objects:
    """The connected components of one class in one case.

    Args:
        sizes: of each true one, in mm^3 (mm^2 in 2D; of pictures pixels).
        found: whether each true one is found.
        predicted: number of predicted ones.
        right: number of predicted ones that touch a true one.
    """

    sizes: tuple[float, ...]
    found: tuple[bool, ...]
    predicted: int
    right: int


@dataclass(frozen=True)
class CaseCounts:
    """The counts of one case.

    Args:
        id: of the case.
        tp, truth, predicted: voxels of each class that are right, true and predicted, (C,); ignored ones left out.
        objects: of each scored class by name; None where a map has too many components to be counted.
    """

    id: str
    tp: tuple[int, ...]
    truth: tuple[int, ...]
    predicted: tuple[int, ...]
    objects: dict[str, Objects] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain content for a result file."""
        objects = self.objects and {
            name: {"sizes": [round(s, 4) for s in o.sizes], "found": [int(f) for f in o.found]}
            | {"predicted": o.predicted, "right": o.right}
            for name, o in self.objects.items()
        }
        counts = {"tp": list(self.tp), "truth": list(self.truth), "predicted": list(self.predicted)}
        return {"id": self.id} | counts | {"objects": objects}

    @classmethod
    def from_dict(cls, entries: dict[str, Any]) -> "CaseCounts":
        """From what `to_dict` gave."""
        objects = entries["objects"]
        return cls(
            entries["id"],
            *(tuple(entries[key]) for key in ("tp", "truth", "predicted")),
            objects=None
            if objects is None
            else {
                name: Objects(tuple(o["sizes"]), tuple(map(bool, o["found"])), o["predicted"], o["right"])
                for name, o in objects.items()
            },
        )


def count_case(
    id: str,
    prediction: np.ndarray,
    truth: np.ndarray,
    classes: Sequence[str],
    *,
    ignore_index: int | None,
    spacing: Sequence[float],
    scored: Sequence[int],
) -> CaseCounts:
    """Count a case.

    Args:
        prediction, truth: label maps, integer (*S); of the truth every value a class or `ignore_index`.
        spacing: size of a voxel along each axis.
        scored: labels whose components are counted, with all neighbours; one shared voxel finds a component, as in
            `delineate.evaluation`.

    >>> truth = np.array([[1, 1, 0, 1, 0, 255]])
    >>> case = count_case(
    ...     "a", np.array([[1, 0, 0, 0, 1, 1]]), truth, ["rest", "x"], ignore_index=255, spacing=(1, 1), scored=[1]
    ... )
    >>> case.tp, case.truth, case.predicted, case.objects["x"].found
    ((1, 1), (2, 3), (3, 2), (True, False))
    """
    valid = np.ones(truth.shape, bool) if ignore_index is None else truth != ignore_index
    count = len(classes)
    pairs = np.bincount(truth[valid].astype(np.int64) * count + prediction[valid], minlength=count**2)
    matrix = pairs.reshape(count, count)
    try:
        objects = {
            classes[label]: _objects((prediction == label) & valid, (truth == label) & valid, spacing)
            for label in scored
        }
    except ValueError:  # more components than can be told apart
        objects = None
    sums = (matrix.diagonal(), matrix.sum(1), matrix.sum(0))
    return CaseCounts(id, *(tuple(of.tolist()) for of in sums), objects=objects)


def _objects(prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> Objects:
    instances = find_instances(prediction, truth, Conventions().connectivity)
    detection = detect(instances)
    sizes = instances.true_sizes * float(np.prod(spacing))
    return Objects(
        tuple(sizes.tolist()), tuple(detection.found.tolist()), detection.right.size, int(detection.right.sum())
    )
