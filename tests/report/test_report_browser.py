"""The page in a real browser: it renders, and shows something."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_folders import write_comparison

from delineate.report import write_report

CHROMIUM = shutil.which("chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


def chromium(page: Path, profile: Path, *flags: str) -> str:
    """Open the page in a fresh profile."""
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def test_the_page_renders(tmp_path: Path) -> None:
    page = write_report(write_comparison(tmp_path / "results", ["CE", "Dice + CE"], [0, 1]))
    dom = chromium(page, tmp_path / "profile", "--dump-dom")
    assert "Dice + CE</span></span></th>" in dom
    assert dom.count("<tr") == page.read_text().count("<tr")
    assert dom.count('tabindex="0"') == 8  # the script made the columns sortable

    picture = tmp_path / "page.png"
    chromium(page, tmp_path / "profile", "--window-size=1200,1600", f"--screenshot={picture}")
    shown = np.asarray(Image.open(picture).convert("RGB"))
    assert shown.shape == (1600, 1200, 3)
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 50
