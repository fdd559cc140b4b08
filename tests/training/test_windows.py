"""Windows over whole pictures: every pixel is covered, the published counts, and the plain sum of probabilities."""

import pytest
import torch
from torch import nn

from delineate.training.windows import sliding_log_probabilities, starts

BORDERS = pytest.mark.parametrize("border", ["shift", "truncate"])


@BORDERS
@pytest.mark.parametrize("window", [2, 3, 8, 31])
@pytest.mark.parametrize("length", [1, 2, 3, 7, 30, 31, 32, 33, 97])
def test_every_pixel_of_a_side_is_in_a_window(length, window, border):
    found = starts(length, window, border)
    assert {place for low, high in found for place in range(low, high)} == set(range(length))
    assert len(set(found)) == len(found)
    if border == "shift":
        assert {high - low for low, high in found} == {min(window, length)}
    else:
        assert all(0 < high - low <= window for low, high in found)
        lows = range(0, length, int(2 * window / 3)) if length > window else [0]
        assert [low for low, _ in found] == list(lows)


@BORDERS
def test_cityscapes_takes_eight_windows(border):
    windows = [
        (bottom - top, right - left)
        for top, bottom in starts(1024, 801, border)
        for left, right in starts(2048, 801, border)
    ]
    assert len(windows) == 8
    assert windows[-1] == ((801, 801) if border == "shift" else (490, 446))
    strides = [low for low, _ in starts(2048, 801, border)]
    assert strides[:3] == [0, 534, 1068]


class Positional(nn.Module):
    """Logits of a pixel depend on its colours and on its place in the window, as those of real networks do."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, images):
        y, x = (torch.linspace(-1, 1, side) for side in images.shape[2:])
        return 3 * self.conv(images) + torch.stack([x + 0 * y[:, None], 0 * x + y[:, None]]).repeat(2, 1, 1)


@BORDERS
@pytest.mark.parametrize("size", [(37, 23), (16, 40), (9, 17), (50, 50)])
def test_equals_a_plain_sum_of_probabilities(size, border):
    network, images, window = Positional(), torch.randn(2, 3, *size), (16, 12)
    total, count = torch.zeros(2, 4, *size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    with torch.no_grad():
        found = sliding_log_probabilities(network, images, window, border)
        for top in plain_starts(size[0], window[0], border):
            for left in plain_starts(size[1], window[1], border):
                part = images[:, :, top : top + window[0], left : left + window[1]]
                total[:, :, top : top + window[0], left : left + window[1]] += network(part).double().softmax(1)
                count[top : top + window[0], left : left + window[1]] += 1
    assert (count > 0).all()
    torch.testing.assert_close(found, (total / count).log().float(), rtol=1e-4, atol=1e-5)
    assert torch.equal(found.argmax(1), total.argmax(1))
    torch.testing.assert_close(found.exp().sum(1), torch.ones(2, *size))


def plain_starts(length, window, border):
    stride, found = int(2 * window / 3), [0]
    while found[-1] + window < length:
        found.append(found[-1] + stride)
    if border == "truncate":
        while found[-1] + stride < length and length > window:
            found.append(found[-1] + stride)
        return found
    return [min(low, max(length - window, 0)) for low in found]


@BORDERS
def test_a_window_that_covers_the_picture_is_the_picture(border):
    network, images = Positional(), torch.randn(1, 3, 20, 14)
    with torch.no_grad():
        whole = network(images)
        for window in ((20, 14), (32, 32)):
            found = sliding_log_probabilities(network, images, window, border)
            torch.testing.assert_close(found, whole.log_softmax(1))
            assert torch.equal(found.argmax(1), whole.argmax(1))


def test_a_class_without_a_chance_stays_finite():
    with torch.no_grad():
        found = sliding_log_probabilities(
            lambda part: torch.stack([0 * part[:, 0], 0 * part[:, 0] - 300], 1), torch.randn(1, 3, 20, 14), (8, 8)
        )
    assert found.isfinite().all()
    assert (found[:, 0] == 0).all()
    assert (found[:, 1] < -80).all()


def test_an_unknown_border_is_refused():
    with pytest.raises(ValueError, match=r"border: expected shift or truncate; got 'cut'"):
        starts(10, 4, "cut")
