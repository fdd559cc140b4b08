"""Networks for segmentation in 2D: segmentation-models-pytorch by name, or any class by its import path."""

import importlib
import logging
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import nn

SMALL_UNET = "small-unet"


def build_model(name: str, classes: int, *, encoder: str = "resnet18", weights: str | None = None) -> nn.Module:
    """A network from RGB images (N, 3, H, W) to logits (N, classes, H, W).

    Args:
        name: "small-unet" (a U-Net with a light decoder), an architecture of segmentation-models-pytorch such as
            "Unet", "FPN" or "DeepLabV3Plus", or the import path of a class that takes `in_channels` and `classes`.
        classes: number of output channels.
        encoder: encoder of the smp architectures.
        weights: None starts from random weights; "imagenet" and other names need the hub; a path is a local
            state dict of the whole network.

    Raises:
        ValueError: for an unknown name, or weights that cannot be had or do not fit.
    """
    local = weights is not None and Path(weights).suffix in (".pt", ".pth", ".ckpt")
    pretrained = None if local else weights
    model = _from_path(name, classes, pretrained) if "." in name else _from_smp(name, classes, encoder, pretrained)
    if local:
        _load(model, Path(str(weights)))
    return model


def _from_path(path: str, classes: int, weights: str | None) -> nn.Module:
    module, _, attribute = path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), attribute)
        model = cls(in_channels=3, classes=classes)
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(
            f"--model {path}: expected the import path of a class that is called as Class(in_channels=3, "
            f"classes={classes}); {error}."
        ) from None
    if weights is not None:
        raise ValueError(f"--weights {weights}: for a class of your own expected the path of a .pt or .pth state dict.")
    return model


def _from_smp(name: str, classes: int, encoder: str, weights: str | None) -> nn.Module:
    known = {cls.__name__.lower(): cls for cls in smp.MODEL_ARCHITECTURES_MAPPING.values()}
    options: dict[str, Any] = {"decoder_channels": (128, 64, 32, 16, 16)} if name == SMALL_UNET else {}
    cls = smp.Unet if name == SMALL_UNET else known.get(name.lower())
    if cls is None:
        names = ", ".join(sorted(cls.__name__ for cls in known.values()))
        raise ValueError(f"--model {name}: expected {SMALL_UNET}, one of {names}, or an import path; got {name!r}.")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # or every retry is announced
    try:
        return cls(encoder, encoder_weights=weights, in_channels=3, classes=classes, **options)
    except KeyError as error:
        raise ValueError(f"--encoder {encoder}, --weights {weights}: {' '.join(str(error.args[0]).split())}") from None
    except Exception as error:
        if weights is None:
            raise
        raise ValueError(
            f"--weights {weights}: could not be fetched from the hub ({type(error).__name__}). Offline, use random "
            "weights (leave --weights out) or name a local .pth file."
        ) from None


def _load(model: nn.Module, path: Path) -> None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state.get("state_dict", state))
    except (OSError, RuntimeError, AttributeError, ValueError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--weights {path}: expected a state dict of this network; {reason}") from None
    except Exception as error:  # the unpickler refuses anything but tensors
        raise ValueError(f"--weights {path}: not a file of plain weights ({type(error).__name__}).") from None
