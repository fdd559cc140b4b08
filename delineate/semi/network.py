"""A network in two halves: features of the encoder, and what the decoder makes of them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}
"""Memory format of images and weights of 2D and 3D, by their number of dims: the fastest in most networks."""
Encode = Callable[[Tensor], list[Tensor]]
Decode = Callable[[Sequence[Tensor]], Tensor]


class Network:
    """A model with its two halves: `network(images)` equals `network.decode(network.encode(images))`.

    Args:
        model: images (N, channels, *S) to logits (N, C, *S). Its halves are its own `encode` (images to a list of
            features) and `decode` (that list to logits) where it has both; those of the networks of
            segmentation-models-pytorch and of MONAI's BasicUNet and SegResNet are known.

    Raises:
        ValueError: from `encode` and `decode`, for a model whose halves are not known.
    """

    def __init__(self, model: nn.Module):
        self.model = model

    def __call__(self, images: Tensor) -> Tensor:
        return self.model(images.contiguous(memory_format=LAYOUTS[images.ndim]))

    def encode(self, images: Tensor) -> list[Tensor]:
        """Features that the decoder takes, (N, C_k, *S_k) each."""
        return list(self._halves()[0](images.contiguous(memory_format=LAYOUTS[images.ndim])))

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """Logits (N, C, *S) of features."""
        return self._halves()[1](list(features))

    def check_halves(self) -> None:
        """Raise ValueError where the halves are not known."""
        self._halves()

    def _halves(self) -> tuple[Encode, Decode]:
        model: Any = self.model
        for found in (_of_segresnet, _of_its_own, _of_smp, _of_basic_unet):
            if (halves := found(model)) is not None:
                return halves
        raise ValueError(
            f"--model: perturbing features needs a network with `encode` and `decode`; got {type(model).__name__}. "
            "Use a network of segmentation-models-pytorch, basic-unet or segresnet, or give yours both methods; "
            "FixMatch and MeanTeacher take any network."
        )


def _of_its_own(model: Any) -> tuple[Encode, Decode] | None:
    return (model.encode, model.decode) if hasattr(model, "encode") and hasattr(model, "decode") else None


def _of_smp(model: Any) -> tuple[Encode, Decode] | None:
    if not all(hasattr(model, part) for part in ("encoder", "decoder", "segmentation_head")):
        return None
    return model.encoder, lambda features: model.segmentation_head(model.decoder(features))


def _of_segresnet(model: Any) -> tuple[Encode, Decode] | None:
    """MONAI's SegResNet, whose `decode` takes the deepest feature and all features, deepest first."""
    if not hasattr(model, "convInit"):
        return None
    return lambda images: model.encode(images)[1], lambda found: model.decode(found[-1], list(found)[::-1])


def _of_basic_unet(model: Any) -> tuple[Encode, Decode] | None:
    """MONAI's BasicUNet."""
    if not all(hasattr(model, part) for part in ("conv_0", "down_4", "upcat_1", "final_conv")):
        return None

    def encode(images: Tensor) -> list[Tensor]:
        features = [model.conv_0(images)]
        for down in (model.down_1, model.down_2, model.down_3, model.down_4):
            features.append(down(features[-1]))
        return features

    def decode(features: Sequence[Tensor]) -> Tensor:
        *skips, deepest = features
        for up, skip in zip((model.upcat_4, model.upcat_3, model.upcat_2, model.upcat_1), skips[::-1], strict=True):
            deepest = up(deepest, skip)
        return model.final_conv(deepest)

    return encode, decode
