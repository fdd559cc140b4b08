"""Compound losses: a mean over voxels and a mean over classes, each with the price or formula of its paper."""

import math

import numpy as np

from reference.region import OfEveryClass, counts, false_positive_rate, region_loss
from reference.voxel import mean, same, shares, voxel_loss


def _voxel_part(price, batch, pool="sample", absent="skip", **common):
    """`price` of (sample, mode). Voxels know no pools and no absent classes."""
    return voxel_loss(lambda: (price, mean), *batch, **common)


def _region_part(formula, batch, **common):
    return region_loss(lambda: formula, *batch, **common)


def combo_loss(
    logits, target, weight=None, *, mode="softmax", ce_weight=0.5, positive_weight=0.5, smooth=1.0, **common
):
    def price(c, on, log_p):
        positive = c > 0 if mode == "softmax" else on
        return (positive_weight if positive else 1 - positive_weight) * -log_p

    def coefficient(s, c):
        if (s.w * s.y[c]).sum() == 0:
            return 1 - false_positive_rate(s, c)
        tp, fp, fn, _ = counts(s, c)
        return (2 * tp + smooth) / (2 * tp + fp + fn + smooth)

    batch, common = (logits, target, weight), {**common, "mode": mode}
    return ce_weight * _voxel_part(same(price), batch, **common) - (1 - ce_weight) * _region_part(
        OfEveryClass(coefficient), batch, **common
    )


def exponential_logarithmic_loss(
    logits, target, weight=None, *,
    dice_weight=0.8, ce_weight=0.2, dice_gamma=0.3, ce_gamma=0.3, smooth=1.0, class_weight=None, **common,
):  # fmt: skip
    def price(s, mode):
        on_share = shares(s)
        whole = on_share.sum() if mode == "softmax" else 1.0

        def value(c, on, log_p):
            share = on_share[c] if on else 1 - on_share[c]
            rarity = 1.0 if class_weight is not None else math.sqrt(whole / share) if share > 0 else 0.0
            return rarity * (-log_p) ** ce_gamma

        return value

    def of_class(s, c):
        tp, fp, fn, _ = counts(s, c)
        dice = (2 * tp + smooth) / (2 * tp + fp + fn + smooth)
        return max(0.0, -math.log(dice)) ** dice_gamma

    batch, common = (logits, target, weight), {**common, "class_weight": class_weight}
    return dice_weight * _region_part(of_class, batch, **common) + ce_weight * _voxel_part(price, batch, **common)


def unified_focal_loss(
    logits, target, weight=None, *, mode="softmax",
    focal_weight=0.5, fn_weight=0.6, fp_weight=None, gamma=0.5, asymmetric=True, smooth=0.0, **common,
):  # fmt: skip
    fp_weight = 1 - fn_weight if fp_weight is None else fp_weight

    def price(c, on, log_p):
        foreground = c > 0 if mode == "softmax" else on
        if foreground:
            return fn_weight * -log_p * (1.0 if asymmetric else (1 - np.exp(log_p)) ** gamma)
        return fp_weight * -log_p * (1 - np.exp(log_p)) ** gamma

    def of_class(s, c):
        tp, fp, fn, _ = counts(s, c)
        index = (tp + smooth) / (tp + fn_weight * fn + fp_weight * fp + smooth)
        background = mode == "softmax" and c == 0
        return max(0.0, 1 - index) ** (1.0 if asymmetric and background else 1 - gamma)

    batch, common = (logits, target, weight), {**common, "mode": mode}
    return focal_weight * _voxel_part(same(price), batch, **common) + (1 - focal_weight) * _region_part(
        of_class, batch, **common
    )
