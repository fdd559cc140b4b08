"""The tables of an experiment: intervals, paired differences and their p-values, checked by hand."""

import importlib
import json
import math
from pathlib import Path

import pytest
import yaml

from delineate.report import read_results
from delineate.training.settings import Settings

ROOT = Path(__file__).parents[1]
MIOU = {"CE": [0.40, 0.50, 0.60], "B": [0.45, 0.55, 0.80], "C": [0.50, 0.60, 0.76]}
"""Minus CE: B .05 .05 .20, mean .1 and standard error .05; C .10 .10 .16, mean .12 and standard error .02."""
T = 4.302653
"""97.5 % quantile of Student's t with two degrees of freedom, from a printed table."""


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "experiments")
    return importlib.import_module("comparison_tables")


def write(folder, miou=MIOU, seeds=(0, 1, 2), **iou):
    """A comparison of three classes, of which `absent` never has a number; `iou` sets the bike's, by loss."""
    runs = [(loss, seed) for loss in miou for seed in seeds]
    data = {"root": "/data/town", "layout": "voc", "split": "val", "train_images": 9, "val_images": 4}
    data |= {"classes": ["absent", "bike", "road"], "palette": [[0, 0, 0]] * 3, "ignore_index": 255}
    data |= {"train_share": {"absent": 0.0, "bike": 0.5, "road": 99.5}, "notes": [], "samples": []}
    record = {"data": data, "losses": list(miou), "seeds": list(seeds), "status": "finished"}
    record |= {"budget": {"epochs": 4}, "runs": [f"{loss}/seed{seed}" for loss, seed in runs]}
    for loss, seed in runs:
        score = miou[loss][seed]
        classes = {"road": score, "bike": iou.get(loss, [0.0] * 3)[seed], "absent": math.nan}
        val = {"miou": score, "mdice": 0.5, "pixel_accuracy": 0.9, "images": 4}
        val |= dict.fromkeys(("iou", "dice", "precision", "recall"), classes)
        run = {
            "loss": loss,
            "seed": seed,
            "status": "finished",
            "val": val,
            "initial_weights": "a",
            "batches": f"b{seed}",
        }
        run["cost"] = {"ms_per_step": 100.0 + seed, "loss_ms": 2.0}
        (folder / loss / f"seed{seed}").mkdir(parents=True)
        (folder / loss / f"seed{seed}" / "metrics.json").write_text(json.dumps(run))
    for name, content in (("compare.json", record), ("env.json", {"torch": "2.9.0"}), ("config.yaml", {})):
        (folder / name).write_text(json.dumps(content))
    return read_results(folder)


def cells(lines, title):
    """The cells of the row with this title."""
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return next(row[1:] for row in rows if row[0] == title)


def test_scores_are_means_with_the_t_interval(script, tmp_path):
    lines = script.scores_table(write(tmp_path))
    half = T * 0.1 / math.sqrt(3)
    assert cells(lines, "mIoU")[0] == f"0.500 ± {half:.3f}" == "0.500 ± 0.248"
    assert cells(lines, "mean Dice") == ["0.500 ± 0.000"] * 3
    assert cells(lines, "IoU road (99.5 %)") == cells(lines, "mIoU")
    assert cells(lines, "mean IoU of classes < 2 %") == cells(lines, "IoU bike (0.5 %)") == ["0.000 ± 0.000"] * 3
    assert cells(lines, "ms/step")[0] == "101 ± 2"
    assert cells(lines, "loss ms")[0] == "2.0 ± 0.0"


def test_differences_are_paired_and_corrected(script, tmp_path):
    """With two degrees of freedom, p = 1 - t / sqrt(t^2 + 2): t is 2 for B and 6 for C, whose p Holm doubles."""
    lines = script.differences_table(write(tmp_path), "CE")
    b, c = cells(lines, "mIoU")
    assert lines[0] == "| difference | `B` | `C` |"
    assert b == f"+0.100 ± {T * 0.05:.3f}, p = {1 - 2 / math.sqrt(6):.3f}" == "+0.100 ± 0.215, p = 0.184"
    assert c == f"+0.120 ± {T * 0.02:.3f}, p = {2 * (1 - 6 / math.sqrt(38)):.3f}" == "+0.120 ± 0.086, p = 0.053"
    assert cells(lines, "mean Dice") == ["+0.000 ± 0.000, p = 1.000"] * 2


def test_a_class_without_a_number_and_seeds_without_one(script, tmp_path):
    found = write(tmp_path, CE=[0.1, 0.2, 0.3], B=[0.2, None, 0.4], C=[None, math.nan, 0.5])
    scores, differences = script.scores_table(found), script.differences_table(found, "CE")
    assert cells(scores, "IoU absent (0.0 %)") == ["-"] * 3
    assert cells(differences, "IoU absent (0.0 %)") == ["-"] * 2
    _, b, c = cells(scores, "IoU bike (0.5 %)")
    assert b.startswith("0.300 ± ")
    assert b.endswith(" (2)")
    assert c == "0.500 ± - (1)"
    b, c = cells(differences, "IoU bike (0.5 %)")
    assert b.startswith("+0.100 ± 0.000 (2), p")
    assert c == "+0.200 ± - (1)"


def test_one_seed_has_no_interval(script, tmp_path):
    found = write(tmp_path, {"CE": [0.4], "B": [0.6]}, seeds=[0])
    assert cells(script.scores_table(found), "mIoU") == ["0.400 ± -", "0.600 ± -"]
    assert cells(script.differences_table(found, "CE"), "mIoU") == ["+0.200 ± -"]


def test_holm_never_lowers_a_larger_p(script):
    assert script.holm([0.04, 0.01, None, 0.03, 0.9]) == pytest.approx([0.09, 0.04, None, 0.09, 0.9])
    assert script.holm([0.6, 0.7]) == [1.0, 1.0]
    assert script.holm([]) == []


def test_the_tables_are_written_between_the_markers_only(script, tmp_path, capsys):
    write(tmp_path / "runs")
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- table -->\nold\n<!-- table -->\nbelow\n")
    for _ in range(2):
        script.main([str(tmp_path / "runs"), str(page), "--baseline", "CE", "B"])
        text = page.read_text()
        assert text.startswith("above\n<!-- table -->\n\ntown: 9 training and 4 validation images.")
        assert text.endswith("|\n\n<!-- table -->\nbelow\n")
        assert text.count("| difference |") == 2
        assert "old" not in text
        assert "9 of 9 runs finished; start and batches of a seed are the same" in text
    page.write_text("no marker")
    for wrong in ([str(page)], ["--baseline", "Dice"]):
        with pytest.raises(SystemExit):
            script.main([str(tmp_path / "runs"), *wrong])
    assert "expected one of 'CE', 'B', 'C'" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_is_a_config_of_compare(recipe):
    options = yaml.safe_load(recipe.read_text())
    settings = {key: options.pop(key) for key in list(options) if key in Settings.__dataclass_fields__}
    assert set(options) == {"data", "losses", "seeds", "out"}
    Settings(**settings)
    assert f"--config recipes/{recipe.name}" in recipe.read_text().splitlines()[2]


def test_every_page_of_an_experiment_can_be_written(script):
    for page in (ROOT / "docs" / "experiments").glob("*.md"):
        assert page.read_text().count(script.MARKER) == 2
