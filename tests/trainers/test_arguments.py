"""The table of arguments: every expression parses, and what a row says of value and gradient holds."""

import re
from pathlib import Path

import monai.losses
import pytest
import segmentation_models_pytorch.losses as smp
import torch

from delineate.losses import parse

PAGE = Path(__file__).parents[2] / "docs/trainers/arguments.md"
ROW = re.compile(r"^\| `(?P<theirs>[^|]+)` \| `(?P<ours>[^|]+)` \| (?P<relation>[^|]+) \|[^|]*\|$", re.M)
VOID = 255


def rows():
    for section in PAGE.read_text().split("\n## ")[1:]:
        for found in ROW.finditer(section):
            if found["relation"] != "relation":
                yield pytest.param(section.splitlines()[0], *found.groups(), id=f"{found['theirs']}-{found['ours']}")


def losses_of(library):
    if library == "nnU-Net":
        pytest.importorskip("nnunetv2", reason='needs nnunetv2: pip install "delineate[nnunet]"')
        from nnunetv2.training.loss import compound_losses, robust_ce_loss
        from nnunetv2.utilities.helpers import softmax_helper_dim1

        return vars(compound_losses) | vars(robust_ce_loss) | {"softmax": softmax_helper_dim1}
    return vars({"MONAI": monai.losses, "segmentation-models-pytorch": smp, "torch": torch.nn}[library])


def batch(theirs, ours):
    """Logits and target of the kind that both losses are for, and the target in the other library's shape."""
    logits = torch.randn(3, 3, 12, 10) + torch.tensor([1.0, 0.0, -1.0])[:, None, None]
    labels = torch.randint(0, 3, (3, 12, 10))
    if '"binary"' in theirs:
        labels = labels.clamp_max(1)
        return logits[:, :1], labels, labels[:, None].float()
    if 'mode="sigmoid"' in ours:
        several = (torch.rand(3, 3, 12, 10) < 0.4).float()
        return logits, several, several
    if str(VOID) in ours:
        labels[torch.rand(labels.shape) < 0.2] = VOID
    return logits, labels, labels


def value_and_gradient(loss, logits, target):
    logits = logits.clone().requires_grad_()
    value = loss(logits, target)
    return value.detach(), torch.autograd.grad(value, logits)[0]


@pytest.mark.filterwarnings("ignore")  # of the other libraries
@pytest.mark.parametrize(("library", "theirs", "ours", "relation"), list(rows()))
def test_the_row_holds(library, theirs, ours, relation):
    other = eval(theirs, losses_of(library) | {"torch": torch})
    logits, target, given = batch(theirs, ours)
    if given.ndim < logits.ndim and library in ("MONAI", "nnU-Net"):
        given = given[:, None]
    if library == "MONAI" and "to_onehot_y" not in theirs and given.shape[1] == 1:
        given = torch.nn.functional.one_hot(given[:, 0], 3).movedim(-1, 1).float()
    found = value_and_gradient(parse(ours), logits, target)
    expected = value_and_gradient(other, logits, given)
    if relation == "differs":
        assert (found[0] - expected[0]).abs() > 1e-3
        return
    factor, constant = factor_and_constant(relation)
    torch.testing.assert_close(found[0], factor * expected[0] + constant, rtol=2e-5, atol=2e-6)
    torch.testing.assert_close(found[1], factor * expected[1], rtol=2e-4, atol=1e-8)


def factor_and_constant(relation):
    """Of "ours = 3 * theirs" 3 and 0, of "ours = theirs + 1" 1 and 1."""
    found = re.fullmatch(r"ours = (?:([\d.]+) \* )?theirs(?: \+ ([\d.]+))?", relation)
    assert found, relation
    return float(found[1] or 1), float(found[2] or 0)


def test_no_row_is_overlooked():
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    heads = [line for line in lines if "| delineate | relation |" in line]
    assert len(list(rows())) == len(lines) - len(heads) > 45
