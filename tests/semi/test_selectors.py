"""Selectors against the released rule, at their bounds, and what they refuse."""

import pytest
import torch

from delineate.semi.selectors import ClassMaxThreshold, FixedThreshold, NoSelection
from reference import semi as reference

ALL = [FixedThreshold(), ClassMaxThreshold(), NoSelection()]
each = pytest.mark.parametrize("selector", ALL, ids=repr)


def sample(channels, scale, space=(40,), dtype=torch.float64):
    return (scale * torch.randn(3, channels, *space, dtype=dtype)).softmax(1)


def check(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.tolist() == other.tolist()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scale", [2, 6, 30])
@pytest.mark.parametrize("channels", [2, 3, 5, 21, 150])
def test_equal_the_released_rule(channels, scale, dtype):
    p = sample(channels, scale).to(dtype)
    plain = p.double().numpy()
    check(ClassMaxThreshold()(p), reference.class_max(plain, 0.92, 0.96))
    check(ClassMaxThreshold(0.6, 0.9)(p), reference.class_max(plain, 0.6, 0.9))
    check(FixedThreshold()(p), reference.fixed_threshold(plain, 0.95))
    labels, keep = NoSelection()(p)
    assert torch.equal(labels, p.argmax(1))
    assert keep.all()


def test_every_number_of_classes_equals_the_released_rule():
    """All of 2 .. 150, and enough is kept and dropped for that to mean something."""
    shares = []
    for channels in range(2, 151):
        p = sample(channels, 12, space=(9,))
        check(ClassMaxThreshold()(p), reference.class_max(p.numpy(), 0.92, 0.96))
        shares.append(ClassMaxThreshold()(p)[1].double().mean())
    assert min(shares) < 0.5 < max(shares)
    assert len({round(float(share), 3) for share in shares}) > 10


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_ties_and_bounds(dtype):
    """On a grid of sixteenths many voxels tie with each other, and with floor, ratio and threshold."""
    first = torch.randint(0, 17, (4, 60), dtype=torch.int64).to(dtype) / 16
    p = torch.stack([first, 1 - first], 1)
    for floor, ratio in ((0.75, 0.75), (1.0, 0.5), (0.9375, 0.875)):
        check(ClassMaxThreshold(floor, ratio)(p), reference.class_max(p.double().numpy(), floor, ratio))
    for threshold in (0.5, 0.75, 1.0):
        check(FixedThreshold(threshold)(p), reference.fixed_threshold(p.double().numpy(), threshold))


def test_the_fixed_bound_is_kept_and_the_others_are_not():
    p = torch.tensor([[[0.75, 0.5625, 0.625], [0.25, 0.4375, 0.375]]])
    assert FixedThreshold(0.75)(p)[1].tolist() == [[True, False, False]]
    assert not ClassMaxThreshold(0.75, 0.75)(p)[1].any()  # the peak is not above the floor
    assert ClassMaxThreshold(0.7, 0.75)(p)[1].tolist() == [[True, False, True]]  # 0.5625 = 0.75 * ratio


def test_a_bound_of_float32_is_that_of_float32():
    """0.95 in float32 is below 0.95."""
    p = torch.tensor([[[0.95], [0.05]]])
    assert FixedThreshold(0.95)(p)[1].all()


def test_classes_below_the_floor_give_nothing():
    p = torch.tensor([[[0.92, 0.9, 0.2], [0.08, 0.1, 0.8]]])
    assert not ClassMaxThreshold()(p)[1].any()


def test_images_have_thresholds_of_their_own():
    p = torch.tensor([[[0.93, 0.90], [0.07, 0.10]], [[0.99, 0.90], [0.01, 0.10]]])
    assert ClassMaxThreshold()(p)[1].tolist() == [[True, True], [True, False]]


def test_zeroed_padding_leaves_the_class_maxima():
    p = torch.tensor([[[0.999, 0.93, 0.90], [0.001, 0.07, 0.10]]])
    valid = torch.tensor([[False, True, True]])
    assert ClassMaxThreshold()(p)[1].tolist() == [[True, False, False]]
    assert ClassMaxThreshold()(p * valid[:, None])[1].tolist() == [[False, True, True]]


@each
@pytest.mark.parametrize("space", [(24,), (4, 6), (2, 3, 4)], ids=["1d", "2d", "3d"])
def test_space_is_only_a_shape(selector, space):
    p = sample(4, 8, (24,))
    for found, flat in zip(selector(p.view(3, 4, *space)), selector(p), strict=True):
        assert torch.equal(found, flat.view(3, *space))


@each
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_kinds_and_nothing_written(selector, dtype):
    p = sample(3, 5).to(dtype).requires_grad_()
    before = p.detach().clone()
    labels, keep = selector(p)
    assert (labels.dtype, keep.dtype) == (torch.int64, torch.bool)
    assert not labels.requires_grad
    assert not keep.requires_grad
    assert torch.equal(p, before)
    assert torch.equal(labels, before.argmax(1))


@each
def test_no_voxels_and_no_samples(selector):
    for shape in ((2, 3, 0), (0, 3, 4)):
        labels, keep = selector(torch.zeros(shape))
        assert labels.shape == keep.shape == (shape[0], shape[2])


@each
def test_the_name_is_the_call(selector):
    assert eval(repr(selector)) == selector


def test_names():
    assert [repr(selector) for selector in ALL] == [
        "FixedThreshold(threshold=0.95)",
        "ClassMaxThreshold(floor=0.92, ratio=0.96)",
        "NoSelection()",
    ]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: FixedThreshold(1.5), "threshold.*1.5"),
        (lambda: FixedThreshold(float("nan")), "threshold.*nan"),
        (lambda: ClassMaxThreshold(0.5, 0.9), "floor=0.5, ratio=0.9"),
        (lambda: ClassMaxThreshold(0.92, 1.0), "ratio=1.0"),
        (lambda: ClassMaxThreshold(0.92, 0.0), "ratio=0.0"),
        (lambda: NoSelection()(torch.zeros(2, 1, 4)), r"C >= 2.*\(2, 1, 4\)"),
        (lambda: FixedThreshold()(torch.zeros(2, 4)), r"\(2, 4\)"),
        (lambda: ClassMaxThreshold()(torch.zeros(1, 2, 3, dtype=torch.int64)), "int64.*softmax"),
    ],
)
def test_refusals(build, words):
    with pytest.raises(ValueError, match=words) as error:
        build()
    assert "\n" not in str(error.value)
