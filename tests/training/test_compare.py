"""The main job, small: two losses on a toy data set, through the command line."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from delineate.cli import main
from delineate.data import open_source
from delineate.data.demo import make_streets
from delineate.training.compare import _alike
from delineate.training.run import Watch

LOSSES = ["CE", "Dice + 0.5*TopK(k=0.2)"]
FAST = ["--batch_size", "4", "--workers", "0", "--crop", "64", "64"]
ONE_SEED = [*FAST, "--seeds", "1"]


@pytest.fixture(scope="module")
def streets(tmp_path_factory):
    return make_streets(tmp_path_factory.mktemp("data") / "streets", n_train=12, n_val=4, size=(64, 80))


@pytest.fixture(scope="module")
def compared(streets, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "compare"
    main(["compare", str(streets), "--losses", *LOSSES, "--epochs", "2", "--out", str(out), *ONE_SEED])
    return out


def load(path):
    return json.loads(path.read_text())


def test_every_loss_has_the_same_start_and_batches(compared):
    found = load(compared / "compare.json")
    runs = [load(compared / run / "metrics.json") for run in found["runs"]]
    assert found["status"] == "finished"
    assert found["losses"] == [run["loss"] for run in runs] == LOSSES
    assert len({run["initial_weights"] for run in runs}) == 1
    assert len({run["batches"] for run in runs}) == 1
    assert None not in {run["batches"] for run in runs}
    assert found["same_start"]
    assert found["same_batches"]
    assert [run["cost"]["steps"] for run in runs] == [6, 6]


def test_scores_are_those_of_the_last_weights_on_the_val_split(compared, streets, capsys):
    run = compared / "ce/seed0"
    before = load(run / "metrics.json")["val"]
    main(["evaluate", str(run)])
    after = load(run / "evaluation-val/metrics.json")
    assert after["miou"] == pytest.approx(before["miou"], abs=1e-6)
    assert after["iou"] == before["iou"]
    with (run / "evaluation-val/per_image.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    with (run / "evaluation-val/per_case.csv").open() as file:
        cases = list(csv.DictReader(file))
    assert len(cases) == 4 * len(after["cases"]["classes"])
    assert {row["case"] for row in cases} == {row["id"] for row in rows}
    assert "One confusion matrix" in capsys.readouterr().out


def test_predictions_are_written_in_the_images_own_size_and_agree_with_the_samples(compared, streets, tmp_path):
    out = tmp_path / "predictions"
    main(["predict", str(compared / "ce/seed0"), str(streets / "JPEGImages"), "-o", str(out)])
    assert len(list(out.glob("*.png"))) == 16
    for sample in (compared / "ce/seed0/samples").glob("*.pred.png"):
        labels = np.array(Image.open(sample))
        assert labels.shape == (64, 80)
        assert np.array_equal(labels, np.array(Image.open(out / sample.name.replace(".pred", ""))))


def test_everything_a_run_needs_is_in_its_folder(compared):
    for name in ("report.html", "leaderboard.csv", "config.yaml", "env.json", "compare.json"):
        assert (compared / name).stat().st_size > 50
    run = compared / "dice-0.5-topk-k-0.2/seed0"
    for name in ("config.yaml", "env.json", "metrics.csv", "metrics.json", "checkpoints/last.ckpt"):
        assert (run / name).stat().st_size > 50
    assert list((run / "logs/0").glob("events.out.tfevents*"))
    header = (run / "metrics.csv").read_text().splitlines()[0]
    assert {"epoch", "step", "train/loss", "train/loss/Dice(ignore_index=255)", "val/miou"} <= set(
        re.split(",", header)
    )
    page = (compared / "report.html").read_text()
    for name in ("bicyclist", "pedestrian", "pole", *LOSSES):
        assert name in page
    table = (compared / "leaderboard.csv").read_text()
    assert all(loss in table for loss in LOSSES)


def test_the_config_repeats_the_run_exactly(compared, tmp_path):
    run = compared / "ce/seed0"
    main(["train", "--config", str(run / "config.yaml"), "--out", str(tmp_path / "again")])
    again, first = load(tmp_path / "again/metrics.json"), load(run / "metrics.json")
    assert again["initial_weights"] == first["initial_weights"]
    assert again["batches"] == first["batches"]
    assert again["val"]["iou"] == pytest.approx(first["val"]["iou"], abs=1e-3)
    assert (tmp_path / "again/report.html").is_file()


def test_existing_results_are_never_overwritten(compared, streets, capsys):
    before = (compared / "compare.json").read_text()
    with pytest.raises(SystemExit) as stop:
        main(["compare", str(streets), "--out", str(compared), *ONE_SEED])
    assert stop.value.code == 2
    assert "--resume" in capsys.readouterr().err
    assert (compared / "compare.json").read_text() == before


def test_a_comparison_can_be_extended_but_not_under_other_conditions(compared, streets, capsys):
    kept = (compared / "ce/seed0/checkpoints/last.ckpt").stat().st_mtime_ns
    more = ["compare", str(streets), "--losses", *LOSSES, "Focal", "--out", str(compared), *ONE_SEED]
    more += ["--resume", "true"]
    main([*more, "--epochs", "2"])
    found = load(compared / "compare.json")
    assert found["losses"] == [*LOSSES, "Focal"]
    assert (compared / "ce/seed0/checkpoints/last.ckpt").stat().st_mtime_ns == kept
    with pytest.raises(SystemExit):
        main([*more, "--epochs", "3"])
    assert "epochs = 2" in capsys.readouterr().err


def test_stopped_by_ctrl_c_and_continued_equals_never_stopped(streets, tmp_path, monkeypatch, capsys):
    options = ["train", str(streets), "--loss", "CE", "--epochs", "3", *FAST]
    main([*options, "--out", str(tmp_path / "whole")])

    epoch_end = Watch.on_train_batch_start

    def stop(self, trainer, module, batch, batch_idx):
        epoch_end(self, trainer, module, batch, batch_idx)
        if trainer.current_epoch == 2 and batch_idx == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Watch, "on_train_batch_start", stop)
    out = tmp_path / "stopped"
    with pytest.raises(SystemExit) as stopped:
        main([*options, "--out", str(out)])
    assert stopped.value.code == 130
    assert load(out / "metrics.json")["status"] == "interrupted"
    command = re.search(r"delineate (train --config .*)", capsys.readouterr().err).group(1).split()
    monkeypatch.undo()
    main(command)

    states = [
        torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in (tmp_path / "whole", out)
    ]
    for name, whole in states[0].items():
        torch.testing.assert_close(
            states[1][name], whole, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert load(out / "metrics.json")["status"] == "finished"
    rows = [row for row in csv.DictReader((out / "metrics.csv").read_text().splitlines()) if row["val/miou"]]
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]


def test_a_loss_that_is_not_finite_fails_its_run_and_not_the_comparison(streets, tmp_path, capsys):
    out = tmp_path / "compare"
    main(["compare", str(streets), "--losses", "CE", "1e39*CE", "--epochs", "1", "--out", str(out), *ONE_SEED])
    runs = [load(out / run / "metrics.json") for run in load(out / "compare.json")["runs"]]
    assert [run["status"] for run in runs] == ["finished", "failed"]
    assert "lower --lr" in runs[1]["error"]
    assert re.search("the loss is (inf|nan) at step", runs[1]["error"])
    assert "failed" in (out / "report.html").read_text()
    assert "delineate: error: 1e39*CE, seed 0: the loss is" in capsys.readouterr().err


def test_a_training_that_fails_ends_in_one_line_and_exit_code_2(streets, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", str(streets), "--loss", "1e39*CE", "--epochs", "1", "--out", str(tmp_path / "run"), *FAST])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "lower --lr" in lines[0]
    assert load(tmp_path / "run/metrics.json")["status"] == "failed"


def test_an_unreadable_image_found_while_training_is_named(streets, tmp_path, capsys):
    broken = make_streets(tmp_path / "broken", n_train=8, n_val=2, size=(64, 80), seed=1)
    image = open_source(broken).items("train")[0].image
    image.write_bytes(image.read_bytes()[:600])
    with pytest.raises(SystemExit) as stop:
        main(
            [
                "train",
                str(broken),
                "--epochs",
                "1",
                "--out",
                str(tmp_path / "run"),
                "--batch_size",
                "8",
                "--crop",
                "64",
                "64",
            ]
        )
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert image.name in error
    assert error.startswith("delineate: error: ")


def test_weights_that_would_run_code_are_refused(compared, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(compared / "ce/seed0", run)

    class Harmful:
        def __reduce__(self):
            return (print, ("this must never run",))

    torch.save({"state_dict": Harmful()}, run / "checkpoints/last.ckpt")
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(run)])
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert "never run" not in captured.out
    assert "last.ckpt" in captured.err


def test_a_run_is_only_continued_with_the_arguments_it_was_made_with(compared, streets, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(compared / "ce/seed0", run)
    before = (run / "config.yaml").read_text()
    options = ["train", str(streets), "--out", str(run), "--resume", "true", "--epochs", "2", *FAST]
    for change, word in ((["--loss", "Dice"], "loss = 'CE'"), (["--loss", "CE", "--lr", "0.5"], "lr = 0.001")):
        with pytest.raises(SystemExit) as stop:
            main([*options, *change])
        assert stop.value.code == 2
        assert word in capsys.readouterr().err
        assert (run / "config.yaml").read_text() == before


def test_no_claim_of_a_fair_start_before_there_is_evidence():
    assert _alike([], "batches") is None
    assert _alike([{"seed": 0, "batches": None}], "batches") is None
    assert _alike([{"seed": 0, "batches": "a"}, {"seed": 0, "batches": "a"}, {"seed": 1, "batches": "b"}], "batches")
    assert _alike([{"seed": 0, "batches": "a"}, {"seed": 0, "batches": "b"}], "batches") is False
    shares = [{"seed": 0, "labeled": share, "batches": share} for share in ("1/8", "1/4")]
    assert _alike(shares, "batches")
    assert _alike([*shares, {"seed": 0, "labeled": "1/4", "batches": "c"}], "batches") is False


def test_evaluating_other_data_keeps_what_was_there(compared, streets, tmp_path):
    run, other = tmp_path / "run", tmp_path / "other"
    shutil.copytree(compared / "ce/seed0", run)
    shutil.copytree(streets, other)
    main(["evaluate", str(run)])
    first = (run / "evaluation-val/metrics.json").read_text()
    main(["evaluate", str(run), "--data", str(other), "--split", "train"])
    main(["evaluate", str(run), "--data", str(other)])
    assert (run / "evaluation-val/metrics.json").read_text() == first
    assert load(run / "evaluation-other-val/metrics.json")["images"] == 4
    assert load(run / "evaluation-other-train/metrics.json")["images"] == 12


def test_a_split_without_masks_cannot_be_scored(compared, streets, tmp_path, capsys):
    data = tmp_path / "streets"
    shutil.copytree(streets, data)
    shutil.copy(next((data / "JPEGImages").iterdir()), data / "JPEGImages" / "unlabelled.jpg")
    (data / "ImageSets/Segmentation/test.txt").write_text("unlabelled\n")
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(compared / "ce/seed0"), "--data", str(data), "--split", "test"])
    assert stop.value.code == 2
    assert "unlabelled" in capsys.readouterr().err
