"""Kernels of the pass against its definition on the CPU: values and gradients."""

import pytest
import torch

from delineate.ops import overlap_labels as labels_pass
from delineate.ops.cost import Cost, packed

from .device import kernels, there

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of infinities in the interpreter

COSTS = packed([Cost(gamma=2), Cost(gamma=0.5), Cost(power=0.3), Cost(gamma=1.0, epsilon=0.7)])
PLAIN, EVERYTHING = (False, False, []), (True, True, COSTS)
VOID = 255
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def close(found, expected, tolerance=1e-4):
    """Within a share of the largest value."""
    found, expected = found.detach().cpu().double(), expected.detach().double()
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item() + 1e-12)


def inputs(classes, voxels, *, samples=2, weighted=False, ignored=False, dtype=torch.float32):
    g = torch.Generator().manual_seed(classes * voxels)
    logits = (2 * torch.randn(samples, classes, voxels, generator=g)).to(dtype)
    labels = torch.randint(0, classes, (samples, voxels), generator=g)
    if ignored:
        labels[torch.rand(samples, voxels, generator=g) < 0.3] = VOID
    weight = torch.rand(samples, voxels, generator=g) if weighted else None
    return logits, labels, weight, VOID if ignored else None


def check_labels(logits, labels, weight, ignore_index, options, per_voxel=True):
    """Forward and backward, random upstream gradients."""
    expected = labels_pass._forward(logits, labels, weight, ignore_index, *options, per_voxel)
    g_log_p, g_sums = torch.randn_like(expected[0]), torch.randn_like(expected[1])
    given = (expected[0], g_log_p if per_voxel else None, g_sums)
    gradient = labels_pass._backward(logits, labels, weight, *given, ignore_index, *options)
    with kernels():
        z, y, w, *given = there(logits, labels, weight, *given)
        found = labels_pass._forward(z, y, w, ignore_index, *options, per_voxel)
        found_gradient = labels_pass._backward(z, y, w, *given, ignore_index, *options)
    assert found[0].shape[1] == (logits.shape[2] if per_voxel else 0)
    close(found[0], expected[0] if per_voxel else expected[0][:, :0])
    close(found[1], expected[1])
    close(found[2], expected[2], 1e-6)
    assert found_gradient.dtype == logits.dtype
    close(found_gradient, gradient, TOLERANCE[logits.dtype])


@pytest.mark.parametrize("variant", [{}, {"weighted": True}, {"ignored": True}, {"weighted": True, "ignored": True}])
@pytest.mark.parametrize("options", [PLAIN, EVERYTHING], ids=["plain", "everything"])
@pytest.mark.parametrize("classes", [2, 5, 21, 70])
def test_labels(classes, options, variant):
    check_labels(*inputs(classes, 150, **variant), options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("classes", [3, 11, 65])
def test_labels_of_narrow_logits(classes, dtype):
    check_labels(*inputs(classes, 150, dtype=dtype, weighted=True, ignored=True), EVERYTHING)
