"""The page of an inspection: made from inspect.json alone, safe with any name, and one file."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from test_report_browser import CHROMIUM, chromium

from delineate.report import inspection_verdict, write_inspection_report
from delineate.report.inspection import problems_sentence

HOSTILE = "<script>alert(1)</script>\"'&"
QUANTILES = ("min", "5%", "25%", "50%", "75%", "95%", "max")


def of_class(name: str, share: float, **entries: Any) -> dict[str, Any]:
    """The entry of a class with four instances."""
    return {
        "name": name,
        "share": share,
        "images": 9,
        "absent": 1,
        "absent_ids": ["p7"],
        "instances": 4,
        "instances_per_image": {"min": 0, "50%": 2.5, "max": 3},
        "instance_sizes": dict(zip(QUANTILES, [1, 2, 5, 20, 300, 4000, 70000], strict=True)),
        "size_ratio": {"50%": 37.2, "95%": 50.0, "max": 60.0},
        "touching": 12.3,
        "thinness": 0.57,
        "boundary": 61.8,
        "components": None,
    } | entries


def background(name: str, share: float) -> dict[str, Any]:
    return of_class(name, share, size_ratio=None, touching=None, thinness=None, boundary=1.0)


def advice(loss: str, figure: str, **entries: str) -> dict[str, Any]:
    return {
        "rule": "a rule",
        "loss": loss,
        "figure": figure,
        "value": 9.0,
        "why": "It looks at `hard` voxels.",
        "fails": "Where labels are wrong.",
        "source": "A paper, 2020",
        "command": f"delineate compare DATA --losses CE '{loss}'",
    } | entries


def inspected(**entries: Any) -> dict[str, Any]:
    """What inspect.json holds of a small data set."""
    return {
        "data": {
            "name": "cells",
            "root": "data/cells",
            "layout": "folder",
            "dims": 2,
            "splits": {"train": 10, "val": 3},
            "notes": ["a note on the split"],
            "delineate": "0.0",
        },
        "statistics": {
            "split": "train",
            "images": 10,
            "images_in_split": 10,
            "image_sizes": {"min": [8, 8], "median": [8, 10], "max": [8, 12]},
            "spacing": [1.0, 1.0],
            "spacing_range": {"min": [1, 1], "median": [1, 1], "max": [1, 1]},
            "classes": [background("background", 99.5), of_class("thing", 0.5), of_class("ghost", 0.0)],
            "void_share": 1.25,
            "imbalance": 199.0,
            "connectivity": 8,
            "background": 0,
            "empty_images": 6,
            "empty_ids": ["a", "b", "c", "d", "e"],
            "instances_from": "components",
        },
        "problems": [],
        "advice": [advice("Dice + CE", "background to thing 199 : 1"), advice("Dice + Focal", "thing is 0.5 %")],
    } | entries


def page_of(folder: Path, content: dict[str, Any]) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "inspect.json").write_text(json.dumps(content))
    path = write_inspection_report(folder)
    assert path == folder / "report.html"
    assert sorted(file.name for file in folder.iterdir()) == ["inspect.json", "report.html"]
    return path.read_text(encoding="utf-8")


class Text(HTMLParser):
    """The words a reader sees, and the attributes of all elements."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self._hidden = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in ("style", "script")
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def text_of(folder: Path, content: dict[str, Any]) -> str:
    return Text(page_of(folder, content)).text


def test_it_says_what_the_file_says(tmp_path: Path):
    text = text_of(tmp_path, inspected())
    assert "What makes cells hard: thing is 0.5 %. Start with Dice + CE, then try Dice + Focal." in text
    for words in (
        "10 images of split train",
        "No errors were found",
        "2.5",
        "37 : 1",
        "0.57",
        "8 × 10 pixels in the median, 8 × 8 to 8 × 12",
        "6: a, b, c, d, e ...",
        "199 : 1",
        "1.25 % of all pixels",
        "a note on the split",
        "delineate compare DATA --losses CE 'Dice + Focal'",
        "It looks at hard voxels.",
        "8-connected components",
    ):
        assert words in text, words


def test_classes_are_in_order_of_share_with_bars_on_a_log_scale(tmp_path: Path):
    page = page_of(tmp_path, inspected())
    names = re.findall(r'<th scope="row" class="text">(\w+)</th>', page)
    assert names == ["background", "thing", "ghost"]
    widths = [float(width) for width in re.findall(r'<i style="width: ([\d.]+)%">', page)]
    assert widths == pytest.approx([99.9, 23.3, 0.0], abs=0.06)  # from 0.1 % to 100 %
    assert "log scale from 0.1 % to 100 %" in page


def test_boxes_are_drawn_for_what_is_no_background(tmp_path: Path):
    page = page_of(tmp_path, inspected())
    figure = page[page.index("<svg") : page.index("</svg>")]
    assert re.search(
        r'<svg[^>]* role="img" aria-label="sizes of the instances[^"]+: thing 20 \(1 to 70000\), ghost', figure
    )
    assert ">thing<" in figure
    assert ">background<" not in figure
    bare = [background("background", 60.0), of_class("thing", 40.0, instances=0, instance_sizes=None)]
    content = inspected()
    content["statistics"]["classes"] = bare
    assert "<svg" not in page_of(tmp_path, content)


def test_maps_of_instances_are_told(tmp_path: Path):
    content = inspected()
    content["statistics"] |= {
        "instances_from": "maps",
        "classes": [background("background", 60.0), of_class("cell", 40.0, instances=4472, components=3647)],
    }
    text = text_of(tmp_path, content)
    assert "cell: the maps tell 4472 instances apart, the mask has 3647 connected components." in text
    assert "with a border in common where they come from maps" in text


def problem(kind: str, severity: str, sentence: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "severity": severity,
        "split": "train",
        "ids": ["a"],
        "files": ["a.png"],
        "sentence": sentence,
    }


def test_problems_are_grouped_and_all_there(tmp_path: Path):
    problems = [problem("mask", "error", f"mask {index} is bad.") for index in range(12)]
    problems.append(problem("empty", "warning", "2 of 9 are empty."))
    page = page_of(tmp_path, inspected(problems=problems))
    text = Text(page).text
    assert "12 errors and 1 warning were found in the files." in text
    assert all(f"mask {index} is bad." in text for index in range(12))
    assert page.count("<details") == 1
    assert "4 more" in text


def test_a_sample_is_said_to_be_one(tmp_path: Path):
    content = inspected()
    content["statistics"]["images_in_split"] = 700
    assert "10 images of 700 of split train" in text_of(tmp_path, content)


def test_volumes_have_voxels_and_a_spacing(tmp_path: Path):
    content = inspected()
    content["data"]["dims"] = 3
    content["statistics"]["spacing_range"] = {"min": [1, 1, 2], "median": [1, 1, 2.5], "max": [1, 1, 3]}
    text = text_of(tmp_path, content)
    assert "1 × 1 × 2.5 mm in the median, 1 × 1 × 2 to 1 × 1 × 3" in text
    assert "pixel" not in text


def test_hostile_names_stay_text(tmp_path: Path):
    content = inspected(
        problems=[problem("mask", "error", HOSTILE)],
        advice=[advice(HOSTILE, HOSTILE, why=f"`{HOSTILE}` {HOSTILE}", fails=HOSTILE, source=HOSTILE, command=HOSTILE)],
    )
    content["data"] |= {"name": HOSTILE, "root": HOSTILE, "layout": HOSTILE, "notes": [HOSTILE]}
    content["data"]["splits"] = {HOSTILE: 10}
    content["statistics"] |= {"split": HOSTILE, "empty_ids": [HOSTILE]}
    content["statistics"]["classes"] = [
        of_class(HOSTILE, 60.0, absent_ids=[HOSTILE]),
        of_class("$x_1$" + HOSTILE, 40.0, components=2),
    ]
    page = page_of(tmp_path, content)
    assert "<script" not in page
    assert "alert(1)" in Text(page).text
    assert not [1 for _, name, _ in Text(page).attributes if name.startswith("on")]


def test_nothing_is_fetched(tmp_path: Path):
    page = page_of(tmp_path, inspected())
    assert "default-src 'none'" in page
    for tag, name, value in Text(page).attributes:
        assert tag not in ("link", "iframe", "script", "object")
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("data:", "#")), (tag, name, value)
    assert "url(http" not in page


def test_the_same_file_gives_the_same_page(tmp_path: Path):
    assert page_of(tmp_path / "a", inspected()) == page_of(tmp_path / "b", inspected())


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda c: c.pop("advice"), "'advice'"),
        (lambda c: c["statistics"].pop("imbalance"), "'statistics.imbalance'"),
        (lambda c: c["statistics"]["classes"][1].pop("share"), r"'statistics.classes\[1\].share'"),
        (lambda c: c["problems"].append(3), "'problems' to be a list of objects"),
        (lambda c: c["advice"].clear(), "'advice' to hold the baseline at least"),
    ],
    ids=["advice", "imbalance", "share", "problems", "no advice"],
)
def test_a_file_of_another_form_is_named(damage, words, tmp_path: Path):
    content = inspected()
    damage(content)
    (tmp_path / "inspect.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"inspect\.json: expected {words}") as error:
        write_inspection_report(tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "report.html").exists()


def test_the_verdict_names_a_stronger_caution():
    rows = [
        advice("CE", "2 : 1"),
        advice("CE", "30 % touch"),
        advice("Focal", "many easy"),
        advice("CE", "4 % ignored"),
    ]
    assert inspection_verdict("x", rows) == [
        "What makes x hard: many easy. Start with CE, then try Focal.",
        "A caution: 30 % touch.",
    ]
    assert inspection_verdict("x", rows[:2])[0].startswith("Nothing in the labels of x asks for more than CE: 2 : 1")


def test_counts_of_problems_in_words():
    error, warning = {"severity": "error"}, {"severity": "warning"}
    assert problems_sentence([]) == "No errors were found in the files."
    assert problems_sentence([warning]) == "1 warning was found in the files."
    assert problems_sentence([error, error]) == "2 errors were found in the files."


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_overflows_the_screen(width: int, tmp_path: Path):
    """The page in a frame of this width says how wide its content is."""
    content = inspected()
    content["advice"].append(advice("Dice + CE(class_weight=[" + ", ".join(["1.25"] * 40) + "])", "a" * 90))
    content["problems"] = [problem("mask", "error", "/a/very/long/path/without/any/space" * 6)]
    page = page_of(tmp_path / "page", content)
    probe = "<script>document.title = document.documentElement.scrollWidth</script></body>"
    (tmp_path / "probe.html").write_text(page.replace("</body>", probe))
    frame = f"<iframe src=probe.html style='width:{width}px;height:900px;border:0'></iframe>"
    (tmp_path / "frame.html").write_text(
        frame + "<script>addEventListener('load', () => document.body.dataset.wide = frames[0].document.title)</script>"
    )
    dom = chromium(tmp_path / "frame.html", tmp_path / "profile", "--allow-file-access-from-files", "--dump-dom")
    wide = re.search(r'data-wide="(\d+)"', dom)
    assert wide is not None
    assert int(wide[1]) <= width
