"""Reading result folders: what is kept, and the sentence for what is missing or wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_folders import CLASSES, edit_json, write_comparison, write_single

from delineate.report import Spread, read_results


def test_a_comparison_is_read_as_written(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path, ["CE", "Dice + CE"], [0, 1])
    comparison = read_results(folder)
    assert not comparison.single
    assert comparison.losses == ["CE", "Dice + CE"]
    assert [(run.loss, run.seed) for run in comparison.runs] == [(x, s) for x in comparison.losses for s in (0, 1)]
    record = json.loads((folder / "CE" / "seed1" / "metrics.json").read_text())
    run = comparison.of("CE")[1]
    assert run.val is not None
    assert run.val.miou == record["val"]["miou"]
    assert run.val.per_class["iou"] == record["val"]["iou"]
    assert run.cost["steps"] == 184
    assert [epoch for epoch, _ in run.val_miou] == [1, 2, 3, 4]
    assert len(run.train_loss) == 40


def test_classes_are_ordered_by_share_and_the_rare_ones_told(tmp_path: Path) -> None:
    data = read_results(write_single(tmp_path / "run")).data
    assert data.by_share == sorted(CLASSES, key=lambda name: -CLASSES[name])
    assert data.rare == ["<script>alert(1)</script>", "bicyclist", "道路 $x$"]


def test_spread_over_seeds_leaves_unknown_values_out() -> None:
    assert Spread.of([0.25, None, 0.75]) == Spread(mean=0.5, low=0.25, high=0.75, count=2)
    assert Spread.of([None]) is None


def test_an_interrupted_comparison_may_list_runs_that_never_started(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path, ["CE", "Dice"], [0])
    (folder / "Dice" / "seed0" / "metrics.json").unlink()
    with pytest.raises(ValueError, match="expected this file"):
        read_results(folder)
    edit_json(folder / "compare.json", status="interrupted")
    assert [run.loss for run in read_results(folder).runs] == ["CE"]


def test_fingerprints_are_compared_within_a_seed(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path, ["CE", "Dice"], [0, 1])
    assert read_results(folder).identical("initial_weights")
    edit_json(folder / "CE" / "seed1" / "metrics.json", initial_weights="sha256:other")
    assert read_results(folder).identical("initial_weights") is False
    assert read_results(folder).identical("batches")


def test_nan_is_read_as_absent(tmp_path: Path) -> None:
    folder = write_single(tmp_path / "run")
    record = json.loads((folder / "metrics.json").read_text())
    edit_json(folder / "metrics.json", val=record["val"] | {"miou": float("nan")})
    run = read_results(folder).runs[0]
    assert run.val is not None
    assert run.val.miou is None


def broken(folder: Path, how: str) -> None:
    """Damage a single run."""
    metrics = folder / "metrics.json"
    record = json.loads(metrics.read_text())
    match how:
        case "gone":
            metrics.unlink()
        case "cut":
            metrics.write_text(metrics.read_text()[:40])
        case "list":
            metrics.write_text("[]")
        case "status":
            edit_json(metrics, status="done")
        case "val":
            edit_json(metrics, val=None)
        case "class":
            del record["val"]["dice"]["car"]
            edit_json(metrics, val=record["val"])
        case "text":
            edit_json(metrics, val=record["val"] | {"miou": "high"})
        case "palette":
            edit_json(metrics, data=record["data"] | {"palette": [[0, 0, 0]]})
        case "env":
            (folder / "env.json").unlink()
        case "csv":
            (folder / "metrics.csv").write_text("epoch,step,val/miou\n0,1,good\n")


@pytest.mark.parametrize(
    ("how", "file", "expected"),
    [
        ("gone", "", "expected compare.json .* or metrics.json"),
        ("cut", "metrics.json", "not valid JSON"),
        ("list", "metrics.json", "expected a JSON object, got list"),
        ("status", "metrics.json", "expected 'status' to be one of finished, interrupted, failed, got 'done'"),
        ("val", "metrics.json", "expected 'val' to be an object, found none"),
        ("class", "metrics.json", "expected 'val.dice' to list the class 'car'"),
        ("text", "metrics.json", "expected 'val.miou' to be a number, got 'high'"),
        ("palette", "metrics.json", "expected 'data.palette' to hold 8 colours"),
        ("env", "env.json", "expected this file"),
        ("csv", "metrics.csv", "expected numbers under 'epoch' and 'val/miou' in line 2"),
    ],
)
def test_errors_are_one_line_and_name_the_file(tmp_path: Path, how: str, file: str, expected: str) -> None:
    folder = write_single(tmp_path / "run")
    broken(folder, how)
    with pytest.raises(ValueError, match=expected) as error:
        read_results(folder)
    assert str(error.value).startswith(str(folder / file))
    assert "\n" not in str(error.value)


def test_a_run_of_an_unlisted_loss_is_refused(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path, ["CE", "Dice"], [0])
    edit_json(folder / "CE" / "seed0" / "metrics.json", loss="Lovasz")
    with pytest.raises(ValueError, match="expected 'loss' to be one of 'CE', 'Dice', got 'Lovasz'"):
        read_results(folder)
