"""Selectors: which voxels of an unlabelled image are given the class that a network thinks most likely.

Letters: N samples, C channels, *S space. All of them read the probabilities alike, at the cost of one maximum over C:

    label = argmax_c p[c],    conf = max_c p[c],    keep = a rule on both

Nothing is kept of a gradient, and the probabilities stay as they are. Padding takes part like any other voxel: combine
`keep & valid` to leave it out of the loss, and set the probabilities to 0 there beforehand to leave it out of the
class maxima as well.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FixedThreshold:
    """Keep what the network is sure of, by one number.

        keep  iff  conf >= threshold

    Args:
        threshold: in [0, 1]; 0 keeps everything.

    Shape: probabilities (N, C, *S), C >= 2, one to three spatial dims, any float dtype, read in float32 (float64 stays)
        -> labels (N, *S) int64, keep (N, *S) bool.

    Raises:
        ValueError: for a threshold outside [0, 1], and for probabilities of another shape or kind.

    >>> probabilities = torch.tensor([[[0.95, 0.90], [0.05, 0.10]]])                    # N, C, S = 1, 2, 2
    >>> labels, keep = FixedThreshold(0.95)(probabilities)
    >>> labels.tolist(), keep.tolist()
    ([[0, 0]], [[True, False]])

    Notes: as in the authors' code, the bound itself is kept.
    Reference: Sohn et al., FixMatch: simplifying semi-supervised learning with consistency and confidence, NeurIPS
    2020, arXiv 2001.07685; Yang et al., Revisiting weak-to-strong consistency in semi-supervised semantic segmentation
    (UniMatch), CVPR 2023, arXiv 2208.09910.
    """

    threshold: float = 0.95

    def __post_init__(self):
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"FixedThreshold: `threshold` must be in [0, 1]; got {self.threshold!r}. Try 0.95.")

    def __call__(self, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        labels, confidence = most_likely("FixedThreshold", probabilities)
        return labels, confidence >= self.threshold


@dataclass(frozen=True)
class ClassMaxThreshold:
    """Keep what comes near the best voxel of its class in the same image.

        keep  iff  m[n, c] > floor  and  conf > ratio * m[n, c],      c = label,  m[n, c] = max over voxels of p[n, c]

    Args:
        floor: a class whose best voxel is not above it gives nothing.
        ratio: in (0, 1), with floor * ratio >= 0.5, so that only one class of a voxel can pass.

    Shape: probabilities (N, C, *S), C >= 2, one to three spatial dims, any float dtype, read in float32 (float64 stays)
        -> labels (N, *S) int64, keep (N, *S) bool.
    Range: the threshold of a class lies in (floor * ratio, ratio]: between 0.8832 and 0.96 by default.

    Raises:
        ValueError: unless 0 < ratio < 1 and floor * ratio >= 0.5, and for probabilities of another shape or kind.

    >>> first = torch.tensor([0.94, 0.91, 0.90, 0.30])                                  # class 0 peaks at 0.94
    >>> labels, keep = ClassMaxThreshold()(torch.stack([first, 1 - first])[None])       # thresholds 0.9024; none
    >>> labels.tolist(), keep.tolist()
    ([[0, 0, 0, 1]], [[True, True, False, False]])

    Notes: both bounds are strict. The authors' code lowers the threshold of every class and keeps a voxel where any
    class passes; above 0.5 that can only be the most likely one, and m is found at voxels labelled c, so one maximum
    over the channels and one over the labels do. Where floor * ratio < 0.5, two classes could pass, which that code
    counts as none; hence the error. A class that is learnt (m near 1) needs 0.96, slightly more than the usual 0.95.
    Reference: Tian et al., Improving semi-supervised semantic segmentation with dual-level Siamese structure network
    (DSSN), ACM MM 2023, arXiv 2307.13938.
    """

    floor: float = 0.92
    ratio: float = 0.96

    def __post_init__(self):
        if not (0 < self.ratio < 1 and self.floor * self.ratio >= 0.5):
            raise ValueError(
                "ClassMaxThreshold: expected 0 < ratio < 1 and floor * ratio >= 0.5; got "
                f"floor={self.floor!r}, ratio={self.ratio!r}. Raise floor, for example floor=0.92, ratio=0.96."
            )

    def __call__(self, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        labels, confidence = most_likely("ClassMaxThreshold", probabilities)
        where = labels.flatten(1)
        best = confidence.new_zeros(probabilities.shape[:2])
        best = best.scatter_reduce(1, where, confidence.flatten(1), "amax")
        best = best.gather(1, where).view_as(confidence)
        return labels, (best > self.floor) & (confidence > self.ratio * best)


@dataclass(frozen=True)
class NoSelection:
    """Keep everything.

        keep = true

    Shape: probabilities (N, C, *S), C >= 2, one to three spatial dims, any float dtype -> labels (N, *S) int64, keep
        (N, *S) bool.

    Raises:
        ValueError: for probabilities of another shape or kind.

    >>> labels, keep = NoSelection()(torch.tensor([[[0.6, 0.4], [0.4, 0.6]]]))
    >>> labels.tolist(), keep.tolist()
    ([[0, 1]], [[True, True]])

    Notes: what the authors of UniMatch and DSSN use on Cityscapes, there written as a threshold of 0.
    Reference: see `FixedThreshold` and `ClassMaxThreshold`.
    """

    def __call__(self, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        labels, confidence = most_likely("NoSelection", probabilities)
        return labels, torch.ones_like(confidence, dtype=torch.bool)


def most_likely(name: str, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """The class with the largest probability (the first, in ties) and that probability, in float32 at least.

    Args:
        name: who asks, for error messages.
        probabilities: (N, C, *S).

    Returns:
        (N, *S) int64 and (N, *S) float, both without a graph.

    >>> most_likely("example", torch.tensor([[[0.25], [0.75]]]))
    (tensor([[1]]), tensor([[0.7500]]))
    """
    shape = tuple(probabilities.shape)
    if not probabilities.is_floating_point() or not 3 <= len(shape) <= 5 or shape[1] < 2:
        raise ValueError(
            f"{name}: `probabilities` must be float (N, C, *S), C >= 2, with one to three spatial dims; got "
            f"{probabilities.dtype} {shape}. Pass logits.softmax(1)."
        )
    confidence, labels = probabilities.detach().max(1)
    return labels, confidence if confidence.dtype == torch.float64 else confidence.float()
