"""Agreement of two maps of logits: whether two views of an image rank the classes of a voxel alike."""

import torch
from torch import Tensor


def logit_agreement(a: Tensor, b: Tensor, mask: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """Mean squared difference of logits that are standardised over the channels, voxel by voxel.

        z(h)[c, v] = (h[c, v] - mean_c h[:, v]) / sqrt(var_c h[:, v] + eps)          unbiased variance (C - 1)
        value      = sum_v w_v mean_c (z(a)[c, v] - z(b)[c, v])^2 / sum_v w_v

    At eps = 0 that is 2 (C - 1) / C (1 - r), with r the correlation of both voxels' logits over the channels.

    Args:
        a, b: logits, or other features, of the same shape. Both get a gradient.
        mask: which voxels count, bool, or by how much, float at least 0; None: all, equally. Values at voxels of
            weight 0 do not matter, even if they are not finite.
        eps: added to the variance, at least 0. 1e-6 changes the value by 1e-6 of itself where logits differ by about
            1, by 1 % where they differ by 0.01. At 0, a voxel of equal logits makes the value NaN.

    Shape: a, b (N, C, *S), C >= 3, any number of spatial dims; mask (N, *S) -> (), float32, or float64 for float64
        inputs. Computed in float32 at least, under autocast too.
    Range: [0, 4 (C - 1) / C]; 0 for logits that are equal up to a positive affine map, about 2 (C - 1) / C for
        unrelated ones. No voxel that counts: 0 with a graph.

    Raises:
        ValueError: for fewer than 3 channels, shapes that do not fit, and eps below 0.

    >>> a = torch.tensor([[[1.0], [2.0], [4.0]]])                                     # N, C, S = 1, 3, 1
    >>> round(logit_agreement(a, 3 * a + 1).item(), 4), round(logit_agreement(a, -a).item(), 4)     # 4 (C - 1) / C
    (0.0, 2.6667)

    Not for: two classes, whose standardised logits keep only a sign, and their gradient is rounding noise.
    Notes: positives only (the same voxel in two views), on logits: no negatives, temperature or projection. eps stands
    under the root: beside it, the gradient at equal logits is in the thousands; without it, value and gradient are
    NaN. The mean is that of this process; in a run of several, `delineate.ops.ranks.share_of_ranks` of the mask's sum
    is the factor that makes them add up.
    Reference: Tian et al., Improving semi-supervised semantic segmentation with dual-level Siamese structure network
    (DSSN), ACM MM 2023, arXiv 2307.13938.
    """
    _check(a, b, mask, eps)
    wide = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    with torch.autocast(a.device.type, enabled=False):
        outside = None if mask is None else (mask == 0)[:, None]
        difference = _standardised(a.to(wide), outside, eps) - _standardised(b.to(wide), outside, eps)
        by_voxel = difference.square().mean(1).double()
        weight = torch.ones_like(by_voxel) if mask is None else mask.detach().double()
        total = weight.sum()
        return ((by_voxel * weight).sum() / torch.where(total > 0, total, 1)).to(wide)


def _standardised(h: Tensor, outside: Tensor | None, eps: float) -> Tensor:
    """z of the formula; 0 outside."""
    if outside is not None:
        h = h.masked_fill(outside, 0)
    centred = h - h.mean(1, keepdim=True)
    variance = centred.square().sum(1, keepdim=True) / (h.shape[1] - 1)
    scale = variance + eps
    return centred * (scale if outside is None else scale.masked_fill(outside, 1)).rsqrt()


def _check(a: Tensor, b: Tensor, mask: Tensor | None, eps: float) -> None:
    shape = tuple(a.shape)
    if tuple(b.shape) != shape or len(shape) < 3 or not (a.is_floating_point() and b.is_floating_point()):
        raise ValueError(
            f"logit_agreement: `a` and `b` must be float maps (N, C, *S) of one shape; got {a.dtype} {shape} and "
            f"{b.dtype} {tuple(b.shape)}. Pass the network's raw output for two views of the same voxels."
        )
    if shape[1] < 3:
        raise ValueError(
            f"logit_agreement needs at least 3 channels, got {shape[1]}: standardised two-class logits keep only a "
            "sign. Pass decoder features, or use `DSSN(agree_weight=0)`."
        )
    expected = (shape[0], *shape[2:])
    if mask is not None and tuple(mask.shape) != expected:
        raise ValueError(
            f"logit_agreement: `mask` must be one value per voxel, {expected}, to match {shape}; got "
            f"{tuple(mask.shape)}. Pass a bool or float mask without a channel dim."
        )
    if not eps >= 0:
        raise ValueError(f"logit_agreement: `eps` must be at least 0; got {eps!r}. Try 1e-6.")
