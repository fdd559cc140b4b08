"""The generated data sets: same seed, same pixels; what the classes look like; whose folders are touched."""

import json
from pathlib import Path

import numpy as np
import pytest

from delineate.data import DataError, open_source, statistics
from delineate.data.demo import main, make_lesions, make_streets


def streets(root: Path, **settings) -> Path:
    return make_streets(root, **{"n_train": 3, "n_val": 1, "size": (64, 96), **settings})


def lesions(root: Path, **settings) -> Path:
    return make_lesions(root, **{"n": 2, "shape": (24, 24, 16), **settings})


@pytest.mark.parametrize("make", [streets, lesions])
def test_same_seed_same_arrays(tmp_path: Path, make):
    sources = [open_source(make(tmp_path / name, seed=seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    first, again, other = ([s.read_image(s.items("train")[0]), s.read_mask(s.items("train")[0])] for s in sources)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_streets_hold_ten_unequal_classes_and_void(tmp_path: Path):
    source = open_source(make_streets(tmp_path / "streets", n_train=16, n_val=4))
    assert (source.layout, len(source.classes), source.notes) == ("voc", 10, ())
    found = statistics(source, "train")
    assert found.image_sizes["min"] == (128, 160)
    assert 2 < found.void_share < 10
    assert found.imbalance > 50
    by_name = {c.name: c for c in found.classes}
    assert all(c.instances for c in found.classes)
    assert by_name["bicyclist"].absent > 8  # rare
    assert max(by_name[name].share for name in ("pole", "sign", "pedestrian", "bicyclist")) < 4
    assert source.palette.tolist()[2] == [128, 64, 128]


def test_lesions_spread_from_one_voxel_to_hundreds(tmp_path: Path):
    source = open_source(make_lesions(tmp_path / "lesions", n=3, shape=(48, 48, 40)))
    assert (source.dims, source.spacing(source.items("train")[0])) == (3, (1.0, 1.0, 1.5))
    lesion = statistics(source, "train").classes[1]
    assert lesion.share < 8
    assert lesion.instance_sizes is not None
    assert (lesion.instance_sizes["min"], lesion.instance_sizes["max"] > 300) == (1, True)


def test_a_finished_folder_is_kept_and_another_version_replaced(tmp_path: Path):
    root = streets(tmp_path / "set")
    picture = root / "JPEGImages" / "street_000.jpg"
    before = picture.stat().st_mtime_ns
    (root / "mine.txt").write_text("kept")
    streets(root)
    assert picture.stat().st_mtime_ns == before
    (root / "mine.txt").unlink()
    streets(root, seed=1)
    assert json.loads((root / "demo.json").read_text())["seed"] == 1
    picture.unlink()
    streets(root, seed=1)
    assert picture.is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("make", [streets, lesions])
def test_folders_of_others_are_never_touched(tmp_path: Path, make):
    other = tmp_path / "theirs"
    other.mkdir()
    make(other)  # an empty folder is fine
    (other / "mine.txt").write_text("precious")
    with pytest.raises(DataError, match=r"theirs: expected only generated files.*1 more than were made\. Move"):
        make(other, seed=5)
    (other / "demo.json").unlink()
    with pytest.raises(DataError, match=r"theirs: expected no such folder, or one made by.*Choose another folder"):
        make(other)
    assert (other / "mine.txt").read_text() == "precious"


def test_command_line(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr("delineate.data.demo.make_streets", streets)
    monkeypatch.setattr("delineate.data.demo.make_lesions", lesions)
    out = tmp_path / "demo"
    for _ in range(2):
        assert main([str(out)]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 2
    (out / "streets" / "demo.json").unlink()
    assert main([str(out)]) == 2
    assert "error: " in capsys.readouterr().err
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err
