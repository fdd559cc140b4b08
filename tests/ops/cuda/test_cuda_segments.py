"""Kernels of sums over segments against their definition on the CPU: values, gradients, also in a fixed order."""

import pytest
import torch

from delineate.losses.expression import parse
from delineate.ops import segments as definition
from delineate.ops.cost import Cost, packed
from delineate.ops.cuda import segments as module
from delineate.ops.segments import LABEL, component_sums, segment_gather, segment_sums

from .device import DEVICE, kernels, there

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of infinities in the interpreter

COSTS = packed([Cost(gamma=2), Cost(gamma=0.5), Cost(power=0.3), Cost(gamma=1.0, epsilon=0.7)])
OPTIONS = {"sums": (False, []), "squares": (True, []), "costs": (False, COSTS), "all": (True, COSTS)}
SEGMENTS = 7
ATOMIC = ("_component_sums", "_segment_sums")

options = pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)
weighted_or_not = pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])


SMALL = {"BLOCK": 16, "STEPS": 2, "SORTED_BLOCK": 8, "LOOKUPS": 32, "MOST_PARTS": 3}
LARGE = {name: getattr(module, name) for name in SMALL}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Few voxels fill several blocks, programs and parts; the interpreter scans one voxel at a time."""
    for name, value in SMALL.items():
        monkeypatch.setattr(module, name, value)


@pytest.fixture
def large_blocks(small_blocks, monkeypatch):
    """Blocks as they are."""
    for name, value in LARGE.items():
        monkeypatch.setattr(module, name, value)


@pytest.fixture
def fixed_order(monkeypatch):
    """A fixed order is asked for, and no kernel with atomics can be launched."""
    for name in ATOMIC:
        monkeypatch.setattr(module, name, None)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def runs(voxels, longest=9):
    """Numbers in runs: long ones, single voxels, gaps, and a number that no voxel has."""
    lengths = torch.randint(1, longest + 1, (2, voxels))
    names = torch.tensor([0, 1, 2, 3, 5, 7])[torch.randint(0, 6, (2, voxels))]
    return torch.stack([row.repeat_interleave(times)[:voxels] for row, times in zip(names, lengths, strict=True)]).int()


IDS = {
    "runs": lambda: runs(77),
    "single": lambda: runs(50, 1),
    "none": lambda: torch.zeros(2, 40, dtype=torch.int32),
    "one": lambda: torch.full((2, 70), 4, dtype=torch.int32),
    "few": lambda: torch.nn.functional.pad(runs(3), (61, 9)),
    "voxel": lambda: torch.tensor([[7], [0]], dtype=torch.int32),
}
some_ids = pytest.mark.parametrize("ids", [pytest.param(make, id=name) for name, make in IDS.items()])


def inputs(ids, weighted=False, dtype=torch.float32):
    log_p = (-0.01 - 3 * torch.rand(ids.shape)).to(dtype)
    return log_p, (ids % 3).long(), ids, torch.rand(ids.shape) if weighted else None


def close(found, expected, tolerance=1e-5):
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found.cpu(), expected, rtol=tolerance, atol=tolerance / 10)


def check_components(log_p, labels, ids, weight, option, tolerance=1e-5):
    """Forward and backward, random upstream gradients."""
    expected = definition._component_sums(log_p, labels, ids, weight, SEGMENTS, *option)
    g_sums = torch.randn_like(expected)
    gradient = definition._component_sums_backward(log_p, ids, weight, g_sums, *option)
    with kernels():
        lp, y, k, w, g = there(log_p, labels, ids, weight, g_sums)
        found = definition._component_sums(lp, y, k, w, SEGMENTS, *option)
        found_gradient = definition._component_sums_backward(lp, k, w, g, *option)
    close(found, expected, tolerance)
    close(found_gradient, gradient, tolerance)
    return expected, gradient


def check_rows(values, ids, tolerance=1e-7):
    """Sums, and a look-up to the tolerance of the type."""
    expected = definition._segment_sums(values, ids, SEGMENTS)
    table = torch.randn_like(expected)
    with kernels():
        found = definition._segment_sums(*there(values, ids), SEGMENTS)
        looked_up = definition._segment_gather(*there(table, ids, values[:, :0]))
    close(found, expected)
    close(looked_up, definition._segment_gather(table, ids, values[:, :0]), tolerance)


@weighted_or_not
@options
def test_component_sums(option, weighted):
    expected, gradient = check_components(*inputs(runs(77), weighted), option)
    assert not expected[..., 0].any()
    assert gradient.any()


@some_ids
def test_component_sums_of_any_numbers(ids):
    check_components(*inputs(ids(), weighted=True), (True, COSTS[:3]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_component_sums_of_narrow_types(dtype):
    """Summed in float32; only the gradient is narrow."""
    log_p, labels, ids, weight = inputs(runs(40), weighted=True, dtype=dtype)
    wide = log_p.float(), labels, ids, weight.to(dtype).float()
    expected = definition._component_sums(*wide, SEGMENTS, True, COSTS)
    g_sums = torch.randn_like(expected)
    gradient = definition._component_sums_backward(wide[0], ids, wide[3], g_sums, True, COSTS)
    with kernels():
        lp, y, k, w, g = there(log_p, labels, ids, weight.to(dtype), g_sums)
        close(definition._component_sums(lp, y, k, w, SEGMENTS, True, COSTS), expected)
        close(definition._component_sums_backward(lp, k, w, g, True, COSTS), gradient.to(dtype), torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32])
def test_any_type_of_labels_and_any_layout(dtype):
    log_p, labels, ids, weight = inputs(runs(40), weighted=True)
    labels = labels.clamp(max=1).to(dtype)
    columns = [values.mT.contiguous().mT for values in (log_p, labels, ids, weight)]
    kept = [values.clone() for values in columns]
    expected, _ = check_components(*columns, (False, []))
    assert all(torch.equal(*pair) for pair in zip(columns, kept, strict=True))
    check_components(log_p[:1].expand(2, 40), labels, ids, weight[:, :1].expand(2, 40), (False, []))
    assert expected[:, LABEL].any()


def test_nothing_is_known_outside_of_components():
    log_p, labels, ids, weight = inputs(runs(77), weighted=True)
    for values in (log_p, weight):
        values.masked_fill_(ids == 0, torch.nan)
    expected, gradient = check_components(log_p, labels, ids, weight, (True, COSTS))
    assert expected.isfinite().all()
    assert gradient.isfinite().all()


def test_nan_stays_in_its_component():
    log_p, labels, ids, _ = inputs(runs(77))
    log_p[0, (ids[0] == 5).nonzero()[0]] = torch.nan
    with kernels():
        found = component_sums(*there(log_p, labels, ids), None, SEGMENTS, False, [])
    assert found.isnan().nonzero().tolist() == [[0, 3, 5]]


def test_more_segments_than_parts_have_bins():
    ids = torch.randint(0, 5000, (1, 40), dtype=torch.int32)
    expected = definition._segment_sums(values := torch.randn(1, 1, 40), ids, 5000)
    with kernels():
        close(definition._segment_sums(*there(values, ids), 5000), expected)


@some_ids
def test_segment_sums(ids):
    numbers = ids()
    check_rows(torch.randn(2, 3, numbers.shape[1]), numbers)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_segment_sums_of_narrow_types(dtype):
    check_rows(torch.randn(2, 2, 40).to(dtype), runs(40), torch.finfo(dtype).eps)


def test_segment_sums_of_any_layout():
    ids, values = runs(40).mT.contiguous().mT, torch.randn(2, 3, 40)
    for same in (values.mT.contiguous().mT, values[:, :1].expand(2, 3, 40), values[..., :1].expand(2, 3, 40)):
        check_rows(same, ids)
    table = torch.randn(2, 1, SEGMENTS + 1).expand(2, 3, SEGMENTS + 1)
    with kernels():
        found = segment_gather(*there(table, ids, values))
    close(found, table.gather(2, ids.long()[:, None].expand(2, 3, 40)))


@weighted_or_not
@options
def test_component_sums_in_a_fixed_order(fixed_order, option, weighted):
    check_components(*inputs(runs(77), weighted), option)


@some_ids
def test_any_numbers_in_a_fixed_order(fixed_order, ids):
    numbers = ids()
    check_components(*inputs(numbers, weighted=True), (False, []))
    check_rows(torch.randn(2, 3, numbers.shape[1]), numbers)


def test_large_blocks(large_blocks):
    voxels = 1301 if DEVICE == "cpu" else 300_001
    ids = runs(voxels, 300)
    check_components(*inputs(ids), (False, COSTS[:3]))
    check_rows(torch.rand(2, 2, voxels), ids)


@pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter runs programs in order")
def test_a_fixed_order_of_large_blocks_changes_not_a_bit(fixed_order, large_blocks):
    ids, values = runs(300_001, 30), torch.randn(2, 2, 300_001)
    check_components(*inputs(ids), (False, COSTS[:3]))
    check_rows(values.square(), ids)
    x, k = there(values, ids)
    one = definition._segment_sums(x, k, SEGMENTS)
    assert all(torch.equal(definition._segment_sums(x, k, SEGMENTS), one) for _ in range(5))


@pytest.mark.parametrize("shape", [(0, 2, 5), (2, 0, 5), (2, 3, 0)])
def test_nothing_to_sum(shape):
    values = torch.zeros(shape, requires_grad=True)
    with kernels():
        found = segment_sums(*there(values, torch.zeros(shape[0], shape[2], dtype=torch.int32)), SEGMENTS)
        found.sum().backward()
    assert found.shape == (*shape[:2], SEGMENTS + 1)
    assert not found.any()
    assert values.grad.shape == shape


@pytest.mark.parametrize(("shape", "segments"), [((0, 5), 3), ((2, 0), 3), ((2, 5), 0)])
def test_no_voxels_of_components(shape, segments):
    log_p = torch.zeros(shape, requires_grad=True)
    with kernels():
        lp, ids = there(log_p, torch.zeros(shape, dtype=torch.int32))
        found = component_sums(lp, ids, ids, None, segments, True, COSTS)
        found.sum().backward()
    assert found.shape == (shape[0], 10, segments + 1)
    assert not found.any()
    assert log_p.grad.shape == shape
    assert not log_p.grad.any()


def test_double_precision_runs_the_definition():
    log_p, labels, ids, weight = inputs(runs(40), weighted=True)
    with kernels():
        lp, y, k, w = there(log_p.double(), labels, ids, weight.double())
        found = component_sums(lp, y, k, w, SEGMENTS, True, COSTS), segment_sums(lp[:, None], k, SEGMENTS)
    expected = definition._component_sums(log_p.double(), labels, ids, weight.double(), SEGMENTS, True, COSTS)
    torch.testing.assert_close(found[0].cpu(), expected, rtol=1e-12, atol=0)
    expected = definition._segment_sums(log_p.double()[:, None], ids, SEGMENTS)
    torch.testing.assert_close(found[1].cpu(), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["Blob(Dice)", "Component(Dice)", "Blob(CE)", "Component(Dice(squared=True) + Focal)"])
def test_losses_by_instance(name):
    target = torch.zeros(2, 7, 9, dtype=torch.long)
    target[0, 1:3, 1:4], target[0, 5, 6:], target[0, 5, 1] = 1, 2, 1
    target[1, 2:, 3:5], target[1, 0, 0] = 1, 1
    logits, results = torch.randn(2, 3, 7, 9), []
    loss = parse(name)
    results.append(with_gradient(loss, logits, target))
    with kernels():
        results.append(with_gradient(loss, *there(logits, target)))
    (expected, gradient), (found, found_gradient) = results
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found_gradient.cpu(), gradient, rtol=1e-4, atol=1e-6)


def with_gradient(loss, logits, target):
    logits = logits.clone().requires_grad_()
    value = loss(logits, target)
    return value.detach(), *torch.autograd.grad(value, logits)
