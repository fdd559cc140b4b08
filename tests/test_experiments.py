"""The tables of an experiment: intervals, paired differences and their p-values, checked by hand."""

import csv
import importlib
import json
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from delineate.evaluation import Case, Labelling, evaluate_cases, write_evaluation
from delineate.losses import parse
from delineate.metrics import Conventions
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


@pytest.fixture
def instances(script):
    return importlib.import_module("instance_tables")


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
def test_a_recipe_is_a_config_of_its_verb(recipe):
    text = recipe.read_text()
    options = yaml.safe_load(text)
    verb = "compare" if "seeds" in options else "train"
    arms = {key: options[key][0] for key in ("semi", "labeled") if verb == "compare" and key in options}
    settings = {key: options.pop(key) for key in list(options) if key in Settings.__dataclass_fields__}
    assert set(options) <= (
        {"data", "losses", "seeds", "out"} if verb == "compare" else {"data", "loss", "seed", "out"}
    )
    Settings(**settings | arms)
    parse(options.get("loss", "CE"))
    assert re.search(rf"^#   delineate {verb} (DATA )?--config recipes/{recipe.name}( .*)?$", text, re.M)


def test_every_page_of_an_experiment_can_be_written():
    for page in (ROOT / "docs" / "experiments").glob("*.md"):
        markers = Counter(re.findall(r"<!-- table.*-->", page.read_text()))
        assert set(markers.values()) == {2}, page


SIZES = [(1, 10), (2, 20), (30, 40), (50, 60)]
"""Of the lesions of four cases: the first quartile is 8, so two are small, one each in the first two cases."""
FINDS = {"CE": {1, 30, 40}, "B": {1, 2, 30, 40}, "C": {30, 40}}


def write_cases(folder, crop=(16, 16, 16), **wrong):
    """A comparison scored by case: of case k a lesion F1 that departs from CE by (k + 1) / 2.5 times that of MIOU."""
    write(folder)
    record = json.loads((folder / "compare.json").read_text())
    record["data"] |= {"classes": ["road", "bike"], "palette": [[0, 0, 0]] * 2}
    record["budget"]["crop"] = list(crop)
    (folder / "compare.json").write_text(json.dumps(record))
    for loss, of_seeds in MIOU.items():
        for seed, score in enumerate(of_seeds):
            apart = score - MIOU["CE"][seed]
            rows = [
                {"case": f"c{k}", "lesion_f1": MIOU["CE"][seed] + apart * (k + 1) / 2.5}
                | dict.fromkeys(("lesion_sensitivity", "false_positives", "dice", "pq"), 0.5)
                | {"lesion_precision": "" if k == 3 else 0.2 + 0.1 * k}
                for k in range(4)
            ]
            out = folder / loss / f"seed{seed}" / "instances-val"
            out.mkdir()
            for name, table in (("per_case.csv", rows), ("lesions.csv", lesion_rows(loss))):
                with (out / name).open("w", newline="") as file:
                    writer = csv.DictWriter(file, list(table[0]))
                    writer.writeheader()
                    writer.writerows(table)
            stated = ["Lesions are blobs.", "Said of nothing else.", *wrong.get(loss, [])]
            (out / "metrics.json").write_text(json.dumps({"cases": {"conventions": stated}}))
    return read_results(folder)


def lesion_rows(loss):
    return [
        {"case": f"c{k}", "size": size, "found": int(size in FINDS[loss])} for k, of in enumerate(SIZES) for size in of
    ]


def test_scores_by_case_are_means_over_cases_then_seeds(instances, tmp_path):
    found = write_cases(tmp_path)
    runs = instances.score_runs(found)
    lines = instances.scores_table(runs, found.losses, 3)
    assert lines[0] == "| score | `CE` | `B` | `C` |"
    assert cells(lines, "lesion F1")[0] == f"0.500 ± {T * 0.1 / math.sqrt(3):.3f}"
    assert cells(lines, "precision of lesions") == ["0.300 ± 0.000"] * 3
    assert cells(lines, "recall of small lesions") == ["0.500 ± 0.000", "1.000 ± 0.000", "0.000 ± 0.000"]
    lines = instances.recall_table(runs, found.losses, 3)
    assert cells(lines, "from 1 to 8 (2)") == ["0.500 ± 0.000", "1.000 ± 0.000", "0.000 ± 0.000"]
    assert cells(lines, "above 25 to 42.5 (2)") == ["1.000 ± 0.000"] * 3


def test_a_case_is_averaged_over_seeds_before_cases_are_compared(instances, tmp_path):
    """Four cases of one sign have p = 2 / 2^4, doubled by Holm; the seeds are those of the tables of runs."""
    found = write_cases(tmp_path)
    lines = instances.differences_table(instances.score_runs(found), found.losses, "CE")
    b, c = (line.strip("| ").split(" | ")[2:] for line in lines if line.startswith("| lesion F1"))
    mean, low, high = (float(number) for number in re.findall(r"[+-][.\d]+", b[0]))
    assert mean == 0.1
    assert 0.04 <= low < 0.08
    assert 0.12 < high <= 0.16
    assert b[1] == c[1] == "0.250"
    assert b[2:5] == [f"{0.05 * math.sqrt(3):.3f}", "+0.100 ± 0.215", "0.184"]
    assert c[3:5] == ["+0.120 ± 0.086", "0.053"]
    assert (b[5], c[5]) == ("above over cases, not shown over seeds", "above")
    b, c = (line.strip("| ").split(" | ")[2:] for line in lines if "small" in line)
    assert b[0] == "+0.500 [+0.000, +1.000]"
    assert c[0] == "-0.500 [-1.000, +0.000]"
    assert b[5] == c[5] == "no difference shown"


def test_seeds_that_one_side_lacks_take_no_part(instances, tmp_path):
    write_cases(tmp_path)
    record = json.loads((tmp_path / "B" / "seed2" / "metrics.json").read_text())
    (tmp_path / "B" / "seed2" / "metrics.json").write_text(json.dumps(record | {"status": "failed", "val": None}))
    runs = instances.score_runs(read_results(tmp_path))
    b = instances.Difference.of(runs, "lesion_f1", "B", "CE")
    assert len(runs) == 8
    assert b.by_seed == pytest.approx([0.05, 0.05])
    assert b.cases.mean == pytest.approx(0.05)


def test_the_page_of_instances_is_written_between_the_markers_of_its_data(instances, tmp_path, capsys):
    write_cases(tmp_path / "runs")
    page = tmp_path / "page.md"
    page.write_text("<!-- table other -->kept<!-- table other --><!-- table town -->old<!-- table town -->below")
    arguments = [str(tmp_path / "runs"), str(page), "--baseline", "CE", "--about", "simulated"]
    instances.main(arguments)
    text = page.read_text()
    assert text.startswith("<!-- table other -->kept<!-- table other --><!-- table town -->\n\ntown: 9 training")
    assert text.endswith("\n\n<!-- table town -->below")
    assert text.count("town (simulated). ") == 3
    assert "up to 8, 2 of 8, in 2 of 4 cases" in text
    assert "- Lesions are blobs.\n\n" in text
    assert "| lesion F1 |" in text
    for wrong, message in (([str(tmp_path)], "expected compare.json"), ([*arguments[:2]], "one of 'CE', 'B', 'C'")):
        with pytest.raises(SystemExit):
            instances.main(wrong)
        assert message in capsys.readouterr().err
    write_cases(tmp_path / "pictures", crop=(32, 32))
    instances.main([str(tmp_path / "pictures"), str(page), "--baseline", "CE"])
    assert "| object F1 |" in page.read_text()
    assert "small lesions" not in page.read_text()
    write_cases(tmp_path / "mixed", B=["A lesion is found if half of it is."])
    with pytest.raises(SystemExit):
        instances.main([str(tmp_path / "mixed"), "--baseline", "CE"])
    assert "same lesions by the same conventions" in capsys.readouterr().err


def test_a_run_is_scored_once(instances, tmp_path, monkeypatch):
    """Truth: lesions of 1 and of 2 pixels; prediction: the larger one, and one pixel elsewhere."""
    truth, prediction = np.array([[1, 0, 0, 1, 1, 0, 0]]), np.array([[0, 0, 0, 1, 1, 0, 1]])
    scored = []

    def evaluate(folder, data, split, progress, worst, out):
        case = Case("c0", prediction, truth, (1.0, 1.0), None, folder)
        labelling = Labelling(("road", "bike"), (1,))
        found = evaluate_cases([case], 1, labelling, 2, Conventions(), worst, progress)
        write_evaluation(out, found, {"split": split})
        scored.append(folder.name)
        return {}, found, out

    monkeypatch.setattr(instances, "evaluate_run", evaluate)
    found = write_cases(tmp_path)
    for run in found.runs:
        (run.folder / "instances-val" / "lesions.csv").unlink()
    for _ in range(2):
        runs = instances.score_runs(found)
    assert scored == ["seed0", "seed1", "seed2"] * 3
    assert runs[0].lesions == {"c0": [(1.0, False), (2.0, True)]}
    assert runs[0].values["c0"] | {"dice": 0} == {
        "lesion_f1": 0.5,
        "lesion_sensitivity": 0.5,
        "lesion_precision": 0.5,
        "false_positives": 1,
        "dice": 0,
        "pq": 0.5,
    }
    assert runs[0].score("small_recall") == {"c0": 0.0}


def test_false_positive_mass_of_patches(script):
    """Of 2 x 4 patches: one with lesions of 1 and 3 pixels, one with a lesion of 2 beside ignored pixels, and none."""
    mass = importlib.import_module("false_positive_mass")
    labels = np.array([[1, 0, 1, 1, 0, 1, 1, 9, 0, 0, 0, 0, 1], [0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0, 1]])
    probability = np.full(labels.shape, 0.5)
    probability[0, 0], probability[0, 5] = 0.0, 1.0
    (first, sizes), (second, size) = found = mass.masses(probability, labels, (2, 4))
    assert (first, second) == (2.0, 2.0)
    assert (sizes.tolist(), size.tolist()) == ([1, 3], [2])
    assert mass.line("a/seed0", found) == "| a/seed0 | 2 | 3 | 2.0 | 1.5, 2, 2.5 | 33 |"
