"""A loss on the targets of nnU-Net."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from delineate.losses import parse
from delineate.target import Target


class NnUNetLoss(nn.Module):
    """A loss on the logits of one size and nnU-Net's target of that size.

    Args:
        text: expression of the loss.
        regions: whether the channels are regions, which may overlap (sigmoid), and not classes (softmax).
        ignore_label: label of voxels that take no part. Of regions, the last channel of the target marks them: they get
            weight 0, and cross entropy is divided by the weights.
        batch_dice: pool="batch" for all terms that have it and are given no other, over all GPUs, as the plans say.
        patch: size of the patches in voxels.
        spacing: mm between their voxels along the same axes, for losses of distances; a smaller target's is larger.

    Shape: logits (N, C, *S); target: labels (N, 1, *S), or regions (N, C, *S), with ignored ones (N, C + 1, *S) -> ().
    """

    def __init__(
        self,
        text: str,
        *,
        regions: bool,
        ignore_label: int | None,
        batch_dice: bool,
        patch: Sequence[int],
        spacing: Sequence[float],
    ):
        super().__init__()
        self.regions, self.marked = regions, regions and ignore_label is not None
        self.ignore_index = None if regions else ignore_label
        self.patch, self.spacing = tuple(patch), tuple(spacing)
        common: dict[str, Any] = {"mode": "sigmoid"} if regions else {"ignore_index": ignore_label}
        common |= {"pool": "batch"} if batch_dice else {}
        common |= {"normalize": "weight"} if self.marked else {}
        self.loss = parse(text, **common)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        weight = None
        if self.marked:
            target, weight = target[:, :-1], 1 - target[:, -1].float()
        labels = target.float() if self.regions else target.long()
        steps = zip(self.spacing, self.patch, labels.shape[2:], strict=True)
        spacing = [step * whole / size for step, whole, size in steps]
        return self.loss(logits, Target(labels, ignore_index=self.ignore_index, spacing=spacing), weight)

    def check(self, channels: int, sizes: Sequence[Sequence[int]], device: torch.device) -> None:
        """Call the loss on zeros of the sizes of training. Raises ValueError where it does not fit the data set."""
        for size in sizes:
            target = torch.zeros(1, channels + self.marked if self.regions else 1, *size, device=device)
            self(torch.zeros(1, channels, *size, device=device), target)
