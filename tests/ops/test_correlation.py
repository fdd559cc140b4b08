"""Errors of structure against a loop over every voxel and its window."""

import math

import numpy as np
import pytest
import torch

from delineate.ops import correlation
from delineate.ops.correlation import Window, structure_errors
from delineate.ops.window import PADDINGS, gaussian_taps

SPACES = {"1d": (11,), "2d": (5, 6), "3d": (3, 4, 3), "depth 1": (1, 7, 6), "column": (9, 1), "one voxel": (1, 1)}
SIGMA, STABILIZER = 1.5, 0.01

spaces = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
paddings = pytest.mark.parametrize("padding", PADDINGS)
drops = pytest.mark.parametrize("drop", [True, False], ids=["drop", "keep"])


def window(size=3, padding="reflect", drop=True):
    return Window(gaussian_taps(size, SIGMA), padding, STABILIZER, drop)


def quotient(x, seen, size, padding):
    """(x - mean + s) / (deviation + s) of one plane, whose window covers seen voxels only."""
    half = size // 2
    steps = list(np.ndindex(*(size if n > 1 else 1 for n in x.shape)))
    found = np.zeros(x.shape)
    for at in np.ndindex(*x.shape):
        values, weights = [], []
        for step in steps:
            offset = [k - half if n > 1 else 0 for k, n in zip(step, x.shape, strict=True)]
            place = [i + d for i, d in zip(at, offset, strict=True)]
            inside = all(0 <= i < n for i, n in zip(place, x.shape, strict=True))
            if padding == "reflect":
                place, inside = [n - 1 - abs(n - 1 - abs(i)) for i, n in zip(place, x.shape, strict=True)], True
            if not inside or seen[tuple(place)]:
                values.append(x[tuple(place)] if inside else 0.0)
                weights.append(math.exp(-sum(d * d for d in offset) / (2 * SIGMA**2)))
        if weights:
            w, v = np.array(weights) / sum(weights), np.array(values)
            mean = (w * v).sum()
            deviation = math.sqrt((w * (v - mean) ** 2).sum())
            found[at] = (x[at] - mean + STABILIZER) / (deviation + STABILIZER)
    return found


def by_loops(p, target, ignored, size, padding, drop):
    """Where ignored voxels are not dropped, they are of no label, and p is what it is."""
    found, samples = np.zeros(p.shape), range(len(p))
    for n in samples:
        valid = np.full(p.shape[2:], True) if ignored is None else ~ignored[n].numpy()
        seen = valid if drop else np.full(valid.shape, True)
        for c in range(p.shape[1]):
            label = c if p.shape[1] > 1 else 1
            y = target[n, c].numpy() if target.is_floating_point() else (target[n].numpy() == label) & valid
            pair = [quotient(np.asarray(x, dtype=float), seen, size, padding) for x in (y, p[n, c].double())]
            found[n, c] = np.where(valid, np.abs(pair[0] - pair[1]), 0)
    return torch.from_numpy(found)


def inputs(space, *, channels=2, dense=False, holes=False, dtype=torch.float64):
    p = torch.rand(2, channels, *space, dtype=dtype)
    target = torch.rand(2, channels, *space) if dense else torch.randint(0, max(2, channels), (2, *space))
    return p, target, torch.rand(2, *space) < 0.3 if holes else None


def check(found, expected, tolerance=1e-9):
    errors, peaks = found
    torch.testing.assert_close(errors.double(), expected, rtol=tolerance, atol=tolerance)
    assert torch.equal(peaks, errors.flatten(2).amax(2))


@spaces
@paddings
@pytest.mark.parametrize("dense", [False, True], ids=["labels", "dense"])
def test_equals_loops(space, padding, dense):
    p, target, _ = inputs(space, dense=dense)
    expected = by_loops(p, target, None, 3, padding, True)
    check(structure_errors(p, target, None, window(3, padding)), expected)
    check(structure_errors(p.float(), target, None, window(3, padding)), expected, 2e-3 if dense else 1e-4)


@spaces
@paddings
@drops
@pytest.mark.parametrize("channels", [1, 3])
def test_ignored_voxels(space, padding, drop, channels):
    p, target, ignored = inputs(space, channels=channels, holes=True)
    ignored[0, ...] |= torch.rand(space) < 0.5
    expected = by_loops(p, target, ignored, 3, padding, drop)
    for marked in (target, target.masked_fill(ignored, 255), target.masked_fill(ignored, -1)):
        check(structure_errors(p, marked, ignored, window(3, padding, drop)), expected)
    none = torch.zeros_like(ignored)
    plain = structure_errors(p, target, None, window(3, padding, drop))
    assert torch.equal(structure_errors(p, target, none, window(3, padding, drop))[0], plain[0])


@pytest.mark.parametrize("size", [1, 5, 11])
@paddings
@drops
def test_other_windows(size, padding, drop):
    p, target, ignored = inputs((6, 7), holes=True)
    for void in (None, ignored):
        expected = by_loops(p, target, void, size, padding, drop)
        check(structure_errors(p, target, void, window(size, padding, drop)), expected)


def test_what_lies_at_dropped_voxels_does_not_count():
    p, target, ignored = inputs((7, 8), holes=True)
    other = torch.where(ignored[:, None], torch.rand_like(p), p)
    torch.testing.assert_close(*(structure_errors(x, target, ignored, window())[0] for x in (p, other)))


@paddings
@drops
@pytest.mark.parametrize("slab", [1, 9, 33])
@pytest.mark.parametrize("space", [(13,), (9, 7), (4, 4, 5)], ids=["1d", "2d", "3d"])
def test_slabs_join_without_seams(monkeypatch, padding, drop, slab, space):
    p, target, ignored = inputs(space, holes=True)
    for size in (3, 7):
        for void in (None, ignored):
            if size // 2 >= min(space) and padding == "reflect":
                continue
            monkeypatch.setattr(correlation, "SLAB", 1 << 15)
            whole = structure_errors(p, target, void, window(size, padding, drop))
            monkeypatch.setattr(correlation, "SLAB", slab)
            found = structure_errors(p, target, void, window(size, padding, drop))
            torch.testing.assert_close(found, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("level", [0.1, 1 / 3, 0.9])
def test_two_flat_windows_have_no_error(dtype, level):
    for space in [(20,), (12, 13), (5, 6, 7)]:
        for label in (0, 1):
            p, target = torch.full((1, 2, *space), level, dtype=dtype), torch.full((1, *space), label)
            for size in (1, 3, 5):
                errors, peaks = structure_errors(p, target, None, window(size))
                assert not errors.any()
                assert not peaks.any()


def test_a_perfect_prediction_has_no_error():
    target = torch.randint(0, 3, (1, 9, 8))
    p = torch.nn.functional.one_hot(target, 3).movedim(3, 1).double()
    for padding in PADDINGS:
        assert structure_errors(p, target, None, window(3, padding))[0].amax() < 1e-9


def test_the_bound_of_the_usual_window():
    """A lone voxel has the largest quotient: its window of 3 x 3 has the variance w (1 - w), with w its own weight."""
    target = torch.zeros(1, 5, 5, dtype=torch.long)
    target[0, 2, 2] = 1
    errors, peaks = structure_errors(1.0 - target[:, None], target, None, window())
    assert 4.6 < peaks < 2 * 2.40
    assert errors[0, 0, 2, 2] == peaks
    p, target, ignored = inputs((60, 60), holes=True)
    for void in (None, ignored):
        assert structure_errors(p.round(), target, void, window())[0].amax() < 2 * 2.40


@spaces
@paddings
@drops
def test_gradients(space, padding, drop):
    p, target, ignored = inputs(space, holes=True)
    for void in (None, ignored):

        def errors(p, void=void):
            return structure_errors(p, target, void, window(3, padding, drop))[0]

        assert torch.autograd.gradcheck(errors, p.requires_grad_(), fast_mode=True)


@drops
def test_every_entry_of_the_gradient(drop):
    p, target, ignored = inputs((3, 4), channels=1, holes=True)
    for dense in (target, torch.rand_like(p)):
        void = None if dense.is_floating_point() else ignored
        size = window(5, "reflect", drop)._replace(taps=gaussian_taps(5, 1.0))
        assert torch.autograd.gradcheck(
            lambda p, y=dense, v=void, w=size: structure_errors(p, y, v, w)[0], p.requires_grad_()
        )


def test_peaks_have_no_gradient():
    p, target, _ = inputs((4, 5))
    errors, peaks = structure_errors(p.requires_grad_(), target, None, window())
    assert errors.requires_grad
    assert not peaks.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_windows_of_one_valid_voxel_have_no_gradient(dtype):
    """Nor those that are flat but for ignored voxels: the deviation is 0, and not rounding noise."""
    p, ignored = torch.rand(1, 1, 30, dtype=dtype), torch.zeros(1, 30, dtype=torch.bool)
    ignored[0, 1::2] = True
    p[..., 20:] = 0.3
    ignored[0, 18:] = torch.rand(12) < 0.3
    target = (torch.rand(1, 30) > 0.5).long()
    target[0, 20:] = 1
    errors, _ = structure_errors(p.requires_grad_(), target, ignored, window())
    assert not errors[..., :17].any()
    assert not errors[..., 21:].any()
    errors.sum().backward()
    assert not p.grad[..., :17].any()
    assert not p.grad[..., 22:].any()


def test_gradient_at_flat_predictions_is_finite():
    p, target = torch.full((1, 2, 9, 9), 0.5, requires_grad=True), torch.randint(0, 2, (1, 9, 9))
    target[0, :5] = 1
    structure_errors(p, target, None, window())[0].sum().backward()
    assert p.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(1,), (3, 9), (9, 3), (5, 2, 5)])
def test_axes_too_short_for_mirrors(shape):
    p, target = torch.rand(1, 2, *shape), torch.zeros(1, *shape, dtype=torch.long)
    structure_errors(p, target, None, window(7, "zeros"))
    if shape == (1,):
        assert not structure_errors(p, target, None, window(7))[0].any()
        return
    with pytest.raises(ValueError, match="a window of 7 voxels with reflected margins needs more than 3 voxels"):
        structure_errors(p, target, None, window(7))


@pytest.mark.parametrize("shape", [(0, 5, 6), (2, 0, 6), (2, 6, 0), (2, 0), (2, 3, 0, 4)])
@paddings
def test_nothing_to_compare(shape, padding):
    p = torch.rand(shape[0], 2, *shape[1:], requires_grad=True)
    errors, peaks = structure_errors(p, torch.zeros(shape, dtype=torch.long), None, window(3, padding))
    assert errors.shape == p.shape
    assert peaks.tolist() == [[0, 0]] * shape[0]
    errors.sum().backward()
    assert p.grad.shape == p.shape


def test_memory_layout_does_not_count_and_nothing_is_written():
    p, target, ignored = inputs((7, 8), channels=3, holes=True)
    expected, _ = structure_errors(p, target, ignored, window())
    spread = torch.zeros(2, 3, 14, 16, dtype=p.dtype)
    spread[:, :, ::2, ::2] = p
    for same in (p.to(memory_format=torch.channels_last), p.mT.contiguous().mT, spread[:, :, ::2, ::2]):
        same = same.detach().requires_grad_()
        found, _ = structure_errors(same, target.mT.contiguous().mT, ignored, window())
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        found.sum().backward()
        assert torch.equal(same, p)
    deep = p[:, :, None].contiguous(memory_format=torch.channels_last_3d)
    found, _ = structure_errors(deep, target[:, None], ignored[:, None], window())
    torch.testing.assert_close(found[:, :, 0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int32], ids=str)
def test_any_type_of_labels(dtype):
    p, target, _ = inputs((7, 8))
    assert torch.equal(*(structure_errors(p, t, None, window())[0] for t in (target, target.to(dtype))))


def test_nan_is_not_lost():
    p, target, _ = inputs((6, 6))
    p[0, 1, 3, 3] = torch.nan
    errors, peaks = structure_errors(p, target, None, window())
    assert errors[0, 1, 3, 3].isnan()
    assert peaks.isnan().tolist() == [[False, True], [False, False]]


@pytest.mark.parametrize("holes", [False, True])
def test_opcheck(holes):
    p, target, ignored = inputs((5, 4), holes=holes, dtype=torch.float32)
    for same in (p, p.to(memory_format=torch.channels_last)):
        args = (same.requires_grad_(), target, ignored, *window())
        torch.library.opcheck(correlation._forward, args, test_utils=("test_schema", "test_faketensor"))
        args = (torch.rand_like(p), same.detach(), target, ignored, *window())
        torch.library.opcheck(correlation._backward, args, test_utils=("test_schema", "test_faketensor"))


def test_compiles():
    def both(p):
        errors, peaks = structure_errors(p, target, ignored, window())
        return (errors * peaks.detach()[:, :, None, None]).sum()

    torch.compiler.reset()
    p, target, ignored = inputs((5, 4), holes=True)
    p = p.requires_grad_()
    found = torch.compile(both, fullgraph=True, backend="aot_eager")(p)
    torch.testing.assert_close(found, both(p))
    torch.testing.assert_close(*(torch.autograd.grad(value, p)[0] for value in (found, both(p))))
    torch.compiler.reset()


def test_second_derivatives_are_refused():
    p, target, _ = inputs((5, 4))
    (slope,) = torch.autograd.grad(
        structure_errors(p.requires_grad_(), target, None, window())[0].sum(), p, create_graph=True
    )
    with pytest.raises(RuntimeError, match="second derivatives of a loss are not supported"):
        slope.sum().backward()
