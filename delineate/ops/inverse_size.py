"""Voxel weights that make every component weigh the same, however large it is."""

import torch
from torch import Tensor

from delineate.ops.transforms import batched


@torch.library.custom_op("delineate::inverse_size_weights", mutates_args=())
def inverse_size_weights(ids: Tensor, valid: Tensor | None, keep_foreground: bool, low: float, high: float) -> Tensor:
    """Weights of voxels by the size of their component.

    With K components R_k, F all their voxels, and V valid voxels, V - F of them in none:

        keep_foreground:  F / (K |R_k|), 1 elsewhere
        otherwise:        V / ((K + 1) |R_k|), V / ((K + 1)(V - F)) elsewhere

    Args:
        ids: number of each voxel's component, (N, V), or (N, R, V) of channels that may overlap: the largest weight
            holds.
        valid: (N, V) bool, voxels that are not ignored; None: all. Ignored voxels are in no component, and get 1.
        low, high: bounds of the weights of valid voxels, in samples with components.

    Returns:
        (N, V) float32; 1 in a sample without components.
    """
    found = torch.ones(ids.shape[0], ids.shape[-1], dtype=torch.float32, device=ids.device)
    for n, weights in enumerate(found if found.numel() else []):
        channels = ids[n].reshape(-1, ids.shape[-1]).long()
        sizes = torch.bincount(channels.flatten()).double()
        sizes[:1] = 0
        number, inside = int((sizes > 0).sum()), (channels > 0).any(0)
        if not number:
            continue
        foreground = float(inside.sum())
        voxels = float(weights.numel() if valid is None else valid[n].sum())
        total, rest = (foreground / number, 1.0) if keep_foreground else (voxels / (number + 1), 0.0)
        if not keep_foreground:
            rest = total / max(voxels - foreground, 1)
        of_component = torch.where(sizes > 0, total / sizes.clamp_min(1), 0)
        by_voxel = torch.where(inside, of_component[channels].amax(0), rest).clamp(low, high)
        weights.copy_(by_voxel if valid is None else by_voxel.masked_fill(~valid[n], 1))
    return found


@inverse_size_weights.register_fake
def _(ids, valid, keep_foreground, low, high):
    return torch.empty(ids.shape[0], ids.shape[-1], dtype=torch.float32, device=ids.device)


inverse_size_weights.register_vmap(batched(inverse_size_weights))
