"""The page in a real browser: it renders, fits every width, and shows something."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_folders import write_comparison, write_extras

from delineate.report import write_report

CHROMIUM = shutil.which("chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
WIDTHS = (360, 768, 1280)
LONG = "Dice + CE(class_weight=[1.0, 9.1], normalize='weight')"

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
    assert dom.count('tabindex="0"') == page.read_text().count("data-sort>")  # the script made the columns sortable

    picture = tmp_path / "page.png"
    chromium(page, tmp_path / "profile", "--window-size=1200,1600", f"--screenshot={picture}")
    shown = np.asarray(Image.open(picture).convert("RGB"))
    assert shown.shape == (1600, 1200, 3)
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 50


def test_the_page_fits_a_phone_a_tablet_and_a_desk(tmp_path: Path) -> None:
    """Only tables and strips of pictures scroll sideways, in boxes of their own; a window is at least 500 wide, a frame
    is not."""
    losses = ["CE", LONG, "L" * 60, *(f"Tversky(fp_weight=0.{place})" for place in range(9))]
    page = write_report(write_extras(write_comparison(tmp_path / "results", losses, [0])))
    frames = "".join(f'<iframe src="{page.as_uri()}" width="{width}" height="800"></iframe>' for width in WIDTHS)
    measure = "[...document.querySelectorAll('iframe')].map(f => f.contentDocument.documentElement.scrollWidth)"
    script = f"onload = () => {{ document.title = {measure}.join() }}"
    frame = tmp_path / "frames.html"
    frame.write_text(
        f"<!DOCTYPE html><title></title><style>iframe {{ border: 0 }}</style>{frames}<script>{script}</script>"
    )
    dom = chromium(frame, tmp_path / "profile", "--allow-file-access-from-files", "--dump-dom")
    assert f"<title>{','.join(map(str, WIDTHS))}</title>" in dom
