"""Bad input ends in one line on stderr and exit code 2, and leaves nothing behind."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from delineate.cli import main
from delineate.data import open_source
from delineate.data.demo import make_lesions, make_streets


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    make_streets(root / "streets", n_train=4, n_val=2, size=(64, 64))
    make_lesions(root / "lesions", n=3, shape=(24, 24, 16))
    (root / "empty").mkdir()
    (root / "file").write_text("not a folder")
    return root


CASES = {
    "no verb": ([], "inspect,train,compare,evaluate,predict"),
    "unknown verb": (["optimise"], "compare"),
    "unknown option": (["train", "{data}/streets", "--epoch", "3"], "--epoch"),
    "no such folder": (["compare", "{data}/nowhere"], "nowhere"),
    "a file": (["inspect", "{data}/file"], "file"),
    "an empty folder": (["train", "{data}/empty"], "empty"),
    "no data set in it": (["train", "{data}"], "JPEGImages"),
    "a crop of pictures for volumes": (["compare", "{data}/lesions", "--crop", "64", "64"], "3 numbers"),
    "unknown loss": (["compare", "{data}/streets", "--losses", "CE", "Dise"], "Did you mean 'Dice'"),
    "unknown argument": (["train", "{data}/streets", "--loss", "TopK(fraction=0.1)"], "k"),
    "code for a loss": (["train", "{data}/streets", "--loss", "__import__('os').getcwd()"], "parse"),
    "one loss twice": (["compare", "{data}/streets", "--losses", "CE", "CrossEntropy"], "same loss"),
    "no seeds": (["compare", "{data}/streets", "--seeds", "0"], "--seeds"),
    "no epochs": (["train", "{data}/streets", "--epochs", "0"], "--epochs"),
    "words for a number": (["train", "{data}/streets", "--epochs", "many"], "many"),
    "large batch": (["train", "{data}/streets", "--batch_size", "64"], "4 images"),
    "unknown model": (["train", "{data}/streets", "--model", "Foo", "--batch_size", "2"], "small-unet"),
    "not a run": (["evaluate", "{data}/streets"], "config.yaml"),
    "unknown split": (["inspect", "{data}/streets", "--split", "holdout"], "holdout"),
    "a sample of nothing": (["inspect", "{data}/streets", "--limit", "0"], "--limit"),
    "a folder with results": (["inspect", "{data}/streets", "--out", "{data}/streets"], "--out"),
    "resume of nothing": (["train", "{data}/streets", "--resume", "true"], "--out"),
}


@pytest.mark.parametrize(("arguments", "word"), CASES.values(), ids=CASES.keys())
def test_bad_input(arguments, word, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main([argument.format(data=data) for argument in arguments])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("delineate: error: ")
    assert word in lines[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_bad_mask_is_named_before_anything_is_written(split, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = make_streets(tmp_path / "streets", n_train=4, n_val=2, size=(64, 64))
    mask = open_source(root).items(split)[1].mask
    assert mask is not None
    for damage in (
        lambda: mask.write_bytes(b"not a picture"),
        lambda: Image.fromarray(np.zeros((32, 64), np.uint8)).save(mask),
        lambda: Image.fromarray(np.full((64, 64), 77, np.uint8)).save(mask),
    ):
        damage()
        with pytest.raises(SystemExit) as stop:
            main(["compare", str(root), "--batch_size", "2", "--losses", "CE"])
        assert stop.value.code == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert mask.name in lines[0]
        assert [path.name for path in tmp_path.iterdir()] == ["streets"]


def test_inspect_shows_2d_and_3d(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["inspect", str(data / "streets")])
    main(["inspect", str(data / "lesions")])
    shown, beside = capsys.readouterr()
    assert beside == ""
    for word in ("bicyclist", "absent", "void", "lesion", "voxels", "26-connected", "images of 64x64; "):
        assert word in shown
    assert shown.endswith("\nreport: runs/inspect-lesions-1/report.html\n")
    assert max(map(len, shown.replace(str(data), "demo").splitlines()[:20])) <= 100


@pytest.mark.parametrize("verb", ["--help", "inspect"])
def test_a_closed_pipe_ends_quietly(verb, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        with pytest.raises(SystemExit) as stop:
            main([verb] if verb == "--help" else [verb, str(data / "streets")])
        print("more", flush=True)
    assert stop.value.code == 1
    assert capsys.readouterr().err == ""


def test_without_the_extras_it_says_what_to_install():
    code = "import sys; sys.modules['lightning'] = None; from delineate.__main__ import main; main()"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode == 2
    assert len(run.stderr.strip().splitlines()) == 1
    assert "delineate[train]" in run.stderr


def test_version_and_help_fit_a_screen(capsys):
    run = subprocess.run(
        [sys.executable, "-m", "delineate", "--version"], capture_output=True, text=True, timeout=120, check=True
    )
    assert len(run.stdout.strip().splitlines()) == 1
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    said = capsys.readouterr().out
    assert stopped.value.code in (0, None)
    assert "compare" in said
    assert len(said.strip().splitlines()) <= 40
