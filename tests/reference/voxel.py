"""Losses by voxel: every voxel's cost is written down, then averaged."""

import math
from dataclasses import dataclass

import numpy as np

from reference.samples import samples


@dataclass
class Term:
    """What one voxel adds (one voxel and channel in sigmoid mode)."""

    cost: float
    """With all its weights."""
    hardness: float
    """Its cross entropy, without any."""
    weight: float
    """Its part of the divisor of normalize="weight"."""
    size: float
    """Its part of the divisor of normalize="count"."""


def voxel_loss(
    kind, logits, target, weight=None, *, mode="softmax", ignore_index=None, class_weight=None, classes=None,
    reduction="mean", label_smoothing=0.0, **own,
):  # fmt: skip
    """kind: a function of this file; called with the own arguments, it gives a price and a way to average."""
    price, average = kind(**own)
    rows = []
    for s in samples(logits, target, weight, mode=mode, ignore_index=ignore_index):
        channels = len(s.p)
        a = np.ones(channels) if class_weight is None else np.asarray(class_weight, dtype=np.float64)
        scored = range(channels) if classes is None else classes
        terms = _softmax_terms if mode == "softmax" else _sigmoid_terms
        rows.append(terms(price(s, mode), s, a, scored, classes is None, label_smoothing))
    groups = [[term for row in rows for term in row]] if reduction == "mean" else rows
    values = np.array([average(group) if group else 0.0 for group in groups])
    return values[0] if reduction == "mean" else values.sum() if reduction == "sum" else values


def _softmax_terms(price, s, a, scored, everything, smoothing):
    terms = []
    for i in range(s.p.shape[1]):
        w, log_p, y = s.w[i], s.log_p[:, i], s.y[:, i]
        named = sum(y[c] for c in scored)
        if not (everything or named or smoothing):
            continue
        labelled = [c for c in scored if y[c] > 0]
        cost = sum(a[c] * y[c] * price(c, True, log_p[c]) for c in labelled)
        if smoothing:
            cost = (1 - smoothing) * cost + smoothing / len(y) * sum(a[c] * -log_p[c] for c in scored)
        hardness = sum(y[c] * -log_p[c] for c in labelled)
        terms.append(Term(w * cost, hardness, w * sum(a[c] * y[c] for c in scored), 1.0 if everything else named))
    return terms


def _sigmoid_terms(price, s, a, scored, _, smoothing):
    terms = []
    for i in range(s.p.shape[1]):
        for c in scored:
            w, log_p, log_q, y = s.w[i] * a[c], s.log_p[c, i], s.log_q[c, i], s.y[c, i]
            cost = y * price(c, True, log_p) + (1 - y) * price(c, False, log_q)
            cost = (1 - smoothing) * cost + smoothing / 2 * (-log_p - log_q)
            terms.append(Term(w * cost, -y * log_p - (1 - y) * log_q, w, 1.0))
    return terms


def mean(terms, normalize="count"):
    divisor = sum(t.weight if normalize == "weight" else t.size for t in terms)
    return sum(t.cost for t in terms) / divisor if divisor else 0.0


def same(price):
    """A price that is the same in every sample and mode: of the class, on or off, and log of its probability."""
    return lambda s, mode: price


def plain(c, on, log_p):
    return -log_p


def cross_entropy(normalize="count"):
    return same(plain), lambda terms: mean(terms, normalize)


def balanced():
    def price(s, mode):
        share = shares(s)
        full, empty = (s.y[:, s.w > 0] == 1).all(1), (s.y[:, s.w > 0] == 0).all(1)

        def value(c, on, log_p):
            single = full.any() if mode == "softmax" else full[c] or empty[c]
            return -log_p if single else -log_p * (1 - share[c] if on else share[c])

        return value

    return price, mean


def shares(s):
    """The weighted share of each class in the sample."""
    return (s.y @ s.w) / s.w.sum() if s.w.sum() > 0 else np.zeros(len(s.y))


def topk(k=0.1):
    def hardest(terms):
        keep = max(1, math.floor(k * len(terms) + 1e-9))
        return float(np.mean(sorted((t.cost for t in terms), reverse=True)[:keep]))

    return same(plain), hardest


def ohem(threshold=0.7, min_kept=None):
    def kept(terms):
        hard = [t.cost for t in terms if t.hardness > -math.log(threshold)]
        share = 1 / 16 if min_kept is None else min_kept
        at_least = min(len(terms), max(1, math.floor(share * len(terms))) if share < 1 else share)
        if len(hard) >= at_least:
            return sum(hard) / len(hard)
        last = sorted((t.hardness for t in terms), reverse=True)[at_least - 1]
        above = [t.cost for t in terms if t.hardness > last]
        tied = [t.cost for t in terms if t.hardness == last]
        return (sum(above) + (at_least - len(above)) * sum(tied) / len(tied)) / at_least

    return same(plain), kept


def focal(gamma=2.0, alpha=None):
    def price(c, on, log_p):
        share = 1.0 if alpha is None else alpha if on else 1 - alpha
        return share * (1 - np.exp(log_p)) ** gamma * -log_p

    return same(price), mean


def poly(epsilon=1.0, gamma=0.0):
    def price(c, on, log_p):
        q = 1 - np.exp(log_p)
        return q**gamma * -log_p + epsilon * q ** (gamma + 1)

    return same(price), mean
