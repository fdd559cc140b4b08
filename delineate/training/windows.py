"""Prediction of whole pictures by windows."""

from collections.abc import Callable

import torch
from torch import Tensor

STRIDE = 2 / 3
"""Of a window, by which the next one is moved."""
BORDERS = ("shift", "truncate")


def starts(length: int, window: int, border: str = "shift") -> list[tuple[int, int]]:
    """First voxel of each window along one side, and the one after its last.

    Args:
        length: of the side.
        window: of a window; the stride is int(2/3 window).
        border: of the last window: "shift" moves it inside, "truncate" cuts it off, as released codes of
            semi-supervised methods do.

    >>> starts(2048, 801)[-2:], starts(2048, 801, "truncate")[-1]
    ([(1068, 1869), (1247, 2048)], (1602, 2048))
    """
    if border not in BORDERS:
        raise ValueError(f"border: expected {' or '.join(BORDERS)}; got {border!r}.")
    if length <= window:
        return [(0, length)]
    stride = int(STRIDE * window)
    if border == "truncate":
        return [(low, min(low + window, length)) for low in range(0, length, stride)]
    lows = [*range(0, length - window, stride), length - window]
    return [(low, low + window) for low in lows]


def sliding_log_probabilities(
    network: Callable[[Tensor], Tensor], images: Tensor, window: tuple[int, int], border: str = "shift"
) -> Tensor:
    """Log of the mean probability that the windows over a voxel give each class: (N, C, H, W) of (N, channels, H, W).

    Its argmax is that of the sum of probabilities; `window` is (height, width), and every voxel is in one or more.
    """
    total = count = torch.zeros(())
    for top, bottom in starts(images.shape[2], window[0], border):
        for left, right in starts(images.shape[3], window[1], border):
            place = (..., slice(top, bottom), slice(left, right))
            found = network(images[place]).float().softmax(1)
            if not total.ndim:
                total = found.new_zeros(*found.shape[:2], *images.shape[2:])
                count = found.new_zeros(images.shape[2:])
            total[place] += found
            count[place] += 1
    return (total / count).clamp_min(torch.finfo(total.dtype).tiny).log()
