"""Ranking, averaging over seeds, and what is told of runs that stopped."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from report_folders import edit_json, write_comparison

from delineate.report import leaderboard, read_results, verdict, write_leaderboard_csv


def metrics(folder: Path, loss: str, seeds: int) -> list[dict[str, Any]]:
    """The metrics of all seeds of a loss."""
    return [json.loads((folder / loss / f"seed{seed}" / "metrics.json").read_text()) for seed in range(seeds)]


def test_rows_are_means_over_seeds_ranked_by_the_score(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path, ["CE", "Dice", "Lovasz"], [0, 1, 2])
    rows = leaderboard(read_results(folder))
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert [row["miou"] for row in rows] == sorted((row["miou"] for row in rows), reverse=True)
    for row in rows:
        runs = metrics(folder, row["loss"], 3)
        scores = [run["val"]["miou"] for run in runs]
        assert row["miou"] == pytest.approx(mean(scores))
        assert row["score"] == pytest.approx(mean(scores), abs=1e-6)  # cases hold the same counts
        assert row["score_low"] < min(scores) < max(scores) < row["score_high"]
        assert row["mdice"] == pytest.approx(mean(run["val"]["mdice"] for run in runs))
        assert row["ms_per_step"] == pytest.approx(mean(run["cost"]["ms_per_step"] for run in runs))
        assert (row["finished"], row["seeds"], row["status"]) == (3, 3, "finished")


def test_the_metric_decides(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path, ["CE", "Dice", "Lovasz"], [0, 1])
    edit_json(folder / "compare.json", metric="f1")
    rows = leaderboard(read_results(folder))
    assert [row["score"] for row in rows] == [row["f1"] for row in rows]
    assert [row["f1"] for row in rows] == sorted((row["f1"] for row in rows), reverse=True)


def test_without_cases_the_score_is_the_mean_miou_with_its_range_over_seeds(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path, ["CE", "Dice"], [0, 1, 2])
    for path in folder.glob("*/*/cases.json"):
        path.unlink()
    for row in leaderboard(read_results(folder)):
        scores = [run["val"]["miou"] for run in metrics(folder, row["loss"], 3)]
        assert row["score"] == row["miou"] == pytest.approx(mean(scores))
        assert (row["score_low"], row["score_high"]) == (min(scores), max(scores))
        assert row["dice"] is row["f1"] is None


def test_rare_iou_is_the_mean_over_rare_classes_that_occur(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path, ["CE"], [0])
    iou = metrics(folder, "CE", 1)[0]["val"]["iou"]
    row = leaderboard(read_results(folder))[0]
    assert row["rare_iou"] == pytest.approx((iou["<script>alert(1)</script>"] + 0.0) / 2)  # the third is absent


def test_losses_without_a_score_come_last_with_the_reason(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path, ["Boundary", "CE", "Dice"], [0], Boundary="failed", CE="interrupted")
    rows = leaderboard(read_results(folder))
    assert [(row["rank"], row["loss"]) for row in rows] == [(1, "Dice"), (None, "Boundary"), (None, "CE")]
    assert rows[1]["status"] == "failed: RuntimeError: <b>out of memory</b>"
    assert rows[2]["status"] == "interrupted"


def test_a_seed_that_did_not_run_is_told(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path, ["CE", "Dice"], [0, 1])
    edit_json(folder / "compare.json", runs=["CE/seed0", "CE/seed1", "Dice/seed0"], status="interrupted")
    comparison = read_results(folder)
    status = {row["loss"]: row["status"] for row in leaderboard(comparison)}
    assert status == {"CE": "finished", "Dice": "1 of 2 seeds; not run"}
    assert verdict(comparison)[-1] == "The comparison was interrupted: 3 of 4 runs finished."


def test_csv_holds_the_unrounded_rows(tmp_path: Path) -> None:
    comparison = read_results(write_comparison(tmp_path, ["CE", "Dice"], [0], CE="failed"))
    path = write_leaderboard_csv(comparison, tmp_path / "leaderboard.csv")
    with path.open(encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    rows = leaderboard(comparison)
    assert [row["loss"] for row in read] == ["Dice", "CE"]
    assert float(read[0]["miou"]) == rows[0]["miou"]
    assert read[1]["miou"] == read[1]["rank"] == ""
