"""The optimizer, and the course of its learning rate."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

MOMENTUM = 0.9


@dataclass(frozen=True)
class Optimizer:
    """AdamW or SGD whose learning rate rises from 0 and then falls.

    Args:
        kind: "adamw" or "sgd", with momentum 0.9.
        lr: peak learning rate.
        encoder_lr: that of the parameters of `model.encoder`, where it differs.
        weight_decay: of both.
        schedule: "poly" (power 0.9), "cosine" or "constant".
        warm_up: share of the steps over which it rises; 0: none.
    """

    kind: str = "adamw"
    lr: float = 1e-3
    encoder_lr: float | None = None
    weight_decay: float = 1e-2
    schedule: str = "poly"
    warm_up: float = 0.05

    def build(self, model: nn.Module, steps: int) -> dict[str, Any]:
        """As Lightning takes it, for so many steps."""
        groups = self.groups(model)
        if self.kind == "sgd":
            optimizer = torch.optim.SGD(groups, self.lr, momentum=MOMENTUM, weight_decay=self.weight_decay)
        else:
            optimizer = torch.optim.AdamW(groups, self.lr, weight_decay=self.weight_decay)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factors(self.schedule, steps, self.warm_up))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Parameters with their learning rates.

        Raises:
            ValueError: for an `encoder_lr` with a model that has no `encoder`.
        """
        if self.encoder_lr is None:
            return [{"params": list(model.parameters())}]
        encoder = getattr(model, "encoder", None)
        if not isinstance(encoder, nn.Module):
            raise ValueError(
                f"--encoder_lr: expected a network with an `encoder`; got {type(model).__name__}. Leave it out."
            )
        inside = set(map(id, encoder.parameters()))
        rest = [parameter for parameter in model.parameters() if id(parameter) not in inside]
        return [{"params": list(encoder.parameters()), "lr": self.encoder_lr}, {"params": rest}]


def factors(schedule: str, steps: int, warm_up: float) -> Callable[[int], float]:
    """Learning rate at a step as a share of the peak: a linear warm-up, then the schedule."""
    rising = max(1, round(warm_up * steps))
    decay = {
        "poly": lambda t: (1 - t) ** 0.9,
        "cosine": lambda t: (1 + torch.cos(torch.tensor(torch.pi * t)).item()) / 2,
        "constant": lambda t: 1.0,
    }[schedule]

    def factor(step: int) -> float:
        return min((step + 1) / rising, decay(min(step / max(steps, 1), 1.0)))

    return factor
