"""The Python on the pages about trainers."""

import re
from pathlib import Path

PAGES = Path(__file__).parents[2] / "docs/trainers"


def run_page(name):
    """All blocks of Python of a page, one after the other; the names they leave."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (PAGES / name).read_text(), re.M | re.S)
    assert blocks, name
    names = {"__name__": "page"}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"{name}, block {number}", "exec"), names)
    return names
