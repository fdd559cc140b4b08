"""Losses by region: counts by explicit sums, then each formula as its paper prints it."""

import math

import numpy as np

from reference.samples import Sample, samples


def region_loss(
    formula, logits, target, weight=None, *, mode="softmax", ignore_index=None, class_weight=None, classes=None,
    reduction="mean", pool="sample", absent="skip", **own,
):  # fmt: skip
    """formula: a function of this file; called with the own arguments, it gives a formula of (sample, class)."""
    formula = formula(**own)
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
    if isinstance(formula, Joint) and present:
        return formula.value(s, a, present, counted)
    by_formula = scored if isinstance(formula, OfEveryClass) else present
    values = {c: formula(s, c) if c in by_formula else false_positive_rate(s, c) for c in counted}
    return sum(a[c] * values[c] for c in counted) / sum(a[c] for c in counted)


class Joint:
    """A formula over all classes at once: of the sample, the class weights, the present and the counted classes."""

    def __init__(self, value):
        self.value = value


class OfEveryClass:
    """A formula that also holds for absent classes, in place of their false-positive rate."""

    def __init__(self, value):
        self.value = value

    def __call__(self, s, c):
        return self.value(s, c)


def counts(s, c):
    """TP, FP, FN and TN of one class; with soft labels TP is the smaller of p and y, which for labels is p y."""
    tp = (s.w * (s.p[c] + s.y[c] - np.abs(s.p[c] - s.y[c])) / 2).sum()
    fp, fn = (s.w * s.p[c]).sum() - tp, (s.w * s.y[c]).sum() - tp
    return tp, fp, fn, s.w.sum() - tp - fp - fn


def false_positive_rate(s, c):
    _, fp, _, tn = counts(s, c)
    return fp / (fp + tn)


def dice(squared=False, smooth=0.0):
    def plain(s, c):
        tp, fp, fn, _ = counts(s, c)
        return 1 - (2 * tp + smooth) / (2 * tp + fp + fn + smooth)

    def of_squares(s, c):
        p, y, w = s.p[c], s.y[c], s.w
        return 1 - (2 * (w * p * y).sum() + smooth) / ((w * p * p).sum() + (w * y * y).sum() + smooth)

    return of_squares if squared else plain


def jaccard(smooth=0.0):
    return tversky(1.0, 1.0, smooth)


def tversky(fp_weight=0.3, fn_weight=0.7, smooth=0.0):
    def value(s, c):
        tp, fp, fn, _ = counts(s, c)
        return 1 - (tp + smooth) / (tp + fp_weight * fp + fn_weight * fn + smooth)

    return value


def focal_tversky(fp_weight=0.3, fn_weight=0.7, exponent=0.75, smooth=0.0):
    plain = tversky(fp_weight, fn_weight, smooth)
    return lambda s, c: plain(s, c) ** exponent


def log_cosh_dice(smooth=0.0):
    plain = dice(smooth=smooth)
    return lambda s, c: math.log(math.cosh(plain(s, c)))


def asymmetric_similarity(beta=1.5, smooth=0.0):
    def value(s, c):
        tp, fp, fn, _ = counts(s, c)
        hit = (1 + beta**2) * tp
        return 1 - (hit + smooth) / (hit + beta**2 * fn + fp + smooth)

    return value


def sensitivity_specificity(r=0.05):
    def value(s, c):
        error = s.w * (s.y[c] - s.p[c]) ** 2
        inside, outside = (s.w * s.y[c]).sum(), (s.w * (1 - s.y[c])).sum()
        missed = (error * s.y[c]).sum() / inside
        invented = (error * (1 - s.y[c])).sum() / outside if outside > 0 else 0.0
        return r * missed + (1 - r) * invented

    return value


def mcc():
    def value(s, c):
        tp, fp, fn, tn = counts(s, c)
        if (s.w * (1 - s.y[c])).sum() == 0:
            return fn / (tp + fn)
        margins = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
        return 1 - (tp * tn - fp * fn) / math.sqrt(margins) if margins > 0 else 1.0

    return value


def generalized_dice(weighting="square"):
    def value(s, a, present, counted):
        size = {c: (s.w * s.y[c]).sum() for c in present}
        w = {c: {"square": 1 / n**2, "simple": 1 / n, "uniform": 1.0}[weighting] for c, n in size.items()}
        largest = max(w.values())
        above = below = 0.0
        for c in counted:
            tp, fp, fn, _ = counts(s, c)
            factor = a[c] * w.get(c, largest)
            above += factor * 2 * tp
            below += factor * (2 * tp + fp + fn)
        return 1 - above / below

    return Joint(value)


def penalty_generalized_dice(k=2.5, weighting="square"):
    plain = generalized_dice(weighting)

    def value(*row):
        coefficient = 1 - plain.value(*row)
        return (1 - coefficient) / (1 + k * coefficient)

    return Joint(value)
