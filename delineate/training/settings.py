"""What a training run is given besides the data, the loss and the seed."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from delineate.data import Source, default_crop
from delineate.data.grid import default_grid

SCHEDULES = ("poly", "cosine", "constant")
PRECISIONS = ("auto", "32-true", "16-mixed", "bf16-mixed")
PICTURES: dict[str, Any] = {"batch_size": 8, "crops_per_image": 1, "model": "small-unet", "encoder": "resnet18"}
VOLUMES: dict[str, Any] = {"batch_size": 2, "crops_per_image": 4, "model": "basic-unet"}


@dataclass(frozen=True)
class Settings:
    """The budget and the recipe of a run; the same for every loss of a comparison.

    Args:
        epochs: passes over the train split.
        batch_size: images per step; 8 pictures or 2 volumes by default.
        crop: size of the random training crops. Height and width, multiples of 32 that fit the images by default; of
            volumes three multiples of 16 along the axes of RAS, by default near the median size, 64 a side at most.
        crops_per_image: random crops of each image in an epoch; 1 of pictures and 4 of volumes by default.
        spacing: mm between voxels that volumes are resampled to, along the axes of RAS; the median by default.
        lr: peak learning rate of AdamW.
        weight_decay: of AdamW.
        schedule: "poly" (power 0.9), "cosine" or "constant", stepwise to 0 after a short warm-up.
        model: "small-unet" (2D default), an architecture of segmentation-models-pytorch; "basic-unet" (3D default),
            "basic-unet-small", a network of MONAI; or the import path of a class.
        encoder: encoder of a 2D network; "resnet18" by default.
        weights: "imagenet" or other names (2D; need the hub), or a local .pth file; random weights by default.
        precision: "auto" is bf16 or fp16 mixed on a GPU and float32 elsewhere.
        workers: processes that read images; 0 reads in the main process.
        train_list: file with "image mask" lines that replaces the train split.
        val_list: file with "image mask" lines that replaces the val split.
    """

    epochs: int = 20
    batch_size: int | None = None
    crop: tuple[int, ...] | None = None
    crops_per_image: int | None = None
    spacing: tuple[float, ...] | None = None
    lr: float = 1e-3
    weight_decay: float = 1e-2
    schedule: str = "poly"
    model: str | None = None
    encoder: str | None = None
    weights: str | None = None
    precision: str = "auto"
    workers: int = 1
    train_list: str | None = None
    val_list: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("crops_per_image", 1), ("workers", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"--{name}: expected a whole number of at least {least}; got {value}.")
        for name in ("lr", "weight_decay"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"--{name}: expected a number of at least 0; got {getattr(self, name)}.")
        for name, allowed in (("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"--{name}: expected one of {', '.join(allowed)}; got {getattr(self, name)!r}.")
        if self.crop is not None:
            _check_crop(self.crop)
        if self.spacing is not None and not (len(self.spacing) == 3 and all(0 < s < 1e6 for s in self.spacing)):
            raise ValueError(
                f"--spacing: expected three distances in mm above 0, along the axes of RAS; got {list(self.spacing)}."
            )


def complete(settings: Settings, source: Source) -> Settings:
    """The settings with every value that was left open, as it follows from the data set.

    Raises:
        ValueError: for settings that mean nothing for pictures, or for volumes.
    """
    given: dict[str, Any] = {key: value for key, value in asdict(settings).items() if value is not None}
    kind, amiss = ("pictures", ("spacing",)) if source.dims == 2 else ("volumes", ("encoder",))
    for name in amiss:
        if name in given:
            raise ValueError(f"--{name}: {source.root} holds {kind}, which have none. Leave it out.")
    if settings.crop is not None and len(settings.crop) != source.dims:
        raise ValueError(
            f"--crop: expected {source.dims} numbers, since {source.root} holds {kind}; got {list(settings.crop)}."
        )
    if source.dims == 2:
        found = PICTURES | ({} if settings.crop else {"crop": default_crop(source)})
    else:
        spacing, crop = default_grid(source, settings.spacing)
        found = VOLUMES | {"spacing": spacing, "crop": crop}
    return replace(settings, **(found | given))


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
