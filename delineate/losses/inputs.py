"""What a loss is called with: checked once, flattened once, and passed over once for all terms of a sum."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from delineate.ops.cost import Cost
from delineate.ops.overlap import Overlap, overlap
from delineate.target import Geometry, Target

Need = str | Cost | Geometry
"""What a loss needs: of the pass beyond the plain sums "squares", "spread" or "log_p", see `delineate.ops.overlap`, or
the sums of a cost; of the target the geometry derived from it."""


class Inputs:
    """Checked logits, target and weight, and what the terms of one loss share.

    Args:
        name: who asks, for error messages.
        logits: (N, C, *S) with one to three spatial dims.
        target: labels (N, *S) or (N, 1, *S) of any integer dtype or bool, or a dense float map (N, C, *S); or a
            `Target` with these.
        weight: (N, *S), at least 0, or None.
        needs: what any of the terms needs of the pass.

    Raises:
        ValueError: when shapes or kinds do not fit.
    """

    def __init__(
        self, name: str, logits: Tensor, target: Tensor | Target, weight: Tensor | None, needs: Sequence[Need]
    ):
        logits, weight = _plain(logits), None if weight is None else _plain(weight)
        _check_logits(name, logits)
        given = target if isinstance(target, Target) else None
        target = _check_target(name, logits, _plain(target.labels if isinstance(target, Target) else target))
        _check_weight(name, logits, weight)
        self.name = name
        self.logits = logits.flatten(2)
        self.dense = target.is_floating_point()
        self.target = target.flatten(2) if self.dense else target.flatten(1)
        self.weight = None if weight is None else weight.flatten(1)
        self.shape = logits.shape
        """(N, C, *S); the logits, target and weight are kept with *S flattened, and `grid` is the target in full."""
        self._needs = needs
        self._passes: dict[tuple[str, int | None], Overlap] = {}
        self._probabilities: dict[tuple[str, int | None], Tensor] = {}
        self._given, self.grid = given, target
        self._targets: dict[int | None, Target] = {}
        self.counts: dict[tuple[str, int | None, str], Any] = {}
        """The counts that terms share, see `delineate.losses.counts.PoolLoss`."""

    def overlap(self, mode: str, ignore_index: int | None) -> Overlap:
        """The pass over the logits; terms that agree on mode and `ignore_index` share it."""
        self._check(mode, ignore_index)
        key = (mode, ignore_index)
        if key not in self._passes:
            self._passes[key] = overlap(
                self.logits,
                self.target,
                self.weight,
                mode=mode,
                ignore_index=ignore_index,
                squares=self.asked("squares"),
                spread=self.asked("spread"),
                costs=[need for need in self._needs if isinstance(need, Cost)],
                per_voxel=self.asked("log_p") and not self.dense,
            )
        return self._passes[key]

    def samples(self, mode: str, ignore_index: int | None) -> Tensor | None:
        """Which samples are not ignored altogether, (N,) bool; None: all."""
        if ignore_index is None and self.logits.shape[2]:
            return None
        return self.overlap(mode, ignore_index).valid > 0

    def asked(self, need: Need) -> bool:
        """Whether any term needs this of the pass."""
        return need in self._needs

    def _check(self, mode: str, ignore_index: int | None) -> None:
        """Raise where the mode or the ignored label does not fit."""
        if mode == "softmax" and self.logits.shape[1] == 1:
            raise ValueError(
                f"{self.name}: `logits` has one channel, and softmax mode needs C >= 2. "
                'Use mode="sigmoid" for a binary target.'
            )
        self._check_ignored(ignore_index)

    def _check_ignored(self, ignore_index: int | None) -> None:
        if self.dense and ignore_index is not None:
            raise ValueError(
                f"{self.name}: `ignore_index` ({ignore_index}) is a label value, and this target is a dense map "
                "without labels. Give ignored voxels weight 0 instead and leave ignore_index=None."
            )

    def truth(self, ignore_index: int | None) -> Target:
        """The target with what is derived from it; terms that agree on `ignore_index` share it."""
        self._check_ignored(ignore_index)
        if self._given is not None:
            if self._given.ignore_index != ignore_index:
                raise ValueError(
                    f"{self.name}: `ignore_index` is {ignore_index}, and that of the Target "
                    f"{self._given.ignore_index}. Give both the same."
                )
            return self._given
        if ignore_index not in self._targets:
            self._targets[ignore_index] = Target(self.grid, ignore_index=ignore_index)
        return self._targets[ignore_index]

    def geometry(self, geometry: Geometry, ignore_index: int | None) -> Tensor:
        """What is derived from the target, see `delineate.target.KINDS`."""
        return self.truth(ignore_index).find(geometry, self.shape)

    def voxel_size(self, spacing: tuple[float, ...] | None, ignore_index: int | None) -> Tensor | None:
        """Size of a voxel along each axis, (N, dims) float64: that of the loss, or of the target; None: 1."""
        return self.truth(ignore_index).voxel_size(spacing, self.shape[0], len(self.shape) - 2)

    def probabilities(self, mode: str, ignore_index: int | None) -> Tensor:
        """Of each voxel and channel, (N, C, *S) in float32 at least; 0.5 or 1 / C at ignored voxels."""
        self._check(mode, ignore_index)
        key = (mode, ignore_index)
        if key not in self._probabilities:
            z = self.valid_logits(ignore_index)
            self._probabilities[key] = (z.softmax(1) if mode == "softmax" else z.sigmoid()).view(self.shape)
        return self._probabilities[key]

    def ignored(self, ignore_index: int | None) -> Tensor | None:
        """Voxels that take no part, (N, *S); None when all do."""
        valid = self.valid(ignore_index)
        return None if valid is None else ~valid.view(self.shape[0], *self.shape[2:])

    def valid(self, ignore_index: int | None) -> Tensor | None:
        """Voxels that are not ignored, (N, V); None when all take part."""
        return None if ignore_index is None else self.target.long() != ignore_index

    def labels(self) -> Tensor:
        """Labels (N, V) as int64, with some class in the place of ignored voxels: fit for indexing.

        The pass over the logits refuses other labels, but compiled code may index before it runs.
        """
        return self.target.long().clamp(0, self.logits.shape[1] - 1)

    def channels_on(self) -> Tensor:
        """The target as channels (N, C, V): bool, which label is there; a dense map as it is."""
        if self.dense:
            return self.target
        channels = self.logits.shape[1]
        labels = self.target.long()
        names = torch.arange(channels, device=labels.device) if channels > 1 else labels.new_ones(1)
        return labels[:, None] == names[:, None]

    def valid_logits(self, ignore_index: int | None) -> Tensor:
        """Logits (N, C, V) in float32 at least, 0 at ignored voxels."""
        logits = self.logits if self.logits.dtype == torch.float64 else self.logits.float()
        valid = self.valid(ignore_index)
        return logits if valid is None else logits.masked_fill(~valid[:, None], 0)

    def valid_weight(self, ignore_index: int | None) -> Tensor | None:
        """Voxel weights (N, V), 0 at ignored voxels; None when all are 1."""
        valid = self.valid(ignore_index)
        return self.weight if valid is None else valid.double() if self.weight is None else self.weight * valid


def pick(maps: Tensor, channels: Sequence[int]) -> Tensor:
    """Some channels of maps (N, C, ...), in their order."""
    runs = _runs(channels)
    return maps[:, runs[0]] if len(runs) == 1 else maps.index_select(1, places(channels, maps.device))


def placed(table: Tensor, channels: Sequence[int], number: int) -> Tensor:
    """A table of some channels (N, K) as one of all, (N, C): 0 elsewhere."""
    return table.new_zeros(len(table), number).index_copy(1, places(channels, table.device), table)


def places(channels: Sequence[int], device: torch.device) -> Tensor:
    """Channels as a tensor, (K,) int64. It is made on the device: for the copy of a list the host would wait."""
    return torch.cat([torch.arange(run.start, run.stop, device=device) for run in _runs(channels)])


def _runs(channels: Sequence[int]) -> list[slice]:
    """Channels in their order, as runs of consecutive ones."""
    starts = [k for k, c in enumerate(channels) if k == 0 or c != channels[k - 1] + 1]
    return [slice(channels[a], channels[b - 1] + 1) for a, b in pairwise([*starts, len(channels)])]


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _plain(tensor: Tensor) -> Tensor:
    """The same tensor without a subclass of its own, such as MONAI's MetaTensor; its graph is kept."""
    return tensor if type(tensor) is Tensor or not isinstance(tensor, Tensor) else tensor.as_subclass(Tensor)


def _check_logits(name: str, logits: Tensor) -> None:
    if not logits.is_floating_point():
        raise ValueError(f"{name}: `logits` must be a float tensor; got {logits.dtype}. Pass the network's raw output.")
    if not 3 <= logits.ndim <= 5:
        raise ValueError(
            f"{name}: `logits` must be (N, C, *S) with one to three spatial dims; got {_shape(logits)}. "
            "Add or remove dims with unsqueeze or flatten."
        )


def _check_target(name: str, logits: Tensor, target: Tensor) -> Tensor:
    """Labels as (N, *S) or a dense map (N, C, *S)."""
    samples, channels, *space = logits.shape
    plain, single, full = (samples, *space), (samples, 1, *space), (samples, channels, *space)
    shape = tuple(target.shape)
    if target.is_floating_point():
        if shape == full:
            return target
        if shape in (plain, single):
            raise ValueError(
                f"{name}: `target` {shape} is {target.dtype}, and labels must be integers; use target.long(), or give "
                f"a dense map of shape {full}."
            )
    elif shape == plain:
        return target
    elif shape == single:
        return target[:, 0]
    elif shape == full:
        raise ValueError(
            f"{name}: `target` {shape} is {target.dtype}, and a dense map must be float; use target.float(), or give "
            f"labels of shape {plain}."
        )
    raise ValueError(
        f"{name}: `target` must be labels {plain} or {single}, or a dense float map {full}, to match `logits` "
        f"{_shape(logits)}; got {shape}. Crop or resample the target to the size of the logits."
    )


def _check_weight(name: str, logits: Tensor, weight: Tensor | None) -> None:
    if weight is None:
        return
    expected = (logits.shape[0], *logits.shape[2:])
    if tuple(weight.shape) != expected:
        raise ValueError(
            f"{name}: `weight` must be one value per voxel, {expected}, to match `logits` {_shape(logits)}; got "
            f"{_shape(weight)}. Weights by class go into class_weight=[...]."
        )
    if not torch.is_floating_point(weight):
        raise ValueError(f"{name}: `weight` must be a float tensor; got {weight.dtype}. Use weight.float().")
