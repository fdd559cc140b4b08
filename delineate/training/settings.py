"""What a training run is given besides the data, the loss and the seed."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from delineate.data import Source, default_crop
from delineate.data.grid import default_grid
from delineate.semi import parse_method

SCHEDULES = ("poly", "cosine", "constant")
OPTIMIZERS = ("adamw", "sgd")
WINDOWS = ("whole", "sliding")
PRECISIONS = ("auto", "32-true", "16-mixed", "bf16-mixed")
BAD_IMAGES = ("refuse", "skip")
EPOCHS = 20
PICTURES: dict[str, Any] = {"batch_size": 8, "crops_per_image": 1, "model": "small-unet", "encoder": "resnet18"}
VOLUMES: dict[str, Any] = {"batch_size": 2, "crops_per_image": 4, "model": "basic-unet"}


@dataclass(frozen=True)
class Settings:
    """The budget and the recipe of a run; the same for every loss of a comparison.

    Args:
        semi: method of few labels, "supervised", "meanteacher", "fixmatch", "unimatch" or "dssn", with options as in
            "dssn(warmup_epochs=5)"; needs --labeled.
        labeled: which part of train has labels: a share such as 1/8, a number of images, or a list.
        unlabeled: list or folder of the unlabelled images; the rest of train by default.
        protocol: of published splits: "classic", "blended", "priority", or "own"; told by the lists by default.
        epochs: passes over the train split, 20 by default; of few labels over the unlabelled images.
        batch_size: images per step, over all devices; 8 pictures or 2 volumes by default. Of few labels as many
            labelled and as many unlabelled ones.
        crop: size of the random training crops. Height and width, multiples of 32 that fit the images by default; of
            volumes three multiples of 16 along the axes of RAS, by default near the median size, 64 a side at most.
        crops_per_image: random crops of each image in an epoch; 1 of pictures and 4 of volumes by default.
        spacing: mm between voxels that volumes are resampled to, along the axes of RAS; the median by default.
        scale: range of random resizing before the crop; .5 2 with --semi, none otherwise.
        strong_operations: with --semi: up to so many further operations on colours in strong views, 3 on VOC.
        optimizer: "adamw" or "sgd" (momentum 0.9).
        lr: peak learning rate.
        encoder_lr: peak learning rate of the encoder where it differs.
        lr_for_batch: batch size that the learning rates are meant for: they are scaled to --batch_size in proportion.
        weight_decay: of the optimizer.
        schedule: "poly" (power 0.9), "cosine" or "constant", stepwise to 0 after the warm-up.
        warm_up: share of the steps over which the learning rate rises from 0.
        model: "small-unet" (2D default), an architecture of segmentation-models-pytorch; "basic-unet" (3D default),
            "basic-unet-small", a network of MONAI; or the import path of a class; with options as in
            "DeepLabV3Plus(encoder_output_stride=16)".
        encoder: encoder of a 2D network; "resnet18" by default.
        weights: "imagenet" or other names (2D; need the hub), a local .pth file, or the checkpoint of a run; random
            weights by default.
        window: pictures are evaluated "whole", or by "sliding" windows of --crop; sliding on Cityscapes by default.
        devices: GPUs of each node, or processes without GPUs.
        nodes: machines, started by torchrun or SLURM.
        accumulate: batches that make a step of --batch_size images.
        precision: "auto" is bf16 or fp16 mixed on a GPU and float32 elsewhere.
        workers: processes that read images; 0 reads in the main process.
        train_list: file with "image mask" lines that replaces the train split.
        val_list: file with "image mask" lines that replaces the val split.
        bad_images: "refuse" stops at an image or a mask that cannot be used; "skip" reads all before the first step,
            leaves the bad ones out, takes another where one of train turns bad later, and names each.
    """

    semi: str | None = None
    labeled: str | None = None
    unlabeled: str | None = None
    protocol: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    crop: tuple[int, ...] | None = None
    crops_per_image: int | None = None
    spacing: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None
    strong_operations: int = 0
    optimizer: str = "adamw"
    lr: float = 1e-3
    encoder_lr: float | None = None
    lr_for_batch: int | None = None
    weight_decay: float = 1e-2
    schedule: str = "poly"
    warm_up: float = 0.05
    model: str | None = None
    encoder: str | None = None
    weights: str | None = None
    window: str | None = None
    devices: int = 1
    nodes: int = 1
    accumulate: int = 1
    precision: str = "auto"
    workers: int = 1
    train_list: str | None = None
    val_list: str | None = None
    bad_images: str = "refuse"

    def __post_init__(self) -> None:
        _check_numbers(self)
        choices = {"schedule": SCHEDULES, "precision": PRECISIONS, "optimizer": OPTIMIZERS, "window": WINDOWS}
        choices |= {"bad_images": BAD_IMAGES}
        for name, allowed in choices.items():
            if getattr(self, name) not in (*allowed, *([None] if name == "window" else [])):
                raise ValueError(f"--{name}: expected one of {', '.join(allowed)}; got {getattr(self, name)!r}.")
        if self.crop is not None:
            _check_crop(self.crop)
        if self.spacing is not None and not (len(self.spacing) == 3 and all(0 < s < 1e6 for s in self.spacing)):
            raise ValueError(
                f"--spacing: expected three distances in mm above 0, along the axes of RAS; got {list(self.spacing)}."
            )
        if self.scale is not None and not (len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1] <= 10):
            raise ValueError(f"--scale: expected two factors, the smaller first, as in .5 2; got {list(self.scale)}.")
        _check_few_labels(self)
        if self.batch_size is not None and self.batch_size % (self.processes * self.accumulate):
            raise ValueError(
                f"--batch_size {self.batch_size}: expected a multiple of {self.processes * self.accumulate}, what "
                "--devices, --nodes and --accumulate share it among."
            )

    @property
    def processes(self) -> int:
        """Over all nodes."""
        return self.devices * self.nodes

    @property
    def lr_factor(self) -> float:
        """What the learning rates are multiplied by for the batch size."""
        return (self.batch_size or self.lr_for_batch or 1) / self.lr_for_batch if self.lr_for_batch else 1.0


def complete(settings: Settings, source: Source) -> Settings:
    """The settings with every value that was left open, as it follows from the data set.

    Raises:
        ValueError: for settings that mean nothing for pictures, or for volumes.
    """
    given: dict[str, Any] = {key: value for key, value in asdict(settings).items() if value is not None}
    amiss = ("spacing",) if source.dims == 2 else ("encoder", "encoder_lr", "scale", "window")
    kind = "pictures" if source.dims == 2 else "volumes"
    for name in amiss:
        if name in given:
            raise ValueError(f"--{name}: {source.root} holds {kind}, which have none. Leave it out.")
    if settings.crop is not None and len(settings.crop) != source.dims:
        raise ValueError(
            f"--crop: expected {source.dims} numbers, since {source.root} holds {kind}; got {list(settings.crop)}."
        )
    if source.dims == 2:
        found = PICTURES | ({} if settings.crop else {"crop": default_crop(source)})
        found |= {"window": "sliding" if source.layout == "cityscapes" else "whole"}
        found |= {"scale": (0.5, 2.0)} if settings.semi else {}
    else:
        spacing, crop = default_grid(source, settings.spacing)
        found = VOLUMES | {"spacing": spacing, "crop": crop}
    return replace(settings, **({"epochs": EPOCHS} | found | given))


def _check_numbers(settings: Settings) -> None:
    least = {"epochs": 1, "batch_size": 1, "crops_per_image": 1, "workers": 0, "devices": 1, "nodes": 1}
    for name, low in (least | {"accumulate": 1, "lr_for_batch": 1, "strong_operations": 0}).items():
        value = getattr(settings, name)
        if value is not None and value < low:
            raise ValueError(f"--{name}: expected a whole number of at least {low}; got {value}.")
    for name in ("lr", "encoder_lr", "weight_decay"):
        value = getattr(settings, name)
        if value is not None and not 0 <= value < float("inf"):
            raise ValueError(f"--{name}: expected a number of at least 0; got {value}.")
    if not 0 <= settings.warm_up < 1:
        raise ValueError(f"--warm_up: expected a share of the steps from 0 to below 1; got {settings.warm_up}.")


def _check_few_labels(settings: Settings) -> None:
    """Refuse options of few labels without those that they belong to."""
    if settings.semi is not None:
        parse_method(settings.semi)
        if settings.labeled is None:
            raise ValueError(
                f"--semi {settings.semi}: expected --labeled, the part of train that has labels, such as 1/8 or a list."
            )
        if settings.train_list is not None:
            raise ValueError("--train_list: expected without --semi. Name the labelled images with --labeled.")
        return
    for name in ("labeled", "unlabeled", "protocol"):
        if getattr(settings, name) is not None:
            raise ValueError(f"--{name}: expected together with --semi, such as --semi supervised; got it alone.")
    for name in ("strong_operations", "scale"):
        if getattr(settings, name):
            raise ValueError(f"--{name}: expected together with --semi; got it alone.")


def _check_crop(crop: tuple[int, ...]) -> None:
    if len(crop) == 2 and any(side < 32 or side % 32 for side in crop):
        raise ValueError(
            f"--crop: expected height and width as multiples of 32, at least 32; got {list(crop)}. "
            "The encoders halve the image five times."
        )
    if len(crop) == 3 and (any(side < 16 or side % 16 for side in crop) or max(crop) < 32):
        raise ValueError(
            f"--crop: expected three multiples of 16, one of them at least 32; got {list(crop)}. "
            "The networks halve the volume four times."
        )
    if len(crop) not in (2, 3):
        raise ValueError(f"--crop: expected height and width, or three sides of a volume; got {list(crop)}.")
