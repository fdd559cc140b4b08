"""Mixing: a box of every image is replaced by the same box of another image of the batch (CutMix).

Letters: N samples, D spatial dims, *S space. One plan is applied alike to all that belongs to an image: to the image,
its logits or labels, what is kept and what is valid. Boxes are drawn where the images are read, one image at a time;
plans are made where the batch is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TRIES, ROUNDS = 256, 1000
"""Boxes tried at once, and how often, before a box is said not to fit."""


def draw_box(
    size: Sequence[int],
    *,
    probability: float = 0.5,
    share: tuple[float, float] = (0.02, 0.4),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> Tensor:
    """A random box, from the global random state of torch.

        with `probability`:  V ~ U(share), once;  then until the box fits into the image:
            r_1 ... r_{D-1} ~ U(aspect), r_D = 1;   side_d = floor(S_d r_d (V / prod r)^(1 / D)), at least 1
            low_d ~ U{0 ... S_d - 1},  high = low + side

    In 2D, V is a share of the area and r the height over the width, the same in pixels for a square image: sides
    sqrt(V r) and sqrt(V / r) of those of the image. In other dims alike: V is a share of the volume, every side but
    the last is drawn relative to the last, and all are scaled so that their product is V. In 1D that leaves the share.

    Args:
        size: *S, one to three numbers of voxels.
        probability: of a box that is not empty, in [0, 1].
        share: smallest and largest share of the image, in (0, 1].
        aspect: smallest and largest ratio of sides, as shares of those of the image, above 0.

    Shape: -> (2, D) int64: the first voxel along each axis, and the first behind the box. The empty box is all zeros.

    Raises:
        ValueError: for numbers out of range, and for a share and an aspect with which no box fits.

    >>> _ = torch.manual_seed(0)
    >>> low, high = draw_box((100, 100), probability=1)
    >>> 0.015 < ((high - low).prod() / 100**2).item() < 0.4          # sides are rounded down
    True
    >>> draw_box((100, 100), probability=0).tolist()
    [[0, 0], [0, 0]]

    Notes: authors' codes know square images only. There, sides may be rounded down to 0, which is 1 here, and a box
    that cannot fit hangs.
    Reference: Yun et al., CutMix, ICCV 2019, arXiv 1905.04899; Yang et al. (UniMatch), CVPR 2023, arXiv 2208.09910,
    for the numbers.
    """
    _check_box(size, probability, share, aspect)
    if torch.rand(()).item() >= probability:
        return torch.zeros(2, len(size), dtype=torch.int64)
    extent = torch.tensor(size, dtype=torch.float64)
    volume = _uniform(1, 1, share)
    for _ in range(ROUNDS):
        ratios = torch.cat([_uniform(TRIES, len(size) - 1, aspect), torch.ones(TRIES, 1)], 1)
        scale = (volume / ratios.prod(1, keepdim=True)) ** (1 / len(size))
        side = (extent * ratios * scale).long().clamp_min(1)
        low = (extent * _uniform(TRIES, len(size), (0, 1))).long()
        fits = (low + side <= extent).all(1)
        if fits.any():
            first = int(fits.int().argmax())
            return torch.stack([low[first], low[first] + side[first]])
    raise ValueError(
        f"draw_box: no box of `share` {share} and `aspect` {aspect} fits into {tuple(size)} in {TRIES * ROUNDS} tries. "
        "Lower the share, or allow an aspect near 1."
    )


def partners(n: int) -> Tensor:
    """Whom each sample of a batch is mixed with: its neighbour.

        (0, 1), (2, 3), ... are swapped;  the last three of an odd n go round in a ring;  n = 1: itself

    Batches are shuffled already, so a neighbour is a random partner. No sample is its own for n > 1, and processes
    that get consecutive blocks of even size of a batch pair as one process with the whole batch does.

    Args:
        n: number of samples, at least 0.

    Shape: -> (n,) int64, a permutation.

    Raises:
        ValueError: for n below 0.

    >>> partners(4).tolist(), partners(5).tolist(), partners(1).tolist()
    ([1, 0, 3, 2], [1, 0, 3, 4, 2], [0])

    Notes: authors' codes read a second batch for the partners, in another order. Under their distributed samplers that
    is the same image again, in another crop.
    """
    if n < 0:
        raise ValueError(f"partners: `n` must be at least 0; got {n!r}. Pass the number of samples.")
    found = torch.arange(n) ^ 1
    if n % 2:
        found[-3:] = torch.tensor([n - 2, n - 1, n - 3]) if n > 1 else 0
    return found


@dataclass(frozen=True, eq=False)
class MixPlan:
    """What is taken from where: inside its box from the partner, elsewhere from the sample itself.

        plan(x)[n, v] = x[partner[n], v] if inside[n, v] else x[n, v]

    Args:
        partner: (N,) int64, as of `partners`. A sample that is its own partner stays as it is.
        inside: (N, *S) bool, on the device of the maps that will be mixed; `partner` alike.

    Shape: maps (N, *S) or (N, C, *S) of any dtype -> the same, a new tensor, through which gradients flow.

    Raises:
        ValueError: where shapes do not fit.

    >>> plan = MixPlan.of(torch.tensor([[[0], [2]], [[0], [0]]]), (3,))                # boxes [0, 2) and none
    >>> plan(torch.tensor([[1, 2, 3], [4, 5, 6]])).tolist()
    [[4, 5, 3], [4, 5, 6]]
    """

    partner: Tensor
    inside: Tensor

    def __post_init__(self):
        if self.partner.shape != self.inside.shape[:1]:
            raise ValueError(
                f"MixPlan: expected `partner` (N,) and `inside` (N, *S); got {tuple(self.partner.shape)} and "
                f"{tuple(self.inside.shape)}. Use MixPlan.of(boxes, size)."
            )

    @classmethod
    def of(cls, boxes: Tensor, size: Sequence[int]) -> "MixPlan":
        """The plan of boxes (N, 2, D), as `draw_box` draws them, in images of the size *S, between neighbours.

        >>> MixPlan.of(torch.tensor([[[0, 1], [1, 3]]]), (2, 3)).inside.int().tolist()
        [[[0, 1, 1], [0, 0, 0]]]
        """
        dims = len(size)
        if boxes.ndim != 3 or tuple(boxes.shape[1:]) != (2, dims):
            raise ValueError(
                f"MixPlan: `boxes` must be (N, 2, {dims}) for images of size {tuple(size)}; got {tuple(boxes.shape)}. "
                "Stack what draw_box returns."
            )
        inside = torch.ones(len(boxes), *size, dtype=torch.bool, device=boxes.device)
        for axis, length in enumerate(size):
            low, high = boxes[:, :, axis, None].unbind(1)
            place = torch.arange(length, device=boxes.device)
            along = (place >= low) & (place < high)
            inside &= along.view(-1, *(length if other == axis else 1 for other in range(dims)))
        return cls(partners(len(boxes)).to(boxes.device), inside)

    def __call__(self, maps: Tensor) -> Tensor:
        inside = self.inside[:, None] if maps.ndim == self.inside.ndim + 1 else self.inside
        if maps.ndim != inside.ndim or maps.shape[0] != inside.shape[0] or maps.shape[-self._dims :] != self._size:
            raise ValueError(
                f"MixPlan: `maps` must be (N, *S) = {tuple(self.inside.shape)}, or that with channels (N, C, *S); got "
                f"{tuple(maps.shape)}. Make the plan for the size of the maps."
            )
        return torch.where(inside, maps[self.partner], maps)

    def same_content(self, other: "MixPlan") -> Tensor:
        """Voxels that both plans take from the same sample, (N, *S) bool: inside both boxes, or outside both.

        Everything of a sample that is its own partner. That the partners are equal is checked on the CPU only, since
        other devices would have to be waited for.

        Raises:
            ValueError: for plans of other partners or another size.

        >>> a, b = (MixPlan.of(torch.tensor([[[0], [k]]] * 2), (4,)) for k in (1, 3))
        >>> a.same_content(b)[0].tolist()
        [True, False, False, True]
        """
        same = self.inside.shape == other.inside.shape
        if not same or (self.partner.device.type == "cpu" and not torch.equal(self.partner, other.partner)):
            raise ValueError(
                f"MixPlan: `other` must have the same partners and size; got {tuple(other.inside.shape)} against "
                f"{tuple(self.inside.shape)}{', with other partners' if same else ''}. Make both of the same batch."
            )
        alone = self.partner == torch.arange(len(self.partner), device=self.partner.device)
        return (self.inside == other.inside) | alone.view(-1, *[1] * self._dims)

    @property
    def _size(self) -> torch.Size:
        return self.inside.shape[1:]

    @property
    def _dims(self) -> int:
        return self.inside.ndim - 1


def _uniform(rows: int, columns: int, bounds: tuple[float, float]) -> Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(rows, columns, dtype=torch.float64)


def _check_box(
    size: Sequence[int], probability: float, share: tuple[float, float], aspect: tuple[float, float]
) -> None:
    if not 1 <= len(size) <= 3 or min(size) < 1:
        raise ValueError(f"draw_box: `size` must be one to three numbers of voxels, at least 1; got {tuple(size)}.")
    if not 0 <= probability <= 1:
        raise ValueError(f"draw_box: `probability` must be in [0, 1]; got {probability!r}. Try 0.5.")
    if not 0 < share[0] <= share[1] <= 1:
        raise ValueError(f"draw_box: `share` must be two numbers in (0, 1], smaller first; got {share!r}.")
    if not 0 < aspect[0] <= aspect[1] < float("inf"):
        raise ValueError(f"draw_box: `aspect` must be two numbers above 0, smaller first; got {aspect!r}.")
