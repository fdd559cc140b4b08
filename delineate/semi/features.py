"""Perturbation of features: whole channels are dropped between encoder and decoder."""

from collections.abc import Sequence

import torch
from torch import Tensor


def channel_dropout(features: Sequence[Tensor], share: float, seeds: Tensor) -> list[Tensor]:
    """Drop whole channels of feature maps, by a random mask that depends on the sample alone.

        out_k[n, c] = features_k[n, c] * keep_k[n, c] / (1 - share),      P(keep = 1) = 1 - share

    The masks of sample n, of one map after the other, come from a generator of its own, seeded by `seeds[n]`: neither
    the rest of the batch nor the number of processes changes them, nor is the global random state used.

    Args:
        features: maps of one batch, of any number of channels and size.
        share: probability of a channel to be dropped, in [0, 1); 0 gives the maps as they are.
        seeds: (N,) integers, best on the CPU: others are waited for.

    Shape: maps (N, C_k, *S_k) -> the same, of the same dtype.

    Raises:
        ValueError: for a share outside [0, 1), and for seeds that are not one integer a sample.

    >>> x = torch.ones(2, 6, 1)
    >>> [y] = channel_dropout([x], 0.5, torch.tensor([3, 4]))
    >>> sorted(set(y.flatten().tolist())), torch.equal(y[1:], channel_dropout([x[1:]], 0.5, torch.tensor([4]))[0])
    ([0.0, 2.0], True)

    Notes: the same in distribution as `torch.nn.Dropout2d`, which the authors' codes use, and whose masks depend on
    the order of the batch and the device.
    Reference: Yang et al., Revisiting weak-to-strong consistency in semi-supervised semantic segmentation (UniMatch),
    CVPR 2023, arXiv 2208.09910; Tian et al. (DSSN), ACM MM 2023, arXiv 2307.13938.
    """
    if not 0 <= share < 1:
        raise ValueError(f"channel_dropout: `share` must be in [0, 1); got {share!r}. Try 0.5.")
    count = {len(feature) for feature in features}
    whole = not (seeds.is_floating_point() or seeds.is_complex() or seeds.dtype == torch.bool)
    if not whole or seeds.ndim != 1 or count - {len(seeds)}:
        raise ValueError(
            f"channel_dropout: `seeds` must be integers (N,), one for each of {sorted(count)} samples; got "
            f"{seeds.dtype} {tuple(seeds.shape)}. Pass one seed a sample."
        )
    if share == 0 or not features:
        return list(features)
    channels = [feature.shape[1] for feature in features]
    drawn = [torch.rand(sum(channels), generator=torch.Generator().manual_seed(seed)) for seed in seeds.tolist()]
    uniform = torch.stack(drawn) if drawn else torch.empty(0, sum(channels))
    factors = ((uniform >= share) / (1 - share)).split(channels, 1)
    return [
        feature * factor.to(feature).view(*factor.shape, *[1] * (feature.ndim - 2))
        for feature, factor in zip(features, factors, strict=True)
    ]
