"""Rules that hold for any input: what changes a problem in one way changes the loss in a known way, or not at all.

Shapes, classes, labels, ignored voxels, weights and settings are random, and the same at every run.
"""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import delineate.losses as L
from losses.cases import CASES, DEFAULTS, held_to, value_and_gradient

VOID = 255
TIGHT = {"rtol": 1e-9, "atol": 1e-11}
PLAIN = [c for c in DEFAULTS if c.cls not in (L.TopKLoss, L.OHEMLoss) and not c.detached]
VOXELS = [c for c in CASES if not c.spatial]
"""Losses that look at each voxel alone: the others know where it is."""
REGION = [c for c in VOXELS if c.region]
SCALE_FREE = [c for c in held_to("C10d") if c.region and not getattr(c.build(), "smooth", 0)]
BY_COUNT = [c for c in held_to("C10d") if not c.pooled and "normalize" not in c.own and c.inner is None]
LABEL_TYPES = (torch.uint8, torch.int16, torch.int32, torch.int64)
MONOTONE = [c for c in VOXELS if not c.pooled and c.cls not in (L.OHEMLoss, L.BalancedCrossEntropyLoss)]

BY_INSTANCE = (L.BlobLoss, L.ComponentLoss, L.BidirectionalComponentLoss, L.InverseSizeLoss)
KNOW_THE_BACKGROUND = (L.ComboLoss, L.UnifiedFocalLoss, L.SkeletonRecallLoss, *BY_INSTANCE)

random_inputs = settings(max_examples=60, derandomize=True, deadline=None, database=None)


@dataclass
class Problem:
    """A random problem and the loss that is to judge it."""

    case: object
    common: dict
    logits: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor | None

    @property
    def mode(self):
        return self.common["mode"]

    @property
    def dense(self):
        return self.target.is_floating_point()

    def loss(self, **changes):
        return self.case.build(**self.common | changes)

    def value(self, logits=None, target=None, weight=None, **changes):
        logits = self.logits if logits is None else logits
        return self.loss(**changes)(
            logits, self.target if target is None else target, self.weight if weight is None else weight
        )

    def voxels(self):
        """The inputs as tables over voxels: logits (N, C, V), labels (N, V) or a map (N, C, V), weight (N, V)."""
        weight = torch.ones(len(self.logits), *self.logits.shape[2:]) if self.weight is None else self.weight
        return self.logits.flatten(2), self.target.flatten(2 if self.dense else 1), weight.double().flatten(1)


@st.composite
def problems(draw, cases=CASES, labels=None, weighted=None, ignoring=None, channels=None):
    """labels, weighted, ignoring: True, False, or None for either; channels: the least number of them."""
    case = draw(st.sampled_from(cases))
    mode = draw(st.sampled_from(("softmax", "sigmoid")))
    size = draw(st.integers(max(channels or 1, 2 if mode == "softmax" else 1), 5))
    space = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    samples = draw(st.integers(1, 4))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    logits = torch.randn(samples, size, *space, generator=g, dtype=torch.float64) * draw(st.sampled_from((0.3, 2, 8)))
    common = {"mode": mode, "reduction": draw(st.sampled_from(("mean", "sum", "none")))}
    if draw(st.booleans()):
        common["class_weight"] = [draw(st.sampled_from((0.25, 1.0, 3.0))) for _ in range(size)]
    if draw(st.booleans()):
        common["classes"] = sorted(draw(st.sets(st.integers(0, size - 1), min_size=1)))
    if case.pooled:
        common["pool"] = draw(st.sampled_from(("sample", "batch")))
        common["absent"] = draw(st.sampled_from(("skip", "count")))
    hard = draw(st.booleans()) if labels is None else labels
    if hard:
        target = torch.randint(0, draw(st.integers(1, max(size, 2))), (samples, *space), generator=g)
        if draw(st.booleans()) if ignoring is None else ignoring:
            common["ignore_index"] = VOID
            share = draw(st.sampled_from((0.1, 0.5, 1.0)))
            target[torch.rand(target.shape, generator=g) < share] = VOID
            target[: draw(st.integers(0, 2))] = VOID  # and whole samples
    else:
        target = torch.rand(logits.shape, generator=g, dtype=torch.float64)
        if mode == "softmax":
            target = target / target.sum(1, keepdim=True)
        if case.hard_only:
            target = (target == target.amax(1, keepdim=True)).double()
    weight = torch.rand(samples, *space, generator=g, dtype=torch.float64) + 0.1
    weight = weight if (draw(st.booleans()) if weighted is None else weighted) else None
    return Problem(case, common, logits, target, weight)


def close(a, b, **tolerance):
    torch.testing.assert_close(a, b, **(TIGHT | tolerance))


@given(problems())
@settings(random_inputs, max_examples=250)
def test_equals_the_plain_formula(p):
    assume(p.dense or (p.target != VOID).any())  # of nothing the formulae say nothing
    close(p.value(), p.case.reference(p.logits, p.target, p.weight, **p.common))


@given(problems(cases=VOXELS), st.randoms(use_true_random=False))
@random_inputs
def test_order_of_voxels_does_not_matter(p, random):
    """The same order for all samples, so that a pooled batch is the same too. Its gradient follows the voxels."""
    z, y, w = p.voxels()
    order = random.sample(range(z.shape[-1]), z.shape[-1])
    value, gradient = value_and_gradient(p.loss(), z, y, w)
    moved, moved_gradient = value_and_gradient(p.loss(), z[..., order], y[..., order], w[..., order])
    close(moved, value)
    close(moved_gradient, gradient[..., order])


@given(problems(cases=[c for c in CASES if c.cls not in KNOW_THE_BACKGROUND], channels=2))
@random_inputs
def test_order_of_classes_does_not_matter(p):
    """With `class_weight` and `classes` in the same order."""
    size = p.logits.shape[1]
    new = {old: (old + 1) % size for old in range(size)}  # the new name of each class
    back = [old for name in range(size) for old in new if new[old] == name]
    changes = {}
    if "class_weight" in p.common:
        changes["class_weight"] = [p.common["class_weight"][old] for old in back]
    if "classes" in p.common:
        changes["classes"] = [new[c] for c in p.common["classes"]]
    target = p.target[:, back] if p.dense else p.target.clone()
    for old, name in new.items():
        if not p.dense:
            target[p.target == old] = name
    close(p.value(p.logits[:, back], target, **changes), p.value())


@given(problems(cases=held_to("C12")))
@random_inputs
def test_batch_may_be_split_and_reordered(p):
    """`pool="sample"` and one value by sample: no sample knows of the others."""
    changes = {"reduction": "none"} | ({"pool": "sample"} if p.case.pooled else {})
    each = p.value(**changes)
    weight = [None] * len(each) if p.weight is None else p.weight[:, None]
    alone = [p.loss(**changes)(z[None], y[None], w) for z, y, w in zip(p.logits, p.target, weight, strict=True)]
    close(each, torch.cat(alone))
    backwards = p.loss(**changes)(p.logits.flip(0), p.target.flip(0), None if p.weight is None else p.weight.flip(0))
    close(each, backwards.flip(0))


@given(problems(), st.sampled_from((-30.0, 0.7, 12.0)))
@random_inputs
def test_constant_on_the_logits_of_a_softmax(p, scale):
    if p.mode == "softmax":
        constant = scale * torch.rand(len(p.logits), 1, *p.logits.shape[2:], dtype=torch.float64)
        close(p.value(p.logits + constant), p.value(), rtol=1e-7)


@given(problems(cases=held_to("C1a", VOXELS), labels=True, ignoring=True))
@random_inputs
def test_ignoring_is_cropping(p):
    """One sample, of which the ignored voxels are cut away."""
    z, y, w = (t[:1] for t in p.voxels())
    kept = y[0] != VOID
    found = p.loss()(z, y, w)
    close(found, p.loss(ignore_index=None)(z[..., kept], y[..., kept], w[..., kept]) if kept.any() else 0 * found)


@given(problems(cases=REGION + [c for c in CASES if "normalize" in c.own], labels=True, ignoring=True))
@random_inputs
def test_weight_zero_is_ignoring(p):
    """Where some voxel of each sample is left."""
    z, y, w = p.voxels()
    y[:, 0] = 0
    void = y == VOID
    close(p.loss(ignore_index=None)(z, y.masked_fill(void, 0), w.masked_fill(void, 0)), p.loss()(z, y, w))


@given(problems(cases=REGION + [c for c in CASES if "normalize" in c.own], ignoring=False), st.integers(2, 4))
@random_inputs
def test_weight_is_repeating_voxels(p, times):
    """The first voxel of each sample, repeated, is one of so many times the weight."""
    z, y, w = p.voxels()
    heavy = w.clone()
    heavy[:, 0] *= times
    more = [torch.cat([t] + [t[..., :1]] * (times - 1), -1) for t in (z, y, w)]
    close(p.loss()(z, y, heavy), p.loss()(*more))


@given(problems(cases=SCALE_FREE, weighted=True), st.sampled_from((1e-3, 7.0, 1e4)))
@random_inputs
def test_scale_of_the_weights_drops_out_of_region_losses(p, scale):
    changes = {"class_weight": [scale * w for w in p.common.get("class_weight", [1.0] * p.logits.shape[1])]}
    close(p.value(weight=scale * p.weight), p.value())
    close(p.value(**changes), p.value(), rtol=1e-6)  # class weights are stored in float32


@given(problems(cases=BY_COUNT, weighted=True))
@random_inputs
def test_scale_of_the_weights_is_that_of_a_mean_over_voxels(p):
    close(p.value(weight=8 * p.weight), 8 * p.value())


@given(problems(cases=[c for c in held_to("C3a") if c.region and c.inner is None], labels=True))
@random_inputs
def test_channel_of_an_absent_class_that_nothing_predicts(p):
    """Skipped, it changes nothing: neither in a softmax, where its probability is 0, nor as a channel of its own."""
    if p.logits.shape[1] == 1:
        return
    changes = {"absent": "skip", "classes": p.common.get("classes") or list(range(p.logits.shape[1]))}
    before = p.value(**changes)
    if "class_weight" in p.common:
        changes["class_weight"] = [*p.common["class_weight"], 5.0]
    if "classes" not in p.common:
        changes["classes"] = None
    more = torch.cat([p.logits, torch.full_like(p.logits[:, :1], -60)], 1)
    nothing = ~torch.isin(p.target, torch.tensor(p.common.get("classes") or list(range(5)))).flatten(1).any(1)
    if not nothing.any():  # where nothing scored is present, the mean runs over all classes, the new one too
        close(p.value(more, **changes), before)


@given(problems(labels=True, ignoring=False))
@random_inputs
def test_hard_dense_target_is_labels(p):
    size = p.logits.shape[1]
    names = torch.arange(size) if size > 1 else torch.ones(1)
    dense = (p.target[:, None] == names.view(-1, *[1] * (p.target.ndim - 1))).double()
    if size == 1 or (p.target < size).all():
        pair = value_and_gradient(p.loss(), p.logits, p.target, p.weight)
        close(value_and_gradient(p.loss(), p.logits, dense, p.weight), pair)


@given(problems(), st.sampled_from(DEFAULTS), st.sampled_from((-2.0, 0.5, 3)))
@random_inputs
def test_sum_is_linear(p, other, factor):
    if p.dense and other.hard_only and not p.case.hard_only:
        return
    common = {k: v for k, v in p.common.items() if k not in ("pool", "absent")}
    first, second = p.loss(), other.build(**common)
    a, b, both = (value_and_gradient(x, p.logits, p.target, p.weight) for x in (first, second, first + factor * second))
    close(both, (a[0] + factor * b[0], a[1] + factor * b[1]))


@given(problems(cases=[c for c in held_to("C4") if c.cls is not L.OHEMLoss]))
@random_inputs
def test_float32_is_close_to_float64(p):
    """Of the same logits, rounded. (OHEM jumps where a voxel passes its threshold in one of the types only.)"""
    single = p.logits.float()
    found = p.value(single)
    lifted = p.case.cls is L.ExponentialLogarithmicLoss  # a power of 0.3 of 1 - p, which float32 rounds to 0
    assert found.dtype == torch.float32
    close(found.double(), p.value(single.double()), rtol=1e-4, atol=1e-3 if lifted else 1e-4)


@given(problems(labels=True))
@settings(random_inputs, max_examples=30)
def test_type_of_the_labels_does_not_matter(p):
    expected = value_and_gradient(p.loss(), p.logits, p.target, p.weight)
    for dtype in LABEL_TYPES:
        close(value_and_gradient(p.loss(), p.logits, p.target.to(dtype), p.weight), expected, rtol=0, atol=0)


@given(problems())
@random_inputs
def test_value_is_finite_and_at_least_the_minimum(p):
    reduced = {"reduction": "none"}
    value, gradient = value_and_gradient(p.loss(**reduced), p.logits, p.target, p.weight)
    assert value.isfinite().all()
    assert (value >= p.case.minimum - 1e-12 * (p.case.minimum != 0)).all()
    assert gradient.isfinite().all()


@given(problems(cases=[c for c in MONOTONE if not c.own.get("label_smoothing")], labels=True), st.floats(0.01, 20))
@random_inputs
def test_raising_the_truth_of_one_voxel_never_costs_more(p, step):
    z, y, w = p.voxels()
    if y[0, 0] == VOID:
        return
    raised = z.clone()
    if z.shape[1] == 1:
        raised[0, 0, 0] += step if y[0, 0] == 1 else -step
    else:
        raised[0, y[0, 0], 0] += step
    assert (p.loss()(raised, y, w) <= p.loss()(z, y, w) + 1e-12).all()


@given(problems(cases=[c for c in DEFAULTS if c.cls in (L.DiceLoss, L.JaccardLoss, L.TverskyLoss)], labels=True))
@random_inputs
def test_raising_the_truth_of_one_voxel_never_costs_an_overlap_more(p):
    """In sigmoid mode, where a channel of one voxel is all that changes."""
    z, y, w = p.voxels()
    if p.mode == "sigmoid" and y[0, 0] != VOID:
        raised = z.clone()
        on = y[0, 0] == 1 if z.shape[1] == 1 else None
        raised[0, 0 if on is not None else y[0, 0], 0] += 1.5 if on is None or on else -1.5
        assert (p.loss()(raised, y, w) <= p.loss()(z, y, w) + 1e-12).all()


@pytest.mark.parametrize("case", PLAIN, ids=repr)
@given(data=st.data())
@settings(max_examples=5, derandomize=True, deadline=None, database=None)
def test_gradient_is_the_slope(case, data):
    """Along a random direction, by central differences. (Choosing losses jump: their gradient is checked apart.)"""
    p = data.draw(problems(cases=[case]))
    direction = torch.randn(p.logits.shape, dtype=torch.float64)
    value, gradient = value_and_gradient(p.loss(), p.logits, p.target, p.weight)
    above, below = (p.value(p.logits + e * direction).sum() for e in (1e-6, -1e-6))
    close((above - below) / 2e-6, (gradient * direction).sum(), rtol=1e-4, atol=1e-6 * (1 + value.abs().sum().item()))
