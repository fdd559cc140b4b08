"""C14: `torch.func`, grad and vmap, over every loss: equal to the same thing in a loop."""

import pytest
import torch

import delineate.losses as L
from losses.cases import DEFAULTS, MODES, batch, value_and_gradient

VOID = 255
SUM = L.DiceLoss(ignore_index=VOID) + 0.5 * L.FocalLoss(ignore_index=VOID)

every_loss = pytest.mark.parametrize("case", DEFAULTS, ids=repr)
both_modes = pytest.mark.parametrize("mode", MODES)
both_kinds = pytest.mark.parametrize("soft", [False, True], ids=["labels", "dense"])


def problem(case, mode, soft, samples):
    logits, target = batch((3, 4), samples=samples, mode=mode, kind=case.soft if soft else "labels")
    return logits, target, torch.rand(samples, 3, 4, dtype=torch.float64)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@every_loss
@both_modes
@both_kinds
def test_c14_func_grad_is_the_gradient(case, mode, soft):
    logits, target, weight = problem(case, mode, soft, 2)
    loss = case.build(mode=mode)
    value, gradient = value_and_gradient(loss, logits, target, weight)
    found_gradient, found = torch.func.grad_and_value(loss)(logits, target, weight)
    close((found, found_gradient), (value, gradient))


@every_loss
@both_modes
@both_kinds
def test_c14_vmap_over_problems_is_a_loop(case, mode, soft):
    """Values, and gradients of each problem apart, as for gradients by sample."""
    problems = [t.unflatten(0, (3, 2)) for t in problem(case, mode, soft, 6)]
    loss = case.build(mode=mode)
    loop = [value_and_gradient(loss, *one) for one in zip(*problems, strict=True)]
    values, gradients = (torch.stack(tensors) for tensors in zip(*loop, strict=True))
    found_gradients, found = torch.func.vmap(torch.func.grad_and_value(loss))(*problems)
    close((found, found_gradients), (values, gradients))


@every_loss
@both_modes
def test_c14_vmap_over_predictions_of_one_target(case, mode):
    logits, target, _ = problem(case, mode, False, 2)
    several = torch.stack([logits, -logits, 2 * logits], 1)
    loss = case.build(mode=mode, reduction="none")
    expected = torch.stack([loss(z, target) for z in several.unbind(1)])
    close(torch.func.vmap(loss, in_dims=(1, None))(several, target), expected)


@pytest.mark.parametrize("loss", [SUM, L.JaccardLoss(pool="batch", classes=[1, 2], ignore_index=VOID)], ids=repr)
def test_c14_vmap_with_ignored_voxels(loss):
    logits, target = batch((3, 4), samples=6)
    target[:, 1] = VOID
    target[4:] = VOID
    problems = [t.unflatten(0, (3, 2)) for t in (logits, target)]
    loop = [value_and_gradient(loss, *one) for one in zip(*problems, strict=True)]
    found_gradients, found = torch.func.vmap(torch.func.grad_and_value(loss))(*problems)
    close(found, torch.stack([value for value, _ in loop]))
    close(found_gradients, torch.stack([gradient for _, gradient in loop]))


def test_c14_gradient_of_each_sample_to_the_parameters_of_a_model():
    model, loss = torch.nn.Conv2d(1, 3, 3, padding=1).double(), L.DiceLoss() + L.CrossEntropyLoss()
    images, (_, target) = torch.randn(4, 1, 5, 4, dtype=torch.float64), batch(samples=4)

    def of_sample(parameters, image, labels):
        return loss(torch.func.functional_call(model, parameters, (image[None],)), labels[None])

    parameters = {name: p.detach() for name, p in model.named_parameters()}
    found = torch.func.vmap(torch.func.grad(of_sample), in_dims=(None, 0, 0))(parameters, images, target)
    for n in range(4):
        model.zero_grad()
        loss(model(images[n : n + 1]), target[n : n + 1]).backward()
        for name, parameter in model.named_parameters():
            close(found[name][n], parameter.grad)
