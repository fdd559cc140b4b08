"""Networks for segmentation by name, of segmentation-models-pytorch in 2D and of MONAI in 3D, or by import path."""

import importlib
import inspect
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from delineate.semi.expression import read_call

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", ".torch.jit.interface. is deprecated", FutureWarning)  # of timm below 1.0.23
    import segmentation_models_pytorch as smp

SMALL_UNET = "small-unet"
OF_RUN = "model."
"""What the weights of the network are named by in the checkpoint of a run."""
VOLUME_NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "basic-unet": ("BasicUNet", {"features": (16, 16, 32, 64, 128, 16)}),
    "basic-unet-small": ("BasicUNet", {"features": (8, 8, 16, 32, 64, 8)}),
    "unet": ("UNet", {"channels": (16, 32, 64, 128, 256), "strides": (2, 2, 2, 2), "num_res_units": 2}),
    "dynunet": (
        "DynUNet",
        {
            "kernel_size": [3, 3, 3, 3, 3],
            "strides": [1, 2, 2, 2, 2],
            "upsample_kernel_size": [2, 2, 2, 2],
            "filters": [16, 32, 64, 128, 256],
        },
    ),
    "segresnet": ("SegResNet", {"init_filters": 16}),
}
"""Networks of MONAI whose sizes are chosen here; others are built with MONAI's own."""


def build_model(
    name: str,
    classes: int,
    *,
    encoder: str | None = "resnet18",
    weights: str | None = None,
    dims: int = 2,
    channels: int = 3,
) -> nn.Module:
    """A network from images (N, channels, *S) to logits (N, classes, *S).

    Args:
        name: in 2D "small-unet" (a U-Net with a light decoder), or an architecture of segmentation-models-pytorch such
            as "Unet", "FPN" or "DeepLabV3Plus". In 3D "basic-unet" (MONAI's BasicUNet, 16 to 128 features),
            "basic-unet-small" (8 to 64), or a network of MONAI such as "UNet", "DynUNet" or "SegResNet". In both the
            import path of a class that takes `in_channels` and `classes`. Options of the class may follow, as in
            "DeepLabV3Plus(encoder_output_stride=16)".
        classes: number of output channels.
        encoder: encoder of the smp architectures.
        weights: None starts from random weights; "imagenet" and other names (2D) need the hub; a path is a local
            state dict of the whole network, or the checkpoint of a run.
        dims: 2 for pictures, 3 for volumes.
        channels: number of input channels.

    Raises:
        ValueError: for an unknown name, or weights that cannot be had or do not fit.
    """
    local = weights is not None and Path(weights).suffix in (".pt", ".pth", ".ckpt")
    pretrained = None if local else weights
    name, options = read_call(name, "--model")
    if "." in name:
        model = _from_path(name, channels, classes, pretrained, options)
    elif dims == 3:
        model = _from_monai(name, channels, classes, pretrained, options)
    else:
        model = _from_smp(name, classes, str(encoder), pretrained, options)
    if local:
        _load(model, Path(str(weights)))
    return model


def _from_path(path: str, channels: int, classes: int, weights: str | None, given: dict[str, Any]) -> nn.Module:
    module, _, attribute = path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), attribute)
        model = cls(in_channels=channels, classes=classes, **given)
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(
            f"--model {path}: expected the import path of a class that is called as Class(in_channels={channels}, "
            f"classes={classes}); {error}."
        ) from None
    if weights is not None:
        raise ValueError(f"--weights {weights}: for a class of your own expected the path of a .pt or .pth state dict.")
    return model


def _from_monai(name: str, channels: int, classes: int, weights: str | None, given: dict[str, Any]) -> nn.Module:
    from monai.networks import nets  # seconds to import, and of no use in 2D

    if weights is not None:
        raise ValueError(f"--weights {weights}: for a network of volumes expected the path of a .pt or .pth file.")
    known = {
        key.lower(): cls for key, cls in vars(nets).items() if isinstance(cls, type) and issubclass(cls, nn.Module)
    }
    attribute, options = VOLUME_NETS.get(name.lower(), (name, {}))
    cls = known.get(attribute.lower())
    if cls is None:
        raise ValueError(
            f"--model {name}: expected {', '.join(VOLUME_NETS)}, another network of MONAI, or an import path; "
            f"got {name!r}."
        )
    try:
        return cls(spatial_dims=3, in_channels=channels, out_channels=classes, **(options | given))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"--model {name}: expected a network of MONAI that is called as {cls.__name__}(spatial_dims=3, "
            f"in_channels={channels}, out_channels={classes}); {' '.join(str(error).split())}. Wrap it in a class."
        ) from None


def _from_smp(name: str, classes: int, encoder: str, weights: str | None, given: dict[str, Any]) -> nn.Module:
    known = {cls.__name__.lower(): cls for cls in smp.MODEL_ARCHITECTURES_MAPPING.values()}
    options: dict[str, Any] = {"decoder_channels": (128, 64, 32, 16, 16)} if name == SMALL_UNET else {}
    cls = smp.Unet if name == SMALL_UNET else known.get(name.lower())
    if cls is None:
        names = ", ".join(sorted(cls.__name__ for cls in known.values()))
        raise ValueError(f"--model {name}: expected {SMALL_UNET}, one of {names}, or an import path; got {name!r}.")
    if unknown := [option for option in given if option not in inspect.signature(cls).parameters]:
        raise ValueError(f"--model {name}: {cls.__name__} has no option {unknown[0]!r}; smp would pass over it.")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # or every retry is announced
    try:
        return cls(encoder, encoder_weights=weights, in_channels=3, classes=classes, **(options | given))
    except KeyError as error:
        raise ValueError(f"--encoder {encoder}, --weights {weights}: {' '.join(str(error.args[0]).split())}") from None
    except TypeError as error:
        raise ValueError(f"--model {name}: {' '.join(str(error).split())}.") from None
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
        state = state.get("state_dict", state)
        inside = {key.removeprefix(OF_RUN): value for key, value in state.items() if key.startswith(OF_RUN)}
        model.load_state_dict(inside or state)
    except (OSError, RuntimeError, AttributeError, ValueError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--weights {path}: expected a state dict of this network; {reason}") from None
    except Exception as error:  # the unpickler refuses anything but tensors
        raise ValueError(f"--weights {path}: not a file of plain weights ({type(error).__name__}).") from None
