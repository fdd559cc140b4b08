"""Every public loss with kernels against the same without: value and gradient, through the whole library."""

import pytest
import torch

import delineate.losses as L
from losses.cases import DEFAULTS, batch, value_and_gradient

from .device import DEVICE, kernels

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # numpy's, of infinities in the interpreter
    pytest.mark.filterwarnings("ignore:SoftClDiceLoss"),
]
FIVE = "Dice + CE + Focal + Tversky + TopK"


def check(loss, logits, target, weight=None):
    value, gradient = value_and_gradient(loss, logits, target, weight)
    with kernels():
        there = [None if tensor is None else tensor.to(DEVICE) for tensor in (logits, target, weight)]
        found, found_gradient = value_and_gradient(loss.to(DEVICE), *there)
    torch.testing.assert_close(found.cpu(), value, rtol=1e-4, atol=1e-5)
    scale = gradient.abs().max().item()
    torch.testing.assert_close(found_gradient.cpu(), gradient, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("case", DEFAULTS, ids=repr)
def test_every_loss(case):
    loss = case.build(ignore_index=255)
    logits, labels = batch((6, 7), dtype=torch.float32, mode=getattr(loss, "mode", "softmax"))
    labels[:, 0, :3] = 255
    check(loss, logits, labels)


@pytest.mark.parametrize("mode", ["softmax", "sigmoid"])
@pytest.mark.parametrize("kind", ["labels", "soft"])
def test_five_losses_at_once(mode, kind):
    loss = L.parse(FIVE, mode=mode)
    logits, target = batch((3, 4, 5), dtype=torch.float32, mode=mode, kind=kind)
    check(loss, logits, target, torch.rand(3, 3, 4, 5))


def test_second_derivatives_are_refused():
    logits, labels = batch((3, 4), dtype=torch.float32)
    logits = logits.to(DEVICE).requires_grad_()
    with kernels():
        value = L.parse("Dice + CE")(logits, labels.to(DEVICE))
        (gradient,) = torch.autograd.grad(value, logits, create_graph=True)
        with pytest.raises(RuntimeError, match="second derivatives"):
            gradient.square().sum().backward()


def test_compiled_in_one_graph():
    torch.compiler.reset()
    logits, labels = batch((3, 4), dtype=torch.float32)
    logits, labels, loss = logits.to(DEVICE), labels.to(DEVICE), L.parse(FIVE)
    expected, expected_gradient = value_and_gradient(loss, logits, labels)
    with kernels():
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        found, gradient = value_and_gradient(compiled, logits, labels)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-7)
    torch.compiler.reset()
