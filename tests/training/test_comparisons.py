"""Comparisons beyond the plain one: rates searched, trainings at once and killed, a budget, advice, worst cases."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from delineate.cli import main
from delineate.data import open_source
from delineate.data.demo import make_streets
from delineate.data.picture import read_size
from delineate.evaluation import CaseCounts
from delineate.training import pace
from delineate.training.arms import arms_of
from delineate.training.compare import Terms
from delineate.training.pace import epochs_for, seconds_of
from delineate.training.results import read_cases
from delineate.training.settings import Settings
from delineate.training.showcase import worst_cases
from delineate.training.sweep import _chosen, held_out
from losses.conftest import one_thread  # noqa: F401

TINY = ["--model", "training.tiny.Tiny"]
FAST = ["--batch_size", "4", "--workers", "0", "--crop", "64", "64"]
LOSSES = ["CE", "Dice"]
RATES = ["1e-5", "1e-2"]


@pytest.fixture(scope="module")
def streets(tmp_path_factory):
    return make_streets(tmp_path_factory.mktemp("data") / "streets", n_train=10, n_val=3, size=(64, 80))


def load(path):
    return json.loads(path.read_text())


def command(data, out, *options, losses=LOSSES):
    words = ["compare", data, "--losses", *losses, "--seeds", "1", "--epochs", "1", "--out", out, *FAST, *options]
    return [str(word) for word in words]


@pytest.fixture(scope="module")
def swept(streets, tmp_path_factory):
    """Two losses with a search for the learning rate."""
    out = tmp_path_factory.mktemp("runs") / "swept"
    main(command(streets, out, *TINY, "--lr_sweep", *RATES, "--sweep_epochs", "1"))
    return out


def test_the_chosen_rate_is_the_best_on_images_held_out_of_train(swept, streets):
    found = load(swept / "compare.json")["sweep"]
    assert found["rates"] == [1e-5, 1e-2]
    train = {item.id for item in open_source(streets).items("train")}
    for loss, of_loss in found["arms"].items():
        best = found["rates"][int(np.argmax(of_loss["scores"]))]
        assert of_loss["chosen"] == best
        run = swept / loss.lower() / "seed0"
        assert yaml.safe_load((run / "config.yaml").read_text())["lr"] == best
        looked_at = {case.id for case in read_cases(swept / "sweep" / loss.lower() / f"lr{best:g}")}
        assert looked_at < train
        assert len(looked_at) == found["images"] == 2
        assert {case.id for case in read_cases(run)} == {item.id for item in open_source(streets).items("val")}


def test_runs_record_the_scale_of_their_gradient(swept):
    norms = [load(swept / loss / "seed0/metrics.json")["gradient_norm"] for loss in ("ce", "dice")]
    assert all(norm > 0 for norm in norms)
    assert norms[0] != norms[1]


def test_a_search_that_is_continued_trains_nothing_twice(swept, streets):
    before = {path: path.stat().st_mtime_ns for path in swept.rglob("last.ckpt")}
    assert len(before) == 6
    main(command(streets, swept, *TINY, "--lr_sweep", *RATES, "--sweep_epochs", "1", "--resume", "true"))
    assert {path: path.stat().st_mtime_ns for path in swept.rglob("last.ckpt")} == before


def test_the_worst_cases_and_the_gradients_are_shown(swept, streets):
    found, about = load(swept / "compare.json"), load(swept / "gradients.json")
    assert len(found["worst"]) == 3
    cases = [read_cases(swept / loss / "seed0") for loss in ("ce", "dice")]
    assert found["worst"] == worst_cases(cases, range(len(open_source(streets).classes)))
    for name in found["worst"]:
        for path in (swept / f"samples/{name}.png", swept / f"samples/{name}.truth.png"):
            assert path.is_file()
        assert all((swept / loss / f"seed0/samples/{name}.pred.png").is_file() for loss in ("ce", "dice"))
    assert about["class"] in open_source(streets).classes
    assert about["id"] == found["samples"][0]
    for loss, shares in about["shares"].items():
        assert sum(shares.values()) == pytest.approx(1, abs=2e-3), loss
        shown = [swept / loss.lower() / "seed0/gradient.png", swept / f"samples/{about['id']}.png"]
        assert len({read_size(path) for path in shown}) == 1
    assert about["shares"]["CE"] != about["shares"]["Dice"]


def test_the_report_is_written(swept):
    page = (swept / "report.html").read_text()
    assert "No difference can be shown between the losses with one seed" in page


def counts(name, dice):
    return CaseCounts(name, (0, round(100 * dice)), (50, 100), (50, 100), {})


def test_worst_cases_are_those_of_the_lowest_mean_dice():
    of_runs = [(0.1, 0.2, 0.9, 1), (0.8, 0.3, 0.1, 1)]
    runs = [[counts(name, dice) for name, dice in zip("abcd", dices, strict=True)] for dices in of_runs]
    assert worst_cases(runs, [1]) == ["b", "a", "c"]


def test_images_held_out_are_a_fifth_of_train_and_none_of_val(streets):
    source = open_source(streets)
    part = held_out(source)
    ids = [[item.id for item in part.items(split)] for split in ("train", "val")]
    assert [len(of) for of in ids] == [8, 2]
    assert sorted(ids[0] + ids[1]) == sorted(item.id for item in source.items("train"))


def test_equal_scores_choose_the_smaller_rate_and_none_is_refused(streets):
    [arm] = arms_of(str(streets), ["CE"], Settings())
    assert _chosen(arm, [0.1, 0.01, 1.0], [0.5, 0.5, None]) == 0.01
    with pytest.raises(ValueError, match="did not stay finite"):
        _chosen(arm, [0.1, 0.01], [None, None])


def start(words, **environment):
    paths = [str(Path(__file__).parents[level]) for level in (1, 2)]
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        [sys.executable, "-m", "delineate", *words], env=os.environ | environment, capture_output=True, text=True
    )


@pytest.mark.usefixtures("one_thread")
def test_trainings_at_once_are_those_one_by_one_and_a_killed_one_is_told(streets, tmp_path):
    """Two at once whose second forward pass kills them; then continued, in one process."""
    drawing = ["--model", "training.tiny.Drawing", "--epochs", "2"]
    words = command(streets, tmp_path / "a", *drawing, "--parallel", "2", losses=["CE", "Focal"])
    killed = start(words, KILL_IN_PASS="4")  # in the second epoch
    assert killed.returncode == 2
    assert "was killed (SIGKILL)" in killed.stderr
    assert "--resume true" in killed.stderr
    assert load(tmp_path / "a/compare.json")["status"] == "interrupted"
    assert (tmp_path / "a/ce/seed0/checkpoints/last.ckpt").is_file()
    main([*words[:-1], "1", "--resume", "true"])
    main([*command(streets, tmp_path / "b", *drawing, losses=["CE", "Focal"])])
    for loss in ("ce", "focal"):
        alone, continued = (load(tmp_path / name / loss / "seed0/metrics.json") for name in "ba")
        assert continued["val"] == alone["val"]
        assert continued["batches"] == alone["batches"]
        assert continued["gradient_norm"] == pytest.approx(alone["gradient_norm"], rel=1e-5)


def test_the_budget_decides_the_epochs(streets, monkeypatch):
    """Two arms, three seeds: 6 x 10 s an epoch, 2 passes of 1 s over val after each; a tenth is kept back."""
    monkeypatch.setattr(pace, "_seconds", lambda arm: {"seconds_per_epoch": 10.0, "seconds_of_val": 1.0})
    arms = arms_of(str(streets), LOSSES, Settings())
    epochs, measured = epochs_for(600, arms, 3, 1)
    assert epochs == int((540 - 12) / 60)
    assert set(measured) == set(LOSSES)
    assert epochs_for(600, arms, 3, 2)[0] == int((1080 - 12) / 60)
    assert epochs_for(600, arms, 3, 1, sweep=(3, 1))[0] == int((540 - 12 - 3 * (20 + 4)) / 60)
    with pytest.raises(ValueError, match=r"one epoch of 2 x 3 trainings takes about 80 s; got 30 s"):
        epochs_for(30, arms, 3, 1)


def test_a_budget_is_measured_kept_and_continued(streets, tmp_path, capsys):
    words = command(streets, tmp_path / "a", *TINY, "--budget", "6s", losses=["CE"])
    place = words.index("--epochs")
    words = words[:place] + words[place + 2 :]
    main(words)
    found = load(tmp_path / "a/compare.json")
    measured, epochs = found["time_budget"]["measured"]["CE"], found["time_budget"]["epochs"]
    assert 0 < measured["seconds_of_val"] < measured["seconds_per_epoch"]
    assert found["budget"]["epochs"] == epochs == yaml.safe_load((tmp_path / "a/config.yaml").read_text())["epochs"]
    main([*words, "--resume", "true"])
    assert load(tmp_path / "a/compare.json")["time_budget"] == found["time_budget"]
    assert capsys.readouterr().out.count(f"--budget 6s allows {epochs} epochs") == 2


def test_durations():
    assert [seconds_of(text) for text in ("45s", "1.5h", "1h 30min")] == [45, 5400, 5400]
    for text in ("30", "min", "0s", "30 min later", "-5min"):
        with pytest.raises(ValueError, match="--budget"):
            seconds_of(text)


def test_auto_takes_the_advice_and_says_why(streets, tmp_path, capsys):
    main(command(streets, tmp_path / "a", *TINY, losses=["Focal", "auto"]))
    found, said = load(tmp_path / "a/compare.json"), capsys.readouterr().out
    assert found["losses"][0] == "Focal"
    assert len(found["losses"]) == len(set(found["losses"])) > 2
    assert found["advice"]
    for one in found["advice"]:
        assert one["loss"] in found["losses"]
        assert one["figure"] in said
    assert yaml.safe_load((tmp_path / "a/config.yaml").read_text())["losses"] == found["losses"]


@pytest.mark.parametrize(
    ("options", "message"),
    {
        "metric": (["--metric", "accuracy"], "--metric: expected one of miou, dice, f1"),
        "one rate": (["--lr_sweep", "1e-3"], "--lr_sweep: expected two different rates"),
        "equal rates": (["--lr_sweep", "1e-3", "0.001"], "--lr_sweep: expected two different rates"),
        "parallel": (["--parallel", "0"], "--parallel: expected a whole number"),
        "budget": (["--budget", "soon"], "--budget: expected a duration"),
        "both": (["--budget", "30min"], "--budget, --epochs: expected one of them"),
        "bad images": (["--bad_images", "ignore"], "--bad_images: expected one of refuse, skip"),
        "devices": (["--devices", "2"], "--devices, --nodes: expected 1 with compare"),
    }.values(),
)
def test_terms_that_mean_nothing_are_refused_before_anything_is_written(streets, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as stopped:
        main(command(streets, tmp_path / "a", *TINY, *options))
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_what_decides_follows_from_the_data(streets):
    source = open_source(streets)
    assert Terms().measure(source).key == "miou"
    assert Terms().measure(replace(source, layout="nnunet", dims=3)).key == "dice"
    assert Terms(metric="f1").measure(source).title == "object F1 by case"
