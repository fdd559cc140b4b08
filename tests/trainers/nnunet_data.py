"""Plans and descriptions as nnU-Net writes them, for volumes of 32 x 32 x 16 voxels and a network of a few weights."""

DATASET = "Dataset901_Toy"
NETWORK = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
INTENSITIES = dict.fromkeys(("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"), 1.0)
RESAMPLING = {f"resampling_fn_{name}": "resample_data_or_seg_to_shape" for name in ("data", "seg", "probabilities")} | {
    f"resampling_fn_{name}_kwargs": {"is_seg": seg, "order": order, "order_z": 0, "force_separate_z": None}
    for name, seg, order in (("data", False, 3), ("seg", True, 1), ("probabilities", False, 1))
}


def dataset_json(classes=2, regions=False, ignore=False):
    """The description of a data set with so many classes of foreground."""
    if regions:
        labels = {"background": 0, "whole": [1, 2], "core": [2]}
    else:
        labels = {"background": 0} | {f"class {label}": label for label in range(1, classes + 1)}
    labels |= {"ignore": classes + 1} if ignore else {}
    order = {"regions_class_order": [1, 2]} if regions else {}
    described = {"channel_names": {"0": "toy MRI"}, "labels": labels, "numTraining": 3, "file_ending": ".nii.gz"}
    return described | order


def plans(configuration):
    """Plans with one configuration, "2d" or "3d_fullres"."""
    spacing, patch = ([1.5, 1.0, 1.0], [16, 32, 32]) if configuration != "2d" else ([1.0, 1.0], [32, 32])
    dims = len(patch)
    strides = [[1] * dims, [2] * dims, [2] * dims, [2] * dims]
    network = {
        "n_stages": 4,
        "features_per_stage": [4, 8, 8, 8],
        "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
        "kernel_sizes": [[3] * dims] * 4,
        "strides": strides,
        "n_conv_per_stage": [1, 1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1, 1],
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    found = {
        "data_identifier": f"nnUNetPlans_{configuration}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": patch,
        "median_image_size_in_voxels": [float(side) for side in patch],
        "spacing": spacing,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        **RESAMPLING,
        "architecture": {
            "network_class_name": NETWORK,
            "arch_kwargs": network,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": dims == 2,
    }
    return {
        "dataset_name": DATASET,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.5, 1.0, 1.0],
        "original_median_shape_after_transp": [16, 32, 32],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {configuration: found},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": INTENSITIES},
    }
