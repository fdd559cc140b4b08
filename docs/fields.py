"""Shows docstrings of the house on the pages of the API: an extension of griffe, which reads them.

A field such as `Args:` or `Use for:` is a paragraph of its own, its entries are a list, and an example is code.
"""

import inspect
import re
from typing import Any

import griffe

FIELD = re.compile(r"([A-Z][a-z]+(?: classes| for)?):(?: |$)(.*)")
ROW = re.compile(r"(\S+) {2,}(\S.*)")


class Fields(griffe.Extension):
    """Turns every docstring into markdown."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(doc: str) -> str:
    """The text of a docstring, with its fields in bold, their entries as lists and examples as code.

    >>> print(markdown("One line.\\n\\nArgs:\\n    a, b: two numbers,\\n        at least 0.\\nShape: none."))
    One line.
    <BLANKLINE>
    **Args:**
    <BLANKLINE>
    - `a, b`: two numbers, at least 0.
    <BLANKLINE>
    **Shape:** none.
    """
    return "\n\n".join(shown(block) for block in re.split(r"\n\s*\n", inspect.cleandoc(doc)))


def shown(block: str) -> str:
    """A paragraph: an example, a table of names and meanings, or text that is cut where a field begins."""
    if block.startswith(">>>"):
        return f"```pycon\n{block}\n```"
    rows = [ROW.fullmatch(line) for line in block.split("\n")]
    if all(rows):
        return "\n".join(f"- `{row[1]}`: {row[2]}" for row in rows if row)
    parts: list[list[str]] = [[]]
    for line in block.split("\n"):
        parts += [[]] if FIELD.fullmatch(line) else []
        parts[-1].append(line)
    return "\n\n".join(field(part) for part in parts if part)


def field(lines: list[str]) -> str:
    found = FIELD.fullmatch(lines[0])
    if found is None:
        return "\n".join(lines)
    if found[2] or len(lines) == 1:
        return "\n".join([f"**{found[1]}:** {found[2]}", *(line.strip() for line in lines[1:])])
    entries = re.split(r"\n(?=\S)", inspect.cleandoc("\n" + "\n".join(lines[1:])))
    return f"**{found[1]}:**\n\n" + "\n".join(f"- {entry(' '.join(text.split()))}" for text in entries)


def entry(text: str) -> str:
    """`name: meaning` with the name as code."""
    names, colon, meaning = text.partition(": ")
    return f"`{names}`: {meaning}" if colon and re.fullmatch(r"[\w, *]+", names) else text
