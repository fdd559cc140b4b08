"""Losses by region: counts by explicit sums, then each formula as its paper prints it."""

import math

import numpy as np

from reference.samples import Sample, samples


def region_loss(
    formula, logits, target, weight=None, *, mode="softmax", ignore_index=None, class_weight=None, classes=None,
    reduction="mean", pool="sample", absent="skip",
):  # fmt: skip
    """formula: of one class's Sample restricted to it -> number; "generalized:<weighting>" for the joint ratio."""
    batch = list(samples(logits, target, weight, mode=mode, ignore_index=ignore_index))
    alive = [s.p.shape[1] > 0 for s in batch]
    if pool == "batch":
        whole = Sample(
            *(np.concatenate([getattr(s, f) for s in batch], axis=-1) for f in ("p", "y", "log_p", "log_q", "w"))
        )
        value = _row(formula, whole, class_weight, classes, absent)
        rows = [value if ok else 0.0 for ok in alive]
    else:
        rows = [
            _row(formula, s, class_weight, classes, absent) if ok else 0.0 for s, ok in zip(batch, alive, strict=True)
        ]
    if reduction == "none":
        return np.array(rows)
    return sum(rows) if reduction == "sum" else sum(rows) / max(1, sum(alive))


def _row(formula, s, class_weight, classes, absent):
    scored = list(range(len(s.p))) if classes is None else list(classes)
    a = np.ones(len(s.p)) if class_weight is None else np.asarray(class_weight, dtype=np.float64)
    present = [c for c in scored if (s.w * s.y[c]).sum() > 0]
    counted = present if absent == "skip" and present else scored

    def rate(c):
        outside = (s.w * (1 - s.y[c])).sum()
        return (s.w * (s.p[c] - np.minimum(s.p[c], s.y[c]))).sum() / outside

    if isinstance(formula, str):
        if not present:
            return sum(a[c] * rate(c) for c in counted) / sum(a[c] for c in counted)
        return _generalized(formula.split(":")[1], s, a, present, counted)
    values = {c: formula(s.p[c], s.y[c], s.w) if c in present else rate(c) for c in counted}
    return sum(a[c] * values[c] for c in counted) / sum(a[c] for c in counted)


def _generalized(weighting, s, a, present, counted):
    size = {c: (s.w * s.y[c]).sum() for c in present}
    w = {c: {"square": 1 / n**2, "simple": 1 / n, "uniform": 1.0}[weighting] for c, n in size.items()}
    largest = max(w.values())
    above = below = 0.0
    for c in counted:
        factor = a[c] * w.get(c, largest)
        above += factor * (s.w * np.minimum(s.p[c], s.y[c])).sum()
        below += factor * ((s.w * s.p[c]).sum() + (s.w * s.y[c]).sum())
    return 1 - 2 * above / below


def _tp(p, y, w):
    """The soft-label form of the true positives; p y for labels."""
    return (w * (p + y - np.abs(p - y)) / 2).sum()


def dice(smooth=0.0):
    return lambda p, y, w: 1 - (2 * _tp(p, y, w) + smooth) / ((w * p).sum() + (w * y).sum() + smooth)


def squared_dice(smooth=0.0):
    return lambda p, y, w: 1 - (2 * (w * p * y).sum() + smooth) / ((w * p * p).sum() + (w * y * y).sum() + smooth)


def jaccard(smooth=0.0):
    def value(p, y, w):
        tp = _tp(p, y, w)
        return 1 - (tp + smooth) / ((w * p).sum() + (w * y).sum() - tp + smooth)

    return value


def tversky(fp_weight, fn_weight, smooth=0.0):
    def value(p, y, w):
        tp = _tp(p, y, w)
        fp, fn = (w * p).sum() - tp, (w * y).sum() - tp
        return 1 - (tp + smooth) / (tp + fp_weight * fp + fn_weight * fn + smooth)

    return value


def focal_tversky(fp_weight, fn_weight, exponent, smooth=0.0):
    index = tversky(fp_weight, fn_weight, smooth)
    return lambda p, y, w: index(p, y, w) ** exponent


def log_cosh_dice(smooth=0.0):
    plain = dice(smooth)
    return lambda p, y, w: math.log(math.cosh(plain(p, y, w)))
