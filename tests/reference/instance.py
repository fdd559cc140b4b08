"""Losses by instance: the arrays are masked for one component at a time and handed to the inner formula."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt, generate_binary_structure, label

from reference.grids import grids, ratio, scored_classes, steps_of

REGION = ("dice", "squared_dice", "jaccard", "tversky", "focal_tversky")
VOXEL = ("ce", "focal", "poly", "topk")


def blob_loss(logits, target, weight=None, *, inner, fp_scope="shared", **options):
    def blobs(s, c, found, value):
        names, behind = found.blobs, found.background
        w = np.where(behind, s.w / max(1, len(names)), s.w) if fp_scope == "split" else s.w
        scopes = found.true_cells if fp_scope == "voronoi" else [s.valid] * len(names)
        return [value(s, c, (behind & scope) | blob, w, s.valid) for blob, scope in zip(names, scopes, strict=True)]

    if fp_scope not in ("shared", "split", "voronoi"):
        raise ValueError(f"fp_scope: expected shared, split or voronoi, got {fp_scope!r}.")
    return _mean_loss([(1.0, blobs)], logits, target, weight, inner, **options)


def component_loss(logits, target, weight=None, *, inner, **options):
    _no_topk(inner)
    return _mean_loss([(1.0, _true_cells)], logits, target, weight, inner, **options)


def bidirectional_component_loss(logits, target, weight=None, *, inner, predicted_weight=0.5, **options):
    """The value only: where a paper holds cells or a divisor constant, derivatives of this formula are not its own."""
    _no_topk(inner)
    terms = [(1 - predicted_weight, _true_cells), (predicted_weight, _predicted_cells)]
    return _mean_loss(terms, logits, target, weight, inner, **options)


def _no_topk(inner):
    if inner == "topk":
        raise ValueError("inner: a cell has no hardest voxels of the image, got 'topk'.")


def _true_cells(s, c, found, value):
    return [value(s, c, cell, s.w, cell) for cell in found.true_cells]


def _predicted_cells(s, c, found, value):
    if not found.blobs:
        return []
    values = []
    for cell in found.cells(found.predicted) if found.predicted else [found.region]:
        w, p = s.w * cell, s.p[c]
        if w.sum() == 0:
            continue  # all masked, or without weight
        if (w * s.y[c]).sum() > 0:
            values.append(value(s, c, cell, s.w, cell))
        else:
            values.append(ratio((w * p * p).sum(), (w * p).sum()))
    return values


@dataclass
class Found:
    """One class of one sample: masks (*S). A masked voxel is neither in a blob nor in the background."""

    blobs: list
    sites: list
    """The blobs and those without weight, which have a cell but no part in the mean."""
    predicted: list
    background: np.ndarray
    spacing: object

    @property
    def region(self):
        return np.logical_or.reduce([self.background, *self.sites])

    def cells(self, names):
        """The voxels of the region nearest to each of some masks; those as near to several go where one transform of
        all masks sends them."""
        if not names:
            return []
        step = steps_of(self.background.shape, self.spacing)
        far = np.array([distance_transform_edt(~name, sampling=step) for name in names])
        numbers = sum(k * name for k, name in enumerate(names))
        apart = ~np.logical_or.reduce(names)
        places = distance_transform_edt(apart, sampling=step, return_distances=False, return_indices=True)
        owner = numbers[tuple(np.asarray(places))]
        np.testing.assert_allclose(np.take_along_axis(far, owner[None], 0)[0], far.min(0), rtol=1e-9)
        return [(owner == k) & self.region for k in range(len(names))]

    @property
    def true_cells(self):
        """The cells of the blobs, beside those of all sites."""
        alive = [any(site is blob for blob in self.blobs) for site in self.sites]
        return [cell for cell, some in zip(self.cells(self.sites), alive, strict=True) if some]


def components(mask, connectivity):
    """Masks, in raster order of their first voxels."""
    if connectivity not in ("full", "edge", "face"):
        raise ValueError(f"connectivity: expected full, edge or face, got {connectivity!r}.")
    rank = {"full": mask.ndim, "edge": 2, "face": 1}[connectivity]
    ids = np.zeros(mask.shape, dtype=int)
    label(mask, generate_binary_structure(mask.ndim, min(rank, mask.ndim)), output=ids)
    return [ids == k for k in range(1, ids.max() + 1)]


def find(s, c, *, mode, connectivity, min_size, spacing):
    everything = components(s.g[c], connectivity)
    sites = [blob for blob in everything if blob.sum() >= min_size]
    blobs = [blob for blob in sites if s.w[blob].sum() > 0]
    named = s.p.argmax(0) == c if mode == "softmax" else s.p[c] > 0.5
    predicted = components(named & s.valid, connectivity)
    return Found(blobs, sites, predicted, s.valid & ~s.g[c], spacing)


def _mean_loss(
    terms, logits, target, weight, inner, *, connectivity="full", min_size=1, spacing=None, mode="softmax",
    ignore_index=None, class_weight=None, classes=None, pool="sample", absent="skip", smooth=0.0, reduction="mean",
    **own,
):  # fmt: skip
    """terms: pairs of a share and a function that lists the values of the blobs of one class of one sample."""
    if inner not in REGION + VOXEL or (inner in VOXEL and (pool, absent) != ("sample", "skip")):
        raise ValueError(f"inner: no formula for {inner!r} with pool={pool!r}, absent={absent!r}.")
    batch = grids(logits, target, weight, mode=mode, ignore_index=ignore_index)
    a, scored = _scored(np.shape(logits)[1], class_weight, classes, mode)
    share = a if inner in REGION else np.ones(len(a))
    dense = np.asarray(target).dtype.kind == "f"

    def value(s, c, region, w, over):
        if inner in REGION:
            return by_region(inner, np.where(region, s.p[c], 0.0), np.where(region, s.y[c], 0.0), w, smooth, **own)
        return by_voxel(inner, s, c, region, w, over, a, mode, **own)

    def row(group):
        found = {c: [_find(s, c) for s in group] for c in scored}
        lists = {c: [_joined(t, group, c, found[c], value) for _, t in terms] for c in scored}
        present = [c for c in scored if lists[c][0]]
        counted = present if present and absent == "skip" else scored
        values = {
            c: sum(part * np.mean(one) for (part, _), one in zip(terms, lists[c], strict=True))
            if c in present
            else _false_positive_rate(group, c, found[c], dense)
            for c in counted
        }
        return ratio(sum(share[c] * values[c] for c in counted), sum(share[c] for c in counted)), bool(present)

    def _find(s, c):
        return find(s, c, mode=mode, connectivity=connectivity, min_size=min_size, spacing=spacing)

    return _reduced(row, batch, pool, reduction)


def _joined(term, group, c, found, value):
    return [one for s, f in zip(group, found, strict=True) for one in term(s, c, f, value)]


def _scored(channels, class_weight, classes, mode):
    if classes is None and mode == "softmax":
        classes = range(1, channels)
    return scored_classes(channels, class_weight, classes)


def _false_positive_rate(group, c, found, dense):
    above = below = 0.0
    for s, f in zip(group, found, strict=True):
        w, p, y = s.w * (s.valid if dense else f.background), s.p[c], s.y[c]
        above += (w * (p - np.minimum(p, y))).sum() if dense else (w * p).sum()
        below += (w * (1 - y)).sum() if dense else w.sum()
    return ratio(above, below)


def _reduced(row, batch, pool, reduction):
    """row: the value of samples taken together, and whether they have blobs. Ignored samples are 0."""
    alive = [s.valid.any() for s in batch]
    if pool == "batch" and any(alive):
        shared = row([s for s, ok in zip(batch, alive, strict=True) if ok])
        rows = [shared if ok else (0.0, False) for ok in alive]
    else:
        rows = [row([s]) if ok else (0.0, False) for s, ok in zip(batch, alive, strict=True)]
    values, with_blobs = np.array([one for one, _ in rows]), np.array([some for _, some in rows], dtype=bool)
    if reduction == "none":
        return values
    if reduction == "sum":
        return values.sum()
    kept = with_blobs if with_blobs.any() else np.array(alive, dtype=bool)
    return values[kept].mean() if kept.any() else 0.0


def by_region(inner, p, y, w, smooth=0.0, *, fp_weight=0.3, fn_weight=0.7, exponent=0.75):
    """Of masked arrays (*S); 0/0 is a loss of 0."""
    hit = np.minimum(p, y)
    tp, fp, fn = (w * hit).sum(), (w * (p - hit)).sum(), (w * (y - hit)).sum()
    if inner == "squared_dice":
        above, below = 2 * (w * p * y).sum(), (w * p * p).sum() + (w * y * y).sum()
    elif inner == "dice":
        above, below = 2 * tp, 2 * tp + fp + fn
    elif inner == "jaccard":
        above, below = tp, tp + fp + fn
    else:
        above, below = tp, tp + fp_weight * fp + fn_weight * fn
    loss = 1 - (above + smooth) / (below + smooth) if below + smooth > 0 else 0.0
    return max(loss, 0.0) ** exponent if inner == "focal_tversky" else loss


def by_voxel(inner, s, c, region, w, over, a, mode, *, normalize="count", k=0.1, **own):
    """region: the voxels that cost something; over: those that are counted."""
    costs = np.where(region, w * voxel_costs(inner, s, c, a, mode, **own), 0.0)
    if inner == "topk":
        keep = max(1, math.floor(k * over.sum() + 1e-9))
        return float(np.mean(sorted(costs[over], reverse=True)[:keep]))
    if normalize == "count":
        return ratio(costs.sum(), over.sum())
    if inner != "ce" or normalize != "weight":
        raise ValueError(f"normalize: expected count, or weight with ce, got {normalize!r} with {inner!r}.")
    share = np.tensordot(a, s.y, 1) if mode == "softmax" else a[c]
    return ratio(costs.sum(), (s.w * share)[over].sum())


def voxel_costs(inner, s, c, a, mode, *, gamma=2.0, alpha=None, epsilon=1.0):
    """(*S): of every voxel, times its class weight. alpha: a number in sigmoid mode, one per class in softmax mode."""

    def cost(y, log_p, share):
        chosen = np.where(y > 0, log_p, 0.0)  # -inf where nothing is asked of it
        wrong = 1 - np.exp(chosen)
        if inner == "focal":
            return y * share * wrong**gamma * -chosen
        return y * (-chosen + epsilon * wrong) if inner == "poly" else y * -chosen

    if mode == "softmax":
        share = np.ones(len(a)) if alpha is None else alpha
        return sum(a[j] * cost(s.y[j], s.log_p[j], share[j]) for j in range(len(a)))
    on, off = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    return a[c] * (cost(s.y[c], s.log_p[c], on) + cost(1 - s.y[c], s.log_q[c], off))


def inverse_size_weights(
    target, channels, *, connectivity="full", weighting="foreground", clip=None, classes=None, mode="softmax",
    ignore_index=None,
):  # fmt: skip
    """(N, *S): 1 at ignored voxels."""
    if weighting not in ("foreground", "volume"):
        raise ValueError(f"weighting: expected foreground or volume, got {weighting!r}.")
    target = np.asarray(target)
    shape = target.shape[2:] if target.dtype.kind == "f" else target.shape[1:]
    blank = np.zeros((len(target), channels, *shape))
    _, scored = _scored(channels, None, classes, mode)
    out = np.ones((len(target), *shape))
    for n, s in enumerate(grids(blank, target, mode=mode, ignore_index=ignore_index)):
        found = [one for c in scored for one in components(s.g[c], connectivity)]
        if found:
            weights = _inverse_sizes(found, s.valid, weighting)
            out[n][s.valid] = (weights if clip is None else np.clip(weights, *clip))[s.valid]
    return out


def _inverse_sizes(found, valid, weighting):
    number, foreground = len(found), np.logical_or.reduce(found)
    rest = valid & ~foreground
    out = np.zeros(valid.shape)
    for one in found:
        whole = foreground.sum() / number if weighting == "foreground" else valid.sum() / (number + 1)
        out = np.where(one, np.maximum(out, whole / one.sum()), out)
    if weighting == "foreground":
        out[rest] = 1.0
    elif rest.any():
        out[rest] = valid.sum() / ((number + 1) * rest.sum())
    return out
