"""Sections of the page: each is there with its data and absent without, and says what the files say."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_folders import (
    CLASSES,
    counts,
    data_section,
    edit_json,
    scores,
    write_cases,
    write_comparison,
    write_extras,
    write_few_labels,
    write_sample,
    write_single,
)
from test_report_page import Tables

from delineate.report import analyse, read_results, write_report
from delineate.report.board import board, pair_matrix
from delineate.report.choices import rates
from delineate.report.classes import foremost, mark
from delineate.report.definitions import INDEPENDENT, definitions
from delineate.report.gradients import gradients
from delineate.report.intervals import cost_scatter, size_panels, spread_out
from delineate.report.page import render

LOSSES = ["CE", "Dice + CE", "0.5*Dice"]
SECTIONS = ["leaderboard", "pairs", "cost", "curves", "classes", "sizes", "worst", "samples", "gradients", "reasons"]
SECTIONS += ["rates", "method", "definitions", "reproduce"]
EXTRAS = ["worst", "gradients", "reasons", "rates"]
TESTED = ["pairs", "cost", "sizes"]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison with everything that one may hold."""
    return write_extras(write_comparison(tmp_path_factory.mktemp("full"), LOSSES, [0, 1, 2]))


@pytest.fixture(scope="module")
def page(full: Path) -> str:
    """Its page."""
    return write_report(full).read_text()


def sections(page: str) -> list[str]:
    """The ids of the sections, in order."""
    return re.findall(r'<section id="([\w-]+)"', page)


def text(svg: str) -> str:
    """The label of a figure as it is read out."""
    return ElementTree.fromstring(re.sub(r' xmlns(:xlink)?="[^"]*"| xlink:href="[^"]*"', "", svg)).attrib["aria-label"]


def test_every_section_is_there_in_order_and_linked(page: str) -> None:
    assert sections(page) == SECTIONS
    contents = page.partition("<nav")[2].partition("</nav>")[0]
    assert re.findall(r'href="#([\w-]+)"', contents) == SECTIONS


def test_what_an_older_comparison_lacks_is_left_out(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path, LOSSES, [0, 1])
    assert sections(write_report(folder).read_text()) == [name for name in SECTIONS if name not in EXTRAS]
    for path in folder.glob("*/*/cases.json"):
        path.unlink()
    page = write_report(folder).read_text()
    assert sections(page) == [name for name in SECTIONS if name not in (*EXTRAS, *TESTED)]
    assert INDEPENDENT not in page


def test_one_loss_has_nothing_to_differ_from(tmp_path: Path) -> None:
    page = write_report(write_comparison(tmp_path, ["CE"], [0, 1])).read_text()
    assert not set(sections(page)) & {"pairs", "cost"}
    assert 'class="mark"' not in page


def test_a_single_run_and_few_labels_have_no_section_of_tests(tmp_path: Path) -> None:
    single = write_report(write_single(tmp_path / "run")).read_text()
    assert not set(sections(single)) & {*TESTED, *EXTRAS, "definitions"}
    scores = {("dssn", "1/8", "CE"): [0.4, 0.5], ("supervised", "1/8", "CE"): [0.3, 0.3]}
    few = write_report(write_few_labels(tmp_path / "few", scores, {"1/8": 46})).read_text()
    assert not set(sections(few)) & {*TESTED, *EXTRAS}
    assert 'href="#few-labels"' in few


def test_the_matrix_shows_every_pair_and_marks_exactly_the_shown_ones(full: Path, page: str) -> None:
    found = analyse(read_results(full))
    assert found is not None
    head, *rows = Tables(page).of("matrix")[0]
    columns = [name for name, _ in head[1:]]
    assert [row[0][0] for row in rows] + columns[-1:] == found.ranked
    told = {}
    for (first, _), *cells in rows:
        for second, (cell, attributes) in zip(columns, cells, strict=True):
            if cell:
                told[first, second] = (cell, attributes.get("class") == "shown")
    assert len(told) == 3
    for (first, second), (cell, shown) in told.items():
        pair = found.pair("miou", first, second)
        assert pair is not None
        assert pair.difference.interval is not None
        assert shown == pair.shown
        ends = [100 * end for end in pair.difference.interval]
        expected = "{:+.1f} [{:.1f}, {:.1f}]".format(100 * pair.difference.mean, *ends).replace("-", "\u2212")
        assert cell.startswith(expected)
    assert {shown for _, shown in told.values()} == {True}


def test_nothing_is_marked_with_one_seed(tmp_path: Path) -> None:
    page = write_report(write_comparison(tmp_path, LOSSES, [0])).read_text()
    assert 'class="shown"' not in page
    assert 'class="mark"' not in page
    assert "With one seed no difference between losses can be shown" in page


def test_pairs_that_differ_by_chance_alone_are_not_marked(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path, ["CE", "Dice"], [0, 1])
    for loss in ("CE", "Dice"):
        for seed in (0, 1):
            write_cases(folder / loss / f"seed{seed}", counts(CLASSES, 0.5, np.random.default_rng([seed, len(loss)])))
    cells = Tables(write_report(folder).read_text()).of("matrix")[0][1]
    assert [attributes.get("class") for _, attributes in cells[1:]] == [None]


def test_marks_by_class_are_the_shown_pairs_against_the_first_loss(full: Path, page: str) -> None:
    comparison = read_results(full)
    found = analyse(comparison)
    assert found is not None
    table = Tables(page).of("classes")[0]
    rows = {row[0][0].rpartition(" ")[0].rpartition(" ")[0]: row[1:] for row in table[1:] if len(row) > 1}
    marked = 0
    for name in CLASSES:
        for loss, (cell, _) in zip(LOSSES, rows[name], strict=True):
            pair = found.pair(f"iou/{name}", loss, "CE")
            assert ("▲" in cell) == (pair is not None and pair.shown and pair.difference.mean > 0)
            assert ("▼" in cell) == (pair is not None and pair.shown and pair.difference.mean < 0)
            marked += "▲" in cell
    assert marked > 1
    told = mark(comparison, "0.5*Dice", "sky")
    assert told is not None
    assert told.text.startswith("better than CE: +")


def test_score_against_cost_names_each_loss_with_its_interval(full: Path) -> None:
    comparison = read_results(full)
    found, svg = analyse(comparison), cost_scatter(comparison)
    assert found is not None
    assert svg is not None
    for loss in LOSSES:
        score, time = found.scores["miou"][loss], comparison.spread(loss, lambda run: run.cost["ms_per_step"])
        assert score.interval is not None
        assert time is not None
        assert "{} {:.3f} [{:.3f}, {:.3f}] at {:.0f} ms".format(loss, score.mean, *score.interval, time.mean) in text(
            svg
        )
        assert f">{loss}</text>" in svg


def test_labels_never_overlap_and_stay_inside() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 5, 12):
        wanted, sizes = np.sort(rng.random(count))[::-1], np.full(count, 1 / 12)
        places = np.array(spread_out(list(wanted), list(sizes)))
        assert (-np.diff(places) >= 1 / 12 - 1e-9).all()
        assert places.min() >= 1 / 24 - 1e-9
        assert places.max() <= 23 / 24 + 1e-9


def test_recall_by_size_is_that_of_the_analysis(full: Path) -> None:
    comparison = read_results(full)
    found = analyse(comparison)
    assert found is not None
    panels = dict(size_panels(comparison))
    assert list(panels) == list(found.sizes)
    assert all("size in pixels; below, how many" in svg for svg in panels.values())
    for name, classes in found.sizes.items():
        shown = re.findall(r">(\d+)</text>", panels[name])
        assert [str(of.objects) for of in classes] == shown[: len(classes)]
        for of in classes:
            recalls = ", ".join(f"{loss} {score.mean:.2f}" for loss, score in of.recall.items())
            assert recalls in text(panels[name])


def test_sizes_of_volumes_are_in_cubic_millimetres(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path, ["CE", "Dice"], [0, 1])
    edit_json(folder / "compare.json", data=data_section() | {"layout": "nnunet"}, metric="dice")
    page = write_report(folder).read_text()
    assert "size in mm³" in page
    assert "lesion F1 by case" in page
    assert "Ranked by validation Dice by case" in page


def test_the_worst_cases_are_not_shown_twice(full: Path, page: str) -> None:
    worst, samples = page.partition('id="worst"')[2].partition('id="samples"')[::2]
    assert "<h3>street07</h3>" in worst
    page = render(replace(read_results(full), worst=["street07", "street01"]))
    worst, samples = page.partition('id="worst"')[2].partition('id="samples"')[::2]
    assert worst.count("<h3>") == 2
    assert samples.partition("</section>")[0].count("<h3>") == 1


def test_pictures_say_what_they_show(page: str) -> None:
    alts = re.findall(r'<img[^>]* alt="([^"]*)"', page)
    assert len(alts) == page.count("<img")
    for loss in LOSSES:
        assert f"{loss}: prediction for street07" in alts
        assert any(re.fullmatch(re.escape(loss) + r": errors on street07, \d+\.\d % false", alt) for alt in alts)
        assert f"{loss}: where its gradient asks for more or less of building on street01" in alts


def test_a_loss_without_a_gradient_is_left_out_of_that_section(full: Path) -> None:
    path = full / "0.5Dice" / "seed0" / "gradient.png"
    picture = path.read_bytes()
    path.unlink()
    found = gradients(read_results(full))
    path.write_bytes(picture)
    assert found is not None
    assert found.losses == [(0, "CE"), (1, "Dice + CE")]
    assert found.rows[0] == ("road & kerb", [0.25, 0.25])


def test_a_broken_gradients_file_is_named(full: Path) -> None:
    before = (full / "gradients.json").read_text()
    edit_json(full / "gradients.json", shares={"CE": {"sky": "much"}})
    try:
        with pytest.raises(ValueError, match=r"gradients\.json: expected 'shares\.CE\.sky' to be a number, got 'much'"):
            gradients(read_results(full))
    finally:
        (full / "gradients.json").write_text(before)


def test_rates_tell_the_chosen_one_and_an_end_of_the_range(page: str) -> None:
    head, *rows = Tables(page).of("matrix rates")[0]
    assert [name for name, _ in head] == ["loss", "0.001", "0.003", ""]
    assert [[cell for cell, _ in row] for row in rows[:2]] == [
        ["CE", "0.310", "0.345 chosen", "the highest tried: a higher one may be better"],
        ["Dice + CE", "0.360 chosen", "not finite", "the lowest tried: a lower one may be better"],
    ]
    assert [attributes.get("class") for _, attributes in rows[0]][1:3] == [None, "shown"]
    assert "<dd>chosen for each loss</dd>" in page


def test_a_search_with_other_scores_than_rates_is_named(full: Path) -> None:
    sweep = json.loads((full / "compare.json").read_text())["sweep"]
    short = sweep | {"arms": sweep["arms"] | {"CE": {"scores": [0.3], "chosen": 0.001}}}
    comparison = replace(read_results(full), sweep=short)
    with pytest.raises(ValueError, match=r"compare\.json: expected 'sweep\.arms\.CE\.scores' to hold 2, got 1"):
        rates(comparison)


def test_advice_budget_and_definitions_are_told(full: Path, page: str) -> None:
    for told in ("the rarest class has 0.5 %", "Say <code>CE</code>", "30min for all trainings together allowed 4"):
        assert told in page
    terms = [term for term, _ in definitions(read_results(full))]
    assert terms[:4] == ["IoU", "mIoU", "Dice by case", "object F1 by case"]
    assert terms[4:10] == ["Rare IoU", "Interval", "Difference", "p", "Detectable difference", "Independent cases"]
    assert "Frames of one video or several scans of one patient" in page


def test_groups_of_cases_are_told(full: Path, page: str) -> None:
    assert "Independent groups" not in page
    told = dict(definitions(replace(read_results(full), groups="street[0-9]")))
    assert "“street[0-9]” finds the same part" in told["Independent groups"]
    assert told["Interval"].startswith("95 % t interval of the mean, for other seeds and other groups of cases.")


@pytest.mark.parametrize("names", [2, 60])
def test_many_classes_are_folded_away(tmp_path: Path, names: int) -> None:
    classes = {f"c{place}": 100 / names for place in range(names)}
    folder = write_comparison(tmp_path, ["CE", "Dice"], [0, 1])
    for level, loss in ((0.5, "CE"), (0.55, "Dice")):
        for seed in (0, 1):
            cases = counts(classes, level, np.random.default_rng([seed, len(loss)]), cases=4)
            for case in cases:
                case["objects"] = None
            run = folder / loss / f"seed{seed}"
            write_cases(run, cases, classes)
            edit_json(run / "metrics.json", val=scores(classes, cases))
    data = data_section() | {"classes": list(classes), "train_share": classes, "palette": [[1, 2, 3]] * names}
    edit_json(folder / "compare.json", data=data, samples=[])
    page = write_report(folder).read_text()
    shown = 12 if names > 24 else names
    assert len(foremost(read_results(folder))) == shown
    assert sum(len(row) > 1 for row in Tables(page).of("classes")[0]) == shown + 1
    assert (f"IoU of all {names} classes</summary>" in page) == (names > 24)
    assert "sizes" not in sections(page)


HOSTILE = ["<img src=x onerror=alert(1)>", "a\\1$x$ \"quoted\" 'q' & <b>", "$\\frac{1}{0}$", "L" * 90]


def test_hostile_names_are_escaped_everywhere(tmp_path: Path) -> None:
    sample, bad = '"><script>alert(2)<!--', "<script>alert(1)<\u2215script>"
    folder = write_comparison(tmp_path, HOSTILE, [0, 1])
    write_extras(folder)
    runs = [folder / name for name in json.loads((folder / "compare.json").read_text())["runs"]]
    write_sample(folder, sample, runs)
    record = json.loads((folder / "compare.json").read_text())
    advice = [{key: value if key == "value" else bad for key, value in record["advice"][0].items()}]
    edit_json(folder / "compare.json", advice=advice, worst=[sample], time_budget={"asked": bad, "epochs": bad})
    edit_json(folder / "gradients.json", id=sample, network=bad, **{"class": bad})
    page = write_report(folder).read_text()
    assert sections(page) == SECTIONS
    assert page.count("<script") == 1  # the page's own
    assert not re.search(r"<img(?! (class|src=\"data:))|<b>", page.partition("</head>")[2])
    for tag in re.findall(r"<[a-z][^<>]*>", page):
        assert not re.search(r"\son\w+\s*=", re.sub(r'"[^"]*"', '""', tag)), tag
    for svg in re.findall(r'<svg role="img".*?</svg>', page, re.DOTALL):
        label = text(svg)  # well-formed
        assert not label.startswith("validation mIoU") or all(name in label for name in HOSTILE)


def test_twelve_losses_are_all_compared(tmp_path: Path) -> None:
    losses = [f"Tversky(fp_weight=0.{place})" for place in range(12)]
    comparison = read_results(write_comparison(tmp_path, losses, [0]))
    matrix = pair_matrix(comparison)
    assert matrix is not None
    assert len(board(comparison)["rows"]) == 12
    assert [sum(cell is not None for cell in cells) for *_, cells in matrix["rows"]] == list(range(11, 0, -1))
