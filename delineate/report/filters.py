"""How pages show text, and the environment that their templates are rendered in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .few_labels import Interval, signed


def environment() -> Environment:
    """The templates of this folder; everything that they show is escaped."""
    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"plain": plain, "signed": signed_text, "breakable": breakable, "coded": coded}
    return found


def plain(value: Any) -> str:
    """A value of a JSON file as text.

    >>> plain([160, 224]), plain(None), plain(0.001)
    ('160 × 224', 'none', '0.001')
    """
    if isinstance(value, list):
        return " × ".join(map(plain, value))
    return "none" if value is None else str(value)


def signed_text(difference: Interval) -> str:
    """As `signed`, with the minus sign of print."""
    return minus(signed(difference))


def minus(text: str) -> str:
    """A number with the minus sign of print."""
    return text.replace("-", "\u2212")


def breakable(name: str) -> Markup:
    """A name that may go on in the next line after an opening bracket, an underscore or an equals sign.

    >>> breakable("a(b_c=<0>)")
    Markup('a(<wbr>b_<wbr>c=<wbr>&lt;0&gt;)')
    """
    return Markup("<wbr>").join(re.split(r"(?<=[(_=])", name))


def coded(text: str) -> Markup:
    """A sentence with what stands between backticks as code.

    >>> coded("`CE` & more")
    Markup('<code>CE</code> &amp; more')
    """
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return Markup("{}").format(text)
    return Markup().join(Markup("<code>{}</code>").format(p) if i % 2 else p for i, p in enumerate(parts))
