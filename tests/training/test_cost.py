import torch

from delineate.losses import parse
from delineate.training.cost import loss_ms, median_ms, peak_allocated


def test_peak_is_that_of_the_largest_moment():
    x = torch.randn(256, 1024)  # 1 MiB
    assert peak_allocated(lambda: (x + 1).sum()) - 2**20 in range(64)
    assert peak_allocated(lambda: (x + 1) * (x + 2)) - 3 * 2**20 in range(64)
    assert peak_allocated(lambda: [(x + i).sum() for i in range(5)]) < 1.1 * 2**20  # one after the other


def test_times_are_positive_and_ordered():
    x = torch.randn(512, 512)
    assert 0 < median_ms(lambda: x.sum()) < median_ms(lambda: [x @ x for _ in range(5)])
    assert loss_ms(parse("Dice + CE"), torch.randn(1, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.long)) > 0
