"""The pass over the logits against the same sums in plain PyTorch: values, gradients, blocks, memory."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import delineate.losses as L
from delineate.ops import blocks
from delineate.ops import overlap_channels as channels_pass
from delineate.ops import overlap_labels as labels_pass
from delineate.ops.blocks import ROWS
from delineate.ops.cost import Cost, packed
from delineate.ops.overlap import Overlap, overlap

TABLES = ROWS
SQUARES = ("squares", "product", "target_squares", "miss_squares", "false_squares")
COSTS = [Cost(gamma=2), Cost(gamma=0.5), Cost(power=0.3), Cost(gamma=1.0, epsilon=0.7)]
OPTIONS = (True, True, packed(COSTS))
EVERYTHING = {"squares": True, "spread": True, "costs": COSTS}
VARIANTS = {
    "plain": {},
    "weighted": {"weighted": True},
    "ignored": {"ignored": True},
    "ignored and weighted": {"ignored": True, "weighted": True},
}
KINDS = [("softmax", "labels"), ("sigmoid", "labels"), ("softmax", "soft"), ("sigmoid", "soft")]
VOID = 255

variants = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
kinds = pytest.mark.parametrize(("mode", "kind"), KINDS)


def inputs(mode="softmax", kind="labels", *, channels=3, voxels=23, weighted=False, ignored=False, dtype=torch.float64):
    g = torch.Generator().manual_seed(channels * voxels)
    logits = 2 * torch.randn(2, channels, voxels, generator=g, dtype=torch.float64)
    if kind == "labels":
        target = torch.randint(0, max(channels, 2), (2, voxels), generator=g)
        if ignored:
            target[torch.rand(2, voxels, generator=g) < 0.3] = VOID
    else:
        target = torch.rand(2, channels, voxels, generator=g, dtype=torch.float64)
        target[:, :, :4] = target[:, :, :4].round()
    weight = torch.rand(2, voxels, generator=g, dtype=torch.float64) if weighted else None
    return logits.to(dtype), target, weight, VOID if ignored and kind == "labels" else None


def plain_cost(cost, log_p):
    return (1 - log_p.exp()) ** cost.gamma * (-log_p) ** cost.power + cost.epsilon * (1 - log_p.exp()) ** (
        cost.gamma + 1
    )


def plain(logits, target, weight, ignore_index, mode):
    """The same tables by autograd, from probabilities and one-hot labels that are all there at once."""
    channels = logits.shape[1]
    valid = torch.ones_like(logits[:, 0], dtype=torch.bool)
    y = target
    if not target.is_floating_point():
        valid = valid if ignore_index is None else target != ignore_index
        names = torch.arange(channels) if channels > 1 else torch.ones(1)
        y = (target[:, None] == names[:, None]).to(logits.dtype)
    w = (valid if weight is None else valid * weight).to(logits.dtype)[:, None]
    on = logits.log_softmax(1) if mode == "softmax" else torch.nn.functional.logsigmoid(logits)
    off = torch.zeros_like(on) if mode == "softmax" else torch.nn.functional.logsigmoid(-logits)
    p = on.exp()
    hit = p * y if not target.is_floating_point() else (p + y - (p - y).abs()) / 2
    tables = {
        "voxels": (valid[:, None] * (y if mode == "softmax" else torch.ones_like(y))).sum(2),
        "count": (w * y).sum(2),
        "mass": (w * p).sum(2),
        "tp": (w * hit).sum(2),
        "nll": -(w * y * on).sum(2),
        "nll_off": -(w * (1 - y) * off).sum(2),
        "spread": -(w * (on + off)).sum(2),
        "squares": (w * p * p).sum(2),
        "miss_squares": (w * y * (y - p) ** 2).sum(2),
        "false_squares": (w * (1 - y) * (y - p) ** 2).sum(2),
        "product": (w * p * y).sum(2),
        "target_squares": (w * y * y).sum(2),
    }
    costs = {
        cost: (
            (w * y * plain_cost(cost, on)).sum(2),
            (w * (1 - y) * plain_cost(cost, off)).sum(2) * (mode == "sigmoid"),
        )
        for cost in COSTS
    }
    log_p = (y * on).sum(1, keepdim=True) if mode == "softmax" else y * on + (1 - y) * off
    return Overlap(
        **tables, valid=valid.sum(1).double(), total=w.sum((1, 2)), log_p=log_p * valid[:, None], costs=costs
    )


def random_sum(found: Overlap, seed=0):
    """A random linear function of everything that carries a gradient: random upstream gradients."""
    g = torch.Generator().manual_seed(seed)
    names = ("mass", "tp", "nll", "nll_off", "spread", "squares", "product", "miss_squares", "false_squares")
    parts = [getattr(found, name) for name in names] + [table for pair in found.costs.values() for table in pair]
    parts += [found.log_p] if found.log_p is not None else []
    return torch.stack(
        [(part * torch.randn(part.shape, generator=g, dtype=torch.float64)).sum() for part in parts]
    ).sum()


def detached(found: Overlap):
    """All tables by name, as float64."""
    costs = {f"{cost} {place}": t for cost, pair in found.costs.items() for place, t in enumerate(pair)}
    tables = found._asdict() | costs
    return {name: t.detach().double() for name, t in tables.items() if isinstance(t, torch.Tensor)}


def run(logits, target, weight, ignore_index, mode, **flags):
    logits = logits.detach().requires_grad_()
    found = overlap(logits, target, weight, mode=mode, ignore_index=ignore_index, **flags)
    return found, torch.autograd.grad(random_sum(found), logits)[0]


@kinds
@variants
@pytest.mark.parametrize("channels", [1, 2, 3, 7])
def test_values_and_random_gradients_equal_autograd(mode, kind, variant, channels):
    if mode == "softmax" and channels == 1:
        channels = 4
    logits, target, weight, ignore_index = inputs(mode, kind, channels=channels, **variant)
    per_voxel = kind == "labels"
    found, gradient = run(logits, target, weight, ignore_index, mode, **EVERYTHING, per_voxel=per_voxel)
    logits.requires_grad_()
    expected = plain(logits, target, weight, ignore_index, mode)
    expected = expected if per_voxel else expected._replace(log_p=None)
    (expected_gradient,) = torch.autograd.grad(random_sum(expected), logits)
    torch.testing.assert_close(detached(found), detached(expected), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-12)


@kinds
@variants
@pytest.mark.parametrize("block", [1, 9, 3 * 22, 3 * 23, 3 * 24])
def test_blocks_join_without_seams(monkeypatch, mode, kind, variant, block):
    logits, target, weight, ignore_index = inputs(mode, kind, **variant)
    flags = EVERYTHING | {"per_voxel": kind == "labels"}
    whole, whole_gradient = run(logits, target, weight, ignore_index, mode, **flags)
    monkeypatch.setattr(blocks, "BLOCK", block)
    found, gradient = run(logits, target, weight, ignore_index, mode, **flags)
    torch.testing.assert_close(detached(found), detached(whole), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradient, whole_gradient, rtol=1e-12, atol=1e-14)


@variants
@pytest.mark.parametrize("channels", [2, 5])
def test_label_op_equals_channel_op(variant, channels):
    """Both ops serve softmax; the one without a one-hot matrix and the other on the same labels."""
    logits, target, weight, ignore_index = inputs(channels=channels, **variant)
    g = torch.randn(2, len(TABLES) + 2 * len(COSTS), channels, dtype=torch.float64)
    results = []
    ops = {labels_pass.overlap_labels: (*OPTIONS, True), channels_pass.overlap_channels: (True, *OPTIONS, False)}
    for op, last in ops.items():
        z = logits.clone().requires_grad_()
        _, sums, totals = op(z, target, weight, ignore_index, *last)
        results.append([sums.detach(), totals.detach(), *torch.autograd.grad((sums * g).sum(), z)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_flags_add_tables_and_change_no_other():
    logits, target, weight, _ = inputs(weighted=True)
    without, everything = overlap(logits, target, weight), overlap(logits, target, weight, **EVERYTHING)
    for name in TABLES:
        if name in ("squares", "miss_squares", "false_squares", "spread"):
            assert not getattr(without, name).any()
            assert getattr(everything, name).all()
        else:
            torch.testing.assert_close(getattr(without, name), getattr(everything, name), rtol=1e-12, atol=0)
    assert not without.costs
    for per_voxel in (False, True):
        found = overlap(logits, target, weight, mode="sigmoid", per_voxel=per_voxel)
        assert (found.log_p is not None) == per_voxel
        assert (overlap(logits, target, weight, per_voxel=per_voxel).log_p is not None) == per_voxel


def test_what_only_the_target_decides_has_no_gradient():
    logits, target, weight, _ = inputs(weighted=True)
    found = overlap(logits.requires_grad_(), target, weight)
    for name in ("voxels", "count", "target_squares", "valid", "total"):
        assert not getattr(found, name).requires_grad
    assert found.mass.requires_grad


@pytest.mark.parametrize("mode", ["softmax", "sigmoid"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_ignored_voxels_whatever_their_logits(mode, bad):
    logits, target, weight, ignore_index = inputs(mode, ignored=True, weighted=True)
    flags = EVERYTHING | {"per_voxel": True}
    clean, clean_gradient = run(logits, target, weight, ignore_index, mode, **flags)
    ignored = (target == VOID)[:, None].expand_as(logits)
    found, gradient = run(logits.masked_fill(ignored, bad), target, weight, ignore_index, mode, **flags)
    torch.testing.assert_close(detached(found), detached(clean), rtol=0, atol=0)
    assert torch.equal(gradient, clean_gradient)
    assert not gradient[ignored].any()
    assert not found.log_p.masked_select((target == VOID)[:, None]).any()


@kinds
def test_impossible_class(mode, kind):
    """-inf where the target has nothing of the class: nothing there, and the rest as without that channel."""
    logits, target, weight, _ = inputs(mode, kind, weighted=True)
    if kind == "labels":
        target[target == 2] = 1
    else:
        target[:, 2] = 0
    logits[:, 2] = -torch.inf
    found, gradient = run(logits, target, weight, None, mode, squares=True)
    assert gradient.isfinite().all()
    assert not gradient[:, 2].any()
    assert not found.mass[:, 2].any()
    if mode == "softmax":
        fewer = overlap(logits[:, :2], target if kind == "labels" else target[:, :2], weight, squares=True)
        for name in TABLES:
            torch.testing.assert_close(getattr(found, name)[:, :2].detach(), getattr(fewer, name))


@pytest.mark.parametrize("mode", ["softmax", "sigmoid"])
def test_impossible_label(mode):
    """-inf at the labelled class: an infinite cost, and finite counts with the gradients of the other classes."""
    logits, target, _, _ = inputs(mode)
    target[0, 3] = 1
    logits[0, 1, 3] = -torch.inf
    logits.requires_grad_()
    found = overlap(logits, target, mode=mode)
    assert found.nll[0, 1] == torch.inf
    assert found.nll.isinf().sum() == 1
    expected = plain(logits, target, None, None, mode)
    torch.testing.assert_close(found.mass, expected.mass)
    torch.testing.assert_close(found.tp, expected.tp)
    (gradient,) = torch.autograd.grad((found.mass.square() + found.tp).sum(), logits)
    (expected_gradient,) = torch.autograd.grad((expected.mass.square() + expected.tp).sum(), logits)
    torch.testing.assert_close(gradient, expected_gradient)


@kinds
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_types_are_summed_wide(mode, kind, dtype):
    logits, target, weight, _ = inputs(mode, kind, voxels=5001, weighted=True, dtype=dtype)
    flags = {"squares": True, "per_voxel": (mode, kind) == ("softmax", "labels")}
    found, gradient = run(logits, target, weight, None, mode, **flags)
    expected, expected_gradient = run(logits.double(), target, weight, None, mode, **flags)
    assert gradient.dtype == dtype
    for name in TABLES:
        assert getattr(found, name).dtype == torch.float64
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-6, atol=1e-6)
    error = (gradient.double() - expected_gradient).norm() / expected_gradient.norm()
    assert error < 2 * torch.finfo(dtype).eps


@kinds
def test_bad_values_are_named(mode, kind):
    logits, target, weight, _ = inputs(mode, kind, weighted=True)
    if kind == "labels":
        for bad in (-1, 3, 255):
            target[1, 2] = bad
            low, high = min(0, bad), max(2, bad)
            with pytest.raises(ValueError, match=rf"labels must be in 0\.\.2 .*; got values from {low} to {high}"):
                overlap(logits, target, weight, mode=mode)
        target[1, 2] = 0
    else:
        for bad in (-0.5, 1.5):
            target[1, 1, 2] = bad
            with pytest.raises(ValueError, match=rf"must lie in \[0, 1\]; got values from .*{bad}"):
                overlap(logits, target, weight, mode=mode)
        target[1, 1, 2] = 0
    weight[0, 0] = -2
    with pytest.raises(ValueError, match="weights must be at least 0; got values from -2 to"):
        overlap(logits, target, weight, mode=mode)


@kinds
def test_bad_values_are_named_when_compiled(mode, kind):
    torch.compiler.reset()
    compiled = torch.compile(overlap, fullgraph=True, backend="aot_eager")
    logits, target, _, _ = inputs(mode, kind)
    expected = overlap(logits, target, mode=mode)
    torch.testing.assert_close(detached(compiled(logits, target, mode=mode)), detached(expected))
    target[1, ..., 2] = 9
    with pytest.raises(ValueError, match="got values from"):
        compiled(logits, target, mode=mode)
    torch.compiler.reset()


@variants
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_opcheck(variant, dtype):
    logits, target, weight, ignore_index = inputs(voxels=5, dtype=dtype, **variant)
    logits.requires_grad_()
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    if dtype == torch.float16:
        checks = checks[:3]  # values are compared above
    for per_voxel in (False, True):
        args = (logits, target, weight, ignore_index, *OPTIONS, per_voxel)
        torch.library.opcheck(labels_pass._forward, args, test_utils=checks)
        args = (logits, target, weight, ignore_index, False, *OPTIONS, per_voxel)
        torch.library.opcheck(channels_pass._forward, args, test_utils=checks)


@variants
def test_opcheck_of_the_backward_ops(variant):
    logits, target, weight, ignore_index = inputs(voxels=5, **variant)
    log_p, sums, _ = labels_pass.overlap_labels(logits, target, weight, ignore_index, *OPTIONS, True)
    g_sums, g_log_p = torch.randn_like(sums), torch.randn_like(log_p)
    checks = ("test_schema", "test_faketensor")
    for g in (None, g_log_p):
        args = (logits, target, weight, log_p, g, g_sums, ignore_index, *OPTIONS)
        torch.library.opcheck(labels_pass._backward, args, test_utils=checks)
    for g in (None, torch.randn_like(logits)):
        args = (logits, target, weight, g, g_sums, ignore_index, False, *OPTIONS)
        torch.library.opcheck(channels_pass._backward, args, test_utils=checks)


@variants
def test_log_p_is_taken_anew_where_it_was_not_kept(variant):
    """As on other devices, which keep it only for those who ask."""
    logits, labels, weight, ignore_index = inputs(**variant)
    log_p, sums, _ = labels_pass.overlap_labels(logits, labels, weight, ignore_index, *OPTIONS, True)
    g = torch.randn_like(sums)
    kept, anew = (
        labels_pass._backward(logits, labels, weight, found, None, g, ignore_index, *OPTIONS)
        for found in (log_p, log_p[:, :0])
    )
    torch.testing.assert_close(anew, kept, rtol=1e-10, atol=1e-12)


def peak_memory(step):
    """Highest sum of bytes allocated minus bytes released while `step` runs."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as log:
        step()
    held = peak = 0
    events = [e for e in log.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@pytest.mark.parametrize(("size", "block"), [(512, blocks.BLOCK), (128, blocks.BLOCK // 16)])
def test_memory_beyond_the_inputs(monkeypatch, size, block):
    """Dice and cross entropy, forward and backward: the gradient, one value a voxel, and one block.

    Logits that fit into one block take twice their size instead: 2.5 MiB at most.
    """
    monkeypatch.setattr(blocks, "BLOCK", block)
    loss = L.DiceLoss() + L.CrossEntropyLoss()
    logits = torch.randn(1, 21, size, size, requires_grad=True)
    labels = torch.randint(0, 21, (1, size, size))
    peak = peak_memory(lambda: loss(logits, labels).backward())
    assert logits.nbytes <= peak <= 1.5 * logits.nbytes, f"{peak / logits.nbytes:.2f} times the logits"


@pytest.mark.parametrize("mode", ["softmax", "sigmoid"])
def test_counts_of_a_dense_target_do_not_drift(mode):
    """A block adds hundreds of thousands of equal values: one after the other in float32 they would be off."""
    target = torch.tensor([0.1, 0.9])[None, :, None].expand(1, 2, blocks.BLOCK).contiguous()
    found = overlap(torch.zeros(1, 2, blocks.BLOCK), target, mode=mode)
    exact = blocks.BLOCK * torch.tensor([[0.1, 0.9]], dtype=torch.float64)
    torch.testing.assert_close(found.count, exact, rtol=1e-6, atol=0)
    voxels = exact if mode == "softmax" else torch.full_like(exact, blocks.BLOCK)
    torch.testing.assert_close(found.voxels, voxels, rtol=1e-6, atol=0)


@pytest.mark.parametrize("mode", ["softmax", "sigmoid"])
def test_squares_of_channels_only_if_asked_for(mode):
    logits, target = torch.randn(2, 3, 40, dtype=torch.float64), torch.rand(2, 3, 40, dtype=torch.float64)
    without, asked = (overlap(logits, target, mode=mode, squares=squares) for squares in (False, True))
    for name in TABLES:
        if name in SQUARES:
            assert not getattr(without, name).any()
            assert getattr(asked, name).all()
        else:
            torch.testing.assert_close(getattr(without, name), getattr(asked, name), rtol=0, atol=0)


@kinds
def test_threads_change_not_a_bit(monkeypatch, mode, kind):
    """Each takes whole blocks, and sums over blocks have one order."""
    monkeypatch.setattr(blocks, "BLOCK", 9)
    logits, target, weight, _ = inputs(mode, kind, voxels=101, weighted=True)
    one, one_gradient = run(logits, target, weight, None, mode, **EVERYTHING)
    torch.set_num_threads(2)
    two, two_gradient = run(logits, target, weight, None, mode, **EVERYTHING)
    torch.testing.assert_close(detached(two), detached(one), rtol=0, atol=0)
    assert torch.equal(two_gradient, one_gradient)
    target.view(-1)[-1] = 77
    with pytest.raises(ValueError, match="got values from"):
        overlap(logits, target, weight, mode=mode)
    torch.set_num_threads(1)
