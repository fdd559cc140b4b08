"""Binary costs of every channel against plain numpy, where p rounds to 1 too, and their gradients."""

import numpy as np
import pytest
import torch

from delineate.ops import binary, blocks
from delineate.ops.binary import binary_costs
from reference.grids import binary_cross_entropy, grids

VOID = 255
MODES = ["softmax", "sigmoid"]
modes = pytest.mark.parametrize("mode", MODES)
dense_or_not = pytest.mark.parametrize("dense", [False, True], ids=["labels", "dense"])
with_errors = pytest.mark.parametrize("weighed", [False, True], ids=["plain", "errors"])


def inputs(*, channels=3, voxels=23, dense=False, dtype=torch.float64, scale=3.0):
    """Logits, target, weight, label of ignored voxels, errors and cuts."""
    logits = scale * torch.randn(2, channels, voxels, dtype=torch.float64).to(dtype)
    target = torch.randint(0, max(2, channels), (2, voxels))
    if dense:
        target = torch.rand(2, channels, voxels)
        target[..., :6] = target[..., :6].round()
    ignored = torch.rand(2, voxels) < (0.0 if dense else 0.3)
    target = target if dense else target.masked_fill(ignored, VOID)
    errors = torch.rand(2, channels, voxels, dtype=torch.float64).masked_fill(ignored[:, None], 0)
    weight = torch.rand(2, voxels, dtype=torch.float64) * (torch.rand(2, voxels) > 0.2)
    return logits, target, weight, None if dense else VOID, errors, 0.3 + 0.2 * torch.rand(2, channels)


def by_numpy(logits, target, weight, ignore_index, mode, errors=None, cuts=None):
    batch = grids(logits.detach().double(), target, weight, mode=mode, ignore_index=ignore_index)
    found = []
    for n, s in enumerate(batch):
        cost = s.w * binary_cross_entropy(s)
        e = np.zeros(cost.shape) if errors is None else errors[n].detach().double().numpy()
        kept = np.zeros(cost.shape) if errors is None else s.valid & (e > cuts[n].double().numpy()[:, None])
        found.append([cost.sum(1), (e * kept * cost).sum(1), kept.sum(1)])
    return torch.tensor(np.array(found)).unbind(1)


def check(found, expected, tolerance=1e-10):
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float64
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@modes
@dense_or_not
@with_errors
@pytest.mark.parametrize("channels", [1, 2, 3, 8])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_equals_numpy(mode, dense, weighed, channels, dtype):
    if mode == "softmax" and channels == 1:
        channels = 5
    logits, target, weight, void, errors, cuts = inputs(channels=channels, dense=dense, dtype=dtype)
    parts = {"errors": errors, "cuts": cuts.double()} if weighed else {}
    for w in (None, weight):
        found = binary_costs(logits, target, w, mode=mode, ignore_index=void, **parts)
        check(found, by_numpy(logits, target, w, void, mode, **parts), 1e-10 if dtype == torch.float64 else 2e-6)


@modes
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("margin", [20.0, 60.0, 1000.0])
def test_exact_where_p_rounds_to_one(mode, dtype, margin):
    """Right and wrong predictions of every class by a large margin, and ties of the largest two."""
    target = torch.arange(3).repeat_interleave(5)[None]
    logits = torch.tensor([[margin, 0, 1], [0, margin, 1], [1, 0, margin], [margin, margin, 0], [0, -margin, margin]])
    logits = logits.repeat(3, 1).T[None].to(dtype)
    found = binary_costs(logits, target, mode=mode)
    expected = by_numpy(logits, target, None, None, mode)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6 if dtype == torch.float32 else 1e-12, atol=0)
    one = [binary_costs(logits[..., k, None], target[:, k, None], mode=mode)[0] for k in range(15)]
    alone = [by_numpy(logits[..., k, None], target[:, k, None], None, None, mode)[0] for k in range(15)]
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(torch.cat(one), torch.cat(alone), rtol=tolerance, atol=tolerance / 50)
    z = logits.clone().requires_grad_()
    binary_costs(z, target, mode=mode)[0].sum().backward()
    assert z.grad.isfinite().all()
    assert z.grad.abs().max() <= 2


def test_gradient_where_p_rounds_to_one():
    """A sure and wrong class is brought down with slope 1, and the right one up by the same and its own share."""
    z = torch.tensor([[[1000.0], [0], [-5]]], requires_grad=True)
    binary_costs(z, torch.tensor([[1]]), mode="softmax")[0].sum().backward()
    share = torch.tensor([0.0, -5]).softmax(0)
    assert z.grad[0, :, 0].tolist() == pytest.approx([2, -1 - share[0].item(), -share[1].item()])


@modes
@dense_or_not
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_unused_classes_may_be_minus_infinity(mode, dense, dtype):
    logits, target, weight, void, errors, cuts = inputs(channels=4, dense=dense, dtype=dtype)
    logits[:, 3] = -torch.inf
    logits[0, 0, :5] = -torch.inf
    if dense:
        target[:, 3], target[0, 0, :5] = 0, 0
    else:
        target[target == 3] = 1
        target[0, :5] = 2
    z, e = logits.clone().requires_grad_(), errors.clone().requires_grad_()
    found = binary_costs(z, target, weight, mode=mode, ignore_index=void, errors=e, cuts=cuts)
    expected = by_numpy(logits, target, weight, void, mode, errors, cuts)
    check(found, expected, 1e-10 if dtype == torch.float64 else 1e-5)
    (found[0].sum() + found[1].sum()).backward()
    assert z.grad.isfinite().all()
    assert not z.grad[:, 3].any()
    assert e.grad.isfinite().all()


def test_all_other_classes_may_be_minus_infinity():
    z = torch.tensor([[[3.0], [-torch.inf], [-torch.inf]]], requires_grad=True)
    plain, _, _ = binary_costs(z, torch.tensor([[0]]), mode="softmax")
    assert plain.tolist() == [[0, 0, 0]]
    plain.sum().backward()
    assert not z.grad.any()


@modes
@dense_or_not
@with_errors
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients(mode, dense, weighed, weighted):
    logits, target, weight, void, errors, cuts = inputs(voxels=4, dense=dense, scale=1.5)
    weight = weight if weighted else None

    def sums(z, e=None):
        found = binary_costs(
            z, target, weight, mode=mode, ignore_index=void, errors=e, cuts=None if e is None else cuts.double()
        )
        return found[:2]

    args = (logits.requires_grad_(), errors.requires_grad_()) if weighed else (logits.requires_grad_(),)
    assert torch.autograd.gradcheck(sums, args)
    if weighed:
        fixed = logits.detach()
        assert torch.autograd.gradcheck(lambda e: sums(fixed, e)[1], (errors,))


def test_kept_has_no_gradient():
    logits, target, _, void, errors, cuts = inputs()
    _, weighed, kept = binary_costs(
        logits, target, mode="sigmoid", ignore_index=void, errors=errors.requires_grad_(), cuts=cuts
    )
    assert weighed.requires_grad
    assert not kept.requires_grad


def test_an_error_at_the_cut_is_left_out():
    errors, cuts = torch.tensor([[[0.0, 0.5, 0.6, 0.0]]]), torch.tensor([[0.5]])
    logits, target = torch.zeros(1, 1, 4), torch.zeros(1, 4, dtype=torch.long)
    _, weighed, kept = binary_costs(logits, target, mode="sigmoid", errors=errors, cuts=cuts)
    assert kept.item() == 1
    assert weighed.item() == pytest.approx(0.6 * np.log(2))
    assert binary_costs(logits, target, mode="sigmoid", errors=0 * errors, cuts=0 * cuts)[2].item() == 0


@modes
@dense_or_not
@pytest.mark.parametrize("block", [1, 9, 3 * 22, 3 * 23])
def test_blocks_join_without_seams(monkeypatch, mode, dense, block):
    logits, target, weight, void, errors, cuts = inputs(dense=dense)

    def run():
        z, e = logits.clone().requires_grad_(), errors.clone().requires_grad_()
        found = binary_costs(z, target, weight, mode=mode, ignore_index=void, errors=e, cuts=cuts)
        return *found, *torch.autograd.grad(found[0].sum() + (found[1] * (1 + found[0])).sum(), (z, e))

    whole = run()
    monkeypatch.setattr(blocks, "BLOCK", block)
    torch.testing.assert_close(run(), whole, rtol=1e-12, atol=1e-14)


@modes
def test_ignored_voxels_may_hold_anything(mode):
    logits, target, weight, void, errors, cuts = inputs()
    expected = binary_costs(logits, target, weight, mode=mode, ignore_index=void, errors=errors, cuts=cuts)
    z = torch.where((target == void)[:, None], torch.nan, logits).requires_grad_()
    found = binary_costs(z, target, weight, mode=mode, ignore_index=void, errors=errors, cuts=cuts)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    (found[0] + found[1]).sum().backward()
    assert z.grad.isfinite().all()
    assert not (z.grad * (target == void)[:, None]).any()


@modes
@dense_or_not
def test_nan_is_not_lost(mode, dense):
    logits, target, _, void, errors, cuts = inputs(dense=dense)
    seen = (0, 1, int((target[0] != VOID).nonzero()[0]) if not dense else 7)
    z, e = logits.clone(), errors.clone()
    z[seen], e[seen] = torch.nan, torch.nan
    z.requires_grad_()
    plain, _, _ = binary_costs(z, target, mode=mode, ignore_index=void)
    assert plain[0, 1].isnan()
    assert plain[1].isfinite().all()
    plain.sum().backward()
    assert z.grad[seen].isnan()
    _, weighed, _ = binary_costs(logits, target, mode=mode, ignore_index=void, errors=e, cuts=cuts)
    assert weighed.isnan().tolist() == [[False, True, False], [False] * 3]


def test_labels_and_numbers_out_of_range():
    z = torch.zeros(1, 3, 4)
    for mode in MODES:
        for labels in ([0, 1, 2, 3], [0, -1, 2, 2], [0, 1, 2, 255]):
            with pytest.raises(
                ValueError, match=r"target: labels must be in 0..2 \(3 classes\), pass ignore_index=..."
            ):
                binary_costs(z, torch.tensor([labels]), mode=mode)
        binary_costs(z, torch.tensor([[0, 1, 2, 255]]), mode=mode, ignore_index=255)
        with pytest.raises(ValueError, match=r"labels must be in 0..2 \(3 classes\), or ignored"):
            binary_costs(z, torch.tensor([[0, 1, 3, 255]]), mode=mode, ignore_index=255)
        with pytest.raises(ValueError, match=r"a dense target must lie in \[0, 1\]"):
            binary_costs(z, z + 1.5, mode=mode)
        with pytest.raises(ValueError, match="voxel weights must be at least 0"):
            binary_costs(z, z[:, 0].long(), z[:, 0] - 1, mode=mode)
    with pytest.raises(ValueError, match=r"0..1 \(2 classes\)"):
        binary_costs(z[:, :1], torch.tensor([[0, 1, 2, 0]]), mode="sigmoid")


@modes
@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 3, 0)])
def test_nothing_to_sum(mode, shape):
    z, e = torch.zeros(shape, requires_grad=True), torch.zeros(shape, requires_grad=True)
    target = torch.zeros(shape[0], shape[2], dtype=torch.long)
    found = binary_costs(z, target, z[:, 0].detach(), mode=mode, ignore_index=1, errors=e, cuts=torch.zeros(shape[:2]))
    assert [part.tolist() for part in found] == [[[0, 0, 0]] * shape[0]] * 3
    (found[0] + found[1]).sum().backward()
    assert z.grad.shape == e.grad.shape == shape


@modes
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int32], ids=str)
def test_any_type_of_labels(mode, dtype):
    logits, target = torch.randn(2, 2, 9), torch.randint(0, 2, (2, 9))
    for one, other in zip(*(binary_costs(logits, t, mode=mode) for t in (target, target.to(dtype))), strict=True):
        assert torch.equal(one, other)


@modes
@dense_or_not
def test_memory_layout_does_not_count_and_nothing_is_written(mode, dense):
    logits, target, weight, void, errors, cuts = inputs(dense=dense)
    tensors = (logits, target, weight, errors, cuts)
    expected = binary_costs(logits, target, weight, mode=mode, ignore_index=void, errors=errors, cuts=cuts)
    others = [t.mT.contiguous().mT.requires_grad_(t is logits or t is errors) for t in tensors]
    z, y, w, e, c = others
    found = binary_costs(z, y, w, mode=mode, ignore_index=void, errors=e, cuts=c)
    torch.testing.assert_close([f.detach() for f in found], list(expected), rtol=1e-12, atol=1e-12)
    (found[0] + found[1]).sum().backward()
    for one, other in zip(tensors, others, strict=True):
        assert torch.equal(one, other)


@modes
@pytest.mark.parametrize("narrow", [torch.float16, torch.bfloat16], ids=str)
def test_gradients_of_narrow_logits(mode, narrow):
    logits, target, weight, void, errors, cuts = inputs(dtype=narrow)
    slopes = []
    for z in (logits, logits.double()):
        z = z.clone().requires_grad_()
        found = binary_costs(z, target, weight, mode=mode, ignore_index=void, errors=errors, cuts=cuts)
        (found[0] + found[1]).sum().backward()
        assert z.grad.dtype == z.dtype
        slopes.append(z.grad.double())
    torch.testing.assert_close(*slopes, rtol=2e-2, atol=1e-5)


@modes
@dense_or_not
@with_errors
def test_opcheck(mode, dense, weighed):
    logits, target, weight, void, errors, cuts = inputs(dense=dense, dtype=torch.float32)
    errors, cuts = (errors, cuts) if weighed else (None, None)
    utils, softmax = ("test_schema", "test_faketensor"), mode == "softmax"
    torch.library.opcheck(binary._forward, (logits, target, weight, errors, cuts, void, softmax), test_utils=utils)
    for to_errors in {False, weighed}:
        args = (logits, torch.rand(2, 3, 3).double(), target, weight, errors, cuts, void, softmax, to_errors)
        torch.library.opcheck(binary._backward, args, test_utils=utils)


def test_compiles():
    def total(z, e):
        plain, weighed, kept = binary_costs(z, target, weight, mode="softmax", ignore_index=void, errors=e, cuts=cuts)
        return (plain + weighed / kept.clamp_min(1)).sum()

    torch.compiler.reset()
    logits, target, weight, void, errors, cuts = inputs()
    args = (logits.requires_grad_(), errors.requires_grad_())
    values = torch.compile(total, fullgraph=True, backend="aot_eager")(*args), total(*args)
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*(torch.autograd.grad(value, args) for value in values))
    torch.compiler.reset()


@with_errors
def test_second_derivatives_are_refused(weighed):
    logits, target, weight, void, errors, cuts = inputs()
    parts = {"errors": errors, "cuts": cuts} if weighed else {}
    z = logits.requires_grad_()
    plain, more, _ = binary_costs(z, target, weight, mode="softmax", ignore_index=void, **parts)
    (slope,) = torch.autograd.grad((plain + more).sum(), z, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives of a loss are not supported"):
        slope.sum().backward()
