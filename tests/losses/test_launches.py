"""On a GPU: no loss makes the host wait (C7b), but for those named here, and none launches more kernels than it must.

Both are seen without a GPU. Fake CUDA tensors have shapes and no values: what looks at values, or copies from one
device to the other, says so. Every op runs as it is defined, but for those that have a kernel, which is launched.
"""

import traceback

import pytest
import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import delineate.losses as L
from delineate.ops.cuda import KERNELS
from delineate.target import Target
from losses.cases import CASES, DEFAULTS, MODES, batch

VOID = 255
WHY = {
    "cells": "found on the CPU",
    "components": "found on the CPU",
    "erosion_maps": "erosion ends where nothing is left",
    "hardest_of_regions": "chosen on the CPU",
    "inverse_size_weights": "looks at the number of components",
    "lovasz_slopes": "classes that do not count are not sorted",
    "point_means": "as many rows as there are points",
    "segments_of": "the number of components",
    "skeleton_tubes": "thinned on the CPU",
    "skeletons": "layers are taken off until nothing changes",
}
"""What looks at the data from the host, docs/correctness.md."""
WAITS = {
    "LovaszLoss()": {"lovasz_slopes"},
    "HausdorffErosionLoss()": {"erosion_maps"},
    "WeightedHausdorffLoss()": {"point_means"},
    "SoftClDiceLoss()": {"skeletons"},
    "SkeletonRecallLoss()": {"skeleton_tubes"},
    "BlobLoss(Dice)": {"components", "segments_of"},
    "BlobLoss(TopK)": {"components", "segments_of", "hardest_of_regions"},
    "ComponentLoss(Dice)": {"components", "segments_of", "cells"},
    "BidirectionalComponentLoss(Dice)": {"components", "segments_of", "cells"},
    "InverseSizeLoss(CrossEntropy)": {"components", "inverse_size_weights"},
}
"""Of each loss that has such parts; no other has one."""
KERNELED = {op._qualname for op, _ in KERNELS}
LOOKS = (DataDependentOutputException, DynamicOutputShapeException)
COPIES = ("aten::to", "aten::_to_copy", "aten::copy_", "aten::where")
"""What copies single numbers, too."""
A_NUMBER = 3
"""What fake data hold, for code that looks all the same."""


class _HostWaits(Exception):
    """Ends an op at the first place where the host waits."""


class Waits(TorchDispatchMode):
    """Names of the ops, or else of the functions, that make the host wait for fake CUDA tensors."""

    def __init__(self):
        super().__init__()
        self.found, self.op = set(), None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func._schema.name
        if func.namespace == "delineate":
            return self._run(func, name, args, kwargs)
        try:
            out = func(*args, **kwargs)
        except LOOKS:
            if any(t.is_cuda for t in _tensors((args, kwargs))):
                self._note()
            return A_NUMBER
        given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        if _puts_by_mask(name, given) or (not given.get("non_blocking") and _changes_device(name, (args, kwargs), out)):
            self._note()
        return out

    def _run(self, func, name, args, kwargs):
        """An op of ours by its definition, up to where the host waits; shapes are known all the same."""
        if name in KERNELED:
            return func(*args, **kwargs)
        outside, self.op = self.op, name.split("::")[1]
        try:
            with self:
                return OPDEFS[name]._init_fn(*args, **kwargs)
        except _HostWaits:
            return func(*args, **kwargs)
        finally:
            self.op = outside

    def _note(self):
        ours = [frame.name for frame in traceback.extract_stack() if "/delineate/" in frame.filename]
        self.found.add(self.op or ours[-1])
        if self.op:
            raise _HostWaits


def _puts_by_mask(name, given) -> bool:
    """Whether values are put where a mask is true: the host must know how often. (One value is filled in.)"""
    if not name.startswith("aten::index_put") or given["values"].numel() == 1:
        return False
    return any(index is not None and index.dtype == torch.bool for index in given["indices"])


def _changes_device(name, given, out) -> bool:
    """Whether data are copied from one device to another. A number of the host goes with the launch of most kernels."""
    before = {t.device for t in _tensors(given) if t.ndim or t.is_cuda or name in COPIES}
    after = {t.device for t in _tensors(out)}
    return bool(after) and len(before | after) > 1


def _tensors(values) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def waits(loss, *, kind="labels", space=(6, 5)) -> set[str]:
    """What makes the host wait in a call of the loss with CUDA tensors."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        loss = loss.to("cuda")
        logits, target = (t.to("cuda") for t in batch(space, kind=kind, dtype=torch.float32))
        with Waits() as found:
            loss(logits.requires_grad_(), target, torch.rand(3, *space, device="cuda"))
    return found.found


def options(case):
    """All that a loss may be told, at once."""
    given = {"ignore_index": VOID, "classes": [0, 2], "class_weight": [1.0, 2.0, 3.0]}
    given |= {"pool": "batch", "absent": "count"} if case.pooled else {}
    return given | ({"spacing": [2.0, 1.0]} if "spacing" in L.loss.arguments(case.cls) else {})


@pytest.mark.parametrize("case", [*DEFAULTS, *(c for c in CASES if repr(c) == "BlobLoss(TopK)")], ids=repr)
def test_c7b_the_host_waits_for_no_loss_but_those_named(case):
    found = set()
    for mode in MODES:
        found |= waits(case.build(mode=mode)) | waits(case.build(mode=mode, **options(case)))
        found |= waits(case.build(mode=mode, classes=[1]), kind=case.soft)
    assert found == WAITS.get(repr(case), set())


def test_c7b_reasons_are_named_of_what_waits_and_of_nothing_else():
    assert set().union(*WAITS.values()) == WHY.keys()


@pytest.mark.parametrize(
    "loss",
    [
        L.Schedule(L.DiceLoss(), L.CrossEntropyLoss(), start=[1, 0], end=[0, 1], epochs=3),
        L.Balanced(L.DiceLoss(), L.CrossEntropyLoss(classes=[0, 2])),
    ],
    ids=repr,
)
def test_c7b_the_host_waits_for_no_sum(loss):
    assert not waits(loss)


def test_c7b_the_host_does_not_wait_for_deep_supervision():
    loss = L.DeepSupervision(L.DiceLoss(ignore_index=VOID) + L.CrossEntropyLoss(ignore_index=VOID))
    with FakeTensorMode(), Waits() as found:
        outputs = [torch.randn(2, 3, size, size, device="cuda") for size in (8, 4)]
        loss(outputs, torch.zeros(2, 8, 8, dtype=torch.long, device="cuda"), torch.rand(2, 8, 8, device="cuda"))
    assert not found.found


def test_c7b_what_was_prepared_needs_no_wait():
    labels, shape = torch.zeros(3, 6, 5, dtype=torch.long), (3, 3, 6, 5)
    for loss in (L.SoftClDiceLoss(ignore_index=VOID), L.SkeletonRecallLoss(ignore_index=VOID)):
        target = Target(labels, ignore_index=VOID)
        target.find(loss.needs[0], shape)
        with FakeTensorMode(allow_non_fake_inputs=True):
            target = target.to("cuda")
            with Waits() as found:
                loss(torch.randn(shape, device="cuda"), target)
        assert not found.found


@pytest.mark.parametrize(
    "look",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: (x > 0).nonzero(),
        lambda x: x.cpu(),
        lambda x: x[:, [0, 2]],
        lambda x: torch.tensor([1, 2], device=x.device),
        lambda x: torch.tensor(1.0, device=x.device),
        lambda x: torch.where(x > 0, x, torch.tensor(0.0)),
        lambda x: x.masked_select(x > 0),
        lambda x: x.__setitem__(x > 0, torch.ones(5, device=x.device)),
    ],
)
def test_what_makes_the_host_wait_is_seen(look):
    with FakeTensorMode(), Waits() as found:
        found.op = "an op"
        with pytest.raises(_HostWaits):
            look(torch.randn(3, 4, device="cuda"))
    assert found.found == {"an op"}


def test_what_does_not_make_the_host_wait_is_not():
    with FakeTensorMode(), Waits() as found:
        x = torch.randn(3, 4, device="cuda")
        numbers = torch.ones(3, 4).to("cuda", non_blocking=True)
        torch.where(x > 0, x * torch.tensor(2.0), 0).add_(numbers)[:, 1:3].fill_(1.0)
    assert not found.found


class Launches(TorchDispatchMode):
    """Counts operations that are neither views nor allocations: about the kernels of a GPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not (func.is_view or "empty" in func._schema.name)
        return func(*args, **(kwargs or {}))


SLACK = 2
"""Of another version of PyTorch."""


@pytest.mark.parametrize(
    ("text", "forward", "backward"),
    [
        ("CE", 9, 8),
        ("Focal", 9, 8),
        ("TopK", 14, 11),
        ("Dice", 31, 24),
        ("Jaccard", 32, 25),
        ("Tversky", 38, 28),
        ("GeneralizedDice", 42, 28),
        ("Dice + CE", 40, 29),
        ("Dice + CE + Focal + Tversky + TopK", 86, 62),
    ],
)
def test_launches_of_common_losses(text, forward, backward):
    """Each costs as much on a GPU as the pass over a small image; the first of them is the pass."""
    loss, (logits, target) = L.parse(text), batch(dtype=torch.float32)
    with Launches() as ahead:
        value = loss(logits.requires_grad_(), target)
    with Launches() as back:
        value.backward()
    assert ahead.count <= forward + SLACK
    assert back.count <= backward + SLACK
