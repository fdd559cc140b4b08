"""Checkpoints that are on disk as a whole or not at all."""

import io
import os
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there when complete, so a full disk costs no earlier one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        place, part, buffer = Path(path), Path(f"{path}.part"), io.BytesIO()
        torch.save(checkpoint, buffer)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(buffer.getbuffer())
            os.replace(part, place)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(place)) from None
        finally:
            part.unlink(missing_ok=True)


def check_whole(checkpoint: Path) -> None:
    """Refuse a checkpoint that is cut short; one that is not there is none.

    Raises:
        ValueError: naming the file.
    """
    if checkpoint.is_file() and not is_zipfile(checkpoint):
        raise ValueError(
            f"{checkpoint}: expected a whole checkpoint; it is cut short. Remove it to begin the run anew."
        )
