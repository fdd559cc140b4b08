"""C4: half precision, large images, long sums: the result is that of float64 on the same rounded logits."""

import functools

import pytest
import torch

import delineate.losses as L
from losses.cases import DEFAULTS, MODES, batch, held_to, value_and_gradient, variant

LOSS_SCALE = 4096
HALVES = (torch.float16, torch.bfloat16)
SPACES = {torch.float16: (272, 272), torch.bfloat16: (100, 100)}
"""More voxels than the type can count: 65504, and 256."""
LARGE = {"8x512x512": (8, (512, 512)), "1x256x256x256": (1, (256, 256, 256))}
VARIANTS = [
    *DEFAULTS,
    variant(L.DiceLoss, squared=True),
    variant(L.CrossEntropyLoss, normalize="weight"),
]

UNBOUNDED = (
    L.BoundaryLoss,
    L.HausdorffDTLoss,
    L.HausdorffErosionLoss,
    L.HausdorffConvLoss,
    L.WeightedHausdorffLoss,
    L.AverageHausdorffLoss,
)

pytestmark = pytest.mark.filterwarnings("ignore:SoftClDiceLoss")  # wide objects are as good as any here
by_type = pytest.mark.parametrize("case", held_to("C4", VARIANTS), ids=repr)
every_loss = pytest.mark.parametrize("case", VARIANTS, ids=repr)
both_modes = pytest.mark.parametrize("mode", MODES)


@functools.lru_cache(maxsize=4)
def scene(samples, space, channels=3):
    """Labels of uneven classes, and the logits of a network that has learnt them well but not perfectly."""
    g = torch.Generator().manual_seed(1)
    draw = torch.rand(samples, *space, generator=g)
    labels = (draw > 0.7).long() + (draw > 0.95).long()
    seen = torch.where(torch.rand(labels.shape, generator=g) < 0.01, 0, labels)
    logits = torch.randn(samples, channels, *space, generator=g)
    return labels, logits, logits + 10 * torch.nn.functional.one_hot(seen, channels).movedim(-1, 1)


def assert_as_float64(loss, minimum, logits, target):
    """Value within 1e-3 and gradient within 1 % of float64 stored in the same format, under a loss scale."""
    value, gradient = value_and_gradient(lambda *z: LOSS_SCALE * loss(*z), logits, target)
    expected, expected_gradient = value_and_gradient(loss, logits.double(), target)
    value = value / LOSS_SCALE
    assert value.dtype == torch.float32
    assert expected.dtype == torch.float64
    assert gradient.dtype == logits.dtype
    assert value >= minimum
    assert abs(value - expected) < 1e-3
    assert gradient.isfinite().all()
    stored = (LOSS_SCALE * expected_gradient).to(logits.dtype).double()
    assert (gradient.double() - stored).norm() <= 1e-2 * stored.norm()


@by_type
@both_modes
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_c4a_c4b_half_precision(case, mode, dtype):
    labels, random, confident = scene(1, SPACES[dtype])
    for logits in (random, confident):
        assert_as_float64(case.build(mode=mode), case.minimum, logits.to(dtype), labels)


@pytest.mark.slow
@by_type
@both_modes
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(("samples", "space"), LARGE.values(), ids=LARGE)
def test_c4a_c4b_half_precision_at_full_size(case, mode, dtype, samples, space):
    labels, random, confident = scene(samples, space)
    for logits in (random, confident):
        assert_as_float64(case.build(mode=mode), case.minimum, logits.to(dtype), labels)


@by_type
@both_modes
def test_c4_c21_float32(case, mode):
    labels, random, confident = scene(1, SPACES[torch.float16])
    loss = case.build(mode=mode)
    order = 1e-5 if case.hard_only else 1e-6  # errors that float32 cannot tell apart change places in the order
    power = case.cls in (L.ExponentialLogarithmicLoss, L.HausdorffConvLoss)  # 0.3, or 3, of what follows
    lifted = 2e-3 if power else 1e-3
    for logits, close in ((random, order), (confident, lifted)):  # the log-sum-exp is rounded at 1e-6, 1 - p is 5e-5
        value, gradient = value_and_gradient(loss, logits, labels)
        expected, expected_gradient = value_and_gradient(loss, logits.double(), labels)
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-7)
        assert (gradient - expected_gradient).norm() <= close * expected_gradient.norm()


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        *((c, "labels") for c in held_to("C4", VARIANTS)),
        *((c, "dense") for c in VARIANTS if c.cls in (L.CrossEntropyLoss, L.DiceLoss)),
    ],
    ids=repr,
)
@both_modes
def test_c4c_long_sums_of_equal_values_do_not_drift(case, mode, kind):
    """Added one by one in float32, equal values are rounded the same way each time: 0.9 by up to 0.7 %."""
    size = (1, 200, 200) if case.spatial else (1, 400, 400)
    target = torch.zeros(size, dtype=torch.long) if kind == "labels" else torch.full((1, 2, *size[1:]), 0.0)
    if kind == "dense":
        target[:, 0] = 1
    for logit, weight in ((2.2, None), (2.2, torch.full(size, 0.9)), (10.0, None)):
        logits = torch.zeros(1, 2, *size[1:])
        logits[:, 0], logits[:, 1] = logit / 2, -logit / 2
        wide = None if weight is None else weight.double()
        value, gradient = value_and_gradient(case.build(mode=mode), logits, target, weight)
        expected, expected_gradient = value_and_gradient(case.build(mode=mode), logits.double(), target, wide)
        lifted = logit > 4 and case.cls is L.ExponentialLogarithmicLoss  # a power of 0.3 of -log p = 5e-5, in float32
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-4 if lifted else 5e-6)
        if logit < 4:  # beyond, 1 - p itself is short of digits in float32
            assert (gradient - expected_gradient).norm() <= 1e-5 * expected_gradient.norm()


@every_loss
@both_modes
def test_c4_autocast_changes_nothing(case, mode):
    logits, target = batch((20, 20), mode=mode, dtype=torch.float32)
    loss = case.build(mode=mode)
    for z in (logits, logits.bfloat16()):
        outside = value_and_gradient(loss, z, target)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = value_and_gradient(loss, z, target)
        torch.testing.assert_close(inside, outside, rtol=0, atol=0)


@pytest.mark.parametrize("case", VARIANTS, ids=repr)
@both_modes
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_c4c_result_is_float32_and_float64_for_float64(case, mode, reduction):
    loss = case.build(mode=mode, reduction=reduction)
    sums = loss + 0.5 * L.FocalLoss(mode=mode, reduction=reduction)
    for kind in ("labels", case.soft):
        logits, target = batch((3, 2), mode=mode, kind=kind, dtype=torch.float32)
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            for each in (loss, sums) if dtype in (torch.float16, torch.float64) else (loss,):
                value = each(logits.to(dtype), target, torch.rand(3, 3, 2))
                assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("case", [c for c in VARIANTS if c.region and c.cls not in UNBOUNDED], ids=repr)
@both_modes
def test_c4a_region_losses_stay_within_their_range(case, mode):
    """Rounding of two sums that should be equal makes no loss negative, and stops no gradient."""
    for dtype in (torch.float32, *HALVES):
        size = 300 if dtype == torch.float16 and not case.spatial else 100
        labels = torch.zeros(1, size, size, dtype=torch.long)
        labels[0, 0, :3] = 1
        for margin in (0.0, 4.0, 9.0, 20.0):
            on = torch.nn.functional.one_hot(labels, 2).movedim(-1, 1)
            value = case.build(mode=mode)(((2 * on - 1) * margin).to(dtype), labels)
            assert value >= 0
            assert value <= 1 or (case.cls is L.LovaszLoss and mode == "sigmoid")  # hinge errors have no upper bound


def test_c4a_rounding_of_counts_stops_no_gradient():
    """False positives that round to less than 0 still have the derivative of false positives."""
    from delineate.losses.counts import not_negative

    for value in (-1e-9, 0.0, 2.0):
        x = torch.tensor(value, requires_grad=True)
        y = not_negative(x)
        y.backward()
        assert y == max(value, 0)
        assert x.grad == 1
