"""The trainer for nnU-Net without its pipeline: options, loss and targets, learning rate, folders."""

import json
import os
import sys

import pytest
import torch

pytest.importorskip("nnunetv2", reason='needs nnunetv2: pip install "delineate[nnunet]"')

from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.utilities.file_path_utilities import get_output_folder
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from delineate.losses import parse
from delineate.nnunet.__main__ import EXTERNAL, main
from delineate.nnunet.loss import NnUNetLoss
from delineate.nnunet.options import TRAINER, Options
from delineate.nnunet.trainer import Course, nnUNetTrainerDelineate
from trainers.nnunet_data import DATASET, dataset_json, plans

THEIRS = "Dice(classes=[1, 2], smooth=1e-5) + CE"
"""nnU-Net's own loss of three classes, but for a constant of 1: its Dice is minus the coefficient."""


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """Folders of nnU-Net, and no option but a loss."""
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name / DATASET).mkdir(parents=True)
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    for name in ("EPOCHS", "ITERATIONS", "SCHEDULE", "LR"):
        monkeypatch.delenv(f"DELINEATE_{name}", raising=False)
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    monkeypatch.setenv("DELINEATE_LOSS", THEIRS)
    return tmp_path


def trainer(configuration="2d", **labels):
    made = plans(configuration) | {"continue_training": False}
    return nnUNetTrainerDelineate(made, configuration, 0, dataset_json(**labels), device=torch.device("cpu"))


def targets(size=(8, 12), samples=3, ignored=None):
    """Logits of three classes and int16 labels (N, 1, *S), as nnU-Net's loaders give them."""
    labels = torch.randint(0, 3, (samples, 1, *size), dtype=torch.int16)
    if ignored is not None:
        labels[torch.rand(labels.shape) < 0.3] = ignored
    return torch.randn(samples, 3, *size, requires_grad=True), labels


def value_and_gradient(loss, logits, target):
    value = loss(logits, target)
    return value.detach(), torch.autograd.grad(value, logits)[0]


def same(ours, theirs, logits, target):
    """The same gradient, and a value that is larger by the constant."""
    (value, gradient), (other, expected) = (value_and_gradient(loss, logits, target) for loss in (ours, theirs))
    torch.testing.assert_close(value, other + 1, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)


def our_loss(text, regions=False, ignore_label=None, batch_dice=False, patch=(8, 12), spacing=(1.0, 1.0)):
    return NnUNetLoss(
        text, regions=regions, ignore_label=ignore_label, batch_dice=batch_dice, patch=patch, spacing=spacing
    )


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("ignored", [None, 3])
def test_labels_are_taken_as_nnunet_takes_them(batch_dice, ignored):
    theirs = DC_and_CE_loss(
        {"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": False, "ddp": False},
        {},
        ignore_label=ignored,
        dice_class=MemoryEfficientSoftDiceLoss,
    )
    same(our_loss(THEIRS, ignore_label=ignored, batch_dice=batch_dice), theirs, *targets(ignored=ignored))


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("dtype", [torch.bool, torch.int16])
def test_regions_are_taken_as_nnunet_takes_them(batch_dice, ignored, dtype):
    """With an ignored label nnU-Net adds the cross entropies of the regions up, and otherwise averages them."""
    theirs = DC_and_BCE_loss(
        {},
        {"batch_dice": batch_dice, "do_bg": True, "smooth": 1e-5, "ddp": False},
        use_ignore_label=ignored,
        dice_class=MemoryEfficientSoftDiceLoss,
    )
    logits, _ = targets()
    target = (torch.rand(3, 3 + ignored, 8, 12) < 0.4).to(dtype)
    text = f"Dice(smooth=1e-5) + {3 if ignored else 1}*CE"
    ours = our_loss(text, regions=True, ignore_label=4 if ignored else None, batch_dice=batch_dice)
    same(ours, theirs, logits, target)


def test_what_an_expression_says_itself_is_kept():
    loss = our_loss("Dice(pool='sample') + Dice", batch_dice=True).loss
    assert [term.pool for term in loss.terms] == ["sample", "batch"]


def test_distances_are_in_mm_at_every_size():
    loss = our_loss("Boundary", patch=(8, 12), spacing=(2.0, 0.5))
    for size, spacing in (((8, 12), [2.0, 0.5]), ((4, 6), [4.0, 1.0])):
        logits, labels = targets(size)
        expected = parse("Boundary", spacing=spacing)(logits, labels)
        torch.testing.assert_close(loss(logits, labels), expected)
        assert abs(parse("Boundary")(logits, labels) - expected) > 1e-3


def test_bfloat16_under_autocast():
    logits, labels = targets()
    layer = torch.nn.Conv2d(3, 3, 1)
    with torch.autocast("cpu", torch.bfloat16):
        value = our_loss("DiceCE + Boundary")(layer(logits), labels)
    value.backward()
    assert value.dtype == torch.float32
    assert layer.weight.grad.isfinite().all()


def test_deep_supervision_has_the_targets_and_weights_of_nnunet(environment):
    loss = trainer()._build_loss()
    sizes = ((32, 32), (16, 16), (8, 8))
    logits, labels = zip(*(targets(size, samples=2) for size in sizes[:-1]), strict=True)
    single = our_loss(THEIRS, batch_dice=True, patch=sizes[0])
    expected = (single(logits[0], labels[0]) + 0.5 * single(logits[1], labels[1])) / 1.5
    torch.testing.assert_close(loss(logits, labels), expected)


def test_without_deep_supervision_it_is_the_loss(environment):
    made = trainer("3d_fullres")
    made.enable_deep_supervision = False
    assert isinstance(made._build_loss(), NnUNetLoss)


def test_regions_and_the_ignored_label_come_from_the_data_set(environment, monkeypatch):
    monkeypatch.setenv("DELINEATE_LOSS", "DiceCE")
    loss = trainer(regions=True, ignore=True)._build_loss().loss
    assert loss.regions
    assert loss.loss.expression().count("mode='sigmoid'") == 2
    assert "ignore_index=3" in trainer(ignore=True)._build_loss().loss.loss.expression()


REFUSED = {
    "a class that there is not": ("Dice(classes=[1, 7])", {}, "0..2"),
    "weights of too few classes": ("CE(class_weight=[1, 2])", {}, "class_weight"),
    "a label where there are regions": ("Dice(ignore_index=3)", {"regions": True}, "ignore_index"),
    "distances in two ways": ("Boundary(spacing=[3, 3])", {}, "spacing"),
}


@pytest.mark.parametrize(("text", "labels", "word"), REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_fit_the_data_set_fails_before_training(text, labels, word, environment, monkeypatch):
    monkeypatch.setenv("DELINEATE_LOSS", text)
    with pytest.raises(ValueError, match=word) as error:
        trainer(**labels)._build_loss()
    assert "\n" not in str(error.value)


def test_every_loss_has_its_folder_and_nnunet_finds_it_by_name(environment, monkeypatch):
    folders = []
    for text in (THEIRS, "DiceCE", "DiceCE + Blob(Dice)"):
        monkeypatch.setenv("DELINEATE_LOSS", text)
        made = trainer()
        name = Options(text).folder()
        assert made.output_folder == get_output_folder(DATASET, name, "nnUNetPlans", "2d", 0)
        assert len(os.path.basename(made.output_folder_base).split("__")) == 3
        folders.append(os.path.basename(made.output_folder_base))
    assert len(set(folders)) == 3
    assert sorted(os.listdir(environment / "results" / DATASET)) == sorted(folders)  # and none for the bare trainer


def test_a_trainer_made_of_this_one_has_folders_of_its_own(environment):
    class Mine(nnUNetTrainerDelineate):
        pass

    made = plans("2d") | {"continue_training": False}
    folder = Mine(made, "2d", 0, dataset_json(), device=torch.device("cpu")).output_folder_base
    assert os.path.basename(folder).startswith("Mine-Dice")


@pytest.mark.parametrize("schedule", ["poly", "cosine", "constant"])
def test_course_of_the_learning_rate(schedule):
    def rates(epochs=7):
        one, other = (torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.02) for _ in range(2))
        course = Course(one, 0.02, epochs, schedule)
        theirs = {
            "poly": PolyLRScheduler(other, 0.02, epochs),
            "cosine": torch.optim.lr_scheduler.CosineAnnealingLR(other, epochs),
            "constant": torch.optim.lr_scheduler.ConstantLR(other, 1.0),
        }[schedule]
        for epoch in range(epochs):
            course.step(epoch)
            if schedule == "poly":
                theirs.step(epoch)
            yield one.param_groups[0]["lr"], other.param_groups[0]["lr"]
            other.step()
            if schedule != "poly":
                theirs.step()

    for ours, theirs in rates():
        assert ours == pytest.approx(theirs, rel=1e-9)


def test_the_trainer_takes_its_options(environment, monkeypatch):
    for name, text in (("EPOCHS", "40"), ("ITERATIONS", "10"), ("SCHEDULE", "cosine"), ("LR", "0.1")):
        monkeypatch.setenv(f"DELINEATE_{name}", text)
    made = trainer()
    assert (made.num_epochs, made.num_iterations_per_epoch, made.num_val_iterations_per_epoch) == (40, 10, 2)
    made.network = torch.nn.Conv2d(1, 1, 1)
    optimizer, course = made.configure_optimizers()
    course.step(20)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


def test_factors_of_a_schedule_follow_the_epochs(environment, monkeypatch):
    monkeypatch.setenv("DELINEATE_LOSS", "Schedule(Dice, Boundary, start=[1, 0], end=[0, 1], epochs=10)")
    made = trainer()
    made.network, made.loss = torch.nn.Conv2d(1, 1, 1), made._build_loss()
    made.optimizer, made.lr_scheduler = made.configure_optimizers()
    made.current_epoch = 5
    made.on_train_epoch_start()
    assert made.loss.loss.loss.factors().tolist() == [0.5, 0.5]


BAD = {
    "no loss": ({"LOSS": None}, "--loss"),
    "an unknown loss": ({"LOSS": "Dise + CE"}, "Did you mean 'Dice'"),
    "code": ({"LOSS": "__import__('os').getcwd()"}, "parse"),
    "epochs in words": ({"EPOCHS": "many"}, "whole number"),
    "no epochs": ({"EPOCHS": "0"}, "--epochs"),
    "no iterations": ({"ITERATIONS": "-2"}, "--iterations"),
    "an unknown schedule": ({"SCHEDULE": "step"}, "poly or cosine or constant"),
    "no learning rate": ({"LR": "nan"}, "--lr"),
}


@pytest.mark.parametrize(("variables", "word"), BAD.values(), ids=BAD.keys())
def test_bad_options_end_in_one_line(variables, word, environment, monkeypatch, capsys):
    for name, text in variables.items():
        monkeypatch.delenv(f"DELINEATE_{name}", raising=False)
        if text is not None:
            monkeypatch.setenv(f"DELINEATE_{name}", text)
    assert word in refused(["train", DATASET, "2d", "0"], capsys)
    with pytest.raises(ValueError, match=word):
        trainer()
    assert not os.listdir(environment / "results" / DATASET)


def refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("delineate: error: ")
    return line


def test_another_trainer_is_refused(environment, capsys):
    assert "-tr" in refused(["train", DATASET, "2d", "0", "-tr", "nnUNetTrainer"], capsys)


def test_without_nnunet_it_says_what_to_install(environment, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert 'pip install "delineate[nnunet]"' in refused(["train", DATASET, "2d", "0"], capsys)


def test_nnunet_finds_the_trainer_in_the_folder_that_is_printed(environment, monkeypatch, capsys):
    main(["folder"])
    folder = capsys.readouterr().out.strip()
    assert folder == str(EXTERNAL)
    with pytest.raises(RuntimeError, match=TRAINER):
        recursive_find_trainer_class_by_name(TRAINER)
    monkeypatch.setenv("nnUNet_extTrainer", folder)
    assert recursive_find_trainer_class_by_name(TRAINER) is nnUNetTrainerDelineate


@pytest.mark.parametrize(
    ("verb", "entry", "trainer_given"),
    [
        ("train", "nnunetv2.run.run_training.run_training_entry", TRAINER),
        ("predict", "nnunetv2.inference.predict_from_raw_data.predict_entry_point", Options("DiceCE", lr=0.1).folder()),
    ],
)
def test_commands_of_nnunet_get_their_own_arguments(verb, entry, trainer_given, environment, monkeypatch):
    seen = {}
    monkeypatch.setattr(sys, "argv", ["old"])
    monkeypatch.setattr(os, "environ", {**os.environ, "nnUNet_extTrainer": "/mine"})
    monkeypatch.setattr(entry, lambda: seen.update(argv=list(sys.argv), environ=dict(os.environ)))
    main([verb, "-d", "901", "--loss", "Dice + CE", "-f", "0", "--c", "--lr", "0.1"])
    assert seen["argv"] == [f"nnUNetv2_{verb}", "-d", "901", "-f", "0", "--c", "-tr", trainer_given]
    assert seen["environ"]["nnUNet_extTrainer"] == os.pathsep.join([str(EXTERNAL), "/mine"])
    assert Options.read(seen["environ"]) == Options("DiceCE", lr=0.1)


def test_options_survive_the_environment_and_json():
    made = Options("Dice(classes=[1]) + 0.5*TopK(k=0.2)", epochs=3, iterations=2, schedule="cosine", lr=1e-3)
    assert Options.read(made.variables()) == made
    assert Options(**json.loads(json.dumps(vars(made)))) == made
    assert made.folder().startswith(
        f"{TRAINER}-Dice-classes=1+0.5xTopK-k=0.2-epochs=3-iterations=2-schedule=cosine-lr="
    )
