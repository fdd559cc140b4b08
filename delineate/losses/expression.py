"""From text to loss: `parse("Dice + 0.5*TopK(k=0.1)")`. The text is parsed as a formula and never evaluated."""

import ast
import difflib
import inspect
from typing import Any, NoReturn

from delineate.losses import distribution, region
from delineate.losses.loss import Loss, arguments

ALIASES = {"CE": "CrossEntropy"}


def names() -> dict[str, type[Loss]]:
    """Every name an expression may use, with its class."""
    found = {
        cls.name(): cls
        for family in (distribution, region)
        for name, cls in vars(family).items()
        if name.endswith("Loss") and not name.startswith("_") and issubclass(cls, Loss) and not inspect.isabstract(cls)
    }
    return found | {alias: found[name] for alias, name in ALIASES.items()}


def parse(text: str, **common: Any) -> Loss:
    """Build a loss from an expression.

    Args:
        text: names of losses (the class name without `Loss`; `CE` for `CrossEntropy`), with arguments in parentheses,
            joined by `+` and multiplied by numbers.
        common: arguments given to every term that does not set them itself, such as `ignore_index=255`.

    Raises:
        ValueError: saying what in the text is wrong, where, and what would be right.

    >>> parse("Dice(squared=True) + 0.5*TopK(k=0.2)", ignore_index=255)
    Dice(squared=True, ignore_index=255) + 0.5*TopK(k=0.2, ignore_index=255)
    >>> parse("Dise + CE")
    Traceback (most recent call last):
    ...
    ValueError: parse: no loss named 'Dise' in "Dise + CE" (column 1). Did you mean 'Dice'? All names: ...
    """
    return _Parser(text, common).loss()


class _Parser:
    def __init__(self, text: str, common: dict[str, Any]):
        self.text, self.common, self.names = text, common, names()

    def loss(self) -> Loss:
        try:
            tree = ast.parse(self.text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            column = getattr(error, "offset", None)
            where = f" (column {column})" if column else ""
            raise ValueError(
                f'parse: "{self.text}" is not an expression{where}; expected losses joined by +, for example '
                '"Dice + 0.5*TopK(k=0.1)".'
            ) from None
        return self.term(tree)

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
                return self.build(node, name, {})
            case ast.Call(func=ast.Name(id=name), args=[], keywords=keywords):
                return self.build(node, name, self.given(node, keywords))
            case ast.Call(func=ast.Name(id=name)):
                self.fail(node, f"arguments of {name} must be named, as in TopK(k=0.1)")
        self.fail(node, "expected the name of a loss, a sum with +, or a number times a loss")

    def build(self, node: ast.expr, name: str, given: dict[str, Any]) -> Loss:
        if name not in self.names:
            self.unknown(node, f"no loss named {name!r}", name, sorted(self.names), "names")
        cls = self.names[name]
        allowed = list(arguments(cls))
        for argument in given:
            if argument not in allowed:
                self.unknown(node, f"{name} has no argument {argument!r}", argument, allowed, f"arguments of {name}")
        try:
            return cls(**{k: v for k, v in self.common.items() if k in allowed} | given)
        except TypeError as error:
            self.fail(node, str(error))

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
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError, SyntaxError):
            self.fail(node, "values of arguments must be numbers, text, True, False, None or lists of these")

    def given(self, node: ast.expr, keywords: list[ast.keyword]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for keyword in keywords:
            if keyword.arg is None:
                self.fail(node, "** is not part of an expression")
            found[keyword.arg] = self.value(keyword.value)
        return found

    def unknown(self, node: ast.expr, what: str, got: str, known: list[str], label: str) -> NoReturn:
        close = difflib.get_close_matches(got, known, n=3, cutoff=0.5)
        close = close or [name for name in known if name.lower() == got.lower().removesuffix("loss")]
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ValueError(
            f'parse: {what} in "{self.text}" (column {node.col_offset + 1}).{hint} All {label}: {", ".join(known)}.'
        )

    def fail(self, node: ast.expr, what: str) -> NoReturn:
        raise ValueError(f'parse: {what}; got "{ast.unparse(node)}" in "{self.text}" (column {node.col_offset + 1}).')
