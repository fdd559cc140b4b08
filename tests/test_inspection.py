"""`delineate inspect`: what it prints and writes, its exit code, and that it leaves nothing half done."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import delineate.inspection as inspection
from delineate.cli import main
from delineate.data import open_source
from delineate.data.demo import make_streets


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """Streets of 64 x 64, and a folder to work in."""
    monkeypatch.chdir(tmp_path)
    return make_streets(tmp_path / "streets", n_train=6, n_val=2, size=(64, 64))


def damage(root: Path) -> list[str]:
    """One mask out of range, one of another size, one image cut short; the names of the files."""
    masks = [item.mask for item in open_source(root).items("train")]
    assert masks[0] is not None
    assert masks[1] is not None
    Image.fromarray(np.full((64, 64), 77, np.uint8)).save(masks[0])
    Image.fromarray(np.zeros((32, 64), np.uint8)).save(masks[1])
    image = open_source(root).items("val")[0].image
    image.write_bytes(image.read_bytes()[:99])
    return [masks[0].name, masks[1].name, image.name]


def test_all_is_written_and_the_last_line_names_the_report(root, capsys):
    main(["inspect", "streets"])
    shown = capsys.readouterr().out
    assert shown.splitlines()[-1] == "report: runs/inspect-streets-1/report.html"
    assert "problems: none found" in shown
    found = json.loads(Path("runs/inspect-streets-1/inspect.json").read_text())
    assert list(found) == ["data", "statistics", "problems", "advice"]
    assert (found["data"]["name"], found["data"]["splits"]) == ("streets", {"train": 6, "val": 2})
    assert (found["statistics"]["images"], found["problems"]) == (6, [])
    assert found["advice"][0]["command"].startswith("delineate compare streets --losses ")
    assert all(row["loss"] in shown for row in found["advice"][:2])
    main(["inspect", "streets", "--split", "val"])
    assert capsys.readouterr().out.endswith("report: runs/inspect-streets-2/report.html\n")


def test_errors_are_all_named_and_the_rest_is_counted(root, capsys):
    names = damage(root)
    with pytest.raises(SystemExit) as stop:
        main(["inspect", "streets", "--out", "seen"])
    assert stop.value.code == 2
    shown, beside = capsys.readouterr()
    assert beside == ""
    assert shown.endswith("report: seen/report.html\n")
    found = json.loads(Path("seen/inspect.json").read_text())
    assert (found["statistics"]["images"], found["statistics"]["images_in_split"]) == (4, 6)
    assert [problem["severity"] for problem in found["problems"]] == ["error"] * 3
    page = Path("seen/report.html").read_text().replace("<wbr>", "")
    for name in names:
        assert name in shown
        assert name in page


def test_warnings_alone_are_no_failure(root, capsys):
    first, second = open_source(root).items("train")[:2]
    assert first.mask is not None
    assert second.mask is not None
    second.image.write_bytes(first.image.read_bytes())
    second.mask.write_bytes(first.mask.read_bytes())
    main(["inspect", "streets"])
    assert "warning, train: " in capsys.readouterr().out


def test_many_problems_of_a_kind_are_cut_on_the_terminal_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = make_streets(tmp_path / "streets", n_train=16, n_val=1, size=(64, 64))
    for item in open_source(root).items("train")[:13]:
        assert item.mask is not None
        Image.fromarray(np.full((64, 64), 77, np.uint8)).save(item.mask)
    with pytest.raises(SystemExit):
        main(["inspect", "streets", "--out", "seen"])
    shown = capsys.readouterr().out
    assert shown.count("  error, train: ") == 10
    assert "  3 more: error, mask" in shown
    assert len(json.loads(Path("seen/inspect.json").read_text())["problems"]) == 13


def test_nothing_usable_names_the_problems_and_writes_nothing(root, capsys):
    for item in open_source(root).items("train"):
        assert item.mask is not None
        Image.fromarray(np.full((64, 64), 77, np.uint8)).save(item.mask)
    with pytest.raises(SystemExit) as stop:
        main(["inspect", "streets"])
    assert stop.value.code == 2
    shown, beside = capsys.readouterr()
    assert shown.count("  error, train: ") == 6
    assert len(beside.strip().splitlines()) == 1
    assert "all have errors" in beside
    assert not Path("runs").exists()


def test_a_sample_is_of_every_split(root):
    found = inspection.inspect_data("streets", "train", limit=2)
    assert (found.found.images, found.found.images_in_split) == (2, 6)
    assert len(found.source.items("train")) == 6


def test_a_split_without_masks_is_refused_at_once(root, capsys):
    (root / "ImageSets" / "Segmentation" / "test.txt").write_text("extra\n")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(root / "JPEGImages" / "extra.png")
    with pytest.raises(SystemExit) as stop:
        main(["inspect", "streets", "--split", "test"])
    assert stop.value.code == 2
    assert "expected masks in split 'test'; 1 of its images have none" in capsys.readouterr().err


@pytest.mark.parametrize("moment", ["statistics", "write_inspection_report"])
def test_ctrl_c_leaves_nothing(moment, root, monkeypatch, capsys):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(inspection, moment, stopped)
    with pytest.raises(SystemExit) as stop:
        main(["inspect", "streets", "--out", "seen"])
    assert stop.value.code == 130
    assert [path.name for path in Path().iterdir()] == ["streets"]
    assert capsys.readouterr().err == "delineate: stopped.\n"
