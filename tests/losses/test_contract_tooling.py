"""torch.compile, copies and pickles, second derivatives, the list of public losses."""

import copy
import pickle
import subprocess
import sys

import pytest
import torch

import delineate.losses as L
from losses.cases import BUILDING_BLOCKS, CASES, DEFAULTS, MODES, batch, in_mode, value_and_gradient

VOID = 255
SUM = L.DiceLoss(squared=True, ignore_index=VOID) + 0.5 * L.FocalLoss(class_weight=[1.0, 2.0, 3.0], ignore_index=VOID)
COMPILED = [
    L.CrossEntropyLoss(normalize="weight", class_weight=[1.0, 2.0, 3.0]),
    L.TopKLoss(k=0.3, classes=[1, 2], ignore_index=VOID),
    L.FocalLoss(mode="sigmoid", alpha=0.25, ignore_index=VOID),
    L.GeneralizedDiceLoss(pool="batch", absent="count", classes=[1, 2], reduction="none"),
    SUM,
]

every_case = pytest.mark.parametrize("case", CASES, ids=repr)
every_loss = pytest.mark.parametrize("case", DEFAULTS, ids=repr)
both_modes = pytest.mark.parametrize("mode", MODES)


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def assert_compiled_equals_eager(loss, backend, dynamic, kind="labels", weights=(False, True)):
    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic, backend=backend)
    for space in ((6, 5), (7, 9)) if dynamic else ((6, 5),):
        logits, target = batch(space, mode=loss.mode, kind=kind, dtype=torch.float32)
        if loss.ignore_index is not None or isinstance(loss, L.Sum):
            target[:, 0] = VOID
        for weighted in weights:
            weight = torch.rand(3, *space) if weighted else None
            expected = value_and_gradient(loss, logits, target, weight)
            torch.testing.assert_close(value_and_gradient(compiled, logits, target, weight), expected)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(
    ("loss", "dynamic"), [*((loss, False) for loss in COMPILED), (COMPILED[1], True), (SUM, True)], ids=repr
)
def test_traces_into_one_graph(loss, dynamic):
    assert_compiled_equals_eager(loss, "aot_eager", dynamic)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(
    "loss", [L.LogCoshDiceLoss(mode="sigmoid"), L.FocalLoss(), L.BalancedCrossEntropyLoss()], ids=repr
)
def test_traces_into_one_graph_with_a_dense_target(loss):
    assert_compiled_equals_eager(loss, "aot_eager", False, kind="soft")


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles(dynamic):
    assert_compiled_equals_eager(SUM, "inductor", dynamic, weights=(True,))


OUT_OF_RANGE = """
import torch
import delineate.losses as L
logits, target = torch.randn(2, 3, 64, 64, requires_grad=True), torch.zeros(2, 64, 64, dtype=torch.long)
target[1, 2, 3] = 255
loss = L.FocalLoss(class_weight=[1.0, 2.0, 3.0]) + L.DiceLoss()
try:
    torch.compile(loss, fullgraph=True)(logits, target)
except ValueError as error:
    assert "labels must be in 0..2" in str(error), error
    print("refused")
"""


def test_compiled_label_out_of_range_is_an_error_and_ends_no_process():
    run = subprocess.run([sys.executable, "-c", OUT_OF_RANGE], capture_output=True, text=True, timeout=300)
    assert (run.returncode, run.stdout) == (0, "refused\n"), run.stderr


@pytest.mark.parametrize("loss", [*(c.build(class_weight=[1.0, 2.0, 0.1]) for c in CASES), SUM], ids=repr)
def test_copies_and_pickles(loss):
    loss = copy.deepcopy(loss)
    logits, target = batch()
    for _ in range(2):  # before and after a forward
        text, state = loss.expression(), copy.deepcopy(loss.state_dict())
        value, gradient = value_and_gradient(loss, logits, target)
        for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), L.parse(text)):
            assert twin.expression() == text
            torch.testing.assert_close(value_and_gradient(twin, logits, target), (value, gradient), rtol=0, atol=0)
            twin.load_state_dict(state)
        assert loss.expression() == text
        assert state.keys() == loss.state_dict().keys()
        assert all(torch.equal(state[name], now) for name, now in loss.state_dict().items())


@every_case
@both_modes
def test_state_is_the_class_weight(case, mode):
    """A buffer that forward leaves alone, that follows `.to()`, and that a checkpoint restores."""
    assert not case.build(mode=mode).state_dict()
    loss = case.build(mode=mode, class_weight=[1.0, 2.0, 3.0])
    assert [name for name, _ in loss.named_buffers()] == ["class_weight"]
    assert not list(loss.parameters())
    assert loss.to("meta").class_weight.is_meta
    loss, other = (case.build(mode=mode, class_weight=w) for w in ([1.0, 2.0, 3.0], [5.0, 1.0, 1.0]))
    logits, target = batch(mode=mode)
    assert loss(logits, target) != other(logits, target)
    other.load_state_dict(loss.state_dict())
    assert loss(logits, target) == other(logits, target)


def test_class_weight_is_copied_and_detached():
    given = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = L.DiceLoss(class_weight=given)
    with torch.no_grad():
        given.mul_(5)
    assert loss.class_weight.tolist() == [1, 2]
    assert not loss.class_weight.requires_grad


@every_loss
@both_modes
@pytest.mark.parametrize("kind", ["labels", "soft"])
def test_second_derivatives_are_right_or_refused(case, mode, kind):
    """Never a silent zero."""
    logits, target = batch((3, 2), samples=2, mode=mode, kind=kind)
    logits.requires_grad_()
    loss = case.build(mode=mode)
    if kind == "soft" and case.cls in (L.FocalLoss, L.TopKLoss):
        assert torch.autograd.gradgradcheck(lambda z: loss(z, target), logits)
        return
    (gradient,) = torch.autograd.grad(loss(logits, target), logits, create_graph=True)
    assert gradient.requires_grad
    with pytest.raises(RuntimeError, match="second derivatives of a loss are not supported"):
        gradient.square().sum().backward()


def test_every_public_loss_has_a_row():
    rows = {case.cls.__name__ for case in CASES}
    assert set(L.__all__) == rows | BUILDING_BLOCKS
    assert {case.cls for case in DEFAULTS} == {getattr(L, name) for name in rows}
    assert all(not case.own for case in DEFAULTS)


@every_case
@both_modes
def test_default_arguments_are_enough(case, mode):
    logits, target = batch(mode=mode)
    assert in_mode(case.cls(), mode)(logits, target) > 0
