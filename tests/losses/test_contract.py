"""What holds for every loss in every situation: the matrix of losses, dimensions, kinds of target and conditions.

Items of the contract that need more than one call have files of their own, by theme, and their number in the name:

    C1, C6, C12, C19    test_contract_ignored.py, test_contract_sums.py, test_ranks.py
    C2, C3, C5, C22     test_contract_empty.py, test_contract_extremes.py
    C4                  test_contract_precision.py
    C7, C13             test_contract_inputs.py
    C8, C9              test_contract_targets.py
    C10, C11            test_contract_sums.py
    C14, C15, C24       test_contract_tooling.py, test_transforms.py
    C15, C21            test_exact.py
    rules for random inputs      test_properties.py
"""

import itertools

import pytest
import torch

from losses.cases import CASES, batch, value_and_gradient

VOID = 255
SPACES = {"1d": (9,), "2d": (4, 3), "3d": (2, 3, 2)}
SETTINGS = {
    "softmax": ("softmax", "labels", 3),
    "binary": ("sigmoid", "labels", 1),
    "multilabel": ("sigmoid", "dense", 3),
    "soft": ("softmax", "soft", 3),
    "soft sigmoid": ("sigmoid", "soft", 2),
}
CONDITIONS = [
    "plain",
    "ignored",
    "absent",
    "empty",
    "one voxel",
    "all ignored",
    "extreme",
    "float32",
    "float16",
    "bfloat16",
]
ELSEWHERE = {"1d": ("softmax", "binary", "soft sigmoid"), "3d": ("softmax", "multilabel", "soft")}
OF_ARGUMENTS = {False: ("plain", "ignored", "absent", "empty", "extreme", "float16")}
OF_ARGUMENTS[True] = ("plain", "ignored", "absent", "float32")
"""For losses that look at each voxel alone, and for those that look around."""
TOLERANCE = {"float32": 1e-4, "float16": 1e-3, "bfloat16": 1e-3}
"""Of the value in these types. In float64 it is 1e-9 of the value."""


def problem(setting, condition, space):
    """Logits, target, weight, the voxels that take no part, and what the loss is told."""
    mode, kind, channels = SETTINGS[setting]
    space = tuple(1 for _ in space) if condition == "one voxel" else space
    logits, target = batch(space, samples=2, channels=channels, mode=mode, kind=kind)
    if setting == "multilabel":
        target = (torch.rand(target.shape) > 0.6).double()
    target = changed(target, condition, mode)
    if condition == "extreme":
        logits = logits.sign() * 1e4
    if condition in TOLERANCE:
        logits = logits.to(getattr(torch, condition))
    ignored = torch.zeros(2, *space, dtype=torch.bool)
    ignored[:, ::2] = condition == "ignored"
    ignored |= condition == "all ignored"
    if not ignored.any():
        return logits, target, None, ignored, {"mode": mode}
    if kind == "labels":
        logits = logits.masked_fill(ignored[:, None], torch.nan)
        return logits, target.masked_fill(ignored, VOID), None, ignored, {"mode": mode, "ignore_index": VOID}
    return logits, target, 1.0 - ignored.double(), ignored, {"mode": mode}  # a dense target has no label to ignore


def changed(target, condition, mode):
    """The target without its last class in the first sample, or empty."""
    dense, target = target.is_floating_point(), target.clone()
    if condition == "absent":
        if dense:
            target[0, -1] = 0
            target = target / target.sum(1, keepdim=True) if mode == "softmax" else target
        else:
            target[0][target[0] == target.max()] = 0
    if condition == "empty":
        target[:] = 0
        if dense and mode == "softmax":
            target[:, 0] = 1
    return target


def matrix():
    """All of one row of each loss in 2D, of the others what may depend on their arguments.

    In 1D and 3D one row of each loss, in float64 and not in all settings: types do not know of dims.
    """
    for case, dims, setting, condition in itertools.product(CASES, SPACES, SETTINGS, CONDITIONS):
        needed = dims == "2d" or (case.leading and condition not in TOLERANCE and setting in ELSEWHERE[dims])
        needed &= case.leading or condition in OF_ARGUMENTS[case.spatial]
        if needed and not (case.hard_only and SETTINGS[setting][1] == "soft"):
            yield pytest.param(case, dims, setting, condition, id=f"{case}-{dims}-{setting}-{condition}")


@pytest.mark.parametrize(("case", "dims", "setting", "condition"), list(matrix()))
def test_contract(case, dims, setting, condition):
    """Finite and of the right shape and type (C4c, C5, C11, C13), at least the minimum, equal to the plain formula
    (C21), without a gradient at ignored voxels (C1c, C1d), and no input is written to (C1f)."""
    logits, target, weight, ignored, common = problem(setting, condition, SPACES[dims])
    given = [t.clone() for t in (logits, target, weight) if t is not None]
    value, gradient = value_and_gradient(case.build(**common), logits, target, weight)
    each = case.build(**common, reduction="none")(logits, target, weight)
    for now, then in zip([t for t in (logits, target, weight) if t is not None], given, strict=True):
        torch.testing.assert_close(now, then, rtol=0, atol=0, equal_nan=True)

    narrow = condition in TOLERANCE
    assert value.shape == ()
    assert each.shape == (2,)
    assert value.dtype == each.dtype == (torch.float32 if narrow else torch.float64)
    assert gradient.dtype == logits.dtype
    assert value.isfinite()
    assert each.isfinite().all()
    assert value >= case.minimum - (1e-6 if narrow else 1e-12) * (case.minimum != 0)
    assert gradient.isfinite().all()
    if "ignore_index" in common or not case.spatial:  # a voxel of weight 0 is still a neighbour of others
        assert not gradient.movedim(1, -1)[ignored].any()
    if condition == "all ignored":
        if "ignore_index" in common:
            assert value == 0
            assert not each.any()
        return
    expected = case.reference(logits, target, weight, **common)
    tolerance = {"rtol": 0, "atol": TOLERANCE[condition]} if narrow else {"rtol": 1e-9, "atol": 1e-11}
    torch.testing.assert_close(value.double(), expected, **tolerance)
