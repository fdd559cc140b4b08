"""The folder that `nnUNet_extTrainer` names, so that nnU-Net finds the trainer by its name."""
