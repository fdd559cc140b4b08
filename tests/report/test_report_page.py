"""The page: every number comes from the files, names are escaped, nothing is fetched."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from statistics import mean

import pytest
from report_folders import BUDGET, CLASSES, CONVENTIONS, data_section, edit_json, write_comparison, write_single

from delineate.report import analyse, read_results, write_report

LOSSES = ["CE", "Dice + CE", "0.5*Dice"]


Table = list[list[tuple[str, dict[str, str | None]]]]


class Tables(HTMLParser):
    """The text and the attributes of all cells: tables[i][row][column] = (text, attributes)."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[Table] = []
        self.kinds: list[str | None] = []
        self.open = False
        self.feed(page)

    def of(self, kind: str) -> list[Table]:
        """The tables of a class."""
        return [table for table, name in zip(self.tables, self.kinds, strict=True) if name == kind]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
            self.kinds.append(dict(attrs).get("class"))
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append(("", dict(attrs)))
            self.open = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.open = False

    def handle_data(self, data: str) -> None:
        if self.open:
            text, attributes = self.tables[-1][-1][-1]
            self.tables[-1][-1][-1] = (f"{text} {data.strip()}".strip(), attributes)


def records(folder: Path, loss: str) -> list[dict]:
    """The metrics of the runs of a loss."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*/*/metrics.json"))]
    return [record for record in found if record["loss"] == loss]


@pytest.mark.parametrize("seeds", [[0], [0, 1, 2]])
def test_the_leaderboard_shows_the_numbers_of_the_files(tmp_path: Path, seeds: list[int]) -> None:
    folder = write_comparison(tmp_path, LOSSES, seeds)
    board = Tables(write_report(folder).read_text()).tables[0]
    assert [row[0][0] for row in board[1:]] == ["1", "2", "3"]
    for row in board[1:]:
        runs = records(folder, row[1][0])
        shown = {attributes["data-key"]: (text, attributes["data-value"]) for text, attributes in row[2:-1]}
        text, value = shown["score"]
        scores = [run["val"]["miou"] for run in runs]
        assert float(value or "") == pytest.approx(mean(scores), abs=1e-6)
        assert text.split()[0] == f"{mean(scores):.3f}"
        assert "mdice" not in shown  # Dice by case instead
        for key, digits in (("ms_per_step", 1), ("loss_ms", 2), ("peak_memory_mib", 0)):
            costs = [run["cost"][key] for run in runs]
            assert shown[key][0] == ("–" if costs[0] is None else f"{mean(costs):.{digits}f}")
        assert row[-1][0] == "finished"


def test_the_interval_of_a_score_is_that_of_the_analysis(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path, LOSSES, [0, 1, 2])
    found = analyse(read_results(folder))
    assert found is not None
    for row in Tables(write_report(folder).read_text()).of("board")[0][1:]:
        score = found.scores["miou"][row[1][0]]
        assert score.interval is not None
        assert row[2][0] == "{:.3f} [{:.3f}, {:.3f}]".format(score.mean, *score.interval)


def test_without_cases_scores_have_their_range_over_seeds(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path, LOSSES, [0, 1])
    for path in folder.glob("*/*/cases.json"):
        path.unlink()
    page = write_report(folder).read_text()
    for row in Tables(page).of("board")[0][1:]:
        scores = [run["val"]["miou"] for run in records(folder, row[1][0])]
        assert row[2][0] == f"{mean(scores):.3f} {min(scores):.3f}–{max(scores):.3f}"
        assert row[3][1]["data-key"] == "mdice"
    assert "95 % interval" not in page.split("</style>")[1]


def test_gradient_norms_are_told_beside_that_of_the_first_loss_named(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path, LOSSES, [0, 1])
    norms = {loss: mean(run["gradient_norm"] for run in records(folder, loss)) for loss in LOSSES}
    for row in Tables(write_report(folder).read_text()).of("board")[0][1:]:
        shown = {attributes.get("data-key"): text for text, attributes in row}
        assert shown["gradient_norm"] == f"×{norms[row[1][0]] / norms['CE']:.2f}"


def test_the_class_tables_show_the_numbers_of_the_files(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path, LOSSES, [0])
    tables = Tables(write_report(folder).read_text()).of("classes")
    for metric, table in zip(("iou", "dice", "precision", "recall"), tables, strict=True):
        assert [text for text, _ in table[0]] == ["class", *LOSSES]
        rows = {row[0][0]: row[1:] for row in table[1:] if len(row) > 1}
        assert list(rows) == [f"{name} {share:.2f} %" for name, share in sorted(CLASSES.items(), key=lambda c: -c[1])]
        for name, share in CLASSES.items():
            values = [records(folder, loss)[0]["val"][metric][name] for loss in LOSSES]
            expected = ["absent" if value is None else f"{value:.2f}" for value in values]
            assert [text for text, _ in rows[f"{name} {share:.2f} %"]] == expected


def test_the_best_of_each_column_is_marked(tmp_path: Path) -> None:
    board = Tables(write_report(write_comparison(tmp_path, LOSSES, [0])).read_text()).tables[0]
    for column, better in (("score", max), ("ms_per_step", min), ("loss_ms", min)):
        cells = [cell for row in board[1:] for cell in row if cell[1].get("data-key") == column]
        values = [float(attributes["data-value"]) for _, attributes in cells if attributes["data-value"]]
        best = [float(attributes["data-value"] or "") for _, attributes in cells if attributes.get("class") == "best"]
        assert best == [better(values)]


def test_volumes_have_voxels(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path, ["CE", "Dice"], [0])
    assert "pixel accuracy" in write_report(folder).read_text()
    edit_json(folder / "compare.json", data=data_section() | {"layout": "nnunet"})
    text = write_report(folder).read_text().split("</style>")[1]
    assert "below 2 % of the labelled training voxels" in text
    assert "voxel accuracy" in text
    assert "training pixels" not in text


def test_names_are_escaped(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path, ["CE", "Dice"], [0], Dice="failed")
    page = write_report(folder).read_text()
    assert page.count("<script>") == 1  # the page's own
    for name in (
        "&lt;script&gt;alert(1)&lt;/script&gt;",
        "road &amp; kerb",
        "camvid &lt;small&gt; &amp; co",
        "道路 $x$",
    ):
        assert name in page
    assert "&lt;b&gt;out of memory&lt;/b&gt;" in page
    assert "<i>Dice" not in page  # config.yaml


def test_nothing_is_fetched(tmp_path: Path) -> None:
    page = write_report(write_comparison(tmp_path, LOSSES, [0])).read_text()
    references = re.findall(r"""(?:src|href|action|poster|srcset)\s*=\s*["']?([^"'\s>]+)""", page)
    references += re.findall(r"url\(\s*[\"']?([^)\"']+)", page)
    assert references
    assert all(reference.startswith(("data:image/", "#")) for reference in references)
    assert "@import" not in page
    assert "<link" not in page
    assert "default-src 'none'" in page


def test_a_failed_and_an_unfinished_run_have_their_row(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path, ["CE", "Dice", "Lovasz", "RMI"], [0], Dice="failed", Lovasz="interrupted")
    edit_json(folder / "compare.json", runs=["CE/seed0", "Dice/seed0", "Lovasz/seed0"], status="interrupted")
    page = write_report(folder).read_text()
    status = {row[1][0]: row[-1][0] for row in Tables(page).tables[0][1:]}
    failed = "failed: RuntimeError: <b>out of memory</b>"
    assert status == {"CE": "finished", "Dice": failed, "Lovasz": "interrupted", "RMI": "not run"}
    assert "The comparison was interrupted: 1 of 4 runs finished." in page


def test_the_curve_of_an_interrupted_run_is_in_the_key(tmp_path: Path) -> None:
    page = write_report(write_comparison(tmp_path, ["CE", "Dice"], [0], Dice="interrupted")).read_text()
    curves, dots = re.findall(r'<ul class="key">.*?</ul>', page, re.DOTALL)[:2]
    assert "Dice" not in dots
    assert "Dice" in curves


def test_no_run_finished(tmp_path: Path) -> None:
    page = write_report(write_comparison(tmp_path, ["CE", "Dice"], [0], CE="failed", Dice="failed")).read_text()
    assert len(Tables(page).tables[0]) == 3
    assert "Class by class" not in page


def test_a_single_run_is_not_compared(tmp_path: Path) -> None:
    page = write_report(write_single(tmp_path / "run")).read_text()
    assert "<h2>Result</h2>" in page
    for word in ("Leaderboard", "Ranked", "Best of", "Same start", "All runs", "Losses compared"):
        assert word not in page
    assert len(Tables(page).tables[0]) == 2


def test_a_single_run_that_stopped(tmp_path: Path) -> None:
    page = write_report(write_single(tmp_path / "run", "interrupted")).read_text()
    assert "This run was not evaluated (interrupted)." in page


def test_how_it_was_measured(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path, ["CE", "Dice"], [0])
    page = write_report(folder).read_text()
    for text in (*CONVENTIONS, "160 × 224", str(BUDGET["model"]), "the fingerprints of the initial weights agree"):
        assert text in page
    assert "delineate compare camvid --losses CE Dice" in page
    edit_json(folder / "CE" / "seed0" / "metrics.json", batches="sha256:other")
    assert "No: the fingerprints of the batches differ" in write_report(folder).read_text()


def test_the_same_files_give_the_same_page_and_no_leftovers(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path, ["CE", "Dice"], [0, 1])
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first
    assert [path.name for path in folder.iterdir() if "report" in path.name] == ["report.html"]


def test_a_page_that_cannot_be_made_leaves_the_old_one(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path, ["CE"], [0])
    first = write_report(folder).read_bytes()
    (folder / "samples" / "street01.truth.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"street01\.truth\.png: expected a PNG image"):
        write_report(folder)
    assert (folder / "report.html").read_bytes() == first


def test_without_shares_classes_keep_their_order_and_none_is_rare(tmp_path: Path) -> None:
    folder = write_single(tmp_path / "run")
    record = json.loads((folder / "metrics.json").read_text())
    edit_json(folder / "metrics.json", data=record["data"] | {"train_share": {}})
    page = write_report(folder).read_text()
    assert [row[0][0] for row in Tables(page).of("classes")[0][1:]] == list(CLASSES)
    assert "rare" not in page.split("</style>")[1]
