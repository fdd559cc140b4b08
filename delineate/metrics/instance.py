"""Instances: which true components are found, which predicted ones are false, and how well pairs overlap.

Letters: T true components, P predicted ones. All numbers come from the sizes of the components and the joint
histogram of (true, predicted) numbers, which `find_instances` counts once. Two ways to compare:

* detection by overlap: a true component is found if a predicted voxel lies in it, a predicted one is right if it
  touches a true one. Several may share one partner, so counts of right and found differ.
* matching: pairs of one true and one predicted component with an IoU (or Dice) above a threshold. From an IoU of 0.5
  on they are unique by themselves; below, the one-to-one choice of the largest total is taken, then of larger overlap.

What is undefined is None, such as the sensitivity where nothing is to be found. Components of fewer than `min_size`
voxels are left out: true ones with their voxels, and the predicted ones that touch none but these.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from delineate.metrics.grid import check_grid, check_masks
from delineate.ops.components import MOST, connected

MATCHES = ("overlap", "iou", "dice")
"""When a true component counts as found."""
FINEST = 1e-9
"""Share of the weight of a pair that its overlap decides: ties only."""


@dataclass(frozen=True)
class Instances:
    """The components of truth and prediction, and the voxels they share."""

    predicted_ids: np.ndarray
    """Number of each voxel's predicted component, (*S) int; 0 is none."""
    true_ids: np.ndarray
    """Number of each voxel's true component, (*S) int; 0 is none."""
    predicted_sizes: np.ndarray
    """Voxels of each predicted component, (P,) int64."""
    true_sizes: np.ndarray
    """Voxels of each true component, (T,) int64."""
    pairs: np.ndarray
    """Index of a true and of a predicted component that share voxels, counted from 0, (pairs, 2) int64."""
    shared: np.ndarray
    """How many voxels they share, (pairs,) int64."""

    @classmethod
    def from_ids(cls, predicted_ids: np.ndarray, true_ids: np.ndarray) -> "Instances":
        """Of maps of numbers (*S), of any integer dtype and any values from 0; they are renumbered without gaps."""
        check_grid(predicted_ids, true_ids, [1] * true_ids.ndim)
        for name, ids in (("predicted_ids", predicted_ids), ("true_ids", true_ids)):
            if ids.dtype.kind not in "iu" or (ids.size and ids.min() < 0):
                raise ValueError(f"{name}: expected integers from 0; got {ids.dtype}. Number the instances 1, 2, ...")
        (predicted_ids, predicted_sizes), (true_ids, true_sizes) = _compact(predicted_ids), _compact(true_ids)
        both = (predicted_ids > 0) & (true_ids > 0)
        rows, columns = true_ids[both] - 1, predicted_ids[both] - 1
        joint = coo_array(
            (np.ones(rows.size, np.int64), (rows, columns)), shape=(true_sizes.size, predicted_sizes.size)
        )
        joint = joint.tocsr().tocoo()  # adds up
        pairs = np.stack([joint.row, joint.col], 1).astype(np.int64)
        return cls(predicted_ids, true_ids, predicted_sizes, true_sizes, pairs, joint.data)

    def iou(self) -> np.ndarray:
        """IoU of each pair, (pairs,) float64."""
        return self.shared / (self._together() - self.shared)

    def dice(self) -> np.ndarray:
        """Dice of each pair, (pairs,) float64."""
        return 2 * self.shared / self._together()

    def _together(self) -> np.ndarray:
        return self.true_sizes[self.pairs[:, 0]] + self.predicted_sizes[self.pairs[:, 1]]


def _compact(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers without gaps, in their order, and how many voxels each has."""
    sizes = np.bincount(ids.ravel(), minlength=1)
    sizes[0] = 0
    if not sizes[1:].all():
        return np.cumsum(sizes > 0)[ids], sizes[sizes > 0]
    return ids, sizes[1:]


def find_instances(
    prediction: np.ndarray, truth: np.ndarray, connectivity: str = "full", min_size: int = 1
) -> Instances:
    """The components of two masks and the voxels they share.

    Args:
        prediction, truth: masks (*S) bool, one to three dims.
        connectivity: "face", "edge" or "full"; see `delineate.ops.components`.
        min_size: components of fewer voxels are left out. A true one takes with it its voxels in the prediction, and
            the predicted components that touch no larger true one: they are neither right nor false.

    Raises:
        ValueError: for unequal shapes, masks that are not bool, an unknown connectivity, a `min_size` below 1, and for
            more than `MOST` components of at least `min_size` voxels in one mask.

    >>> truth, prediction = np.array([[1, 1, 0, 1, 0, 0, 0], [1, 1, 0, 0, 0, 1, 0]], bool)
    >>> found = find_instances(prediction, truth)
    >>> found.true_sizes.tolist(), found.predicted_sizes.tolist(), found.pairs.tolist(), found.shared.tolist()
    ([2, 1], [2, 1], [[0, 0]], [2])
    """
    check_grid(prediction, truth, [1] * truth.ndim)
    check_masks(prediction=prediction, truth=truth)
    if min_size < 1:
        raise ValueError(f"min_size: expected at least 1 voxel; got {min_size}.")
    found = Instances.from_ids(*(connected(mask, connectivity, most=None)[0] for mask in (prediction, truth)))
    found = found if min_size == 1 else _without_small(found, min_size)
    for name, sizes in (("prediction", found.predicted_sizes), ("truth", found.true_sizes)):
        if sizes.size > MOST:
            raise ValueError(
                f"{name}: expected at most {MOST} connected components; got {sizes.size}. This is noise rather than "
                "instances: correct it, or leave out small components with min_size."
            )
    return found


def _without_small(found: Instances, min_size: int) -> Instances:
    small = found.true_sizes < min_size
    touched, by = found.pairs.T
    excused = np.zeros(found.predicted_sizes.size, bool)
    excused[by[small[touched]]] = True
    excused[by[~small[touched]]] = False
    out, none = excused | (found.predicted_sizes < min_size), np.array([False])
    of_small = np.concatenate([none, small])[found.true_ids]
    dropped = np.concatenate([none, out])[found.predicted_ids] | of_small
    return Instances.from_ids(np.where(dropped, 0, found.predicted_ids), np.where(of_small, 0, found.true_ids))


@dataclass(frozen=True)
class Detection:
    """Which components have a partner."""

    found: np.ndarray
    """Of each true component, (T,) bool."""
    right: np.ndarray
    """Of each predicted component, (P,) bool."""
    dice: np.ndarray
    """Of each true component with its partner, or with all predicted components that touch it, (T,) float64; 0 where
    it is missed."""

    @property
    def false_positives(self) -> int:
        """Predicted components without a partner."""
        return int(self.right.size - self.right.sum())

    @property
    def sensitivity(self) -> float | None:
        """Found of all true ones; None where there are none."""
        return float(self.found.mean()) if self.found.size else None

    @property
    def precision(self) -> float | None:
        """Right of all predicted ones; without any, 0 where there is a true one, else None."""
        if self.right.size:
            return float(self.right.mean())
        return 0.0 if self.found.size else None

    @property
    def f1(self) -> float:
        """Harmonic mean of sensitivity and precision; 1 where there is neither a true nor a predicted component."""
        if not self.found.size and not self.right.size:
            return 1.0
        sensitivity, precision = self.sensitivity or 0.0, self.precision or 0.0
        return 2 * sensitivity * precision / (sensitivity + precision) if sensitivity + precision else 0.0

    @property
    def found_dice(self) -> float | None:
        """Mean Dice of the true components that are found, which rewards missing hard ones; None without any."""
        return float(self.dice[self.found].mean()) if self.found.any() else None

    @property
    def lesion_dice(self) -> float:
        """Mean Dice over all true components and all false positives, each missed or false one 0; 1 without any."""
        count = self.dice.size + self.false_positives
        return float(self.dice.sum() / count) if count else 1.0


def detect(instances: Instances, match: str = "overlap", threshold: float = 0.5) -> Detection:
    """Which components are found and which are right.

    Args:
        match: "overlap", one shared voxel is enough, many to many; or "iou" or "dice" above `threshold`, one to one.
        threshold: 0 to 1; "overlap" does not look at it.
    """
    check_match(match, threshold)
    true, predicted, shared = instances.true_sizes, instances.predicted_sizes, instances.shared
    chosen = np.arange(shared.size) if match == "overlap" else match_pairs(instances, match, threshold)
    of_true, of_predicted = instances.pairs[chosen].T
    found, right = np.zeros(true.size, bool), np.zeros(predicted.size, bool)
    found[of_true], right[of_predicted] = True, True
    both = np.bincount(of_true, shared[chosen], true.size)
    partners = np.bincount(of_true, predicted[of_predicted], true.size)
    return Detection(found, right, 2 * both / (true + partners))


@dataclass(frozen=True)
class Panoptic:
    """Pairs of matched components, and the counts of those that are left (Kirillov et al. 2019, arXiv 1801.00868)."""

    iou: np.ndarray
    """Of each pair, (TP,) float64."""
    false_positives: int
    false_negatives: int

    @property
    def matched(self) -> int:
        """Number of pairs, TP."""
        return self.iou.size

    @property
    def sq(self) -> float | None:
        """Segmentation quality: mean IoU of the pairs; None without any."""
        return float(self.iou.mean()) if self.matched else None

    @property
    def rq(self) -> float | None:
        """Recognition quality: TP / (TP + FP / 2 + FN / 2); None where there is neither a true nor a predicted one."""
        return self._of_all(self.matched)

    @property
    def pq(self) -> float | None:
        """Panoptic quality: the sum of the IoU of the pairs in place of their number, SQ * RQ; None as in `rq`."""
        return self._of_all(float(self.iou.sum()))

    def _of_all(self, amount: float) -> float | None:
        count = self.matched + (self.false_positives + self.false_negatives) / 2
        return amount / count if count else None


def panoptic(instances: Instances, match: str = "iou", threshold: float = 0.5) -> Panoptic:
    """PQ, SQ, RQ and their counts. `match` says what must exceed `threshold`, "iou" or "dice"; SQ is of IoU anyway."""
    iou = instances.iou()[match_pairs(instances, match, threshold)]
    return Panoptic(iou, instances.predicted_sizes.size - iou.size, instances.true_sizes.size - iou.size)


def check_match(match: str, threshold: float, among: tuple[str, ...] = MATCHES) -> None:
    """Raises ValueError for an unknown rule or a threshold out of range."""
    if match not in among:
        raise ValueError(f"match: expected one of {', '.join(among)}; got {match!r}.")
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold: expected 0 <= threshold < 1; got {threshold}.")


def match_pairs(instances: Instances, match: str = "iou", threshold: float = 0.5) -> np.ndarray:
    """Rows of `instances.pairs` that are matched one to one, (TP,) int64, in order.

    Of the pairs whose IoU (or Dice) is above `threshold`, those of the largest total; of equal ones, those that share
    more voxels.
    """
    check_match(match, threshold, MATCHES[1:])
    score = instances.iou() if match == "iou" else instances.dice()
    (rows,) = np.nonzero(score > threshold)
    if not rows.size:
        return rows
    pairs, shared = instances.pairs[rows], instances.shared[rows]
    weights = score[rows] + FINEST * shared / shared.max()
    chosen = [members[_assign(pairs[members], weights[members])] for members in _contested(pairs)]
    return np.sort(rows[np.concatenate(chosen)])


def _contested(pairs: np.ndarray) -> list[np.ndarray]:
    """Groups of rows whose pairs hang together by common partners; most are alone."""
    trues = int(pairs[:, 0].max()) + 1
    count = trues + int(pairs[:, 1].max()) + 1
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], trues + pairs[:, 1])), shape=(count, count))
    block = connected_components(graph, directed=False)[1][pairs[:, 0]]
    order = np.argsort(block, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(block[order])) + 1)


def _assign(pairs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Rows of the one-to-one choice of largest weight."""
    if len(pairs) == 1:
        return np.array([0])
    (rows, row), (columns, column) = (np.unique(side, return_inverse=True) for side in pairs.T)
    table, number = np.zeros((2, rows.size, columns.size))
    table[row, column], number[row, column] = weights, np.arange(1, len(pairs) + 1)
    taken = number[linear_sum_assignment(table, maximize=True)].astype(np.int64)
    return taken[taken > 0] - 1
