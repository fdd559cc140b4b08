"""What is said of streams whose pseudo-labels have stopped to teach."""

import pytest
import torch
from torch import nn

from delineate.losses import CrossEntropyLoss
from delineate.semi import parse_method
from delineate.training.kept import PATIENCE, KeptWatch
from delineate.training.module import SegmentationModule


def said(method, shares, capsys):
    """What is printed by the end of each epoch in which a stream kept these shares."""
    loss = CrossEntropyLoss()
    module = SegmentationModule(nn.Conv2d(3, 3, 1), loss, ("a", "b", "c"), None, method=parse_method(method))
    watch, lines = KeptWatch(), []
    for share in shares:
        for _ in range(2):
            module.watched = {"kept/strong0": torch.tensor(share), "kept_by_class/strong0": torch.zeros(3)}
            watch.on_train_batch_end(None, module, None, None, 0)
        watch.on_train_epoch_end(None, module)
        lines.append(capsys.readouterr().out)
    return lines


@pytest.mark.parametrize(("share", "words"), [(0.0, "no pseudo-labels"), (1.0, "all pseudo-labels")])
def test_a_stream_that_chooses_nothing_is_told_once(share, words, capsys):
    lines = said("fixmatch", [share] * (PATIENCE + 2), capsys)
    assert [bool(line) for line in lines] == [epoch == PATIENCE - 1 for epoch in range(PATIENCE + 2)]
    assert words in lines[PATIENCE - 1]
    assert "strong0" in lines[PATIENCE - 1]
    assert "FixedThreshold(threshold=0.95)" in lines[PATIENCE - 1]


def test_epochs_must_be_in_a_row(capsys):
    assert not any(said("fixmatch", [0.0, 0.0, 0.5, 0.0, 0.0], capsys))


def test_a_method_that_keeps_all_on_purpose_is_left_alone(capsys):
    assert not any(said("fixmatch(selector=NoSelection())", [1.0] * (PATIENCE + 1), capsys))
