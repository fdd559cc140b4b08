"""From text to method: `parse_method("dssn(agree_weight=0)")`. The text is parsed and never evaluated."""

import ast
import inspect
from typing import Any

from delineate.losses import parse
from delineate.semi import selectors
from delineate.semi.dssn import DSSN
from delineate.semi.fixmatch import FixMatch
from delineate.semi.mean_teacher import MeanTeacher
from delineate.semi.method import Method
from delineate.semi.supervised import Supervised
from delineate.semi.unimatch import UniMatch

METHODS: dict[str, type[Method]] = {
    cls.__name__.lower(): cls for cls in (Supervised, MeanTeacher, FixMatch, UniMatch, DSSN)
}
"""Methods by their names on the command line."""
SELECTORS = {
    cls.__name__: cls for cls in (selectors.FixedThreshold, selectors.ClassMaxThreshold, selectors.NoSelection)
}


def parse_method(text: str) -> Method:
    """Build a method from its name, with options in parentheses.

    Args:
        text: "supervised", "meanteacher", "fixmatch", "unimatch" or "dssn", in any case; options as in
            "dssn(selector=NoSelection(), warmup_epochs=5)". `pseudo` takes the text of a loss, as in
            "fixmatch(pseudo='Focal')".

    Raises:
        ValueError: in one line, what in the text is wrong.

    >>> parse_method("FixMatch(selector=FixedThreshold(threshold=0.9))").selector
    FixedThreshold(threshold=0.9)
    >>> parse_method("fixmach")
    Traceback (most recent call last):
    ...
    ValueError: --semi: expected one of supervised, meanteacher, fixmatch, unimatch, dssn; got 'fixmach'.
    """
    name, options = read_call(text, "--semi")
    cls = METHODS.get(name.lower())
    if cls is None:
        raise ValueError(f"--semi: expected one of {', '.join(METHODS)}; got {name!r}.")
    return _build(cls, {key: _part(key, value) for key, value in options.items()})


def read_call(text: str, option: str) -> tuple[str, dict[str, Any]]:
    """A name and its options: constants, lists of constants, and calls, which come as (name, options).

    >>> read_call("Net(rates=[6, 12], head=Head(size=1))", "--model")
    ('Net', {'rates': [6, 12], 'head': ('Head', {'size': 1})})
    """
    try:
        return _call(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(
            f"{option}: expected a name, or a name with options that are numbers, text, True, False, None or lists of "
            f"these, as in Name(option=0.5); got {text!r}."
        ) from None


def _call(node: ast.expr) -> tuple[str, dict[str, Any]]:
    if isinstance(node, ast.Call) and not node.args and all(keyword.arg for keyword in node.keywords):
        options = {str(keyword.arg): _value(keyword.value) for keyword in node.keywords}
        if len(options) == len(node.keywords):
            return _name(node.func), options
    return _name(node), {}


def _name(node: ast.expr) -> str:
    """A name, with dots for an import path."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=name):
            return f"{_name(value)}.{name}"
        case ast.BinOp(left=left, op=ast.Sub(), right=right):  # names of networks hold hyphens: small-unet
            return f"{_name(left)}-{_name(right)}"
    raise ValueError


def _value(node: ast.expr) -> Any:
    return _call(node) if isinstance(node, ast.Call) else ast.literal_eval(node)


def _part(key: str, value: Any) -> Any:
    """A selector or a loss where one was named."""
    if key == "selector":
        name, options = value if isinstance(value, tuple) else (value, {})
        if not isinstance(name, str) or name not in SELECTORS:
            raise ValueError(f"--semi: expected `selector` to be one of {', '.join(SELECTORS)}; got {name!r}.")
        return _build(SELECTORS[name], options)
    return parse(value, ignore_index=-1) if key == "pseudo" and isinstance(value, str) else value


def _build(cls: type, options: dict[str, Any]) -> Any:
    known = list(inspect.signature(cls).parameters)
    for key in options:
        if key not in known:
            raise ValueError(
                f"--semi: {cls.__name__} has no option {key!r}. Its options: {', '.join(known) or 'none'}."
            )
    try:
        return cls(**options)
    except TypeError as error:
        raise ValueError(f"--semi: {cls.__name__}: {error}.") from None
