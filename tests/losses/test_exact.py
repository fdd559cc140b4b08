"""Contract C21 and C15: every loss equals its plain formula over modes, targets and options, and its gradient is
that of its value. (In 1D and 3D, and for one channel: test_contract.py.)"""

import itertools

import pytest
import torch

from losses.cases import CASES, batch

OPTIONS = [
    {},
    {"reduction": "none"},
    {"reduction": "sum"},
    {"class_weight": [0.25, 1.0, 3.0]},
    {"classes": [1, 2]},
    {"classes": [0, 2], "class_weight": [2.0, 5.0, 0.5], "reduction": "none"},
]
POOL_OPTIONS = [
    {"pool": "batch"},
    {"pool": "batch", "reduction": "none"},
    {"pool": "batch", "absent": "count", "reduction": "sum"},
    {"absent": "count"},
    {"absent": "count", "class_weight": [0.25, 1.0, 3.0], "classes": [1, 2]},
]


def ids(value):
    return repr(value) if not isinstance(value, dict) else ",".join(f"{k}={v}" for k, v in value.items()) or "plain"


def combinations():
    """All options for one row of each loss; for the others those that take most together."""
    for case in CASES:
        options = OPTIONS + (POOL_OPTIONS if case.pooled else [])
        few = [OPTIONS[0], OPTIONS[-1]] + ([POOL_OPTIONS[1], POOL_OPTIONS[-1]] if case.pooled else [])
        yield from ((case, each) for each in (options if case.leading else few))


def situations(case, options):
    """Mode, kind of target, ignored, weighted: all without options, else those that take both or neither."""
    for mode, kind in itertools.product(("softmax", "sigmoid"), ("labels", case.soft)):
        for ignored, weighted in itertools.product((False, True), repeat=2):
            if kind != "labels" and not ignored and (weighted or not options):
                yield mode, kind, ignored, weighted
            if kind == "labels" and (ignored == weighted or not options):
                yield mode, kind, ignored, weighted


@pytest.mark.parametrize(("case", "options"), list(combinations()), ids=ids)
def test_c21_equals_its_formula(case, options):
    for mode, kind, ignored, weighted in situations(case, options):
        logits, target = batch(mode=mode, kind=kind, seed=len(options))
        if kind == "labels":
            target[0][target[0] == 2] = 1  # class 2 is absent from the first sample
            target[1] = 0  # and the second has one class only
        weight = torch.rand(target.shape[:1] + logits.shape[2:], dtype=torch.float64) if weighted else None
        common = dict(options, mode=mode)
        if ignored:
            target[:, 0] = 255
            target[2] = 255  # the third sample is ignored altogether
            common["ignore_index"] = 255
        ours = case.build(**common)(logits, target, weight)
        expected = case.reference(logits, target, weight, **common)
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-11, msg=lambda m, c=common: f"{c}: {m}")


@pytest.mark.parametrize("case", [c for c in CASES if not c.detached], ids=repr)
@pytest.mark.parametrize("mode", ["softmax", "sigmoid"])
def test_c15_gradcheck(case, mode):
    """Entry by entry for one row of each loss, along random directions for the others."""
    logits, target = batch((3, 2), samples=2, mode=mode)
    target[0, 0] = 255
    logits.requires_grad_()
    weight = torch.rand(2, 3, 2, dtype=torch.float64)
    loss = case.build(mode=mode, ignore_index=255, class_weight=[0.5, 1.0, 2.0], reduction="none")
    assert torch.autograd.gradcheck(lambda z: loss(z, target, weight), logits, fast_mode=not case.leading)


@pytest.mark.parametrize("case", [c for c in CASES if not (c.hard_only or c.detached)], ids=repr)
@pytest.mark.parametrize("mode", ["softmax", "sigmoid"])
def test_c15_gradcheck_soft_target(case, mode):
    logits, target = batch((2, 2), samples=2, mode=mode, kind="soft")
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: case.build(mode=mode)(z, target), logits, fast_mode=not case.leading)


@pytest.mark.parametrize("alpha", [0.25, 0.9])
def test_focal_alpha_weighs_positives_and_negatives(alpha):
    from delineate.losses import FocalLoss
    from reference.voxel import focal, voxel_loss

    for kind, channels in (("labels", 1), ("labels", 3), ("soft", 2)):
        logits, target = batch(channels=channels, mode="sigmoid", kind=kind)
        ours = FocalLoss(mode="sigmoid", alpha=alpha)(logits, target)
        expected = voxel_loss(focal, logits.numpy(), target.numpy(), mode="sigmoid", alpha=alpha)
        torch.testing.assert_close(ours, torch.tensor(expected), rtol=1e-9, atol=0)


def test_torch_agrees_on_cross_entropy():
    from delineate.losses import CrossEntropyLoss

    logits, target = batch((6, 5), channels=4)
    target[:, 1] = 7
    weights = [0.1, 1.0, 2.0, 5.0]
    torch_value = torch.nn.functional.cross_entropy(
        logits, target, weight=torch.tensor(weights, dtype=torch.float64), ignore_index=7
    )
    ours = CrossEntropyLoss(normalize="weight", class_weight=weights, ignore_index=7)(logits, target)
    torch.testing.assert_close(ours, torch_value, rtol=1e-6, atol=0)
