"""An image that cannot be read: refused and named, or left out and named, before the first step or in the middle."""

import json
import shutil

import pytest

from delineate.cli import main
from delineate.data import DataError, Source, open_source
from delineate.data.demo import make_streets
from delineate.training.batches import Seeded

FAST = ["--model", "training.tiny.Tiny", "--batch_size", "4", "--workers", "0", "--crop", "64", "64", "--loss", "CE"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_streets(tmp_path_factory.mktemp("data") / "streets", n_train=9, n_val=3, size=(64, 80))


@pytest.fixture
def streets(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "streets")


def cut_short(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def train(data, out, *options):
    main(["train", str(data), "--out", str(out), *FAST, *options])
    return json.loads((out / "metrics.json").read_text())


def first(data, split):
    return open_source(data).items(split)[0]


def test_a_bad_image_is_named_and_refused(streets, tmp_path, capsys):
    item = first(streets, "train")
    cut_short(item.image)
    with pytest.raises(SystemExit) as stopped:
        train(streets, tmp_path / "run", "--epochs", "1")
    assert stopped.value.code == 2
    assert str(item.image) in capsys.readouterr().err.splitlines()[-1]


def test_in_a_worker_too(streets, tmp_path, capsys):
    item = first(streets, "train")
    cut_short(item.image)
    with pytest.raises(SystemExit) as stopped:
        train(streets, tmp_path / "run", "--epochs", "1", "--workers", "1")
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert str(item.image) in said.splitlines()[-1]
    assert "Traceback" not in said


def test_bad_images_and_masks_are_left_out_by_option_and_named(streets, tmp_path, capsys):
    train_item, val_item = first(streets, "train"), first(streets, "val")
    cut_short(train_item.image)
    cut_short(val_item.mask)
    found = train(streets, tmp_path / "run", "--epochs", "1", "--bad_images", "skip")
    said = capsys.readouterr().out
    for path in (train_item.image, val_item.mask):
        assert str(path) in said
        assert any(str(path) in note for note in found["data"]["notes"])
    assert (found["data"]["train_images"], found["data"]["val_images"]) == (8, 2)
    assert val_item.id not in {case["id"] for case in json.loads((tmp_path / "run/cases.json").read_text())["cases"]}


def turn_bad(monkeypatch, name, after):
    """Make the image of an item unreadable from its so-manieth reading on."""
    read, times = Source.read_image, []

    def reading(self, item):
        times.extend([item.id] if item.id == name else [])
        if item.id == name and len(times) > after:
            raise DataError(f"{item.image}: expected a readable picture; cut short.")
        return read(self, item)

    monkeypatch.setattr(Source, "read_image", reading)


def test_one_that_turns_bad_in_the_middle_is_replaced_by_option_and_named_once(streets, tmp_path, monkeypatch, capsys):
    item = first(streets, "train")
    turn_bad(monkeypatch, item.id, after=1)  # the reading before the first step
    found = train(streets, tmp_path / "run", "--epochs", "3", "--bad_images", "skip", "--batch_size", "3")
    assert found["skipped"] == [f"{item.image}: expected a readable picture; cut short."]
    assert capsys.readouterr().out.count("skipped, another image taken") == 1
    assert found["cost"]["steps"] == 9


def test_one_that_turns_bad_in_the_middle_is_refused_and_the_run_can_go_on(streets, tmp_path, monkeypatch, capsys):
    item = first(streets, "train")
    turn_bad(monkeypatch, item.id, after=1)
    with pytest.raises(SystemExit):
        train(streets, tmp_path / "run", "--epochs", "3", "--batch_size", "3")
    said = capsys.readouterr().err
    assert str(item.image) in said.splitlines()[-1]
    assert "--resume true" in said
    monkeypatch.undo()
    found = train(streets, tmp_path / "run", "--epochs", "3", "--batch_size", "3", "--resume", "true")
    assert (found["status"], found["skipped"]) == ("finished", [])


def test_a_val_image_that_turns_bad_is_never_skipped(streets, tmp_path, monkeypatch, capsys):
    item = first(streets, "val")
    turn_bad(monkeypatch, item.id, after=2)
    with pytest.raises(SystemExit):
        train(streets, tmp_path / "run", "--epochs", "2", "--bad_images", "skip")
    assert str(item.image) in capsys.readouterr().err.splitlines()[-1]


class Images:
    """Numbers for images; some cannot be read."""

    items = ()

    def __init__(self, bad):
        self.bad = bad

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index in self.bad:
            raise DataError(f"image {index}")
        return {"id": index}


def test_the_next_image_that_can_be_read_takes_the_place():
    assert Seeded(Images({2, 3}), 0, skip=True)[0, 2] == {"id": 0, "skipped": ["image 2", "image 3"]}
    assert Seeded(Images({2, 3}), 0, skip=True)[0, 5] == {"id": 1}
    with pytest.raises(DataError, match="image 2"):
        Seeded(Images({2}), 0)[0, 2]
    with pytest.raises(DataError, match="No image of the split can be read"):
        Seeded(Images({0, 1, 2, 3}), 0, skip=True)[0, 1]
