"""The teacher's moving average, and batch norm that leaves its statistics alone."""

import copy
import pickle

import pytest
import torch
from torch import nn

from delineate.semi.batch_norm import batch_statistics, frozen_statistics
from delineate.semi.teacher import EMATeacher


class Net(nn.Module):
    """Two halves, batch norm, dropout, and buffers of all kinds."""

    def __init__(self, width=3):
        super().__init__()
        self.first, self.norm, self.last = nn.Conv1d(2, width, 3), nn.BatchNorm1d(width), nn.Conv1d(width, 2, 1)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("level", torch.tensor(2.5), persistent=False)

    def encode(self, x):
        return self.drop(self.norm(self.first(x)))

    def forward(self, x):
        return self.last(self.encode(x))


def named(model):
    return dict(model.named_parameters()) | dict(model.named_buffers())


def values(model):
    return {name: tensor.detach().clone() for name, tensor in named(model).items()}


def changed(model):
    """As after a while of training: all parameters and buffers differ."""
    with torch.no_grad():
        for tensor in named(model).values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor))
            else:
                tensor.copy_(~tensor if tensor.dtype == torch.bool else tensor + 7)
    return model


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one | other)


def test_starts_as_a_copy_without_gradients_in_eval_mode():
    model = Net().train()
    teacher = EMATeacher(model)
    assert same(values(teacher.model), values(model))
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in model.parameters())
    assert model.training
    for call in (teacher.train, teacher.eval, nn.ModuleList([teacher]).train):
        call()
        assert not any(module.training for module in teacher.modules())
    before = values(teacher.model)
    changed(model)
    assert same(values(teacher.model), before)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.5, 0.996, 1.0])
@pytest.mark.parametrize("given", ["constructor", "update"])
def test_update_is_the_formula(decay, given):
    student = Net()
    teacher = EMATeacher(student, decay if given == "constructor" else 0.77)
    for _ in range(3):
        before = values(teacher.model)
        changed(student)
        teacher.update(student, **({"decay": decay} if given == "update" else {}))
        found, new = values(teacher.model), values(student)
        for name, value in found.items():
            if value.is_floating_point():
                expected = decay * before[name].double() + (1 - decay) * new[name].double()
                torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-6)
            else:
                assert torch.equal(value, new[name])
    assert {"norm.running_var", "level", "mask", "norm.num_batches_tracked"} < set(found)
    assert found["norm.num_batches_tracked"] == 21


def test_decay_zero_copies_bit_for_bit_and_one_stays():
    student = Net()
    teacher = EMATeacher(student)
    with torch.no_grad():
        teacher.model.first.weight.fill_(torch.inf)
    changed(student)
    teacher.update(student, decay=0)
    assert same(values(teacher.model), values(student))
    changed(student)
    before = values(teacher.model)
    teacher.update(student, decay=1)
    for name, value in before.items():
        assert not value.is_floating_point() or torch.equal(value, named(teacher.model)[name])


def test_update_takes_no_gradient_and_writes_nothing():
    student = Net()
    before = values(student)
    teacher = EMATeacher(student)
    teacher.update(student)
    assert same(values(student), before)
    assert all(p.grad is None and p.grad_fn is None for p in teacher.parameters())


def test_forward_has_no_graph_and_equals_eval():
    student = Net()
    teacher = EMATeacher(student)
    x = torch.randn(4, 2, 9, requires_grad=True)
    before = values(teacher.model)
    found = teacher(x)
    assert not found.requires_grad
    assert torch.equal(found, student.eval()(x))
    assert same(values(teacher.model), before)
    assert teacher.model.encode(x).shape == (4, 3, 7)


def test_half_precision_students_have_a_float32_teacher():
    student = Net().bfloat16()
    with torch.no_grad():
        student.first.weight.fill_(1.0)
    teacher = EMATeacher(student, decay=0.996)
    with torch.no_grad():
        student.first.weight.fill_(1.0078125)
    teacher.update(student)
    weight = teacher.model.first.weight
    assert weight.dtype == teacher.model.norm.running_mean.dtype == torch.float32
    assert weight.flatten()[0].item() == pytest.approx(1 + 0.004 * 0.0078125, abs=1e-7)  # bf16 would stay at 1
    assert student.first.weight.dtype == torch.bfloat16
    teacher.update(student, decay=0)
    assert torch.equal(teacher.model.first.weight, student.first.weight.float())
    assert EMATeacher(Net().double()).model.first.weight.dtype == torch.float64


def test_round_trips():
    student = Net()
    teacher = EMATeacher(student, decay=0.9, norm="batch")
    teacher.update(changed(student))
    x = torch.randn(3, 2, 9)
    for again in (copy.deepcopy(teacher), pickle.loads(pickle.dumps(teacher))):
        assert (again.decay, again.norm) == (0.9, "batch")
        assert torch.equal(again(x), teacher(x))
        assert not any(module.training for module in again.modules())
        student_two = changed(copy.deepcopy(student))
        again.update(student_two)
        assert not torch.equal(again(x), teacher(x))  # a copy, not a view
    fresh = EMATeacher(Net(), decay=0.9, norm="batch")
    fresh.load_state_dict(teacher.state_dict())
    assert torch.equal(fresh(x), teacher(x))
    assert all(name.startswith("model.") for name in teacher.state_dict())


def test_tied_weights_stay_tied():
    student = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    student[1].weight = student[0].weight
    teacher = EMATeacher(student, decay=0.5)
    expected = teacher.model[0].weight.clone()
    changed(student)
    teacher.update(student)
    assert teacher.model[1].weight is teacher.model[0].weight
    torch.testing.assert_close(teacher.model[0].weight, (expected + student[0].weight.detach()) / 2)


def test_norm_by_the_batch():
    student = changed(Net())
    nn.init.uniform_(student.norm.running_var, 1, 2)
    student.drop.p = 0.0
    teacher = EMATeacher(student, norm="batch")
    before, x = values(teacher.model), torch.randn(5, 2, 9)
    found = teacher(x)
    assert same(values(teacher.model), before)
    assert not any(module.training for module in teacher.modules())
    with torch.no_grad():
        torch.testing.assert_close(teacher.model(x), student.eval()(x))
        torch.testing.assert_close(EMATeacher(student)(x), student(x))
        torch.testing.assert_close(found, student.train()(x))
    assert not torch.allclose(found, teacher.model(x))
    teacher.model.drop.p = 0.9
    assert torch.equal(teacher(x), found)  # only batch norm is in train mode


KINDS = [
    (nn.BatchNorm1d, (4, 3, 5)),
    (nn.BatchNorm2d, (4, 3, 5, 2)),
    (nn.BatchNorm3d, (2, 3, 3, 2, 2)),
    (nn.SyncBatchNorm, (4, 3, 5, 2)),
]


@pytest.mark.parametrize(("kind", "shape"), KINDS, ids=lambda x: getattr(x, "__name__", ""))
def test_frozen_statistics(kind, shape):
    model, x = nn.Sequential(kind(3), nn.Sequential(kind(3, momentum=None))), 3 + 2 * torch.randn(shape)
    model(x)
    before = values(model)
    expected = copy.deepcopy(model)(-x)
    with frozen_statistics(model):
        found = model(-x)
        assert set(model.state_dict()) == set(before)
    assert torch.equal(found, expected)
    assert same(values(model), before)
    dims = [0, *range(2, len(shape))]
    torch.testing.assert_close(found.mean(dims), torch.zeros(3), atol=1e-5, rtol=0)
    with frozen_statistics(model):
        model(torch.full(shape, torch.nan))
    assert same(values(model), before)
    model(-x)
    assert not torch.equal(model[0].running_mean, before["0.running_mean"])
    assert model[0].num_batches_tracked == before["0.num_batches_tracked"] + 1


def test_frozen_statistics_keep_gradients_and_eval_mode():
    model, x = nn.BatchNorm1d(3), torch.randn(6, 3, requires_grad=True)
    with frozen_statistics(model):
        (grad,) = torch.autograd.grad(model(x)[0, 0], x)
    (expected,) = torch.autograd.grad(copy.deepcopy(model)(x)[0, 0], x)
    assert torch.equal(grad, expected)
    model.eval()
    expected = model(x)
    with frozen_statistics(model):
        assert torch.equal(model(x), expected)


@pytest.mark.parametrize("context", [frozen_statistics, batch_statistics])
def test_contexts_restore_after_errors_and_nest(context):
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False), nn.Linear(2, 1)).eval()
    state = [(m.training, getattr(m, "track_running_stats", None)) for m in model]

    def fail():
        with context(model):
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert [(m.training, getattr(m, "track_running_stats", None)) for m in model] == state
    with context(model):
        with context(model[0]):
            pass
        assert not model[0].track_running_stats
    assert model[0].track_running_stats


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: EMATeacher(Net(), decay=1.5), "decay.*1.5"),
        (lambda: EMATeacher(Net(), decay=float("nan")), "decay.*nan"),
        (lambda: EMATeacher(Net(), norm="layer"), "norm.*layer"),
        (lambda: EMATeacher(Net()).update(Net(), decay=-0.1), "decay.*-0.1"),
        (lambda: EMATeacher(Net()).update(Net(4)), r"'first.weight' is \(3, 2, 3\).*\(4, 2, 3\)"),
        (lambda: EMATeacher(Net()).update(nn.Sequential(Net())), "'first.weight'.*nothing in the model.*unwrapped"),
        (lambda: EMATeacher(nn.Linear(1, 1, bias=False)).update(nn.Linear(1, 1)), "'bias' is nothing in the teacher"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


def test_a_refused_update_changes_nothing():
    teacher = EMATeacher(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 2)))
    before = values(teacher)
    with pytest.raises(ValueError, match=r"1\.weight"):
        teacher.update(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 3)))
    assert same(values(teacher), before)
