"""The site of docs/: it builds without a warning, stands alone, and what its pages tell to write works."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "object": "data"}
"""What a browser fetches with a page, by tag."""
BLOCK = re.compile(r"^```(python|diff) title=\"([^\"]+)\"\n(.*?)^```$", re.M | re.S)
"""A block of code that says which file it belongs to."""


class Page(HTMLParser):
    """What a page loads, what it leads to, and its anchors."""

    def __init__(self, path):
        super().__init__()
        self.loaded, self.links, self.ids = [], [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids.add(found.get("id"))
        if tag in LOADED and found.get(LOADED[tag]):
            self.loaded.append(found[LOADED[tag]])
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site: a dict of its pages by path, and its folder."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder, {path.relative_to(folder): Page(path) for path in folder.rglob("*.html")}


def test_pages_load_nothing_from_elsewhere(site):
    folder, pages = site
    assert len(pages) > 20
    for path, page in pages.items():
        for address in page.loaded:
            assert not urlsplit(address).netloc, f"{path} loads {address}"
    for style in folder.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//|@import", style.read_text()), style


def test_every_link_leads_somewhere(site):
    folder, pages = site
    for path, page in pages.items():
        for address in page.loaded + page.links:
            parts = urlsplit(address)
            if parts.scheme or path.name == "404.html":
                continue
            there = (folder / path.parent / unquote(parts.path)).resolve() if parts.path else folder / path
            assert there.is_file(), f"{path}: {address}"
            if parts.fragment and there.suffix == ".html":
                assert unquote(parts.fragment) in pages[there.relative_to(folder.resolve())].ids, f"{path}: {address}"


def test_files_of_the_repository_are_on_the_site(site):
    folder, _ = site
    for name in ("recipes/camvid_cmssl.yaml", "docs/experiments/comparison_tables.py"):
        assert (folder / "files" / name).read_bytes() == (ROOT / name).read_bytes()
    assert "Keep a Changelog" in (folder / "changes.html").read_text()


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "api").glob("*.md")), ids=lambda path: path.stem)
def test_every_public_name_is_on_its_page_of_the_api(site, page):
    """Also those that share their name with the module they are in."""
    name = f"delineate.{page.stem}"
    found = site[1][Path(f"api/{page.stem}.html")].ids
    public = getattr(importlib.import_module(name), "__all__", ["Target", "Geometry"])
    missing = [part for part in public if not found & {f"{name}.{part}", f"{name}.{part}.{part}"}]
    assert not missing, "give it a docstring, or its own entry on the page where a module has its name"


def test_bars_in_code_of_tables_are_shown_as_bars(site):
    folder, _ = site
    assert "|F| / (K |R_k|)" in (folder / "losses.html").read_text()


@pytest.mark.parametrize("page", ["index", "quickstart"])
def test_python_of_a_page_runs(page):
    (code,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / f"{page}.md").read_text(), re.M | re.S)
    exec(compile(code, f"docs/{page}.md", "exec"), {})


def test_the_loss_of_the_page_on_extending_passes_the_contract(tmp_path):
    """Its blocks of Python go to the end of the file in their title, its diffs to the one place they fit."""
    nothing = shutil.ignore_patterns("__pycache__")
    for name in ("delineate", "tests/losses", "tests/reference"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=nothing)
    for name in ("pyproject.toml", "tests/conftest.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    blocks = BLOCK.findall((ROOT / "docs" / "extending.md").read_text())
    assert len(blocks) == 5
    for language, name, code in blocks:
        changed = (add if language == "python" else patch)((tmp_path / name).read_text(), code)
        (tmp_path / name).write_text(changed)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", "DicePlusPlus and (2d or formula)"]
    places = ["tests/losses/test_contract.py", "tests/losses/test_exact.py", "delineate/losses/region.py"]
    run = subprocess.run([*command, *places], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    assert len(re.findall(r"\.", run.stdout.split("[100%]")[0])) > 20, run.stdout


def add(text, code):
    return f"{text}\n\n{code}"


def patch(text, diff):
    before = "".join(line[1:] for line in diff.splitlines(True) if line[0] in " -")
    after = "".join(line[1:] for line in diff.splitlines(True) if line[0] in " +")
    assert text.count(before) == 1, f"expected one place for\n{diff}"
    return text.replace(before, after)
