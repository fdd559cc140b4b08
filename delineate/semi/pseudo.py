"""The loss of pseudo labels: cross entropy where the labels were kept, averaged over what could have been."""

import torch
from torch import Tensor

from delineate.losses import CrossEntropyLoss
from delineate.losses.loss import Loss
from delineate.ops.ranks import share_of_ranks

NORMS = {"valid": "count", "kept": "weight"}
"""Names here, and what they are called by `CrossEntropyLoss`."""
INVALID = -1
"""The label of voxels that take no part."""


def pseudo_label_loss(
    logits: Tensor, labels: Tensor, keep: Tensor, valid: Tensor, *, loss: Loss | None = None, norm: str = "valid"
) -> Tensor:
    """Cross entropy of labels that a network gave, where they are sure and the image is real.

        sum_v ce_v keep_v valid_v / sum_v valid_v              norm="valid", as published
        sum_v ce_v keep_v valid_v / sum_v keep_v valid_v       norm="kept"

    With "valid", few sure voxels pull little; with "kept", any number of them pulls alike.

    Args:
        logits: raw output of the student.
        labels: class of every voxel, as of a selector; whatever stands at invalid voxels does not matter.
        keep: which labels are used, bool, or by how much, float at least 0.
        valid: which voxels are of the image, bool; false on padding.
        loss: instead of cross entropy, any loss that takes `weight`, made with ignore_index=-1 and reduction "mean".
        norm: "valid" or "kept"; beside a loss, which has its own divisor, only "valid".

    Shape: logits (N, C, *S); labels (N, *S) of any integer dtype; keep, valid (N, *S) -> (), float32, or float64 for
        float64 logits. The gradient is exactly 0 at voxels that are invalid or not kept.
    Range: [0, inf); 0 at a perfect prediction, and 0 with a graph where nothing is valid, or kept.

    Raises:
        ValueError: for an unknown norm, a loss of another ignore_index or reduction, one beside norm="kept", and where
            shapes do not fit.

    >>> logits, labels = torch.zeros(1, 2, 4), torch.tensor([[0, 1, 1, 0]])
    >>> keep, valid = torch.tensor([[True, False, True, True]]), torch.tensor([[True, True, True, False]])
    >>> round(pseudo_label_loss(logits, labels, keep, valid).item(), 4)                       # 2 log 2 / 3
    0.4621

    Notes: in a run of several processes the divisor is the mean over the processes (`share_of_ranks`), so that the mean
    over ranks of the values, and of the gradients, is that of one process with all the samples; exact for cross
    entropy and other means over valid voxels. Every process must call this as often as the others. Released codes
    divide by the voxels of each process, and by 0 where none is valid.
    Reference: Yang et al. (UniMatch), CVPR 2023, arXiv 2208.09910; Tian et al. (DSSN), ACM MM 2023, arXiv 2307.13938.
    """
    check_pseudo(loss, norm)
    _check_shapes(logits, labels, keep, valid)
    loss = CrossEntropyLoss(normalize=NORMS[norm], ignore_index=INVALID) if loss is None else loss
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    keep = keep.detach().to(wide)
    value = loss(logits, labels.long().masked_fill(~valid, INVALID), keep)
    count = valid if norm == "valid" else keep * valid
    return value * share_of_ranks(count.sum(dtype=torch.float64)).to(value)


def check_pseudo(loss: Loss | None, norm: str) -> None:
    """Raise ValueError for what `pseudo_label_loss` would not take."""
    if norm not in NORMS:
        raise ValueError(f"pseudo_label_loss: `norm` must be one of {list(NORMS)}; got {norm!r}.")
    if loss is None:
        return
    if norm != "valid":
        raise ValueError(
            f"pseudo_label_loss: `norm` must be 'valid' beside `loss`, which has its own divisor; got {norm!r} and "
            f"{loss!r}. Leave one of them out."
        )
    if loss.reduction != "mean" or any(term.ignore_index != INVALID for term in _terms(loss)):
        raise ValueError(
            f"pseudo_label_loss: `loss` must have ignore_index={INVALID}, the label of invalid voxels, in every term, "
            f"and reduction 'mean'; got {loss!r}. Construct it so, for example CrossEntropyLoss(ignore_index=-1)."
        )


def _terms(loss: Loss) -> list[Loss]:
    """The losses that a sum or another wrapper holds, or the loss itself."""
    held = [part for part in loss.modules() if isinstance(part, Loss) and part is not loss]
    return [term for part in held for term in _terms(part)] if held else [loss]


def _check_shapes(logits: Tensor, labels: Tensor, keep: Tensor, valid: Tensor) -> None:
    expected = (logits.shape[0], *logits.shape[2:])
    for name, found in (("labels", labels), ("keep", keep), ("valid", valid)):
        if tuple(found.shape) != expected:
            raise ValueError(
                f"pseudo_label_loss: `{name}` must be {expected}, to match `logits` {tuple(logits.shape)}; got "
                f"{tuple(found.shape)}. Use the size of the logits, without a channel dim."
            )
    if valid.dtype != torch.bool or labels.is_floating_point():
        raise ValueError(
            f"pseudo_label_loss: `valid` must be bool and `labels` integers; got {valid.dtype} and {labels.dtype}. "
            "Use valid.bool() and labels.long()."
        )
