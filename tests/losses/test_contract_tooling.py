"""C14, C15, C24: torch.compile, copies and pickles, second derivatives, docstrings; the list of public losses."""

import copy
import doctest
import itertools
import pickle
import subprocess
import sys

import pytest
import torch

import delineate.losses as L
from losses.cases import BUILDING_BLOCKS, CASES, DEFAULTS, MODES, batch, in_mode, value_and_gradient

VOID = 255
SUM = L.DiceLoss(squared=True, ignore_index=VOID) + 0.5 * L.FocalLoss(class_weight=[1.0, 2.0, 3.0], ignore_index=VOID)
OPTIONS = [
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


def assert_compiled_equals_eager(
    loss, mode, *, backend="aot_eager", dynamic=False, kind="labels", void=False, weights=(False, True)
):
    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic, backend=backend)
    for space in ((6, 5), (7, 9)) if dynamic else ((6, 5),):
        logits, target = batch(space, mode=mode, kind=kind, dtype=torch.float32)
        if void:
            target[:, 0] = VOID
        for weighted in weights:
            weight = torch.rand(3, *space) if weighted else None
            expected = value_and_gradient(loss, logits, target, weight)
            torch.testing.assert_close(value_and_gradient(compiled, logits, target, weight), expected)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("spatial", [False, True], ids=["by voxel", "by place"])
@pytest.mark.parametrize(
    ("mode", "kind", "void", "dynamic", "weighted"),
    [
        ("softmax", "labels", True, False, True),
        ("softmax", "labels", True, True, True),
        ("sigmoid", "soft", False, False, True),
        pytest.param("sigmoid", "labels", True, False, False, marks=pytest.mark.slow),
        pytest.param("softmax", "soft", False, False, False, marks=pytest.mark.slow),
    ],
    ids=["ignored, weighted", "dynamic", "soft, weighted, sigmoid", "ignored, sigmoid", "soft"],
)
def test_c14_every_loss_traces_into_one_graph(spatial, mode, kind, void, dynamic, weighted):
    """Half of all in one sum: what breaks the graph of one breaks this. (Each alone, compiled: slow.)

    With shapes that may change it is the graph forwards; that backwards takes minutes for so many.
    """
    cases = [c for c in DEFAULTS if c.spatial == spatial and (kind == "labels" or not c.hard_only)]
    loss = L.Sum((1 + i / 7, c.build(mode=mode, ignore_index=VOID if void else None)) for i, c in enumerate(cases))
    backend = "eager" if dynamic else "aot_eager"
    assert_compiled_equals_eager(
        loss, mode, backend=backend, kind=kind, void=void, dynamic=dynamic, weights=(weighted,)
    )


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
@every_loss
@both_modes
@pytest.mark.parametrize("dynamic", [False, True])
def test_c14_every_loss_compiles(case, mode, dynamic):
    for kind, void in (("labels", False), ("labels", True), (case.soft, False)):
        loss = case.build(mode=mode, ignore_index=VOID if void else None)
        assert_compiled_equals_eager(loss, mode, backend="inductor", dynamic=dynamic, kind=kind, void=void)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("loss", OPTIONS, ids=repr)
def test_c14_options_trace_into_one_graph(loss):
    assert_compiled_equals_eager(loss, loss.mode, void=isinstance(loss, L.Sum) or loss.ignore_index is not None)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("dynamic", [False, True])
def test_c14_compiles(dynamic):
    assert_compiled_equals_eager(SUM, "softmax", backend="inductor", dynamic=dynamic, void=True, weights=(True,))


OUT_OF_RANGE = """
import torch
import delineate.losses as L
logits, target = torch.randn(2, 3, 64, 64, requires_grad=True), torch.zeros(2, 64, 64, dtype=torch.long)
target[1, 2, 3] = 255
common = {"class_weight": [1.0, 2.0, 3.0]}
loss = L.FocalLoss(**common) + L.DiceLoss() + L.TopKLoss(**common) + L.OHEMLoss(classes=[1]) + L.LovaszLoss()
try:
    torch.compile(loss, fullgraph=True)(logits, target)
except ValueError as error:
    assert "labels must be in 0..2" in str(error), error
    print("refused")
"""


def test_c7b_compiled_label_out_of_range_is_an_error_and_ends_no_process():
    run = subprocess.run([sys.executable, "-c", OUT_OF_RANGE], capture_output=True, text=True, timeout=300)
    assert (run.returncode, run.stdout) == (0, "refused\n"), run.stderr


@pytest.mark.parametrize("loss", [*(c.build(class_weight=[1.0, 2.0, 0.1]) for c in CASES), SUM], ids=repr)
def test_c14_copies_and_pickles(loss):
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
def test_c14_state_is_the_class_weight(case, mode):
    """A buffer that forward leaves alone, that follows `.to()`, and that a checkpoint restores."""
    assert not case.build(mode=mode).state_dict()
    loss = case.build(mode=mode, class_weight=[1.0, 2.0, 3.0])
    assert [name for name, _ in loss.named_buffers()] == [
        "class_weight" if case.inner is None else "inner.class_weight"
    ]
    assert not list(loss.parameters())
    assert all(buffer.is_meta for buffer in loss.to("meta").buffers())
    loss, other = (case.build(mode=mode, class_weight=w) for w in ([1.0, 2.0, 3.0], [5.0, 1.0, 1.0]))
    logits, target = batch(mode=mode)
    assert loss(logits, target) != other(logits, target)
    other.load_state_dict(loss.state_dict())
    assert loss(logits, target) == other(logits, target)


def test_c14_class_weight_is_copied_and_detached():
    given = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = L.DiceLoss(class_weight=given)
    with torch.no_grad():
        given.mul_(5)
    assert loss.class_weight.tolist() == [1, 2]
    assert not loss.class_weight.requires_grad


def refuses_second_derivatives(loss, logits, target):
    (gradient,) = torch.autograd.grad(loss(logits, target), logits, create_graph=True)
    try:
        torch.autograd.grad(gradient.square().sum(), logits)
    except RuntimeError as error:
        return "second derivatives of a loss are not supported" in str(error)
    return False


@every_case
@both_modes
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "dense"])
def test_c15_second_derivatives_are_right_or_refused(case, mode, soft):
    """Never a silent zero."""
    kind = case.soft if soft else "labels"
    logits, target = batch((3, 2), samples=1, channels=2, mode=mode, kind=kind)
    logits.requires_grad_()
    loss = case.build(mode=mode)
    refused = refuses_second_derivatives(loss, logits, target)
    assert refused or torch.autograd.gradgradcheck(lambda z: loss(z, target), logits)


def test_every_public_loss_has_a_row():
    rows = {case.cls.__name__ for case in CASES}
    assert set(L.__all__) == rows | BUILDING_BLOCKS
    assert {case.cls for case in DEFAULTS} == {getattr(L, name) for name in rows}
    assert [case.cls for case in DEFAULTS if case.own] == [L.RMILoss]


@every_loss
@both_modes
def test_c24_default_arguments_are_enough(case, mode):
    logits, target = batch((16, 12), mode=mode)
    assert in_mode(case.default(), mode)(logits, target) > case.minimum


FIELDS = ("Args:", "Shape:", "Range:", "Absent classes:", ">>> ", "Use for:", "Not for:", "Notes:", "Reference:")


@every_loss
def test_c24_docstring_has_all_fields_and_its_example_runs(case):
    lines = [line.strip() for line in case.cls.__doc__.splitlines()]
    assert [field for field in FIELDS if any(line.startswith(field) for line in lines)] == list(FIELDS)
    assert lines[0].endswith("."), "the first line says what is penalised"
    module = sys.modules[case.cls.__module__]
    (example,) = doctest.DocTestFinder(recurse=False).find(case.cls, case.cls.__name__, module=module)
    found = doctest.DocTestRunner(verbose=False).run(example)
    assert found.attempted >= 2
    assert not found.failed


def test_exemptions_name_items_of_the_contract():
    items = {f"C{n}{letter}" for n, letter in itertools.product(range(1, 25), ("", *"abcdefg"))}
    assert all(item in items and why for case in CASES for item, why in case.exempt.items())
