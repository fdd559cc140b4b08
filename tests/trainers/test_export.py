"""`delineate export`: the file gives the logits of the run, says what its input is, or is not written."""

import importlib.util
import json
import shutil

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from delineate.cli import main
from delineate.data.demo import make_lesions, make_streets
from delineate.training.export import TOLERANCE
from delineate.training.predictor import Predictor
from trainers.pages import run_page

FAST = ["--loss", "CE", "--epochs", "1", "--workers", "0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    make_streets(root / "streets", n_train=4, n_val=2, size=(64, 80))
    make_lesions(root / "lesions", n=3, shape=(32, 32, 32))
    return root


def trained(data, out, model, *options, of="streets", batch=("--batch_size", "4", "--crop", "64", "64")):
    main(["train", str(data / of), "--model", model, "--out", str(out), *FAST, *batch, *options])
    return out


@pytest.fixture(scope="module")
def pictures(data, tmp_path_factory):
    """The run of a network of segmentation-models-pytorch, and its file."""
    run = trained(data, tmp_path_factory.mktemp("runs") / "pictures", "small-unet")
    main(["export", str(run)])
    return run, run / "model.onnx"


def session_of(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def notes_of(session):
    return {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}


def test_pictures_of_other_sizes_have_the_logits_of_the_run(pictures):
    run, path = pictures
    session, module = session_of(path), Predictor(run).module.cpu()
    assert session.get_inputs()[0].shape == ["batch", 3, "32*height", "32*width"]
    for shape in ((1, 3, 32, 96), (5, 3, 96, 64)):
        images = torch.randn(shape)
        with torch.no_grad():
            expected = module.logits(images).numpy()
        (found,) = session.run(["logits"], {"image": images.numpy()})
        assert found.shape == expected.shape == (shape[0], 10, *shape[2:])
        assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_the_picture_on_the_page_has_the_labels_of_predict(pictures, data, tmp_path, monkeypatch):
    run, path = pictures
    source = next((data / "streets/JPEGImages").glob("*.jpg"))
    shutil.copy(source, tmp_path / "street.jpg")
    shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    labels = run_page("onnx.md")["labels"]
    main(["predict", str(run), str(source), "-o", str(tmp_path / "out")])
    expected = np.asarray(Image.open(tmp_path / "out" / f"{source.stem}.png"))
    assert labels.shape == expected.shape == (64, 80)
    assert (labels == expected).mean() > 0.999


def test_the_file_says_what_it_is(pictures):
    run, path = pictures
    notes = notes_of(session_of(path))
    assert notes["classes"] == list(Predictor(run).source.classes)
    assert (notes["loss"], notes["model"], notes["encoder"]) == (
        "CrossEntropy(ignore_index=255)",
        "small-unet",
        "resnet18",
    )
    assert (notes["crop"], notes["window"], notes["spacing"], notes["ignore_index"]) == ([64, 64], "whole", None, 255)
    assert notes["versions"]["torch"] == torch.__version__.split("+")[0]
    assert b"site-packages" not in path.read_bytes()  # the exporter's notes name files of the machine
    assert str(run).encode() not in path.read_bytes()


def test_volumes_are_windows(data, tmp_path, capsys):
    batch = ("--batch_size", "2", "--crop", "32", "32", "32")
    run = trained(data, tmp_path / "run", "basic-unet-small", of="lesions", batch=batch)
    main(["export", str(run), "--out", str(tmp_path / "new/volumes.onnx")])
    assert "differ by" in capsys.readouterr().out
    session, module = session_of(tmp_path / "new/volumes.onnx"), Predictor(run).module.cpu()
    assert session.get_inputs()[0].shape == ["batch", 1, 32, 32, 32]
    images = torch.randn(2, 1, 32, 32, 32)
    with torch.no_grad():
        expected = module(images).numpy()
    (found,) = session.run(["logits"], {"image": images.numpy()})
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
    notes = notes_of(session)
    assert (notes["spacing"], notes["crop"], notes["window"]) == ([1.0, 1.0, 1.5], [32, 32, 32], "sliding")
    assert "RAS" in notes["input"]["axes"]


@pytest.fixture(scope="module")
def placed(data, tmp_path_factory):
    return trained(data, tmp_path_factory.mktemp("runs") / "placed", "trainers.networks.Placed")


def test_a_network_of_one_size_is_written_for_it(placed):
    main(["export", str(placed)])
    assert session_of(placed / "model.onnx").get_inputs()[0].shape == ["batch", 3, 64, 64]


@pytest.mark.parametrize(("model", "said"), [("Drawing", "differ"), ("Branching", "cannot be written")])
def test_what_onnx_cannot_be_leaves_no_file(model, said, placed, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(placed, run, ignore=shutil.ignore_patterns("*.onnx"))
    options = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(options.replace("trainers.networks.Placed", f"trainers.networks.{model}"))
    before = sorted(run.iterdir())
    assert said in refused(["export", str(run)], capsys)
    assert sorted(run.iterdir()) == before


def refused(arguments, capsys):
    """The one line that bad input ends in."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_bad_input(pictures, data, tmp_path, monkeypatch, capsys):
    run, path = pictures
    before = path.read_bytes()
    assert "exists" in refused(["export", str(run)], capsys)
    assert path.read_bytes() == before
    out = tmp_path / "new/model.onnx"
    assert ".onnx" in refused(["export", str(run), "--out", str(out.with_suffix(".pt"))], capsys)
    assert "none" in refused(["export", str(run), "--out", str(out), "--network", "teacher"], capsys)
    assert "few labels" in refused(["export", str(run), "--out", str(out), "--checkpoint", "best"], capsys)
    assert "config.yaml" in refused(["export", str(data), "--out", str(out)], capsys)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    line = refused(["export", str(run), "--out", str(out)], capsys)
    assert "onnxscript" in line
    assert 'pip install "delineate[onnx]"' in line
    assert not out.parent.exists()
