"""The recipes of published settings: their numbers, and that they run, on miniature trees."""

import json
from pathlib import Path

import pytest
import yaml
from torch import nn

from data.trees import cityscapes_tree, voc_tree
from delineate.cli import main
from delineate.losses import CrossEntropyLoss, OHEMLoss, parse
from delineate.semi import parse_method
from delineate.semi.selectors import ClassMaxThreshold, FixedThreshold, NoSelection
from delineate.training import module
from delineate.training.models import build_model
from delineate.training.settings import Settings
from losses.conftest import one_thread  # noqa: F401

RECIPES = Path(__file__).parents[2] / "recipes"
METHODS, DATA = ("dssn", "unimatch"), ("voc", "cityscapes")
BOTH = {
    "batch_size": 8,
    "scale": [0.5, 2.0],
    "optimizer": "sgd",
    "lr_for_batch": 8,
    "weight_decay": 1e-4,
    "schedule": "poly",
    "warm_up": 0.0,
    "weights": "imagenet",
}
CITYSCAPES = {"epochs": 240, "crop": [800, 800], "strong_operations": 0, "lr": 0.005, "window": "sliding"}
PUBLISHED = {
    ("voc", "dssn"): {
        "epochs": 100, "crop": [512, 512], "strong_operations": 3, "lr": 0.02, "encoder_lr": 0.002, "window": "whole"
    },
    ("voc", "unimatch"): {
        "epochs": 80, "crop": [320, 320], "strong_operations": 0, "lr": 0.01, "encoder_lr": 0.001, "window": "whole"
    },
    ("cityscapes", "dssn"): CITYSCAPES,
    ("cityscapes", "unimatch"): CITYSCAPES,
}  # fmt: skip
"""Crops are multiples of 32: 512, 320 and 800 for 513, 321 and 801."""


def read(data, method, depth):
    return yaml.safe_load((RECIPES / f"{data}_{method}_r{depth}.yaml").read_text())


@pytest.mark.parametrize("depth", [50, 101])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("data", DATA)
def test_numbers_are_the_published_ones(data, method, depth):
    recipe = read(data, method, depth)
    loss = parse(recipe.pop("loss"), ignore_index=255)
    settings = Settings(**recipe)
    expected = BOTH | PUBLISHED[data, method] | {"encoder": f"resnet{depth}"}
    assert {name: getattr(settings, name) for name in expected} == expected
    assert settings.encoder_lr == expected.get("encoder_lr")
    assert settings.lr_factor == 1
    assert (settings.devices, settings.accumulate) == (1, 1)
    if data == "voc":
        assert isinstance(loss, CrossEntropyLoss)
        return
    assert isinstance(loss, OHEMLoss)
    assert (loss.threshold, loss.min_kept) == (0.7, pytest.approx(100_000 / 801**2, abs=5e-4))


@pytest.mark.parametrize("data", DATA)
def test_methods_are_the_released_ones(data):
    dssn, unimatch = (parse_method(read(data, method, 50)["semi"]) for method in METHODS)
    assert [stream.weight for stream in dssn.streams] == [0.25] * 4
    assert (dssn.scale, dssn.agree_weight, dssn.agree_on, dssn.decay) == (0.5, 0.01, "all", 0.996)
    assert (dssn.feature_dropout, dssn.strong_updates_bn, dssn.teacher_norm) == (0.5, True, "running")
    warm_up = (dssn.warmup_iterations, dssn.warmup_epochs)
    assert [stream.weight for stream in unimatch.streams] == [0.25, 0.25, 0.5]
    assert (unimatch.scale, unimatch.feature_dropout) == (0.5, 0.5)
    if data == "voc":
        assert (dssn.selector, warm_up) == (ClassMaxThreshold(floor=0.92, ratio=0.96), (1, 0))
        assert unimatch.selector == FixedThreshold(threshold=0.95)
    else:
        assert (dssn.selector, warm_up[1]) == (NoSelection(), 5)
        assert unimatch.selector == NoSelection()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("data", DATA)
def test_depths_differ_in_the_encoder_alone(data, method):
    small, large = (read(data, method, depth) for depth in (50, 101))
    assert small | {"encoder": "resnet101"} == large


def test_the_network_is_the_published_one():
    models = {read(data, method, 50)["model"] for data in DATA for method in METHODS}
    model = build_model(models.pop(), 21, encoder="resnet18")
    assert not models
    convolutions = [layer for layer in model.decoder.aspp[0].modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.dilation[0] for layer in convolutions if layer.dilation[0] > 1] == [6, 12, 18]
    assert {layer.groups for layer in convolutions} == {1}
    assert model.encoder.output_stride == 16


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return {
        "voc": voc_tree(folder / "voc", train=8, val=2),
        "cityscapes": cityscapes_tree(folder / "cityscapes", train=8, val=2),
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("data", DATA)
def test_runs(trees, tmp_path, monkeypatch, data, method):
    windows, sliding = [], module.sliding_log_probabilities

    def watched(network, images, window):
        windows.append((tuple(images.shape[2:]), window))
        return sliding(network, images, window)

    monkeypatch.setattr(module, "sliding_log_probabilities", watched)
    small = "--labeled 1/2 --epochs 1 --batch_size 2 --crop 32 32 --encoder resnet18 --weights null --workers 0"
    out, recipe = tmp_path / "run", RECIPES / f"{data}_{method}_r50.yaml"
    main(["train", str(trees[data]), "--config", str(recipe), "--out", str(out), *small.split()])
    found = json.loads((out / "metrics.json").read_text())
    assert (found["status"], found["cost"]["steps"]) == ("finished", 2)
    assert (found["semi"], found["loss"]) == (read(data, method, 50)["semi"], read(data, method, 50)["loss"])
    assert found["val"]["images"] == 2
    assert set(windows) == (set() if data == "voc" else {((32, 64), (32, 32))})
    assert ("teacher" in found["networks"]) == (method == "dssn")
    config = yaml.safe_load((out / "config.yaml").read_text())
    kept = read(data, method, 50).keys() - {"labeled", "epochs", "batch_size", "crop", "encoder", "weights", "workers"}
    assert {name: config[name] for name in kept} == {name: read(data, method, 50)[name] for name in kept}
