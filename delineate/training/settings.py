"""What a training run is given besides the data, the loss and the seed."""

from dataclasses import dataclass

SCHEDULES = ("poly", "cosine", "constant")
PRECISIONS = ("auto", "32-true", "16-mixed", "bf16-mixed")


@dataclass(frozen=True)
class Settings:
    """The budget and the recipe of a run; the same for every loss of a comparison.

    Args:
        epochs: passes over the train split.
        batch_size: images per step.
        crop: height and width of the random training crops; multiples of 32 that fit the images by default.
        lr: peak learning rate of AdamW.
        weight_decay: of AdamW.
        schedule: "poly" (power 0.9), "cosine" or "constant", stepwise to 0 after a short warm-up.
        model: "small-unet", an architecture of segmentation-models-pytorch, or the import path of a class.
        encoder: encoder of the network.
        weights: "imagenet" or other names (need the hub), or a local .pth file; random weights by default.
        precision: "auto" is bf16 or fp16 mixed on a GPU and float32 elsewhere.
        workers: processes that read images; 0 reads in the main process.
        train_list: file with "image mask" lines that replaces the train split.
    """

    epochs: int = 20
    batch_size: int = 8
    crop: tuple[int, int] | None = None
    lr: float = 1e-3
    weight_decay: float = 1e-2
    schedule: str = "poly"
    model: str = "small-unet"
    encoder: str = "resnet18"
    weights: str | None = None
    precision: str = "auto"
    workers: int = 1
    train_list: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name}: expected a whole number of at least {least}; got {getattr(self, name)}.")
        for name in ("lr", "weight_decay"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"--{name}: expected a number of at least 0; got {getattr(self, name)}.")
        for name, allowed in (("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"--{name}: expected one of {', '.join(allowed)}; got {getattr(self, name)!r}.")
        if self.crop is not None and any(side < 32 or side % 32 for side in self.crop):
            raise ValueError(
                f"--crop: expected height and width as multiples of 32, at least 32; got {list(self.crop)}. "
                "The encoders halve the image five times."
            )
