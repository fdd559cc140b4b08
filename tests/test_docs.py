"""The pages of docs/ say what the code says, their pictures exist and every link leads somewhere."""

import importlib
import json
import re
from pathlib import Path

import pytest

import delineate.losses as L
from delineate.losses.loss import arguments

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
FIELDS = ["Args", "Shape", "Range", "Absent classes", "Example", "Use for", "Not for", "Notes", "Reference"]
STALE = "run `make docs` and commit what changes"


@pytest.fixture
def script(monkeypatch):
    """A script of docs/ as a module, by its name."""
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module


def public():
    return [getattr(L, name) for name in L.__all__ if name.endswith("Loss") and name != "Loss"]


def anchors(path):
    """Headings of a page, as GitHub links to them."""
    return {
        re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    }


def test_pages_are_those_of_the_docstrings(script, tmp_path):
    script("build").main(tmp_path)
    written = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.md")}
    committed = {path.relative_to(DOCS) for path in (DOCS / "losses").glob("*.md")}
    committed |= {Path("losses.md"), Path("advice.md")}
    assert set(written) == committed, STALE
    for path, text in written.items():
        assert text == (DOCS / path).read_text(), f"docs/{path}: {STALE}"


def test_every_public_loss_has_its_row_section_and_picture(script):
    build = script("build")
    assert [cls for losses in build.families().values() for cls in losses] == public()
    table = (DOCS / "losses.md").read_text()
    for family, losses in build.families().items():
        page = (DOCS / "losses" / f"{family}.md").read_text()
        for cls in losses:
            assert table.count(f"\n| [{cls.name()}](losses/{family}.md#{cls.__name__.lower()}) |") == 1
            assert f"\n## {cls.__name__}\n" in page
    assert {path.stem for path in (DOCS / "gradients").glob("*.png")} == {cls.__name__ for cls in public()}, STALE


def test_shares_are_those_of_the_losses(script):
    """What the pictures and their texts were made of."""
    committed = json.loads((DOCS / "gradients.json").read_text())
    found = script("gradients").compute()
    assert list(found) == list(committed), STALE
    for name, facts in found.items():
        assert facts["shares"] == pytest.approx(committed[name]["shares"], abs=2e-3), f"{name}: {STALE}"
        assert facts["max"] == pytest.approx(committed[name]["max"], rel=2e-2), f"{name}: {STALE}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for alt, link in re.findall(r"\[([^\[\]]*)\]\(([^()\s]+)\)", page.read_text()):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.is_file(), link
        assert not anchor or anchor in anchors(path), link
        assert alt, f"{link} has no text"


@pytest.mark.parametrize("cls", public(), ids=lambda cls: cls.__name__)
def test_fields_of_a_docstring_are_in_order_and_name_every_argument(cls, script):
    parts = script("build").read(cls.__doc__)
    assert list(parts) == ["summary", "formula", *FIELDS]
    assert all(parts.values())
    inherited = set(arguments(L.CrossEntropyLoss)) - {"normalize", "label_smoothing"}
    named = set(re.findall(r"\w+", " ".join(re.findall(r"(?:^|; )([\w, ]+):", parts["Args"], re.M))))
    assert set(arguments(cls)) - inherited <= named


def test_readme_names_every_loss_beside_its_family(script):
    rows = dict(re.findall(r"^\| \[?(\w+)\]?\S* \| (.*) \|$", (ROOT / "README.md").read_text(), re.M))
    for family, losses in script("build").families().items():
        assert re.findall(r"`(\w+)`", rows[family].replace(" (`CE`)", "")) == [cls.name() for cls in losses]
    assert re.findall(r"`(\w+)`", rows["wrappers"]) == [cls.__name__ for cls in script("build").wrappers()]
