"""One loss at several scales (contract C18)."""

import itertools

import numpy as np
import pytest
import torch

import delineate.losses as L
from delineate.target import Target
from losses.cases import DEFAULTS, value_and_gradient

VOID = 255


def outputs_of(space, scales=(1, 2, 4), channels=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, channels, *(s // k for s in space), generator=g, dtype=torch.float64, requires_grad=True)
        for k in scales
    ]


def rarest(labels, factor, ignore_index=None):
    """Cell by cell: the label with the fewest voxels in the sample; the lower one of equals."""
    found = np.empty([s // factor for s in labels.shape], dtype=np.int64)
    valid = labels[labels != ignore_index] if ignore_index is not None else labels.ravel()
    counts = np.bincount(valid, minlength=256)
    for place in itertools.product(*(range(s) for s in found.shape)):
        cell = labels[tuple(slice(i * factor, (i + 1) * factor) for i in place)]
        inside = sorted({int(v) for v in cell.ravel()} - {ignore_index})
        order = sorted(inside, key=lambda v: (counts[v], -v))
        found[place] = order[0] if order else ignore_index
    return found


@pytest.mark.parametrize("space", [(32,), (16, 8), (8, 8, 8)], ids=len)
@pytest.mark.parametrize("ignored", [False, True])
def test_each_scale_gets_the_rarest_label_of_each_cell(space, ignored):
    g = torch.Generator().manual_seed(1)
    target = torch.randint(0, 3, (2, *space), generator=g)
    if ignored:
        target[torch.rand(target.shape, generator=g) < 0.5] = VOID
        target[0][tuple(slice(0, 4) for _ in space)] = VOID  # a whole cell, at both scales
    weight = torch.rand(2, *space, generator=g, dtype=torch.float64)
    loss = (L.DiceLoss(ignore_index=VOID) + L.CrossEntropyLoss(ignore_index=VOID)) if ignored else L.DiceLoss()
    outputs = outputs_of(space)
    whole = L.DeepSupervision(loss)
    expected = 0.0
    for share, factor, logits in zip((4 / 7, 2 / 7, 1 / 7), (1, 2, 4), outputs, strict=True):
        small = torch.stack([torch.tensor(rarest(t.numpy(), factor, VOID if ignored else None)) for t in target])
        assert not ignored or (small == VOID).any()
        expected = expected + share * loss(logits, small)
    torch.testing.assert_close(whole(outputs, target), expected)
    expected_gradients = torch.autograd.grad(expected, outputs)
    gradients = torch.autograd.grad(whole(outputs, target), outputs)
    torch.testing.assert_close(gradients, expected_gradients)
    assert whole(outputs, target, weight).isfinite()


@pytest.mark.parametrize("case", DEFAULTS, ids=repr)
def test_a_line_one_voxel_wide_survives_at_a_quarter(case):
    """Every loss can see it there: with the line predicted it costs less than without."""
    target = torch.zeros(1, 16, 16, dtype=torch.long)
    target[0, 5] = 1
    seen = torch.zeros(1, 2, 4, 4, dtype=torch.float64)
    seen[:, 0], seen[:, 1] = 4, -4
    missed = seen.clone()
    seen[:, :, 1] *= -1
    fine = torch.zeros(1, 2, 16, 16, dtype=torch.float64)
    loss = L.DeepSupervision(case.build(), weights=[0, 1])
    assert loss([fine, seen], target) < loss([fine, missed], target) - 1e-3


def test_weights_are_means_over_the_valid_voxels_of_a_cell():
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    target[0, 0, 0] = VOID
    weight = torch.ones(1, 4, 4)
    weight[0, 0, 0], weight[0, 0, 1] = 100, 4
    loss = L.DeepSupervision(L.CrossEntropyLoss(ignore_index=VOID))
    _, small = loss._resized(torch.zeros(1, 2, 2, 2), target, weight)
    assert small is not None
    torch.testing.assert_close(small, torch.tensor([[[2.0, 1.0], [1.0, 1.0]]]))


@pytest.mark.parametrize("mode", ["softmax", "sigmoid"])
def test_dense_targets_are_pooled_by_class(mode):
    target = torch.zeros(1, 2, 4, 4, dtype=torch.float64)
    target[:, 0] = 1
    target[:, :, 1, 1] = torch.tensor([0.25, 0.75], dtype=torch.float64)
    small, _ = L.DeepSupervision(L.DiceLoss(mode=mode))._resized(torch.zeros(1, 2, 2, 2), target, None)
    top = torch.tensor([1.0, 0.75], dtype=torch.float64)
    torch.testing.assert_close(small[0, :, 0, 0], top / top.sum() if mode == "softmax" else top)
    torch.testing.assert_close(small[0, :, 1, 1], torch.tensor([1.0, 0.0], dtype=torch.float64))


def test_one_output_is_the_loss_itself():
    logits, target = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    loss = L.DiceLoss() + L.TopKLoss()
    torch.testing.assert_close(
        value_and_gradient(L.DeepSupervision(loss), logits, target), value_and_gradient(loss, logits, target)
    )
    assert L.DeepSupervision(loss)([logits], target) == loss(logits, target)


def test_labels_with_a_channel_dim_and_reduction_none():
    outputs, target = outputs_of((8, 8)), torch.randint(0, 3, (2, 8, 8))
    loss = L.DeepSupervision(L.DiceLoss(reduction="none"), weights=[3, 2, 1])
    torch.testing.assert_close(loss(outputs, target[:, None].to(torch.uint8)), loss(outputs, target))
    assert loss(outputs, target).shape == (2,)


def test_what_does_not_fit_is_named():
    fine, small = torch.randn(1, 2, 8, 8), torch.randn(1, 2, 4, 4)
    target = torch.zeros(1, 8, 8, dtype=torch.long)
    with pytest.raises(ValueError, match=r"from fine to coarse; got sizes \[\(4, 4\), \(8, 8\)\]"):
        L.DeepSupervision(L.DiceLoss())([small, fine], target)
    with pytest.raises(ValueError, match="one number for each output, 2; got 3"):
        L.DeepSupervision(L.DiceLoss(), weights=[1, 1, 1])([fine, small], target)
    with pytest.raises(ValueError, match="same `ignore_index`"):
        L.DeepSupervision(L.DiceLoss() + L.FocalLoss(ignore_index=3))
    with pytest.raises(ValueError, match="`loss` must be a Loss"):
        L.DeepSupervision(torch.nn.CrossEntropyLoss())  # pyright: ignore
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.1"):
        L.DeepSupervision(L.DiceLoss())([fine, small], target + 7)
    with pytest.raises(ValueError, match="`target` must be labels"):
        L.DeepSupervision(L.DiceLoss())([fine, small], target[:, :, :6])


def test_compiles():
    torch.compiler.reset()
    outputs, target = outputs_of((8, 8)), torch.randint(0, 3, (2, 8, 8))
    target[:, 0] = VOID
    loss = L.DeepSupervision(L.DiceLoss(ignore_index=VOID))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(outputs, target), loss(outputs, target))
    torch.compiler.reset()


def test_a_target_is_derived_anew_at_every_scale():
    """With the voxels of each; what was prepared is that of the finest."""
    outputs = [torch.randn(2, 2, size, size, dtype=torch.float64) for size in (16, 8, 4)]
    labels = torch.zeros(2, 16, 16, dtype=torch.long)
    labels[:, 4:12, 4:13] = 1
    loss = L.DeepSupervision(L.DiceLoss() + L.BoundaryLoss(classes=[1]), weights=[1, 1, 1])
    torch.testing.assert_close(loss(outputs, Target(labels)), loss(outputs, labels))
    target = Target(labels, spacing=[0.5, 2.0])
    alone = [L.BoundaryLoss(classes=[1], spacing=[0.5 * k, 2.0 * k]) for k in (1, 2, 4)]
    coarse = [labels, *(loss._resized(z, labels, None)[0] for z in outputs[1:])]
    expected = sum(one(z, y) for one, z, y in zip(alone, outputs, coarse, strict=True))
    boundary = L.DeepSupervision(L.BoundaryLoss(classes=[1]), weights=[1, 1, 1])
    torch.testing.assert_close(boundary(outputs, target), expected)
