"""Training with few labels, through the command line: all methods, repeated, killed, on two processes, compared."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from delineate.cli import main
from delineate.data import open_source
from delineate.data.demo import make_streets
from delineate.semi import METHODS
from losses.conftest import one_thread  # noqa: F401

TINY, DRAWING = ["--model", "training.tiny.Tiny"], ["--model", "training.tiny.Drawing"]
FAST = ["--workers", "0", "--crop", "64", "64", "--batch_size", "2"]
KEEP_ALL = "(selector=NoSelection())"
PASSES = 2
"""Through the encoder of the student in a step of DSSN: weak and labelled views, strong views."""


@pytest.fixture(scope="module")
def streets(tmp_path_factory):
    return make_streets(tmp_path_factory.mktemp("data") / "streets", n_train=12, n_val=3, size=(64, 80))


def load(path):
    return json.loads(path.read_text())


def rows(run):
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def weights(run, name="last"):
    return torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"]


def command(data, semi, out, *options, labeled="1/2"):
    words = ["train", data, "--semi", semi, "--labeled", labeled, "--out", out, *FAST, *options]
    return [str(word) for word in words]


def start(words, **environment):
    """The command in a process of its own; returns how it ended."""
    paths = [str(Path(__file__).parents[level]) for level in (1, 2)]
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        [sys.executable, "-m", "delineate", *words], env=os.environ | environment, capture_output=True, text=True
    )


def refused(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.fixture(scope="module", params=METHODS)
def trained(request, streets, tmp_path_factory):
    """A method and its run of two epochs."""
    out = tmp_path_factory.mktemp("runs") / request.param
    main(command(streets, request.param, out, "--epochs", "2", "--lr", "0.02", *TINY))
    return request.param, out


def test_every_method_finishes_and_says_what_came_of_its_networks(trained, streets):
    method, run = trained
    found = load(run / "metrics.json")
    assert (found["status"], found["semi"], found["labeled"]) == ("finished", method, "1/2")
    assert found["cost"]["steps"] == 6  # two passes over 6 unlabelled images
    networks = ["student", "teacher"] if method in ("meanteacher", "dssn") else ["student"]
    assert list(found["networks"]) == networks
    assert found["networks"]["student"]["last_miou"] == pytest.approx(found["val"]["miou"], abs=1e-6)
    logged = {name for row in rows(run) for name, value in row.items() if value}
    streams = {"supervised": [], "meanteacher": ["strong0"], "fixmatch": ["strong0"]} | {
        "unimatch": ["strong0", "strong1", "feature"],
        "dssn": ["strong0", "strong1", "feature_a", "feature_b"],
    }
    assert {f"train/kept/{stream}" for stream in streams[method]} <= logged
    agreements = {"train/loss/agree/strong", "train/loss/agree/weak", "train/teacher_disagreement"}
    assert {name for name in logged if "agree" in name} == (agreements if method == "dssn" else set())


def test_the_lists_of_the_parts_are_written_and_are_apart(trained, streets):
    _, run = trained
    lines = {name: (run / f"splits/{name}.txt").read_text().splitlines() for name in ("labeled", "unlabeled", "val")}
    assert [len(found) for found in lines.values()] == [6, 6, 3]
    assert len({line.split()[0] for found in lines.values() for line in found}) == 15
    assert all(len(line.split()) == 2 for line in lines["labeled"] + lines["val"])
    assert all((streets / line.split()[0]).is_file() for line in lines["unlabeled"])
    assert load(run / "splits/split.json")["counts"] == {"labeled": 6, "unlabeled": 6, "val": 3}


def test_last_and_best_of_student_and_teacher_agree_with_the_log(trained):
    method, run = trained
    column = {"student": "val/miou", "teacher": "val/teacher_miou"}
    for name, found in load(run / "metrics.json")["networks"].items():
        logged = [float(row[column[name]]) for row in rows(run) if row[column[name]]]
        assert len(logged) == 2
        best = max(range(2), key=logged.__getitem__)
        assert found["last_miou"] == pytest.approx(logged[-1], rel=1e-6)
        assert found["best_miou"] == pytest.approx(logged[best], rel=1e-6)
        assert found["best_epoch"] == best + 1
        if method != "supervised":
            path = run / "checkpoints" / ("best.ckpt" if name == "student" else "best-teacher.ckpt")
            assert torch.load(path, weights_only=True)["epoch"] == best
    assert (run / "checkpoints/best-teacher.ckpt").is_file() == (method in ("meanteacher", "dssn"))
    assert (run / "checkpoints/last.ckpt").is_file()


def test_the_config_repeats_the_run_exactly(trained, tmp_path):
    _, run = trained
    again = tmp_path / "again"
    main(["train", "--config", str(run / "config.yaml"), "--out", str(again)])
    assert yaml.safe_load((again / "config.yaml").read_text()) == yaml.safe_load((run / "config.yaml").read_text())
    first, second = (load(folder / "metrics.json") for folder in (run, again))
    for key in ("initial_weights", "batches", "val", "networks"):
        assert first[key] == second[key]
    one, other = weights(run), weights(again)
    assert all(torch.equal(one[name], other[name]) for name in one | other)


def test_killed_in_an_epoch_and_continued_is_the_run_never_stopped(streets, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = ["--epochs", "3", "--lr", "0.02", *DRAWING]
    main(command(streets, "dssn" + KEEP_ALL, whole, *options))
    words = command(streets, "dssn" + KEEP_ALL, killed, *options)
    stopped = start(words, KILL_IN_PASS=str(PASSES * (3 + 2)))  # the last pass of the second of 3 steps, epoch 2 of 3
    assert stopped.returncode == -9
    assert torch.load(killed / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 0
    main([*words, "--resume", "true"])
    for name in ("last", "best", "best-teacher"):
        one, other = weights(whole, name), weights(killed, name)
        assert any(key.startswith("method.teacher.") for key in one)
        assert [key for key in one | other if not torch.equal(one[key], other[key])] == []
    assert load(killed / "metrics.json")["networks"] == load(whole / "metrics.json")["networks"]
    assert [row["train/loss"] for row in rows(killed)] == [row["train/loss"] for row in rows(whole)]


def assert_same_weights(one, other):
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(
            second[name], tensor, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_two_processes_do_as_one(streets, tmp_path):
    """Crops of scaled pictures are padded, so the processes have different numbers of valid pixels."""
    sgd = ["--epochs", "2", "--optimizer", "sgd", "--lr", "0.1", "--batch_size", "4", *TINY]
    one, two = tmp_path / "one", tmp_path / "two"
    main(command(streets, "dssn" + KEEP_ALL, one, *sgd, labeled="1/3"))
    ended = start([*command(streets, "dssn" + KEEP_ALL, two, *sgd, labeled="1/3"), "--devices", "2"])
    assert (ended.returncode, ended.stderr) == (0, "")
    assert_same_weights(one, two)
    losses = [[float(row["train/loss"]) for row in rows(run) if row["train/loss"]] for run in (one, two)]
    assert len(losses[0]) == 2  # the last of two steps of each epoch
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    first, second = (load(run / "metrics.json") for run in (one, two))
    assert second["networks"] == first["networks"]
    assert second["val"]["images"] == 3


@pytest.mark.parametrize("semi", ["fixmatch" + KEEP_ALL, "dssn(selector=NoSelection(), agree_on='all')"])
def test_two_batches_accumulated_do_as_one_of_their_size(streets, tmp_path, semi, capsys):
    """Of whole crops without void: the mean of means over micro-batches is the mean over all their pixels."""
    full = tmp_path / "streets"
    shutil.copytree(streets, full)
    for path in (full / "SegmentationClass").iterdir():
        mask = Image.open(path)
        labels = np.array(mask)
        whole = Image.fromarray(np.where(labels == 255, 0, labels).astype(np.uint8))
        whole.putpalette(mask.getpalette())
        whole.save(path)
    sgd = ["--epochs", "2", "--optimizer", "sgd", "--lr", "0.1", "--batch_size", "4", "--scale", "1", "1", *TINY]
    printed = []
    for name, accumulate in (("one", "1"), ("two", "2")):
        words = command(full, semi, tmp_path / name, *sgd, labeled="1/3")
        main([*words, "--accumulate", accumulate])
        printed.append(capsys.readouterr().out)
    assert_same_weights(tmp_path / "one", tmp_path / "two")
    assert [load(tmp_path / name / "metrics.json")["cost"]["steps"] for name in ("one", "two")] == [4, 4]
    means = [re.findall(r"mean loss (\S+)", text) for text in printed]
    assert len(means[0]) == 2
    assert means[0] == means[1]


def test_methods_and_shares_are_compared_from_one_start_on_the_same_labelled_batches(streets, tmp_path):
    out = tmp_path / "compare"
    words = ["compare", streets, "--semi", "supervised", "fixmatch", "--labeled", "1/4", "1/2", "--seeds", "1"]
    main([str(word) for word in [*words, "--epochs", "1", "--out", out, *FAST, *TINY]])
    found = load(out / "compare.json")
    assert (found["status"], found["same_start"], found["same_batches"]) == ("finished", True, True)
    grid = found["few_labels"]
    assert (grid["methods"], grid["labeled"]) == (["supervised", "fixmatch"], ["1/4", "1/2"])
    assert grid["labelled_images"] == {"1/4": 3, "1/2": 6}
    assert grid["unlabelled_images"] == {"1/4": 9, "1/2": 6}
    runs = [load(out / run / "metrics.json") for run in found["runs"]]
    assert [grid["arms"][run["loss"]] for run in runs] == [[run["semi"], run["labeled"], "CE"] for run in runs]
    assert len({run["initial_weights"] for run in runs}) == 1
    batches = {(run["labeled"], run["semi"]): run["batches"] for run in runs}
    assert len(batches) == 4
    for share in ("1/4", "1/2"):
        assert batches[share, "supervised"] == batches[share, "fixmatch"]
    assert batches["1/4", "fixmatch"] != batches["1/2", "fixmatch"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--semi", "supervised", "dssn"], "--semi, --labeled: expected both"),
        (["--labeled", "1/4"], "--semi, --labeled: expected both"),
        (["--semi", "dssn", "DSSN()", "--labeled", "1/4"], '--semi: "dssn" and "DSSN()" are the same method'),
        (["--semi", "dssn", "--labeled", "1/4", "1/4"], "dssn, 1/4 comes twice"),
        (["--semi", "dssn", "--labeled", "1/4", "--devices", "2"], "--devices, --nodes: expected 1 with compare"),
    ],
)
def test_comparisons_that_mean_nothing_are_refused(streets, tmp_path, options, words, capsys):
    out = tmp_path / "out"
    assert words in refused(["compare", streets, "--out", out, *FAST, *TINY, *options], capsys)
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--semi", "fixmach", "--labeled", "1/2"], "--semi: expected one of supervised, meanteacher"),
        (["--semi", "fixmatch(threshold=.9)", "--labeled", "1/2"], "--semi: FixMatch has no option 'threshold'"),
        (["--semi", "fixmatch"], "--semi fixmatch: expected --labeled"),
        (["--labeled", "1/2"], "--labeled: expected together with --semi"),
        (["--semi", "dssn", "--labeled", "nowhere.txt"], "there is no file of this name"),
        (["--semi", "dssn", "--labeled", "{lists}/missing.txt"], "missing.txt, line 2: expected a file"),
        (["--semi", "dssn", "--labeled", "1/2", "--unlabeled", "{data}/JPEGImages"], "not val as well"),
        (["--semi", "dssn", "--labeled", "{lists}/two.txt", "--unlabeled", "{lists}/one.txt"], "not labelled as well"),
        (["--semi", "dssn", "--labeled", "1/2", "--batch_size", "8"], "the unlabelled split of"),
        (["--semi", "dssn", "--labeled", "1/2", "--batch_size", "3", "--accumulate", "2"], "expected a multiple of 2"),
        (["--semi", "dssn", "--labeled", "1/2", "--model", "training.tiny.Plain"], "FixMatch and MeanTeacher take any"),
    ],
)
def test_bad_input_is_told_in_one_line_before_anything_is_written(streets, tmp_path, options, words, capsys):
    items = [item.image.relative_to(streets) for item in open_source(streets).items("train")]
    lines = [f"{image} {str(image).replace('JPEGImages', 'SegmentationClass')[:-3]}png\n" for image in items]
    lists = {"one": lines[:1], "two": lines[:2], "missing": [lines[0], lines[1].replace("JPEGImages", "nowhere")]}
    for name, held in lists.items():
        (tmp_path / f"{name}.txt").write_text("".join(held))
    options = [option.format(lists=tmp_path, data=streets) for option in options]
    out = tmp_path / "out"
    assert words in refused(["train", streets, "--out", out, *FAST, *TINY, *options], capsys)
    assert not out.exists()


def test_two_classes_have_no_agreement(streets, tmp_path, capsys):
    pair = tmp_path / "pair"
    shutil.copytree(streets, pair)
    for path in (pair / "SegmentationClass").iterdir():
        mask = Image.open(path)
        labels = np.array(mask)
        two = Image.fromarray(np.where(labels < 255, labels > 1, 255).astype(np.uint8))
        two.putpalette(mask.getpalette())
        two.save(path)
    (pair / "classes.txt").write_text("still\nmoving\n")
    out = tmp_path / "out"
    line = refused([*command(pair, "dssn", out), *TINY], capsys)
    assert "at least 3 classes, got 2" in line
    assert "DSSN(agree_weight=0), UniMatch or FixMatch" in line
    assert not out.exists()
    main(command(pair, "dssn(agree_weight=0)", out, "--epochs", "1", *TINY))
    assert load(out / "metrics.json")["status"] == "finished"


@pytest.fixture(scope="module")
def organs(tmp_path_factory):
    """Five volumes of 32 x 32 x 32 voxels with two organs, one bright and one dark."""
    root, draw = tmp_path_factory.mktemp("data") / "organs", np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for case in range(5):
        labels = np.zeros((32, 32, 32), np.uint8)
        labels[4 + case : 14 + case, 4:16, 6:20] = 1
        labels[18:28, 18 + case : 27 + case, 8:24] = 2
        image = (np.array([0, 100, -100], np.float32)[labels] + draw.normal(0, 10, labels.shape)).astype(np.float32)
        nibabel.Nifti1Image(image, np.eye(4)).to_filename(root / f"imagesTr/c{case}_0000.nii.gz")
        nibabel.Nifti1Image(labels, np.eye(4)).to_filename(root / f"labelsTr/c{case}.nii.gz")
    names = {"background": 0, "bright": 1, "dark": 2}
    (root / "dataset.json").write_text(json.dumps({"channel_names": {"0": "toy"}, "labels": names}))
    return root


@pytest.mark.parametrize("method", ["fixmatch", "dssn"])
def test_volumes(organs, tmp_path, method):
    out = tmp_path / "run"
    grid = ["--crop", "32", "32", "32", "--model", "basic-unet-small", "--crops_per_image", "1", "--epochs", "1"]
    main(command(organs, method + KEEP_ALL, out, *grid))
    found = load(out / "metrics.json")
    assert (found["status"], found["dims"], found["cost"]["steps"]) == ("finished", 3, 1)
    assert ("teacher" in found["networks"]) == (method == "dssn")
    logged = {name for row in rows(out) for name, value in row.items() if value}
    assert ("train/loss/agree/strong" in logged) == (method == "dssn")
