"""Lets pages of the site lead to files that are no pages, by the links that lead to them in the repository.

A hook of mkdocs. A link out of docs/, or to a script, leads to a copy of that file under files/; a link to `README.md`
leads to the home page. So one link is right in the repository and on the site.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
TEXTS = {"CHANGELOG.md": "changes.md", "CONTRIBUTING.md": "contributing.md"}
"""Files outside of docs/ that are pages."""
LINK = re.compile(r"(?<=\]\()(?!https?:|#)[^()\s#]+")
CODE = re.compile(r"`[^`\n]+`")
ROW = re.compile(r"^\|.*$", re.M)


def place(link: str, page: str) -> str:
    """Where a link leads on the site.

    Args:
        link: as it is written.
        page: the file it is written in, in the repository.
    """
    found = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    if found == "README.md":
        return "index.md"
    if found in TEXTS:
        return TEXTS[found]
    shown = found.startswith("docs/") and not found.endswith((".py", ".json"))
    return found.removeprefix("docs/") if shown else f"files/{found}"


def origin(page: str) -> str:
    """The file of a page in the repository."""
    return next((name for name, shown in TEXTS.items() if shown == page), f"docs/{page}")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages outside of docs/, and the files that pages lead to."""
    for name, page in TEXTS.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text()))
    pages = files.documentation_pages()
    linked = {place(link, origin(page.src_uri)) for page in pages for link in LINK.findall(page.content_string)}
    for uri in sorted(uri for uri in linked if uri.startswith("files/")):
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / uri.removeprefix("files/"))))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turns links to what `place` says, and shows the bars in code of tables, which GitHub wants escaped."""
    here = page.file.src_uri
    markdown = ROW.sub(lambda row: CODE.sub(lambda part: part[0].replace("\\|", "|"), row[0]), markdown)
    return LINK.sub(lambda link: posixpath.relpath(place(link[0], origin(here)), posixpath.dirname(here)), markdown)
