"""Sums over segments against plain loops over voxels, and that small sums beside large ones are not lost."""

import math

import numpy as np
import pytest
import torch

from delineate.ops import segments as module
from delineate.ops.components import MOST
from delineate.ops.cost import Cost, packed
from delineate.ops.overlap import overlap
from delineate.ops.segments import SUMS, component_sums, segment_gather, segment_sums, segments_of

COSTS = [Cost(gamma=2.0), Cost(gamma=0.5), Cost(epsilon=1.0), Cost(2.0, 1.0, -0.5), Cost(power=0.3)]
SEGMENTS = 6
OPTIONS = {"sums": (False, []), "squares": (True, []), "costs": (False, packed(COSTS)), "all": (True, packed(COSTS))}

options = pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)
weighted_or_not = pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])


@pytest.fixture
def two_threads():
    yield lambda: torch.set_num_threads(2)
    torch.set_num_threads(1)


def inputs(voxels=41, weighted=True, dtype=torch.float64):
    """Numbers with gaps, and some that only one of the samples has."""
    log_p = (-0.05 - 3 * torch.rand(2, voxels, dtype=torch.float64)).to(dtype)
    ids = torch.tensor([0, 1, 2, 4, 5])[torch.randint(0, 5, (2, voxels))].int()
    ids[1][ids[1] == 2] = 0
    labels = (ids % 3 + 1).long()
    weight = torch.rand(2, voxels, dtype=torch.float64) if weighted else None
    return log_p, labels, ids, weight


def cost_of(cost, log_p):
    wrong = -math.expm1(log_p)
    return wrong**cost.gamma * (-log_p) ** cost.power + cost.epsilon * wrong ** (cost.gamma + 1)


def by_loop(log_p, labels, ids, weight, squares, costs):
    found = torch.zeros(len(log_p), len(SUMS) + len(costs), SEGMENTS + 1, dtype=torch.float64)
    for n, v in np.ndindex(*log_p.shape):
        k, lp, w = int(ids[n, v]), float(log_p[n, v]), 1.0 if weight is None else float(weight[n, v])
        if k:
            p, of_segment = math.exp(lp), found[n, :, k]
            of_segment[:2] += torch.tensor([1, w], dtype=torch.float64)
            of_segment[2] = labels[n, v]
            of_segment[3] += w * p
            of_segment[4] += w * p * p * squares
            of_segment[5] += w * (1 - p) ** 2 * squares
            for row, cost in enumerate(costs, 6):
                of_segment[row] += w * cost_of(cost, lp)
    return found


@weighted_or_not
@options
def test_component_sums_equal_a_loop(weighted, option):
    log_p, labels, ids, weight = inputs(weighted=weighted)
    found = component_sums(log_p, labels, ids, weight, SEGMENTS, *option)
    expected = by_loop(log_p, labels, ids, weight, option[0], COSTS if option[1] else [])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert SUMS == ("voxels", "count", "label", "tp", "squares", "miss_squares")
    assert not found[..., 0].any()


@pytest.mark.parametrize(
    ("dtype", "costs"), [(torch.float32, COSTS), (torch.bfloat16, COSTS), (torch.float16, [])], ids=str
)
def test_component_sums_of_narrow_types(dtype, costs):
    log_p, labels, ids, weight = inputs(voxels=300, dtype=dtype)
    weight = weight.to(dtype)
    log_p.requires_grad_()
    found = component_sums(log_p, labels, ids, weight, SEGMENTS, True, packed(costs))
    assert found.dtype == torch.float64
    wide = log_p.detach().double().requires_grad_()
    expected = component_sums(wide, labels, ids, weight.double(), SEGMENTS, True, packed(costs))
    torch.testing.assert_close(found, expected, rtol=4 * torch.finfo(dtype).eps, atol=0)
    (gradient,), (precise,) = torch.autograd.grad(found.sum(), log_p), torch.autograd.grad(expected.sum(), wide)
    assert gradient.dtype == dtype
    assert (gradient - precise).norm() / precise.norm() < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32])
def test_any_type_of_labels_and_any_layout(dtype):
    log_p, _, ids, weight = inputs()
    labels = torch.ones_like(ids).to(dtype)
    expected = component_sums(log_p, labels.long(), ids, weight, SEGMENTS, True, [])
    assert torch.equal(component_sums(log_p, labels, ids, weight, SEGMENTS, True, []), expected)
    columns = [values.mT.contiguous().mT for values in (log_p, labels, ids, weight)]
    kept = [values.clone() for values in columns]
    assert torch.equal(component_sums(*columns, SEGMENTS, True, []), expected)
    assert all(torch.equal(*pair) for pair in zip(columns, kept, strict=True))


@weighted_or_not
@options
def test_gradient_of_component_sums(weighted, option):
    log_p, *rest = inputs(voxels=9, weighted=weighted)
    assert torch.autograd.gradcheck(lambda x: component_sums(x, *rest, SEGMENTS, *option), log_p.requires_grad_())


def test_gradient_of_component_sums_is_nothing_outside_of_components():
    log_p, labels, ids, weight = inputs()
    log_p.masked_fill_(ids == 0, torch.nan).requires_grad_()
    found = component_sums(log_p, labels, ids, weight, SEGMENTS, True, packed(COSTS))
    (gradient,) = torch.autograd.grad(found.sum(), log_p)
    assert found.isfinite().all()
    assert gradient[ids > 0].all()
    assert not gradient[ids == 0].any()


def test_nan_stays_in_its_component():
    log_p, labels, ids, weight = inputs()
    clean = component_sums(log_p, labels, ids, weight, SEGMENTS, False, [])
    log_p[0, (ids[0] == 4).nonzero()[0]] = torch.nan
    found = component_sums(log_p, labels, ids, weight, SEGMENTS, False, [])
    assert found[0, 3, 4].isnan()
    assert found.isnan().sum() == 1
    clean[0, 3, 4] = 0
    assert torch.equal(found.nan_to_num(0), clean)


def test_double_backward_of_component_sums_is_refused():
    log_p, *rest = inputs()
    found = component_sums(log_p.requires_grad_(), *rest, SEGMENTS, False, [])
    (gradient,) = torch.autograd.grad(found.square().sum(), log_p, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives of a loss are not supported"):
        gradient.sum().backward()


def rows_by_loop(values, ids):
    found = torch.zeros(*values.shape[:2], SEGMENTS + 1, dtype=torch.float64)
    for n, r, v in np.ndindex(*values.shape):
        found[n, r, ids[n, v]] += values[n, r, v].double()
    return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("block", [1, 7, 41, 1000])
def test_segment_sums_equal_a_loop(monkeypatch, dtype, block):
    monkeypatch.setattr(module, "BLOCK", block)
    _, _, ids, _ = inputs()
    values = torch.randn(2, 3, 41).to(dtype)
    for same in (values, values.mT.contiguous().mT):
        found = segment_sums(same, ids, SEGMENTS)
        torch.testing.assert_close(found, rows_by_loop(values, ids), rtol=1e-12, atol=1e-14)
        assert torch.equal(same, values)


def test_segment_sums_of_more_voxels_than_lanes_divide():
    ids = torch.randint(0, SEGMENTS + 1, (1, 5003)).int()
    values = torch.rand(1, 1, 5003, dtype=torch.float64)
    expected = torch.from_numpy(np.bincount(ids[0], values[0, 0], SEGMENTS + 1))
    torch.testing.assert_close(segment_sums(values, ids, SEGMENTS)[0, 0], expected, rtol=1e-12, atol=0)


def test_segment_gather():
    _, _, ids, _ = inputs()
    table = torch.randn(2, 3, SEGMENTS + 1, dtype=torch.float64)
    for dtype in (torch.float64, torch.float16):
        found = segment_gather(table, ids, torch.empty(2, 0, dtype=dtype))
        expected = table.gather(2, ids.long()[:, None].expand(2, 3, -1)).to(dtype)
        assert found.dtype == dtype
        assert torch.equal(found, expected)


def test_first_and_second_derivatives_of_segment_sums():
    ids = inputs(voxels=7)[2]
    values = torch.randn(2, 2, 7, dtype=torch.float64, requires_grad=True)
    table = torch.randn(2, 2, SEGMENTS + 1, dtype=torch.float64, requires_grad=True)
    for function, argument in (
        (lambda x: segment_sums(x, ids, SEGMENTS), values),
        (lambda x: segment_sums(x.square(), ids, SEGMENTS).square(), values),
        (lambda x: segment_gather(x.square(), ids, values.detach()), table),
    ):
        assert torch.autograd.gradcheck(function, argument)
        assert torch.autograd.gradgradcheck(function, argument)


def test_second_derivative_by_hand():
    """f = sum over segments of (sum of x)^2: its Hessian is 2 for voxels of one segment, and 0 for others."""
    ids = torch.tensor([[1, 0, 1, 2]], dtype=torch.int32)
    x = torch.randn(4, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(lambda x: segment_sums(x[None, None], ids, 2).square().sum(), x)
    assert torch.equal(hessian, 2.0 * (ids[0][:, None] == ids[0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_gradients_of_segment_sums_have_the_type_of_the_values(dtype):
    ids, values = inputs()[2], torch.randn(2, 3, 41).to(dtype).requires_grad_()
    factors = torch.randn(2, 3, SEGMENTS + 1, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((segment_sums(values, ids, SEGMENTS) * factors).sum(), values)
    assert gradient.dtype == dtype
    assert torch.equal(gradient, segment_gather(factors, ids, values))


@pytest.mark.parametrize("shape", [(0, 2, 5), (2, 0, 5), (2, 3, 0)])
def test_nothing_to_sum(shape):
    ids = torch.zeros(shape[0], shape[2], dtype=torch.int32)
    values = torch.zeros(shape, requires_grad=True)
    found = segment_sums(values, ids, SEGMENTS)
    assert found.shape == (*shape[:2], SEGMENTS + 1)
    assert not found.any()
    found.sum().backward()
    assert values.grad is not None
    assert values.grad.shape == shape


@pytest.mark.parametrize("shape", [(0, 5), (2, 0)])
def test_no_voxels_of_components(shape):
    ids, log_p = torch.zeros(shape, dtype=torch.int32), torch.zeros(shape, requires_grad=True)
    found = component_sums(log_p, ids.long(), ids, torch.ones(shape), 3, True, packed(COSTS))
    assert found.shape == (shape[0], len(SUMS) + len(COSTS), 4)
    assert not found.any()
    found.sum().backward()
    assert log_p.grad is not None
    assert log_p.grad.shape == shape


def test_segments_of():
    assert segments_of(torch.tensor([[0, 3, 1], [0, 7, 7]])) == 7
    assert segments_of(torch.zeros(2, 3, 4, dtype=torch.int32)) == 0
    for shape in ((0, 5), (2, 0), (0, 0)):
        assert segments_of(torch.zeros(shape, dtype=torch.int32)) == 0


def test_segments_of_hidden_values_are_the_most_there_can_be():
    def table(ids):
        return torch.zeros(segments_of(ids) + 1)

    few, many = torch.ones(2, 3, 4, dtype=torch.int32), torch.ones(2, MOST + 5, dtype=torch.int32)
    torch.compiler.reset()
    compiled = torch.compile(table, fullgraph=True, backend="eager", dynamic=False)
    assert len(compiled(few)) == 13
    assert len(compiled(many)) == MOST + 1
    torch.compiler.reset()
    assert torch.func.vmap(lambda ids: table(ids))(torch.stack([few, few])).shape == (2, 13)


def test_segment_sums_keep_a_background_beside_a_million_hits():
    rng = np.random.default_rng(0)
    ids = torch.ones(1, 1_500_000, dtype=torch.int32)
    ids[0, torch.from_numpy(rng.choice(1_500_000, 30, replace=False))] = 0
    values = torch.where(ids == 0, 0.001, 1 - 1e-4 * torch.rand(ids.shape))[:, None]
    found = segment_sums(values, ids, 1)
    exact = [math.fsum(values[0, 0][ids[0] == k].tolist()) for k in (0, 1)]
    assert found[0, 0].tolist() == pytest.approx(exact, rel=1e-12)
    assert found[0, 0, 0].item() == pytest.approx(0.03, rel=1e-6)


def test_component_sums_of_a_million_voxels_do_not_drift():
    """Added one by one in float32 they would."""
    log_p = -0.1 * torch.rand(1, 1_500_000)
    ids = torch.ones(log_p.shape, dtype=torch.int32)
    ids[0, :10] = 2
    found = component_sums(log_p, ids, ids, None, 2, False, packed([Cost()]))[0]
    for k, voxels in ((1, log_p[0, 10:]), (2, log_p[0, :10])):
        exact = voxels.double()
        assert found[3, k].item() == pytest.approx(exact.exp().sum().item(), rel=1e-7)
        assert found[6, k].item() == pytest.approx(-exact.sum().item(), rel=1e-12)


PASSES = [("softmax", "labels", 2), ("softmax", "dense", 2), ("sigmoid", "labels", 1), ("sigmoid", "dense", 1)]


@pytest.mark.parametrize(("mode", "kind", "channels"), PASSES)
def test_the_pass_keeps_false_positives_beside_a_million_hits(mode, kind, channels):
    """mass - tp, the background's share of the mass, is 0.03 beside 1.5 million."""
    labels = torch.ones(1, 1_500_000, dtype=torch.uint8)
    labels[0, ::50_000] = 0
    z = torch.where(labels > 0, 8.0, math.log(0.001 / 0.999))
    logits = (torch.stack([torch.zeros_like(z), z], 1) if channels == 2 else z[:, None]).contiguous()
    names = torch.tensor([[0], [1]] if channels == 2 else [[1]])
    target = labels if kind == "labels" else (labels[:, None] == names).float()
    found = overlap(logits, target, mode=mode)
    exact = z.double()[labels == 0].sigmoid().sum().item()
    assert exact == pytest.approx(0.03, rel=1e-4)
    assert (found.mass - found.tp)[0, -1].item() == pytest.approx(exact, rel=1e-6)
    assert found.tp[0, -1].item() == pytest.approx(z.double()[labels > 0].sigmoid().sum().item(), rel=1e-6)


def test_threads_change_not_a_bit(monkeypatch, two_threads):
    monkeypatch.setattr(module, "BLOCK", 9)
    log_p, labels, ids, weight = inputs(voxels=101)
    values = torch.randn(2, 3, 101)

    def run():
        x, y = values.clone().requires_grad_(), log_p.clone().requires_grad_()
        found = segment_sums(x, ids, SEGMENTS), component_sums(y, labels, ids, weight, SEGMENTS, True, packed(COSTS))
        return *found, *torch.autograd.grad(found[0].square().sum() + found[1].square().sum(), (x, y))

    one = run()
    two_threads()
    assert all(torch.equal(*pair) for pair in zip(run(), one, strict=True))


def both(log_p, values, labels, ids, weight):
    own = component_sums(log_p, labels, ids, weight, SEGMENTS, True, packed(COSTS))
    return own.square().sum((1, 2)) + segment_sums(values, ids, SEGMENTS).square().sum((1, 2))


def test_compiles():
    torch.compiler.reset()
    log_p, *rest = inputs()
    values = torch.randn(2, 3, 41, dtype=torch.float64).requires_grad_()
    log_p.requires_grad_()
    results = []
    for function in (both, torch.compile(both, fullgraph=True, backend="aot_eager")):
        found = function(log_p, values, *rest)
        results.append([found.detach(), *torch.autograd.grad(found.sum(), (log_p, values))])
    torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=0)
    torch.compiler.reset()


def test_vmap_and_grad():
    log_p, *rest = inputs()
    values = torch.randn(2, 3, 41, dtype=torch.float64)
    several = torch.stack([log_p, log_p * 0.5, log_p * 2])
    found = torch.func.vmap(lambda x: both(x, values, *rest))(several)
    gradients = torch.func.vmap(torch.func.grad(lambda x: both(x, values, *rest).sum()))(several)
    for x, value, gradient in zip(several, found, gradients, strict=True):
        x = x.clone().requires_grad_()
        alone = both(x, values, *rest)
        torch.testing.assert_close(value, alone.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient, torch.autograd.grad(alone.sum(), x)[0], rtol=1e-12, atol=0)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
@weighted_or_not
def test_opcheck(weighted):
    log_p, labels, ids, weight = inputs(voxels=5, weighted=weighted)
    args = (log_p.requires_grad_(), labels, ids, weight, SEGMENTS, True, packed(COSTS))
    torch.library.opcheck(module._component_sums, args)
    g = torch.randn(2, len(SUMS) + len(COSTS), SEGMENTS + 1, dtype=torch.float64)
    utils = ("test_schema", "test_faketensor")
    args = (log_p.detach(), ids, weight, g, True, packed(COSTS))
    torch.library.opcheck(module._component_sums_backward, args, test_utils=utils)
    values = torch.randn(2, 3, 5, requires_grad=True)
    torch.library.opcheck(module._segment_sums, (values, ids, SEGMENTS))
    torch.library.opcheck(module._segment_gather, (g.requires_grad_(), ids, values.detach()))
