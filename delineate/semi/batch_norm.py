"""Batch norm as a policy: which passes through a network may move the statistics it will be used with."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, passes in train mode normalise by the batch, as always, but leave the running statistics as they are.

        y = (x - mean of the batch) / sqrt(variance of the batch + eps);   running_mean, running_var and
        num_batches_tracked keep their values, bit for bit

    Layers in eval mode normalise by the running statistics, as always. Applies to `BatchNorm1d`, `2d`, `3d`,
    `SyncBatchNorm` (which still synchronises the batch) and what derives from them; models without such layers are
    unaffected. Everything is as before afterwards, after an exception too; contexts may be nested.

    Args:
        model: what is passed through inside.

    >>> import torch
    >>> layer = nn.BatchNorm1d(1)
    >>> with frozen_statistics(layer):
    ...     y = layer(torch.tensor([[1.0], [3.0]]))
    >>> [round(v, 3) for v in y.flatten().tolist()], layer.running_mean.item(), layer.num_batches_tracked.item()
    ([-1.0, 1.0], 0.0, 0)

    Notes: momentum 0 would do nearly the same, yet counts the batch and turns statistics into NaN after one that is
    not finite. Here the layers are told not to track, so that nothing is written at all. With activation
    checkpointing, layers run again in the backward pass, which belongs inside, too.
    """
    layers = norm_layers(model)
    tracked = [layer.track_running_stats for layer in layers]
    try:
        for layer in layers:
            layer.track_running_stats = False
        yield
    finally:
        for layer, before in zip(layers, tracked, strict=True):
            layer.track_running_stats = before


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, batch norm normalises by the batch even in a model in eval mode, and no running statistics move.

    Args:
        model: what is passed through inside. Only its batch-norm layers change their mode, and only inside.

    >>> import torch
    >>> layer = nn.BatchNorm1d(1).eval()
    >>> with batch_statistics(layer):
    ...     y = layer(torch.tensor([[1.0], [3.0]]))
    >>> [round(v, 3) for v in y.flatten().tolist()], layer.running_mean.item(), layer.training
    ([-1.0, 1.0], 0.0, False)
    """
    layers = norm_layers(model)
    modes = [layer.training for layer in layers]
    try:
        for layer in layers:
            layer.training = True
        with frozen_statistics(model):
            yield
    finally:
        for layer, before in zip(layers, modes, strict=True):
            layer.training = before


def norm_layers(model: nn.Module) -> list[_BatchNorm]:
    """All batch-norm layers of a model."""
    return [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
