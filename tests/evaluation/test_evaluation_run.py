"""`delineate evaluate RUN`: what a run predicts goes through the same evaluation."""

import csv
import json
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from delineate.cli import main
from delineate.data import Source, open_source
from delineate.data.demo import make_lesions, make_streets
from delineate.metrics import case_scores
from delineate.training.evaluate import evaluate_run
from delineate.training.run import CHECKPOINT


@dataclass
class Eroded:
    """Stands for a network: predicts class 1 eroded, and misses all other classes."""

    source: Source

    def labels(self, item):
        return binary_erosion(self.source.read_mask(item) == 1).astype(np.int64)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The folder of a run, and a way to say on which data it was made."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").touch()

    def on(root):
        source = open_source(root)
        monkeypatch.setattr("delineate.training.evaluate.Predictor", lambda folder, data, weights: Eroded(source))
        return folder, source

    return on


def test_volumes_are_scored_case_by_case(run, tmp_path, capsys):
    folder, source = run(make_lesions(tmp_path / "lesions", n=5, shape=(24, 24, 16)))
    main(["evaluate", str(folder)])
    found = json.loads((folder / "evaluation-val/metrics.json").read_text())
    assert found["cases"]["notes"] == []
    items = source.items("val")
    name = source.classes[1]
    assert list(found["cases"]["classes"]) == [name]
    with (folder / "evaluation-val/per_case.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == [item.id for item in items]
    masks = [source.read_mask(item) for item in items]
    expected = [
        case_scores(binary_erosion(mask == 1).astype(int), mask, source.classes, spacing=source.spacing(item))[name]
        for item, mask in zip(items, masks, strict=True)
    ]
    for row, scores in zip(rows, expected, strict=True):
        assert float(row["dice"]) == pytest.approx(scores.values["dice"], abs=1e-6)
        assert float(row["hd95"]) == pytest.approx(scores.values["hd95"], abs=1e-6)
    assert found["cases"]["worst"] == sorted(path.name for path in (folder / "evaluation-val/worst").iterdir())
    assert f"{name}: lesions found by size" in capsys.readouterr().out


def test_pictures_keep_their_confusion_matrix(run, tmp_path):
    folder, source = run(make_streets(tmp_path / "streets", n_train=4, n_val=3, size=(32, 48)))
    result, _, out = evaluate_run(folder, None, "val", lambda done, total: None)
    found = json.loads((out / "metrics.json").read_text())
    assert found["cases"]["notes"] == ["spacing 1: read mm as pixels"]
    assert {key: found[key] for key in result} == result
    assert set(found["cases"]["classes"]) == {name for name in source.classes if name != "background"}
    with (out / "per_image.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == found["images"] == found["cases"]["n"] == 3
    pixels = [(Eroded(source).labels(item), source.read_mask(item)) for item in source.items("val")]
    both = sum(int(((p == 1) & (t == 1)).sum()) for p, t in pixels)
    either = sum(int((((p == 1) | (t == 1)) & (t != source.pad_label)).sum()) for p, t in pixels)
    assert found["iou"][source.classes[1]] == pytest.approx(both / either, abs=1e-6)


def test_a_second_evaluation_takes_the_place_of_the_first(run, tmp_path):
    folder, _ = run(make_lesions(tmp_path / "lesions", n=5, shape=(24, 24, 16)))
    main(["evaluate", str(folder)])
    (folder / "evaluation-val/notes.txt").write_text("mine")
    main(["evaluate", str(folder), "--worst", "0", "--nsd_tolerance", "2"])
    assert sorted(path.name for path in (folder / "evaluation-val").iterdir()) == [
        "metrics.json",
        "notes.txt",
        "per_case.csv",
        "per_image.csv",
    ]
    assert "within 2 mm" in (folder / "evaluation-val/metrics.json").read_text()
    main(["evaluate", str(folder), "--out", str(tmp_path / "elsewhere"), "--split", "train"])
    assert (tmp_path / "elsewhere/per_case.csv").is_file()


@pytest.mark.parametrize("inside", [".", "dice-ce"])
def test_a_comparison_names_its_runs(inside, tmp_path, capsys):
    runs = [tmp_path / "dice-ce" / f"seed{seed}" for seed in range(2)]
    for path in (tmp_path, *runs):
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.yaml").touch()
    (tmp_path / "compare.json").touch()
    (runs[1] / CHECKPOINT).parent.mkdir(exist_ok=True)
    (runs[1] / CHECKPOINT).touch()
    for verb in (["evaluate"], ["predict", str(tmp_path)]):
        with pytest.raises(SystemExit):
            main([verb[0], str(tmp_path / inside), *verb[1:]])
        assert f"Name one of its runs, such as {runs[1]}." in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("--classes", "a"), ("--ignore_index", "3"), ("--spacing", "2")])
def test_what_a_run_knows_itself_is_not_asked(option, value, run, tmp_path, capsys):
    folder, _ = run(make_lesions(tmp_path / "lesions", n=5, shape=(24, 24, 16)))
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(folder), option, value])
    assert stop.value.code == 2
    assert f"{option}: expected with label maps alone" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["config.yaml"]
