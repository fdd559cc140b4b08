"""Factors that change over the epochs."""

import copy
import pickle

import pytest
import torch

import delineate.losses as L
from losses.cases import batch, value_and_gradient

VOID = 255


def schedule(**common):
    a, b = L.DiceLoss(**common), 2 * L.CrossEntropyLoss(**common)
    return L.Schedule(a, b, start=[1, 0.5], end=[0, 3.5], epochs=10), a, b


@pytest.mark.parametrize(("epoch", "factors"), [(0, (1, 0.5)), (5, (0.5, 2)), (10, (0, 3.5)), (99, (0, 3.5))])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_is_the_sum_with_the_factors_of_the_epoch(epoch, factors, reduction):
    logits, target = batch()
    target[:, 0] = VOID
    loss, a, b = schedule(reduction=reduction, ignore_index=VOID)
    loss.set_epoch(epoch)
    fixed = factors[0] * a + factors[1] * b
    torch.testing.assert_close(
        value_and_gradient(loss, logits, target), value_and_gradient(fixed, logits, target), rtol=1e-12, atol=1e-14
    )
    parts = loss.parts(logits, target)
    assert list(parts) == [a.expression(), b.expression()]
    torch.testing.assert_close(sum(parts.values()), loss(logits, target))


def test_keeps_its_plan_inside_a_sum():
    logits, target = batch()
    loss, _, b = schedule()
    total = 0.5 * loss + L.FocalLoss()
    loss.set_epoch(10)
    torch.testing.assert_close(total(logits, target), (0.5 * 3.5 * b + L.FocalLoss())(logits, target))


def test_epoch_is_part_of_the_state():
    loss, *_ = schedule()
    loss.set_epoch(3)
    other, *_ = schedule()
    other.load_state_dict(loss.state_dict())
    for twin in (other, copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(twin.factors(), loss.factors())


def test_compiles_once_for_all_epochs():
    torch.compiler.reset()
    loss, *_ = schedule()
    logits, target = batch()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    with torch.compiler.set_stance("default"):
        compiled(logits, target)
    with torch.compiler.set_stance("fail_on_recompile"):
        for epoch in (1, 7, 20):
            loss.set_epoch(epoch)
            torch.testing.assert_close(compiled(logits, target), loss(logits, target))
    torch.compiler.reset()


@pytest.mark.parametrize("epoch", [-1, None, float("nan")])
def test_epochs_are_numbers_from_0(epoch):
    with pytest.raises(ValueError, match="`epoch` must be a finite number at least 0"):
        schedule()[0].set_epoch(epoch)


def test_terms_must_be_losses_of_one_reduction():
    with pytest.raises(ValueError, match="same `reduction`"):
        L.Schedule(L.DiceLoss(), L.FocalLoss(reduction="sum"), start=[1, 1], end=[1, 1], epochs=1)
    with pytest.raises(ValueError, match="every term must be a Loss"):
        L.Schedule(L.DiceLoss(), "CE", start=[1, 1], end=[1, 1], epochs=1)  # pyright: ignore
