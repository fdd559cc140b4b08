"""What nnU-Net imports, by itself, when it looks for the trainer."""

from delineate.nnunet.trainer import nnUNetTrainerDelineate

__all__ = ["nnUNetTrainerDelineate"]
