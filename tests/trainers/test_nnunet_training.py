"""nnU-Net itself, on toy volumes: trained with the trainer of this package, continued, and predicted with."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from delineate.data.demo import make_lesions
from delineate.nnunet.__main__ import EXTERNAL
from delineate.nnunet.options import Options
from trainers.nnunet_data import DATASET, plans

pytest.importorskip("nnunetv2", reason='needs nnunetv2: pip install "delineate[nnunet]"')
pytestmark = pytest.mark.filterwarnings("ignore")  # of nnU-Net's own code
OPTIONS = Options("Dice + 0.5*TopK(k=0.2)", epochs=2, iterations=2, schedule="cosine")
SPLITS = [{"train": ["brain_000", "brain_001"], "val": ["brain_002"]}]
SMALL = {"OMP_NUM_THREADS": "1", "nnUNet_def_n_proc": "1", "nnUNet_compile": "f"}


def folders(root):
    """A raw data set of three volumes, and the environment variables that nnU-Net works with."""
    make_lesions(root / "raw" / DATASET, n=3, shape=(32, 32, 16))
    (root / "preprocessed" / DATASET).mkdir(parents=True)
    return SMALL | {f"nnUNet_{name}": str(root / name) for name in ("raw", "preprocessed", "results")}


def prepare(root, configuration):
    """What planning and preprocessing leave behind, without their processes."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    raw, out = root / "raw" / DATASET, root / "preprocessed" / DATASET
    made = plans(configuration)
    manager = PlansManager(made)
    folder = out / manager.get_configuration(configuration).data_identifier
    folder.mkdir()
    for labels in sorted((raw / "labelsTr").iterdir()):
        case = labels.name.removesuffix(".nii.gz")
        image = raw / "imagesTr" / f"{case}_0000.nii.gz"
        DefaultPreprocessor(verbose=False).run_case_save(
            str(folder / case), [str(image)], str(labels), manager, manager.get_configuration(configuration),
            json.loads((raw / "dataset.json").read_text()),
        )  # fmt: skip
    shutil.copytree(raw / "labelsTr", out / "gt_segmentations")
    shutil.copy(raw / "dataset.json", out)
    for name, content in (("nnUNetPlans", made), ("splits_final", SPLITS), ("dataset_fingerprint", {})):
        (out / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trainer after two epochs of two steps, and where its results are."""
    root = tmp_path_factory.mktemp("nnunet")
    variables = folders(root) | OPTIONS.variables() | {"nnUNet_extTrainer": str(EXTERNAL), "nnUNet_n_proc_DA": "0"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        prepare(root, "2d")
        made = asked()
        made.run_training()
        yield made, root / "results" / DATASET / f"{OPTIONS.folder()}__nnUNetPlans__2d"


def asked(name="nnUNetTrainerDelineate"):
    """A trainer as nnUNetv2_train makes it."""
    from nnunetv2.run.run_training import get_trainer_from_args

    return get_trainer_from_args(DATASET, "2d", 0, name, device=torch.device("cpu"))


def test_training_leaves_what_nnunet_expects_in_the_folder_of_the_loss(trained):
    made, results = trained
    assert sorted(path.name for path in results.parent.iterdir()) == [results.name]
    assert {"plans.json", "dataset.json", "fold_0"} <= {path.name for path in results.iterdir()}
    log = made.logger.get_checkpoint()
    assert len(log["train_losses"]) == 2
    assert np.isfinite(log["train_losses"]).all()
    assert log["lrs"] == pytest.approx([0.01, 0.005])
    checkpoint = torch.load(results / "fold_0/checkpoint_final.pth", weights_only=False)
    assert checkpoint["trainer_name"] == "nnUNetTrainerDelineate"
    assert Options(**checkpoint["init_args"]["delineate"]) == OPTIONS


def test_nnunet_predicts_with_it(trained):
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    _, results = trained
    predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(results), (0,))
    labels = predictor.predict_single_npy_array(
        np.random.default_rng(0).normal(size=(1, 16, 32, 32)).astype(np.float32), {"spacing": [1.5, 1.0, 1.0]}
    )
    assert labels.shape == (16, 32, 32)
    assert set(np.unique(labels)) <= {0, 1}


def test_it_continues_with_the_same_options_alone(trained, monkeypatch):
    _, results = trained
    checkpoint = str(results / "fold_0/checkpoint_best.pth")
    again = asked()
    again.load_checkpoint(checkpoint)
    assert again.current_epoch in (1, 2)
    for name, value in (("LOSS", "Dice + CE"), ("EPOCHS", "3"), ("LR", "0.1")):
        with monkeypatch.context() as patch:
            patch.setenv(f"DELINEATE_{name}", value)
            with pytest.raises(ValueError, match=r"checkpoint_best.pth: was trained with .*Dice \+ 0.5\*TopK"):
                asked().load_checkpoint(checkpoint)


@pytest.mark.slow
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_the_commands_of_nnunet(configuration, tmp_path):
    """Planned, trained with validation, continued and predicted, each in a process of its own."""
    environment = dict(os.environ) | folders(tmp_path) | {"nnUNet_n_proc_DA": "1"}

    def run(*command, code=0):
        done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    nnunet, ours = Path(sys.executable).parent, [sys.executable, "-m", "delineate.nnunet"]
    run(nnunet / "nnUNetv2_plan_and_preprocess", "-d", "901", "-c", configuration, "-np", "1")
    (tmp_path / "preprocessed" / DATASET / "splits_final.json").write_text(json.dumps(SPLITS))
    options = ["--loss", "DiceCE + Blob(Dice)", "--epochs", "1", "--iterations", "2"]
    train = [*ours, "train", "901", configuration, "0", "-device", "cpu", *options]
    assert "Mean Validation Dice" in run(*train)
    assert "Mean Validation Dice" in run(*train, "--val")
    images, out = tmp_path / "raw" / DATASET / "imagesTr", tmp_path / "out"
    where = ["-d", "901", "-c", configuration, "-f", "0", "-device", "cpu", "--disable_tta", "-i", images, "-o", out]
    run(*ours, "predict", *where, *options)
    labels = nibabel.load(out / "brain_000.nii.gz")
    assert labels.shape == (32, 32, 16)
    line = run(*ours, "train", "901", configuration, "0", "--loss", "Dise", code=2).strip().splitlines()[-1]
    assert line.startswith("delineate: error: parse: no loss named 'Dise'")
