"""Training, comparing and predicting in 3D, through the command line."""

import json
import re

import nibabel
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from delineate.cli import main
from delineate.data import Prepare, open_source
from delineate.data.demo import make_lesions
from delineate.metrics import ConfusionMatrix
from delineate.ops.distance import squared_distances
from delineate.target import Geometry
from delineate.training.datamodule import DataModule
from delineate.training.models import build_model
from delineate.training.predictor import Predictor
from delineate.training.run import Watch, build_module, loss_for
from delineate.training.settings import Settings, complete

FAST = ["--workers", "0", "--model", "basic-unet-small", "--crops_per_image", "1", "--crop", "32", "32", "16"]


class Brightness(torch.nn.Module):
    """Class 1 where the last channel is above its mean; of one's own, found by its import path."""

    def __init__(self, in_channels: int, classes: int):
        super().__init__()
        self.head = torch.nn.Conv3d(in_channels, classes, 1)
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.weight[1, -1], self.head.bias[:] = 1, 0

    def forward(self, images):
        return self.head(images)


@pytest.fixture(scope="module")
def lesions(tmp_path_factory):
    return make_lesions(tmp_path_factory.mktemp("data") / "lesions", n=5, shape=(28, 24, 20))


@pytest.fixture(scope="module")
def compared(lesions, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "compare"
    losses = ["Dice + CE", "Dice + Boundary"]
    main(["compare", str(lesions), "--losses", *losses, "--seeds", "1", "--epochs", "1", "--out", str(out), *FAST])
    return out


def load(path):
    return json.loads(path.read_text())


def refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_every_loss_has_the_same_start_and_batches(compared, lesions):
    found = load(compared / "compare.json")
    runs = [load(compared / run / "metrics.json") for run in found["runs"]]
    assert [run["status"] for run in runs] == ["finished"] * 2
    assert len({run["initial_weights"] for run in runs}) == 1
    assert len({run["batches"] for run in runs} - {None}) == 1
    assert [(run["dims"], run["cost"]["steps"]) for run in runs] == [(3, 2)] * 2
    assert (found["same_start"], found["same_batches"]) == (True, True)
    config = yaml.safe_load((compared / found["runs"][0] / "config.yaml").read_text())
    assert (config["spacing"], config["crop"], config["batch_size"]) == ([1.0, 1.0, 1.5], [32, 32, 16], 2)


def test_samples_are_slices_and_the_report_shows_them(compared, lesions):
    [name] = load(compared / "compare.json")["samples"]
    source = open_source(lesions)
    [item] = source.items("val")
    truth = source.read_mask(item)
    place = (truth > 0).sum((0, 1)).argmax()
    shown = np.array(Image.open(compared / "samples" / f"{name}.truth.png"))
    assert np.array_equal(shown, truth[:, ::-1, place].T)
    image = np.array(Image.open(compared / "samples" / f"{name}.png"))
    assert image.shape == (24, 28, 3)
    assert image[shown == 1].mean() > image[shown == 0].mean() + 20
    assert np.array(Image.open(compared / "dice-ce/seed0/samples" / f"{name}.pred.png")).shape == (24, 28)
    assert name in (compared / "report.html").read_text()


def test_predictions_lie_on_the_grid_of_the_images_and_score_as_in_training(compared, lesions, tmp_path):
    run, out = compared / "dice-ce/seed0", tmp_path / "out"
    main(["predict", str(run), str(lesions / "imagesTr"), "-o", str(out)])
    assert sorted(path.name for path in out.iterdir()) == [f"brain_{number:03d}.nii.gz" for number in range(5)]
    source = open_source(lesions)
    [item] = source.items("val")
    written, image = nibabel.load(out / f"{item.id}.nii.gz"), nibabel.load(item.image)
    assert written.get_data_dtype() == np.uint8
    assert np.array_equal(written.affine, image.affine)
    assert written.header.get_zooms() == image.header.get_zooms()
    labels = np.asarray(written.dataobj)
    assert np.array_equal(labels, Predictor(run).labels(item))
    matrix = ConfusionMatrix(2)
    matrix.update(*(torch.from_numpy(found.astype(np.int64)) for found in (labels, source.read_mask(item))))
    assert matrix.scores().miou == pytest.approx(load(run / "metrics.json")["val"]["miou"], abs=1e-5)


def test_stopped_and_continued_equals_never_stopped(lesions, tmp_path, monkeypatch, capsys):
    options = ["train", str(lesions), "--loss", "CE", "--epochs", "2", *FAST]
    main([*options, "--out", str(tmp_path / "whole")])
    start = Watch.on_train_batch_start

    def stop(self, trainer, module, batch, batch_idx):
        start(self, trainer, module, batch, batch_idx)
        if trainer.current_epoch == 1 and batch_idx == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Watch, "on_train_batch_start", stop)
    out = tmp_path / "stopped"
    with pytest.raises(SystemExit):
        main([*options, "--out", str(out)])
    command = re.search(r"delineate (train --config .*)", capsys.readouterr().err).group(1).split()
    monkeypatch.undo()
    main(command)
    states = [
        torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in (tmp_path / "whole", out)
    ]
    for name, whole in states[0].items():
        torch.testing.assert_close(states[1][name], whole, rtol=1e-4, atol=1e-5)
    assert load(out / "metrics.json")["status"] == "finished"


def two_channels(root, affine):
    """Four cases of 12 x 16 x 10 voxels whose lesion is bright in the second channel; the first is noise."""
    draw = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for case in range(4):
        labels = np.zeros((12, 16, 10), np.uint8)
        labels[2 + case : 6 + case, 3:9, 1:7] = 1
        volumes = [draw.random(labels.shape, np.float32), labels + np.float32(0.1) * draw.random(labels.shape)]
        for channel, volume in enumerate(volumes):
            image = nibabel.Nifti1Image((volume * 50).astype(np.float32), affine)
            image.to_filename(root / f"imagesTr/c{case}_{channel:04d}.nii.gz")
        nibabel.Nifti1Image(labels, affine).to_filename(root / f"labelsTr/c{case}.nii.gz")
    description = {"channel_names": {"0": "noise", "1": "lesion"}, "labels": {"background": 0, "lesion": 1}}
    (root / "dataset.json").write_text(json.dumps(description))
    return root


def test_two_channels_in_las_with_thick_slices_split_by_lists(tmp_path):
    affine = np.array([[-1.0, 0, 0, 30], [0, 1.0, 0, -5], [0, 0, 3.0, 2], [0, 0, 0, 1]])
    root, out = two_channels(tmp_path / "set", affine), tmp_path / "run"
    for split, cases in (("train", (0, 1, 3)), ("val", (2,))):
        lines = [f"imagesTr/c{case}_0000.nii.gz labelsTr/c{case}.nii.gz" for case in cases]
        (tmp_path / f"{split}.txt").write_text("\n".join(lines))
    lists = [word for split in ("train", "val") for word in (f"--{split}_list", str(tmp_path / f"{split}.txt"))]
    model = "training.test_train_volumes.Brightness"
    options = ["--lr", "0", "--epochs", "1", "--workers", "0", "--spacing", "1", "1", "1.5", "--model", model]
    main(["train", str(root), "--out", str(out), *options, *lists])
    assert load(out / "metrics.json")["val"]["images"] == 1
    assert load(out / "metrics.json")["data"]["train_images"] == 3
    main(["predict", str(out), str(root / "imagesTr"), "--out", str(tmp_path / "pred")])
    for case in range(4):
        found, truth = (nibabel.load(folder / f"c{case}.nii.gz") for folder in (tmp_path / "pred", root / "labelsTr"))
        assert np.array_equal(found.affine, affine)
        assert np.array_equal(np.asarray(found.dataobj), np.asarray(truth.dataobj))


def test_batches_depend_on_the_seed_and_not_on_the_loss_nor_the_workers(lesions):
    source = open_source(lesions)
    settings = Settings(crop=(32, 16, 16), batch_size=2, crops_per_image=2, workers=0)

    def batches(seed=0, workers=0, prepare=None):
        found = Settings(**{**vars(settings), "workers": workers})
        return list(DataModule(source, found, seed, prepare=prepare).train_dataloader())

    loss = loss_for("Dice + Boundary", source)
    first, again = batches(), batches(workers=1, prepare=Prepare(loss, 2, (1.0, 1.0, 1.5)))
    assert len(first) == 4  # two crops of each of 4 images, in batches of 2
    assert [batch["id"] for batch in first] == [batch["id"] for batch in again]
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(first, again, strict=True))
    assert all(torch.equal(a["mask"], b["mask"]) for a, b in zip(first, again, strict=True))
    assert any(not torch.equal(a["image"], b["image"]) for a, b in zip(first, batches(seed=1), strict=True))
    drawn = torch.cat([batch["image"] for batch in first])
    assert len({crop.numpy().tobytes() for crop in drawn}) == 8  # no crop comes twice
    mask = again[0]["mask"]
    expected = squared_distances(mask, 2, mask == source.pad_label, torch.tensor([[1.0, 1.0, 1.5]] * 2).double())
    assert torch.equal(again[0]["geometry"][Geometry("distances")], expected)


def test_defaults_follow_from_the_data(lesions):
    found = complete(Settings(), open_source(lesions))
    assert (found.model, found.batch_size, found.crops_per_image) == ("basic-unet", 2, 4)
    assert (found.spacing, found.crop, found.encoder) == ((1.0, 1.0, 1.5), (32, 32, 32), None)
    assert complete(found, open_source(lesions)) == found
    module = build_module(open_source(lesions), found, loss_for("Boundary", open_source(lesions)))
    assert module.prepare.spacing == (1.0, 1.0, 1.5)


@pytest.mark.parametrize("name", ["basic-unet", "basic-unet-small", "UNet", "dynunet", "SegResNet", "AttentionUnet"])
def test_networks_by_name(name):
    if name == "AttentionUnet":
        with pytest.raises(ValueError, match=r"--model AttentionUnet: .*AttentionUnet\(spatial_dims=3.*Wrap it"):
            build_model(name, 3, dims=3, channels=2)
        return
    model = build_model(name, 3, dims=3, channels=2).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 2, 32, 16, 16)).shape == (1, 3, 32, 16, 16)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--crop", "64", "64"], "--crop: expected 3 numbers"),
        (["--crop", "40", "32", "32"], "--crop: expected three multiples of 16"),
        (["--crop", "16", "16", "16"], "one of them at least 32"),
        (["--spacing", "1", "0", "1"], "--spacing: expected three distances"),
        (["--spacing", "1", "1.5"], "--spacing: expected three distances"),
        (["--encoder", "resnet18"], "--encoder:"),
        (["--model", "NoNet"], "--model NoNet: expected basic-unet"),
        (["--weights", "imagenet"], "--weights imagenet: for a network of volumes"),
        (["--crops_per_image", "0"], "--crops_per_image: expected a whole number of at least 1"),
        (["--batch_size", "17"], "--batch_size 17: the train split"),
        (["--val_list", "nowhere.txt"], "nowhere.txt: expected a readable"),
    ],
)
def test_bad_settings_are_told_in_one_line(lesions, tmp_path, options, words, capsys):
    out = tmp_path / "run"
    assert words in refused(["train", lesions, "--out", out, "--workers", "0", *options], capsys)
    assert not out.exists()


def test_nothing_is_predicted_where_an_image_cannot_be_read(compared, lesions, tmp_path, capsys):
    run, images, out = compared / "dice-ce/seed0", tmp_path / "images", tmp_path / "out"
    images.mkdir()
    assert "expected volumes named CASE_0000.nii.gz" in refused(["predict", run, images, "-o", out], capsys)
    whole = (lesions / "imagesTr/brain_000_0000.nii.gz").read_bytes()
    (images / "a_0000.nii.gz").write_bytes(whole)
    (images / "b_0000.nii.gz").write_bytes(whole[: len(whole) // 2])
    line = refused(["predict", run, images, "-o", out], capsys)
    assert "b_0000.nii.gz: expected a readable NIfTI volume" in line
    assert not out.exists()
    (images / "b_0000.nii.gz").write_bytes(whole)
    (images / "b_0001.nii.gz").write_bytes(whole)
    assert "expected 1 channels" in refused(["predict", run, images, "-o", out], capsys)
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    assert "new or empty" in refused(["predict", run, images, "-o", out], capsys)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_a_truncated_training_volume_is_named_before_anything_is_written(lesions, tmp_path, capsys):
    root = make_lesions(tmp_path / "set", n=3, shape=(20, 20, 20), seed=1)
    path = root / "labelsTr/brain_001.nii.gz"
    path.write_bytes(path.read_bytes()[:100])
    line = refused(["train", root, "--out", tmp_path / "run", *FAST], capsys)
    assert "brain_001.nii.gz: expected a readable NIfTI volume" in line
    assert not (tmp_path / "run").exists()
