"""Overlays pixel by pixel, and what the figures draw."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_folders import PALETTE, write_comparison, write_single

from delineate.report import read_results
from delineate.report.figures import loss_curves, miou_curves
from delineate.report.intervals import class_dots
from delineate.report.overlays import VOID, WRONG, Gallery, gallery
from delineate.report.results import Comparison
from delineate.report.series import Series


def pixels(uri: str) -> np.ndarray:
    """The RGB pixels of a data URI."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"))


def samples(comparison: Comparison) -> Gallery:
    """The gallery of the samples."""
    return gallery(comparison, comparison.samples)


def test_overlays_match_the_index_images(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path, ["CE", "Dice"], [0])
    shown = samples(read_results(folder))
    sample = shown.samples[0]
    truth = np.asarray(Image.open(folder / "samples" / "street01.truth.png"))
    labels = np.asarray(Image.open(folder / "Dice" / "seed0" / "samples" / "street01.pred.png"))
    void, wrong = truth == 255, (truth != labels) & (truth != 255)

    assert pixels(sample.image).shape == (44, 60, 3)
    assert np.array_equal(pixels(sample.predictions[1].labels), np.array(PALETTE)[labels])
    assert np.array_equal(pixels(sample.truth)[~void], np.array(PALETTE)[truth[~void]])
    errors = pixels(sample.predictions[1].errors)
    assert np.array_equal((errors == WRONG).all(axis=2), wrong)
    assert {tuple(map(int, pixel)) for pixel in errors[void]} == set(VOID)
    correct = errors[~void & ~wrong]
    assert (correct == correct[:, :1]).all()  # grey
    assert sample.predictions[1].wrong == pytest.approx(100 * wrong.sum() / (~void).sum())


def test_the_legend_lists_what_occurs(tmp_path: Path) -> None:
    shown = samples(read_results(write_single(tmp_path / "run")))
    assert shown.void
    assert shown.legend[:2] == [("sky", "#808080"), ("road & kerb", "#804080")]
    assert len(shown.legend) == 6


def test_large_samples_are_shown_smaller(tmp_path: Path) -> None:
    folder = write_single(tmp_path / "run")
    for path in (folder / "samples").glob("street01*"):
        Image.open(path).resize((800, 600), Image.Resampling.NEAREST).save(path)
    sample = samples(read_results(folder)).samples[0]
    assert {pixels(uri).shape for uri in (sample.image, sample.truth, sample.predictions[0].errors)} == {(270, 360, 3)}


def test_a_loss_without_a_prediction_is_left_out(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path, ["CE", "Dice"], [0], CE="failed")
    assert [prediction.index for prediction in samples(read_results(folder)).samples[0].predictions] == [1]


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (Image.new("L", (60, 44), 8), "expected labels below 8, the number of classes, got 8"),
        (Image.new("L", (59, 44)), r"of \(60, 44\) pixels, got L of \(59, 44\)"),
        (Image.new("RGB", (60, 44)), "expected an index PNG"),
    ],
)
def test_wrong_index_images_are_named(tmp_path: Path, picture: Image.Image, expected: str) -> None:
    folder = write_single(tmp_path / "run")
    picture.save(folder / "samples" / "street01.pred.png")
    with pytest.raises(ValueError, match=r"street01\.pred\.png: .*" + expected):
        samples(read_results(folder))


def test_zero_and_absent_are_drawn_apart(tmp_path: Path) -> None:
    comparison = read_results(write_comparison(tmp_path, ["CE", "Dice"], [0]))
    svg = class_dots(comparison, comparison.data.by_share)
    assert svg is not None
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert texts.count("0.00") == 2  # the missed class, for each loss
    assert texts.count("absent") == 1  # once for all losses
    assert "道路 $x$" in texts
    assert "1.10 %" in texts
    assert "rare: below 2 %" in texts


@pytest.mark.parametrize("count", [1, 10])
def test_every_loss_has_its_colour_in_every_figure(tmp_path: Path, count: int) -> None:
    comparison = read_results(write_comparison(tmp_path, [f"L{i}" for i in range(count)], [0, 1]))
    dots, curves, panels = (
        class_dots(comparison, comparison.data.by_share),
        miou_curves(comparison),
        loss_curves(comparison),
    )
    assert len({Series(i).color for i in range(count)}) == len({Series(i).marker for i in range(count)}) == count
    for index in range(count):
        for svg in (dots, curves, panels[index][1], Series(index).chip):
            assert f"var(--s{index}" in (svg or "")


def test_more_than_ten_losses_stay_apart() -> None:
    looks = {(Series(i).color, Series(i).marker) for i in range(30)}
    assert len(looks) == 30


def test_one_epoch_has_one_tick(tmp_path: Path) -> None:
    folder = write_single(tmp_path / "run")
    (folder / "metrics.csv").write_text("epoch,step,lr,train/loss,val/miou\n0,0,0.1,1.5,\n0,46,,,0.25\n")
    svg = miou_curves(read_results(folder)) or ""
    ticks = re.findall(r">([\d.−]+)</text>", svg)
    assert [tick for tick in ticks if tick == "1" or float(tick) > 0.9] == ["1"]


def test_without_curves_there_is_no_figure(tmp_path: Path) -> None:
    folder = write_single(tmp_path / "run")
    (folder / "metrics.csv").unlink()
    comparison = read_results(folder)
    assert miou_curves(comparison) is None
    assert loss_curves(comparison) == []
