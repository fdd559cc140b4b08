"""Kernels of the pass against its definition on the CPU: values and gradients."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from delineate.ops import overlap_channels as channels_pass
from delineate.ops import overlap_labels as labels_pass
from delineate.ops.blocks import COUNT, MASS, NLL, ROWS, SQUARES, TP, VOXELS
from delineate.ops.cost import Cost, packed
from delineate.ops.cuda import overlap_channels as channel_kernels
from delineate.ops.cuda import overlap_labels as label_kernels
from delineate.ops.cuda import tiles

from .device import kernels, there

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of infinities in the interpreter

COSTS = packed([Cost(gamma=2), Cost(gamma=0.5), Cost(power=0.3), Cost(gamma=1.0, epsilon=0.7)])
PLAIN, EVERYTHING = (False, False, []), (True, True, COSTS)
VOID = 255
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 2e-2}
VARIANTS = {
    "alone": {},
    "weighted": {"weighted": True},
    "ignored": {"ignored": True},
    "ignored and weighted": {"ignored": True, "weighted": True},
}
KINDS = [("sigmoid", "labels"), ("sigmoid", "soft"), ("softmax", "soft")]
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)


def close(found, expected, tolerance=1e-4):
    """Within a share of the largest finite value."""
    found, expected = found.detach().cpu().double(), expected.detach().double()
    largest = expected[expected.isfinite()].abs().max().item() if expected.numel() else 0
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * largest + 1e-12, equal_nan=True)


def inputs(classes, voxels, kind="labels", *, weighted=False, ignored=False, dtype=torch.float32):
    g = torch.Generator().manual_seed(classes * voxels)
    logits = (2 * torch.randn(2, classes, voxels, generator=g)).to(dtype)
    if kind == "labels":
        target = torch.randint(0, max(classes, 2), (2, voxels), generator=g)
        if ignored:
            target[torch.rand(2, voxels, generator=g) < 0.3] = VOID
    else:
        target = torch.rand(2, classes, voxels, generator=g)
        target[:, :, :4] = target[:, :, :4].round()
    weight = torch.rand(2, voxels, generator=g) if weighted else None
    return logits, target, weight, VOID if ignored and kind == "labels" else None


def labels_run(logits, labels, weight, ignore_index, options, per_voxel, upstream):
    """All results of both ops; upstream gradients are drawn once."""
    found = labels_pass._forward(logits, labels, weight, ignore_index, *options, per_voxel)
    g_log_p, g_sums = upstream(logits[:, 0].float()), upstream(found[1])
    given = (logits[:, 0].float(), g_log_p if per_voxel else None, g_sums)
    given = given if logits.device.type == "cuda" else (found[0], *given[1:])
    return *found, labels_pass._backward(logits, labels, weight, *given, ignore_index, *options)


def channels_run(logits, target, weight, ignore_index, options, per_voxel, upstream, softmax):
    found = channels_pass._forward(logits, target, weight, ignore_index, softmax, *options, per_voxel)
    g_log_p, g_sums = upstream(logits.float()), upstream(found[1])
    given = (g_log_p if per_voxel else None, g_sums)
    return *found, channels_pass._backward(logits, target, weight, *given, ignore_index, softmax, *options)


def upstream(like):
    """A random gradient, the same on every device and in every layout."""
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(3), dtype=like.dtype).to(like.device)


def check(run, logits, target, weight, ignore_index, *options, lay=lambda tensor: tensor):
    """Kernels against the definition; `lay` changes the layout of what the kernels get in memory."""
    log_p, sums, totals, gradient = run(logits, target, weight, ignore_index, *options)
    given = [None if tensor is None else lay(tensor) for tensor in there(logits, target, weight)]
    before = [None if tensor is None else tensor.clone() for tensor in given]
    with kernels():
        found = run(*given, ignore_index, *options)
    if found[0].numel():
        close(found[0], log_p)
    close(found[1], sums)
    close(found[2], totals, 1e-6)
    assert found[3].dtype == logits.dtype
    close(found[3], gradient, TOLERANCE[logits.dtype])
    for tensor, copy in zip(given, before, strict=True):
        assert tensor is None or torch.equal(tensor, copy), "a kernel wrote to its inputs"


@every_variant
@pytest.mark.parametrize("classes", [2, 11])
def test_labels(classes, variant):
    check(labels_run, *inputs(classes, 70, **variant), PLAIN, True, upstream)


@every_variant
@pytest.mark.parametrize(("mode", "kind"), KINDS)
def test_channels(mode, kind, variant):
    check(channels_run, *inputs(3, 70, kind, **variant), PLAIN, kind == "labels", upstream, mode == "softmax")


@pytest.mark.parametrize("variant", [VARIANTS["alone"], VARIANTS["ignored and weighted"]], ids=["alone", "both"])
@pytest.mark.parametrize(("mode", "kind"), [("softmax", "labels"), *KINDS])
def test_every_sum_at_once(mode, kind, variant):
    given = inputs(3, 40, kind, **variant)
    if (mode, kind) == ("softmax", "labels"):
        check(labels_run, *given, EVERYTHING, True, upstream)
    check(channels_run, *given, EVERYTHING, mode == "sigmoid" and kind == "labels", upstream, mode == "softmax")


@pytest.mark.parametrize("classes", [8, 9, 25, 33, 48, 65, 112, 150, 193, 256])
def test_every_number_of_classes(classes):
    """One tile and several, whole and with classes that there are not."""
    check(labels_run, *inputs(classes, 37, ignored=True), PLAIN, False, upstream)


@pytest.mark.parametrize("classes", [1, 25, 49, 113, 256])
def test_every_number_of_channels(classes):
    check(channels_run, *inputs(classes, 37), PLAIN, False, upstream, False)
    if classes > 1:
        check(channels_run, *inputs(classes, 37, "soft"), PLAIN, False, upstream, True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("classes", [3, 65])
def test_narrow_logits(classes, dtype):
    logits, labels, *rest = inputs(classes, 50, dtype=dtype, weighted=True, ignored=True)
    check(labels_run, logits, labels, *rest, PLAIN, True, upstream)
    check(channels_run, logits, labels, *rest, PLAIN, True, upstream, False)


@pytest.mark.parametrize("voxels", [1, 127, 128, 129, 640])
def test_blocks_and_programs_join_without_seams(monkeypatch, voxels):
    """Programs of several blocks, the last of which is not whole."""
    monkeypatch.setattr(tiles, "PROGRAMS", 1)
    monkeypatch.setattr(tiles, "BLOCKS", 3)
    given = inputs(3, voxels, weighted=True, ignored=True)
    check(labels_run, *given, PLAIN, True, upstream)
    check(channels_run, *given, PLAIN, True, upstream, False)


def channels_last(tensor):
    return tensor.movedim(1, -1).contiguous().movedim(-1, 1) if tensor.ndim == 3 else tensor


def spread_out(tensor):
    """Every second value of a larger tensor, and samples in the inner dim."""
    wide = torch.zeros(*tensor.shape[1:], 2, len(tensor), dtype=tensor.dtype, device=tensor.device)
    wide[..., 1, :] = tensor.movedim(0, -1)
    return wide[..., 1, :].movedim(-1, 0)


def one_row(tensor):
    """The same number everywhere, kept once."""
    return tensor[:1, ..., :1].expand(tensor.shape)


@pytest.mark.parametrize("lay", [channels_last, spread_out])
@pytest.mark.parametrize("classes", [3, 30])
def test_any_layout(classes, lay):
    given = inputs(classes, 40, weighted=True)
    check(labels_run, *given, PLAIN, True, upstream, lay=lay)
    check(channels_run, *given, PLAIN, True, upstream, False, lay=lay)
    check(channels_run, *inputs(classes, 40, "soft"), PLAIN, False, upstream, True, lay=lay)


def test_expanded_weights_and_gradients():
    logits, labels, weight, _ = inputs(4, 40, weighted=True)
    weight = one_row(weight)
    check(labels_run, logits, labels, weight, None, PLAIN, True, lambda like: one_row(upstream(like)))
    check(channels_run, logits, labels, weight, None, PLAIN, True, lambda like: one_row(upstream(like)), False)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.bool])
def test_labels_of_any_type(dtype):
    logits, labels, *rest = inputs(2, 40)
    check(labels_run, logits, labels.to(dtype), *rest, PLAIN, False, upstream)
    check(channels_run, logits[:, :1], labels.to(dtype), *rest, PLAIN, False, upstream, False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_dense_targets_of_any_type(dtype):
    logits, target, *rest = inputs(3, 40, "soft")
    check(channels_run, logits, target.to(dtype), *rest, PLAIN, False, upstream, True)


@pytest.mark.parametrize("run", [labels_run, channels_run])
def test_offsets_beyond_two_billion(run):
    """Classes so far apart that 32 bits cannot count the way; memory between them is never touched."""
    logits, labels, *rest = inputs(3, 40, dtype=torch.float16)
    far = 2**30 + 16

    def lay(tensor):
        if tensor.ndim < 3:
            return tensor
        room = torch.empty(2 * far + 2 * 40, dtype=tensor.dtype, device=tensor.device)
        return room.as_strided(tensor.shape, (40, far, 1)).copy_(tensor)

    check(run, logits, labels, *rest, PLAIN, False, upstream, *([False] if run is channels_run else []), lay=lay)


@pytest.mark.parametrize("mode", ["softmax", "sigmoid"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_ignored_voxels_whatever_their_logits(mode, bad):
    logits, labels, weight, ignore_index = *there(*inputs(3, 40, ignored=True, weighted=True)[:3]), VOID
    ignored = (labels == VOID)[:, None].expand_as(logits)
    run, extra = (labels_run, ()) if mode == "softmax" else (channels_run, (False,))
    with kernels():
        clean, found = (
            run(z, labels, weight, ignore_index, EVERYTHING, True, upstream, *extra)
            for z in (logits, logits.masked_fill(ignored, bad))
        )
    for ours, expected in zip(found, clean, strict=True):
        assert torch.equal(ours, expected)
    assert not found[3][ignored].any()


@pytest.mark.parametrize("mode", ["softmax", "sigmoid"])
def test_impossible_class_and_impossible_label(mode):
    """-inf where the class is not, and then where it is: an infinite cost of one class, the rest finite."""
    logits, labels, *rest = inputs(3, 40)
    labels[labels == 2] = 1
    logits[:, 2] = -torch.inf
    run, extra = (labels_run, ()) if mode == "softmax" else (channels_run, (False,))
    check(run, logits, labels, *rest, PLAIN, True, upstream, *extra)
    labels[0, 7] = 2
    with kernels():
        _, sums, _, _ = run(*there(logits, labels), *rest, PLAIN, True, upstream, *extra)
    assert sums[0, NLL, 2] == torch.inf
    assert sums.isinf().sum() == 1
    assert not sums.isnan().any()


def test_nan_in_a_valid_logit_propagates():
    logits, labels, *rest = inputs(3, 40)
    logits[0, 1, 5] = torch.nan
    for run, extra in ((labels_run, ()), (channels_run, (False,))):
        with kernels():
            _, sums, _, gradient = run(*there(logits, labels), *rest, PLAIN, True, upstream, *extra)
        assert sums[0, [MASS, TP]].isnan().any(1).all()
        assert not sums[0, [VOXELS, COUNT]].isnan().any()  # a class does not get lost
        assert not sums[1].isnan().any()
        assert gradient[0, 1, 5].isnan()


@pytest.mark.parametrize("run", [labels_run, channels_run])
def test_weights_of_any_scale(run):
    """Their squares would be too small for float32."""
    logits, labels, weight, _ = inputs(3, 40, weighted=True)
    extra = [False] if run is channels_run else []
    with kernels():
        one, small = (
            run(*there(logits, labels, w), None, (True, False, []), False, upstream, *extra)[1]
            for w in (weight, 2.0**-80 * weight)
        )
    assert one[:, SQUARES].all()
    rows = [row for row in range(len(ROWS)) if row != VOXELS]
    close(2.0**80 * small[:, rows], one[:, rows].cpu())


def test_confident_logits():
    """Margins at which differences of large numbers would show: never below 0, never NaN."""
    logits, labels, *rest = inputs(3, 40)
    logits = 40 * torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float() + 200 + 0.1 * logits
    check(labels_run, logits, labels, *rest, EVERYTHING, True, upstream)
    with kernels():
        log_p, sums, _, gradient = labels_run(*there(logits, labels), *rest, EVERYTHING, True, upstream)
    assert (log_p <= 0).all()
    assert (sums >= 0).all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize(("bad", "column"), [("labels", 1), ("soft", 1), ("weight", 3)])
def test_values_that_may_not_be_are_counted(monkeypatch, bad, column):
    """They end in an assertion on the device, which the interpreter passes over; `benchmarks/kernels.py --check` sees
    that it is compiled in."""
    logits, target, weight, _ = inputs(3, 40, "soft" if bad == "soft" else "labels", weighted=True)
    weight[0, 2] = -1 if bad == "weight" else 0
    if bad == "soft":
        target[1, 0, 3], target[1, 2, 3] = 1.5, torch.nan
    elif bad == "labels":
        target[1, 3], target[1, 7] = 2**32 + 1, -1
    for kernel, options in ((label_kernels, ()), (channel_kernels, (bad == "soft",)))[bad == "soft" :]:
        found = []
        monkeypatch.setattr(kernel, "add_up", lambda partial, counts, *_, found=found: found.append(counts) or (0, 0))
        kernel.forward(*there(logits, target, weight), None, *options, *PLAIN, False)
        assert found[0][:, column].sum() == (1 if bad == "weight" else 2)
        assert found[0][:, [1, 3]].sum() == found[0][:, column].sum()


def test_what_kernels_do_not_take():
    """float64, more classes than registers hold, and nothing at all: the definition runs."""
    for logits in (torch.zeros(1, 3, 4, dtype=torch.float64), torch.zeros(1, 257, 4), torch.zeros(0, 3, 4)):
        labels = torch.zeros(len(logits), 4, dtype=torch.long)
        assert label_kernels.forward(logits, labels, None, None, *PLAIN, False) is NotImplemented
        assert channel_kernels.forward(logits, labels, None, None, False, *PLAIN, False) is NotImplemented
        with kernels():
            _, sums, _ = labels_pass._forward(*there(logits, labels), None, None, *PLAIN, False)
        assert sums.shape == (len(logits), len(ROWS), logits.shape[1])
        assert sums[:, VOXELS].sum() == labels.numel()


def test_log_p_is_kept_only_if_asked_for():
    logits, labels, *rest = there(*inputs(3, 40)[:3])
    kept = [label_kernels.forward(logits, labels, *rest, None, *PLAIN, per_voxel)[0] for per_voxel in (False, True)]
    assert [tuple(log_p.shape) for log_p in kept] == [(2, 0), (2, 40)]


class Allocated(TorchDispatchMode):
    """Bytes of all tensors that operations hand out anew."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        self.bytes += 0 if func.is_view else sum(t.nbytes for t in tree_leaves(found) if isinstance(t, torch.Tensor))
        return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(8, 21, 512**2), (2, 5, 128**3), (1, 105, 128**3), (16, 150, 512**2)])
def test_memory_beyond_the_inputs_is_the_gradient(monkeypatch, shape, dtype):
    """Dice and cross entropy on large inputs, of which only the shapes are there: nothing is launched."""
    launch = {"__getitem__": lambda self, grid: lambda *args, **options: None}
    for module, name in ((label_kernels, "_sums"), (label_kernels, "_gradient"), (tiles, "_add_up")):
        monkeypatch.setattr(module, name, type("Nothing", (), launch)())
    logits = torch.empty(shape, dtype=dtype, device="meta")
    labels = torch.empty(shape[0], shape[2], dtype=torch.long, device="meta")
    with Allocated() as ahead:
        log_p, sums, _ = label_kernels.forward(logits, labels, None, None, *PLAIN, False)
    with Allocated() as back:
        label_kernels.backward(logits, labels, None, log_p, None, sums, None, *PLAIN)
    assert back.bytes == logits.nbytes
    assert ahead.bytes < 0.1 * logits.nbytes
