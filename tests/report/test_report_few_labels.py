"""Methods of few labels by share: every number against numpy and scipy, and no more said than they show."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_folders import edit_json, networks, write_comparison, write_few_labels, write_single
from scipy.stats import t, ttest_1samp
from test_report_page import Tables

from delineate.cli import _finish
from delineate.report import grid, read_results, verdict, write_few_labels_csv, write_report
from delineate.report.few_labels import Interval, arm_series
from delineate.report.figures import share_curves

IMAGES = {"1/8": 46, "1/16": 23}  # not in their order
SCORES: dict[tuple[str, str, str], list[float | None]] = {
    ("supervised", "1/8", "CE"): [0.36, 0.35, 0.37],
    ("dssn", "1/8", "CE"): [0.412, 0.405, 0.421],
    ("fixmatch", "1/8", "CE"): [0.39, 0.37, 0.41],
    ("supervised", "1/16", "CE"): [0.30, 0.32, 0.31],
    ("dssn", "1/16", "CE"): [0.31, 0.30, 0.35],
    ("fixmatch", "1/16", "CE"): [0.30, 0.33, 0.30],
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of `SCORES`."""
    return write_report(write_few_labels(tmp_path_factory.mktemp("few"), SCORES, IMAGES)).read_text()


def half(values: list[float]) -> float:
    """Half the 95 % t interval, from scipy."""
    return float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))


def seeds(count: int) -> dict[tuple[str, str, str], list[float | None]]:
    """The scores of the first seeds."""
    return {place: values[:count] for place, values in SCORES.items()}


def table(page: str) -> dict[str, list[str]]:
    """The first table of the page: the texts of each row by its first cell."""
    rows = Tables(page).tables[0]
    return {row[0][0]: [text for text, _ in row[1:]] for row in rows}


def test_the_table_shows_means_intervals_and_paired_differences(page: str) -> None:
    shown = table(page)
    assert shown.pop("method") == ["1/16 23 labelled", "1/8 46 labelled"]
    assert list(shown) == ["supervised", "dssn", "fixmatch"]
    for method, cells in shown.items():
        for share, cell in zip(("1/16", "1/8"), cells, strict=True):
            values, base = np.array(SCORES[method, share, "CE"]), np.array(SCORES["supervised", share, "CE"])
            expected = f"{values.mean():.3f} ± {half(list(values)):.3f}"
            if method != "supervised":
                low, high = ttest_1samp(values - base, 0).confidence_interval(0.95)
                expected += f" {(values - base).mean():+.3f} [{low:+.3f}, {high:+.3f}]".replace("-", "−")
            assert cell == expected


def test_the_best_of_each_share_is_marked(page: str) -> None:
    rows = Tables(page).tables[0]
    best = {(row[0][0], column) for row in rows for column in (1, 2) if row[column][1].get("class") == "best"}
    assert best == {("dssn", 1), ("dssn", 2)}


def test_the_csv_holds_every_number_unrounded(tmp_path: Path) -> None:
    found = grid(read_results(write_few_labels(tmp_path, SCORES, IMAGES)))
    assert found is not None
    with write_few_labels_csv(found, tmp_path / "few_labels.csv").open(encoding="utf-8") as file:
        rows = {(row["method"], row["labeled"]): row for row in csv.DictReader(file)}
    assert len(rows) == 6
    values = np.array(SCORES["dssn", "1/8", "CE"])
    gains = values - np.array(SCORES["supervised", "1/8", "CE"])
    expected = {"miou": values.mean(), "half_interval": half(list(values)), "seeds": 3, "pairs": 3}
    expected |= {"difference": gains.mean(), "difference_low": gains.mean() - half(list(gains))}
    expected |= {"difference_high": gains.mean() + half(list(gains)), "labelled_images": 46, "unlabelled_images": 321}
    expected |= {"teacher_last": values.mean() + 0.01, "student_best": values.mean() + 0.02}
    expected |= {"teacher_best": values.mean() + 0.03}
    row = rows["dssn", "1/8"]
    assert row["loss"] == "CE"
    for key, value in expected.items():
        assert float(row[key]) == pytest.approx(value, rel=1e-12), key
    base = rows["supervised", "1/8"]
    assert base["difference"] == base["difference_low"] == base["teacher_last"] == ""


def test_differences_pair_only_seeds_that_both_have(tmp_path: Path) -> None:
    scores = SCORES | {
        ("supervised", "1/8", "CE"): [0.36, None, 0.37],
        ("dssn", "1/8", "CE"): [0.412, 0.405, None],
        ("fixmatch", "1/8", "CE"): [None, None, None],
    }
    cells = table(write_report(write_few_labels(tmp_path, scores, IMAGES)).read_text())
    assert cells["supervised"][1].endswith("2 of 3 seeds")
    assert cells["dssn"][1] == f"0.408 ± {half([0.412, 0.405]):.3f} +0.052 2 of 3 seeds"  # one pair: no interval
    assert cells["fixmatch"][1] == "– interrupted"


def test_runs_that_never_started_are_told(tmp_path: Path) -> None:
    folder = write_few_labels(tmp_path, SCORES, IMAGES, status="interrupted")
    runs = json.loads((folder / "compare.json").read_text())["runs"]
    edit_json(folder / "compare.json", runs=[run for run in runs if not run.startswith("arm5")])
    assert table(write_report(folder).read_text())["fixmatch"][0] == "– not run"
    sentences = verdict(read_results(folder))
    assert sentences[-2] == "Without a score: fixmatch, 1/16, CE."
    assert sentences[-1] == "The comparison was interrupted: 15 of 18 runs finished."


def test_each_loss_has_its_own_baseline(tmp_path: Path) -> None:
    scores = {(method, "1/8", loss): SCORES[method, "1/8", "CE"] for method in ("supervised", "dssn") for loss in "AB"}
    scores["supervised", "1/8", "B"] = [0.5, 0.5, 0.6]
    rows = table(write_report(write_few_labels(tmp_path, scores, {"1/8": 46})).read_text())
    assert list(rows)[1:] == ["supervised, A", "supervised, B", "dssn, A", "dssn, B"]
    assert "+0.053" in rows["dssn, A"][0]
    assert "−0.121" in rows["dssn, B"][0]
    assert "[" not in rows["supervised, B"][0]


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        (
            {},
            "dssn reaches 0.413 mIoU at 1/8, +0.053 [+0.047, +0.058] over labelled images alone; "
            "at 1/16 no difference can be shown.",
        ),
        (
            {("dssn", "1/8", "CE"): [0.32, 0.31, 0.33], ("fixmatch", "1/8", "CE"): [0.31, 0.30, 0.31]},
            "dssn reaches 0.320 mIoU at 1/8, -0.040 [-0.040, -0.040] against labelled images alone; "
            "at 1/16 no difference can be shown.",
        ),
        (
            {("dssn", "1/8", "CE"): [0.33, 0.43, 0.39], ("fixmatch", "1/8", "CE"): [0.45, 0.32, 0.41]},
            "No difference to labelled images alone can be shown: dssn reaches 0.320 mIoU at 1/16, "
            "fixmatch 0.393 at 1/8.",
        ),
        (
            {("fixmatch", "1/16", "CE"): [0.40, 0.42, 0.41]},
            "fixmatch reaches 0.410 mIoU at 1/16, +0.100 [+0.100, +0.100] over labelled images alone; "
            "dssn 0.413 at 1/8, +0.053 [+0.047, +0.058].",
        ),
        (
            {("fixmatch", "1/16", "CE"): [0.50, None, None]},  # fewer seeds do not lead
            "dssn reaches 0.413 mIoU at 1/8, +0.053 [+0.047, +0.058] over labelled images alone; "
            "at 1/16 no difference can be shown.",
        ),
    ],
)
def test_the_verdict_claims_what_intervals_show(tmp_path: Path, changes: dict[Any, Any], first: str) -> None:
    sentences = verdict(read_results(write_few_labels(tmp_path, SCORES | changes, IMAGES)))
    assert sentences[0] == first
    assert "intervals do not allow for that choice" in sentences[1]


@pytest.mark.parametrize(
    "values", [[0.001, 0.002, 0.0015], [0.001, 0.002, 0.0045], [-0.001, -0.002, -0.0015], [0.0, 0.0]]
)
def test_an_interval_holds_zero_where_the_t_test_does_not_reject_it(values: list[float]) -> None:
    found = Interval.of(values)
    assert found is not None
    assert found.holds_zero == (not any(values) or float(np.asarray(ttest_1samp(values, 0))[1]) > 0.05)


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    folder = write_few_labels(tmp_path, seeds(1), IMAGES)
    assert table(write_report(folder).read_text())["dssn"] == ["0.310 +0.010", "0.412 +0.052"]
    sentences = verdict(read_results(folder))
    assert sentences == [
        "dssn reaches 0.310 mIoU at 1/16, +0.010 over labelled images alone; 0.412 at 1/8, +0.052; "
        "one seed: no interval.",
        "At each share this is the method of 2 with the highest mIoU; with one seed that may be chance.",
    ]


def test_without_a_baseline_nothing_is_said_of_labelled_images_alone(tmp_path: Path) -> None:
    scores = {place: values for place, values in SCORES.items() if place[0] == "dssn"}
    sentences = verdict(read_results(write_few_labels(tmp_path, scores, IMAGES)))
    assert sentences[0] == "dssn reaches 0.320 mIoU at 1/16; 0.413 at 1/8."
    assert sentences[1].startswith("Nothing is said of labelled images alone")


def test_nothing_was_evaluated(tmp_path: Path) -> None:
    folder = write_few_labels(tmp_path, {place: [None] for place in SCORES}, IMAGES)
    assert verdict(read_results(folder)) == ["No method was evaluated on camvid <small> & co."]
    with pytest.raises(SystemExit):
        _finish(folder)
    assert table((folder / "report.html").read_text())["dssn"] == ["– interrupted", "– interrupted"]


def test_student_and_teacher_are_shown_with_a_warning(page: str) -> None:
    rows = [[text for text, _ in row] for row in Tables(page).tables[1]]
    assert rows[1] == ["1/16, 23 labelled"]
    assert rows[2] == ["supervised", "0.310", "0.330 epochs 2–4", "–", "–"]
    assert rows[6:8] == [
        ["supervised", "0.360", "0.380 epochs 2–4", "–", "–"],
        ["dssn", "0.413", "0.433 epochs 2–4", "0.423", "0.443 epoch 4"],
    ]
    assert "and therefore flatters" in page


def test_the_page_speaks_of_methods_and_states_its_conditions(page: str) -> None:
    assert "<title>Few labels on camvid" in page
    assert "3 methods × 2 labelled shares × 3 seeds" in page
    assert page.index('id="few-labels"') < page.index('id="leaderboard"')
    assert ">method</th>" in page.partition('id="leaderboard"')[2].partition("<tbody>")[0]
    assert "protocol: own." in page
    assert "are the same for all seeds and methods" in page
    assert "<dt>At 1/8</dt><dd>46 labelled and 321 unlabelled images; 184 steps in every run</dd>" in page
    assert "<dt>labeled</dt>" not in page  # of the first arm alone
    assert "Trained on" not in page
    assert "Yes; the fingerprints of the batches agree." in page  # share by share


def test_hostile_names_are_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad, share = "<script>alert('$x$')</script>[red]", "<b>/[bold]a.txt"
    scores = {(bad, share, "CE"): [0.4, 0.5], ("supervised", share, "CE"): [0.3, 0.3]}
    folder = write_few_labels(tmp_path, scores, {share: 3})
    _finish(folder)
    page = (folder / "report.html").read_text()
    assert page.count("<script>") == 1  # the page's own
    assert "<b>" not in page.partition("</head>")[2].partition('id="leaderboard"')[0]
    assert "&lt;script&gt;alert(&#39;$x$&#39;)&lt;/script&gt;[red]" in page
    shown = capsys.readouterr().out
    assert "[red]" in shown
    assert "[bold]a (3)" in shown


def test_the_terminal_shows_the_table_and_the_csv_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _finish(write_few_labels(tmp_path, SCORES | {("fixmatch", "1/16", "CE"): [None, 0.33, None]}, IMAGES))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["method,", "mIoU", "1/16", "(23)", "1/8", "(46)"] in lines
    assert ["supervised", "0.310", "±0.025", "0.360", "±0.025"] in lines
    assert ["fixmatch", "0.330", "(1", "of", "3", "seeds)", "0.390", "±0.050"] in lines
    assert (tmp_path / "few_labels.csv").read_text().count("\n") == 7


def test_losses_alone_have_no_section_of_few_labels(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path, ["CE", "Dice"], [0])
    before = write_report(folder).read_bytes()
    edit_json(folder / "compare.json", few_labels=None)
    edit_json(folder / "CE" / "seed0" / "metrics.json", semi=None, labeled=None, networks=networks(0.3, False, 0))
    _finish(folder)
    assert (folder / "report.html").read_bytes() == before
    assert b"few-labels" not in before
    assert not (folder / "few_labels.csv").exists()


@pytest.mark.parametrize(("semi", "shown"), [("dssn", True), (None, False)])
def test_a_single_run_shows_student_and_teacher(tmp_path: Path, semi: str | None, shown: bool) -> None:
    folder = write_single(tmp_path / "run")
    edit_json(folder / "metrics.json", semi=semi, labeled=semi and "1/8", networks=networks(0.4, True, 1))
    page = write_report(folder).read_text()
    rows = [[text for text, _ in row] for row in Tables(page).tables[1]]
    expected = [["student", "0.400", "0.420 epoch 3"], ["teacher", "0.410", "0.430 epoch 4"]]
    assert (rows[1:] == expected) == shown
    assert ("and therefore flatters" in page) == shown
    title = "dssn at 1/8" if shown else "Dice + CE"
    assert f"<h1>{title} on camvid" in page
    assert f"{title} reaches a validation mIoU of" in page


def figure(folder: Path) -> str:
    """The plot by share."""
    found = grid(read_results(folder))
    assert found is not None
    return share_curves(found) or ""


def markers(svg: str, color: int) -> list[tuple[float, float]]:
    """Where the large markers of a colour lie."""
    pattern = rf'x="([\d.]+)" y="([\d.]+)" style="fill: var\(--s{color}, #\w+\); stroke: var\(--paper'
    return [(float(x), float(y)) for x, y in re.findall(pattern, svg)]


def test_the_plot_is_logarithmic_in_images_and_dodges_methods(tmp_path: Path) -> None:
    images = {"1/16": 20, "1/8": 40, "1/2": 160}
    scores = {
        (method, share, "CE"): SCORES[method, "1/8", "CE"] for share in images for method in ("supervised", "dssn")
    }
    svg = figure(write_few_labels(tmp_path, scores, images))
    base, other = markers(svg, 0), markers(svg, 1)
    assert len(base) == len(other) == 3
    places = [x for x, _ in base]
    assert (places[2] - places[1]) / (places[1] - places[0]) == pytest.approx(2, rel=1e-3)
    assert all(5 < right[0] - left[0] < 20 for left, right in zip(base, other, strict=True))
    assert all(right[1] < left[1] for left, right in zip(base, other, strict=True))  # higher on the page
    for label in ("1/16 (20)", "1/8 (40)", "1/2 (160)", "labelled share (images)"):
        assert f">{label}</text>" in svg


@pytest.mark.parametrize("images", [{"a/labeled.txt": 46, "b/labeled.txt": 46}, {"10": 10, "11": 11, "640": 640}])
def test_shares_too_near_to_tell_apart_are_evenly_spaced(tmp_path: Path, images: dict[str, int]) -> None:
    scores = {("supervised", share, "CE"): [0.3, 0.35] for share in images}
    svg = figure(write_few_labels(tmp_path, scores, images))
    steps = np.diff([x for x, _ in markers(svg, 0)])
    assert steps.min() > 60
    assert steps == pytest.approx(steps[0])
    assert "evenly spaced" in svg


def test_a_missing_share_breaks_the_line_and_one_share_is_enough(tmp_path: Path) -> None:
    images = {"1/16": 23, "1/8": 46, "1/4": 92}
    scores = {("dssn", share, "CE"): [0.3, 0.35] for share in images} | {("dssn", "1/8", "CE"): [None, None]}
    assert len(markers(figure(write_few_labels(tmp_path / "a", scores, images)), 0)) == 2
    assert len(markers(figure(write_few_labels(tmp_path / "b", {("dssn", "1/8", "CE"): [0.3]}, {"1/8": 46})), 0)) == 1


def test_arms_have_the_colour_of_their_method(tmp_path: Path) -> None:
    comparison = read_results(write_few_labels(tmp_path, seeds(1), IMAGES))
    series = dict(zip(comparison.losses, arm_series(comparison), strict=True))
    assert series["dssn, 1/8, CE"].color == series["dssn, 1/16, CE"].color != series["fixmatch, 1/8, CE"].color
    assert series["dssn, 1/8, CE"].marker == series["fixmatch, 1/8, CE"].marker != series["dssn, 1/16, CE"].marker


@pytest.mark.parametrize("place", [["dssn", "1/8"], ["ours", "1/8", "CE"], ["dssn", "1/3", "CE"]])
def test_an_arm_outside_the_grid_is_named(tmp_path: Path, place: list[str]) -> None:
    folder = write_few_labels(tmp_path, seeds(1), IMAGES)
    few = json.loads((folder / "compare.json").read_text())["few_labels"]
    few["arms"]["dssn, 1/8, CE"] = place
    edit_json(folder / "compare.json", few_labels=few)
    with pytest.raises(ValueError, match=r"compare\.json: expected 'few_labels\.arms\.dssn, 1/8, CE' to be \[method"):
        read_results(folder)
