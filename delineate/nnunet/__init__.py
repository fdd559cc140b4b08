"""Training with nnU-Net v2 and any loss of this package: `python -m delineate.nnunet train 4 3d_fullres 0 --loss ...`.

`options` is what such a training is given, `loss` brings a loss and the targets of nnU-Net together, `trainer` is the
trainer, `external` the folder in which nnU-Net finds it.
"""
