"""From text to loss: `parse("Dice + 0.5*TopK(k=0.1)")`. The text is parsed as a formula and never evaluated."""

import ast
import difflib
import inspect
import json
from typing import Any, NoReturn

from delineate.losses import boundary, compound, distribution, hausdorff, instance, lovasz, region, schedule, structure
from delineate.losses.loss import Loss, arguments

FAMILIES = (distribution, region, lovasz, boundary, hausdorff, structure, instance, compound, schedule)
ALIASES = {
    "CE": "CrossEntropy",
    "DiceCE": "Dice + CE",
    "DiceTopK": "Dice + TopK",
    "DiceFocal": "Dice + Focal",
    "DiceHD": "Balanced(Dice, HausdorffDT)",
    "DiceBoundary": "Schedule(Dice, Boundary, start=[1, 0.01], end=[0.1, 0.91], epochs=90)",
}
"""Names for expressions. Their arguments go to all terms that know them and do not have them here."""
SHOWN = 80
"""Characters of a text that an error message shows."""


def names() -> dict[str, type[Loss]]:
    """Every class an expression may name."""
    return {
        cls.name(): cls
        for family in FAMILIES
        for cls in vars(family).values()
        if getattr(cls, "__module__", "") == family.__name__ and _is_public(cls)
    }


def _is_public(cls: Any) -> bool:
    """Whether what a module defines is a loss for users."""
    loss = isinstance(cls, type) and issubclass(cls, Loss)
    return loss and not cls.__name__.startswith("_") and not inspect.isabstract(cls)


def _takes(cls: type[Loss], losses: int) -> bool:
    """Whether a class takes so many losses by position: any number, or one for each of its own parameters."""
    own = [p for name, p in inspect.signature(cls.__init__).parameters.items() if name != "self"]
    places = [p for p in own if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    return any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in own) or losses == len(places)


def parse(text: str, **common: Any) -> Loss:
    """Build a loss from an expression.

    Args:
        text: names of losses (the class name without `Loss`; `CE` for `CrossEntropy`; `DiceCE`, `DiceTopK`,
            `DiceFocal`, `DiceHD` and `DiceBoundary` for these mixtures), with arguments in parentheses, joined by `+`
            and multiplied by numbers.
        common: arguments given to every term that knows them and does not set them itself, such as `ignore_index=255`.

    Raises:
        ValueError: saying what in the text is wrong, where, and what would be right.

    >>> parse("Dice(squared=True) + 0.5*TopK(k=0.2)", ignore_index=255)
    Dice(squared=True, ignore_index=255) + 0.5*TopK(k=0.2, ignore_index=255)
    >>> parse("Dise + CE")
    Traceback (most recent call last):
    ...
    ValueError: parse: no loss named 'Dise' in "Dise + CE" (column 1). Did you mean 'Dice' or ...
    """
    return _Parser(text, common).loss()


class _Parser:
    def __init__(self, text: str, common: dict[str, Any]):
        if not isinstance(text, str):
            raise ValueError(f'parse: expected text such as "Dice + 0.5*CE"; got {type(text).__name__}.')
        self.text, self.common, self.classes = text.strip(), common, names()
        self.names = sorted([*self.classes, *ALIASES])

    def loss(self) -> Loss:
        self.check_common()
        try:
            return self.term(self.tree())
        except (RecursionError, MemoryError):
            raise ValueError(f"parse: {_quote(self.text)} is nested too deeply or has too many terms.") from None

    def check_common(self) -> None:
        known = {argument for cls in self.classes.values() for argument in arguments(cls)}
        for argument in self.common:
            if argument not in known:
                self.unknown(None, f"no loss has an argument {argument!r}", argument, sorted(known), "arguments")

    def tree(self) -> ast.expr:
        try:
            return ast.parse(self.text, mode="eval").body
        except (SyntaxError, ValueError) as error:
            column = getattr(error, "offset", None)
            where = f" (column {column})" if column else ""
            raise ValueError(
                f"parse: {_quote(self.text)} is not an expression{where}; expected losses joined by +, for example "
                '"Dice + 0.5*TopK(k=0.1)".'
            ) from None

    def term(self, node: ast.expr) -> Loss:
        match node:
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self.term(left) + self.term(right)
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                factors = [self.number(side) for side in (left, right)]
                if factors[0] is not None:
                    return factors[0] * self.term(right)
                if factors[1] is not None:
                    return self.term(left) * factors[1]
                self.fail(node, "one side of * must be a number, as in 0.5*Dice")
            case ast.Name(id=name):
                return self.build(node, name, [], {})
            case ast.Call(func=ast.Name(id=name), args=inner, keywords=keywords):
                self.check_name(node, name)
                return self.build(node, name, inner, self.given(node, keywords))
        self.fail(node, "expected the name of a loss, a sum with +, or a number times a loss")

    def check_name(self, node: ast.expr, name: str) -> None:
        if name not in self.names:
            self.unknown(node, f"no loss named {name!r}", name, self.names, "names")

    def build(self, node: ast.expr, name: str, inner: list[ast.expr], given: dict[str, Any]) -> Loss:
        self.check_name(node, name)
        cls = self.classes.get(name)
        if inner and not (cls and cls.takes_losses):
            self.fail(node, f"arguments of {name} must be named, as in TopK(k=0.1)")
        allowed = list(arguments(cls)) if cls else sorted(self.arguments_of(ALIASES[name]))
        for argument in given:
            if argument not in allowed:
                self.unknown(node, f"{name} has no argument {argument!r}", argument, allowed, f"arguments of {name}")
        if cls is None:
            return _Parser(ALIASES[name], self.common | given).loss()
        if not _takes(cls, len(inner)):
            self.fail(node, f"{name} takes one loss inside, as in {name}(Dice) or {name}(Dice + CE)")
        missing = [a for a, p in arguments(cls).items() if p.default is p.empty and a not in given]
        if missing:
            self.fail(node, f"{name} needs {' and '.join(missing)}")
        common = {argument: value for argument, value in self.common.items() if argument in allowed}
        return cls(*map(self.term, inner), **common | given)

    def arguments_of(self, alias: str) -> set[str]:
        """Arguments that any term of an alias knows and is not given there."""
        tree = ast.parse(alias, mode="eval")
        fixed = {keyword.arg for node in ast.walk(tree) if isinstance(node, ast.Call) for keyword in node.keywords}
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        terms = {ALIASES.get(name, name) for name in names}
        return {argument for name in terms for argument in arguments(self.classes[name])} - fixed

    def number(self, node: ast.expr) -> float | None:
        match node:
            case ast.Constant(value=bool()):
                return None
            case ast.Constant(value=int() | float() as value):
                return value
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                value = self.number(operand)
                return None if value is None else -value
        return None

    def value(self, node: ast.expr) -> Any:
        """The value of an argument: a constant, or a list of constants."""
        number = self.number(node)
        if number is not None:
            return number
        match node:
            case ast.Constant(value=str() | bool() | None as value):
                return value
            case ast.List(elts=items) | ast.Tuple(elts=items):
                return [self.value(item) for item in items]
        self.fail(node, "values of arguments must be numbers, text, True, False, None or lists of these")

    def given(self, node: ast.expr, keywords: list[ast.keyword]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for keyword in keywords:
            if keyword.arg is None:
                self.fail(node, "** is not part of an expression")
            if keyword.arg in found:
                self.fail(node, f"argument {keyword.arg!r} is given twice")
            found[keyword.arg] = self.value(keyword.value)
        return found

    def unknown(self, node: ast.expr | None, what: str, got: str, known: list[str], label: str) -> NoReturn:
        close = [name for name in known if name.lower() == got.lower().removesuffix("loss")]
        close = close or difflib.get_close_matches(got, known, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        where = "" if node is None else f" in {_quote(self.text)} (column {node.col_offset + 1})"
        raise ValueError(f"parse: {what}{where}.{hint} All {label}: {', '.join(known)}.")

    def fail(self, node: ast.expr, what: str) -> NoReturn:
        got = f"{_quote(ast.unparse(node))} in {_quote(self.text)} (column {node.col_offset + 1})"
        raise ValueError(f"parse: {what}; got {got}.")


def _quote(text: str) -> str:
    """The text on one line, cut where it is long."""
    return json.dumps(text if len(text) <= SHOWN else text[: SHOWN - 3] + "...")
