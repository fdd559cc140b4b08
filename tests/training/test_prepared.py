"""Geometry is derived in the workers and arrives at the training step."""

import os

import pytest
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device

from delineate import target as targets
from delineate.data import Prepare, open_source
from delineate.data.demo import make_streets
from delineate.target import Geometry
from delineate.training import run
from delineate.training.datamodule import DataModule
from delineate.training.module import SegmentationModule
from delineate.training.settings import Settings

FAST = {"epochs": 1, "batch_size": 4, "crop": (64, 64)}
DISTANCES = Geometry("distances")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return open_source(make_streets(tmp_path_factory.mktemp("data") / "streets", n_train=8, n_val=2, size=(80, 100)))


@pytest.fixture
def derived_here(monkeypatch):
    """Processes that derived something: of those of the workers, this one sees nothing."""
    seen = []

    def noting(derive):
        def derived(*args):
            seen.append(os.getpid())
            return derive(*args)

        return derived

    for kind, derive in targets._DERIVED.items():
        monkeypatch.setitem(targets._DERIVED, kind, noting(derive))
    return seen


def train(source, text, folder, monkeypatch, workers):
    """One short run; what its batches held of geometry, and what its step took as labels."""
    batches, step = [], SegmentationModule.training_step

    def noting(module, batch, batch_idx):
        batches.append(batch)
        return step(module, batch, batch_idx)

    monkeypatch.setattr(SegmentationModule, "training_step", noting)
    monkeypatch.setattr(run, "loss_ms", lambda *args: 0.0)  # times the loss on plain labels
    settings = Settings(**FAST, workers=workers)
    result = run.train_run(source, text, 0, settings, folder, samples=[source.items("val")[0].id])
    assert result["status"] == "finished"
    return batches


def test_a_run_derives_in_the_workers_only(source, tmp_path, monkeypatch, derived_here):
    batches = train(source, "Dice + Boundary", tmp_path / "run", monkeypatch, workers=1)
    assert len(batches) == 2
    assert [set(batch["geometry"]) for batch in batches] == [{DISTANCES}] * 2
    assert batches[0]["geometry"][DISTANCES].shape == (4, len(source.classes), 64, 64)
    assert not derived_here


def test_a_run_without_workers_derives_once_for_each_image(source, tmp_path, monkeypatch, derived_here):
    batches = train(source, "Dice + Boundary", tmp_path / "run", monkeypatch, workers=0)
    assert len(batches) == 2
    assert len(derived_here) == 8


def test_batches_of_a_loss_without_geometry_are_as_before(source, tmp_path, monkeypatch, derived_here):
    batches = train(source, "Dice + CE", tmp_path / "run", monkeypatch, workers=0)
    assert ["geometry" in batch for batch in batches] == [False, False]
    assert not derived_here


def test_geometry_does_not_change_the_images_nor_the_loss(source):
    loss = run.loss_for("Dice + Boundary + SkeletonRecall", source)
    prepare = Prepare(loss, len(source.classes))
    settings = Settings(**FAST, workers=0)
    plain = DataModule(source, settings, 0)
    loaders = plain.train_dataloader(), DataModule(source, settings, 0, prepare=prepare).train_dataloader()
    for before, after in zip(*loaders, strict=True):
        assert torch.equal(before["image"], after["image"])
        logits = torch.randn(4, len(source.classes), 64, 64)
        assert torch.equal(loss(logits, before["mask"]), loss(logits, prepare.target(after)))


def test_lightning_moves_it_to_the_device():
    batch = {"mask": torch.zeros(2, 4, 4), "geometry": {DISTANCES: torch.ones(2, 3, 4, 4)}}
    moved = move_data_to_device(batch, torch.device("meta"))
    assert moved["geometry"][DISTANCES].device.type == "meta"


def test_an_expression_whose_geometry_cannot_be_prepared_is_refused(source):
    with pytest.raises(ValueError, match=r"the same `ignore_index`.*Construct them alike"):
        run.loss_for("Boundary(ignore_index=7) + SkeletonRecall", source)
