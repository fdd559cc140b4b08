"""The hardest part of each row, as weights: what losses of hard voxels average over.

The K-th largest value of a row is found by partial ordering, O(M) for M values, and on a GPU by sorting, where K need
not be known to the host; everything above it is kept, and values equal to it share what is left of K, so that the
result depends on values only, never on their order. The selection carries no gradient. Sizes that depend on data stay
inside the op, so it compiles with fullgraph.
"""

import math

import numpy as np
import torch
from torch import Tensor

from delineate.ops.transforms import batched


@torch.library.custom_op("delineate::hardest", mutates_args=())
def hardest(
    values: Tensor, candidates: Tensor | None, fraction: float, at_least: int = 1, above: float | None = None
) -> tuple[Tensor, Tensor]:
    """Which values are among the largest.

    Args:
        values: (R, M), at least 0.
        candidates: (R, M) bool, what may be chosen; None: everything.
        fraction: in [0, 1]; K = max(at_least, floor(fraction * candidates of the row)), never more than there are.
        above: larger values are all kept, if these are more than K.

    Returns:
        weights (R, M) of the values' dtype: 1 kept, 0 not, a fraction for values tied with the K-th; they add up to
            the number kept.
        kept (R,) float64: this number.
    """
    if values.device.type != "cpu" and values.numel():
        return hardest_by_sorting(values, candidates, fraction, at_least, above)
    weights, kept = torch.zeros_like(values), values.new_zeros(values.shape[0], dtype=torch.float64)
    for row, found in enumerate(values):
        size = found.numel()
        if candidates is not None:
            found, size = found.masked_fill(~candidates[row], -1), _count(candidates[row])
        keep = min(size, max(at_least, math.floor(fraction * size + 1e-9)))
        if keep:
            kept[row] = _mark(found, keep, above, weights[row])
    return weights, kept


def hardest_by_sorting(
    values: Tensor, candidates: Tensor | None, fraction: float, at_least: int = 1, above: float | None = None
) -> tuple[Tensor, Tensor]:
    """The same as `hardest`, of at least one value: all rows at once, and nothing that the host must know."""
    if candidates is None:
        size = values.new_full((len(values), 1), values.shape[1], dtype=torch.float64)
    else:
        values, size = values.masked_fill(~candidates, -1), candidates.sum(1, keepdim=True).double()
    keep = (fraction * size + 1e-9).floor().clamp_min(at_least).minimum(size)
    least = values.sort(1, descending=True).values.gather(1, (keep.long() - 1).clamp_min(0))
    chosen, ties = values >= least, values == least
    surplus = (chosen.sum(1, keepdim=True) - keep).clamp_min(0)
    share = 1 - surplus / ties.sum(1, keepdim=True)
    weights = torch.where(ties, share.to(values.dtype), chosen.to(values.dtype))
    if above is not None:
        larger = values > above
        number = larger.sum(1, keepdim=True)
        enough = number >= keep
        weights, keep = torch.where(enough, larger.to(values.dtype), weights), torch.where(enough, number, keep)
    return weights, keep[:, 0].clone()


def _mark(values: Tensor, keep: int, above: float | None, weights: Tensor) -> int:
    """Write the weights of one row, and return their sum."""
    if above is not None:
        larger = values > above
        if _count(larger) >= keep:
            weights.copy_(larger)
            return _count(larger)
    least = _kth_largest(values, keep)
    chosen = values >= least
    weights.copy_(chosen)
    surplus = _count(chosen) - keep
    if surplus > 0:
        ties = values == least
        weights.masked_fill_(ties, 1 - surplus / _count(ties))
    return keep


def _count(mask: Tensor) -> int:
    """How many are true; numpy counts bytes many times faster than PyTorch."""
    return int(np.count_nonzero(mask.numpy()))


def _kth_largest(values: Tensor, k: int) -> Tensor:
    place = values.numel() - k
    return values.new_tensor(np.partition(values.numpy(), place)[place])


@hardest.register_fake
def _(values, candidates, fraction, at_least=1, above=None):
    return torch.empty_like(values), values.new_empty(values.shape[0], dtype=torch.float64)


hardest.register_vmap(batched(hardest))


@torch.library.custom_op("delineate::hardest_of_regions", mutates_args=())
def hardest_of_regions(costs: Tensor, ids: Tensor, background: Tensor | None, keep: Tensor, split: bool) -> Tensor:
    """Weights with which the costs of voxels add up to the mean of the K largest of each region, over all regions.

    A region is a component and all of the background beside it. The largest costs of the background are ordered once;
    a component's own j-th largest is kept while fewer than K - j costs of the background exceed it.

    Args:
        costs: (N, R, V), at least 0.
        ids: number of each voxel's component, (N, R, V) int32; 0 for none.
        background: (N, R, V) bool, voxels beside every component; None: there are none.
        keep: K of each sample, (N,) int64, at least 1.
        split: whether costs of the background are divided by the number of components.

    Returns:
        (N, R, V) of the type of the costs.
    """
    weights = torch.zeros_like(costs)
    for n, r in np.ndindex(*costs.shape[:2]):
        beside = None if background is None else background[n, r].cpu().numpy()
        found = _of_one_class(costs[n, r].cpu().numpy(), ids[n, r].cpu().numpy(), beside, int(keep[n]), split)
        weights[n, r] = torch.from_numpy(found)
    return weights


def _of_one_class(
    costs: np.ndarray, ids: np.ndarray, background: np.ndarray | None, keep: int, split: bool
) -> np.ndarray:
    weights = np.zeros_like(costs)
    places = np.flatnonzero(ids)
    if not places.size:
        return weights
    order = np.lexsort((-costs[places], ids[places]))
    places, numbers = places[order], ids[places][order]
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    number_of = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(numbers)))
    rank = np.arange(len(numbers)) - starts[number_of]
    share = 1 / len(starts) if split else 1.0
    beside = np.flatnonzero(background) if background is not None else np.empty(0, np.int64)
    largest = beside[np.argsort(-costs[beside], kind="stable")[:keep]]
    ascending = costs[largest][::-1] * share
    kept = len(largest) - np.searchsorted(ascending, costs[places], side="right") + rank < keep
    weights[places[kept]] = 1 / keep
    taken = np.minimum(keep - np.bincount(number_of, kept, len(starts)).astype(int), len(largest))
    more = len(starts) - np.cumsum(np.bincount(taken, minlength=len(largest) + 1))[: len(largest)]
    weights[largest] = more * share / keep
    return weights


@hardest_of_regions.register_fake
def _(costs, ids, background, keep, split):
    return torch.empty_like(costs)


hardest_of_regions.register_vmap(batched(hardest_of_regions))
