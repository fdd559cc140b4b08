"""JSON objects and text files that end in a one-line `ValueError` naming the file when they are not as expected."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

WORDS = {
    float: "a number",
    int: "a whole number",
    str: "text",
    list: "a list",
    dict: "an object",
    bool: "true or false",
}


@dataclass(frozen=True)
class Record:
    """A JSON object that knows its file, so that a missing or wrong entry can be named."""

    path: Path
    entries: dict[str, Any]
    prefix: str = ""

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read the JSON object in `path`."""
        try:
            entries = json.loads(read_text(path))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: not valid JSON (line {error.lineno}, column {error.colno})") from None
        if not isinstance(entries, dict):
            raise ValueError(f"{path}: expected a JSON object, got {type(entries).__name__}")
        return cls(path, entries)

    def optional(self, key: str, kind: type[T]) -> T | None:
        """The entry as `kind`; None where it is absent, null or not a finite number."""
        value = self.entries.get(key)
        if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value) if math.isfinite(value) else None  # type: ignore[return-value]
        if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
            raise ValueError(f"{self.path}: expected {self.prefix + key!r} to be {WORDS[kind]}, got {value!r}")
        return value

    def get(self, key: str, kind: type[T]) -> T:
        """The entry as `kind`, which must be there."""
        value = self.optional(key, kind)
        if value is None:
            raise ValueError(f"{self.path}: expected {self.prefix + key!r} to be {WORDS[kind]}, found none")
        return value

    def section(self, key: str) -> Record:
        """The object under `key`."""
        return Record(self.path, self.get(key, dict), f"{self.prefix}{key}.")


def read_text(path: Path) -> str:
    """The text of a file that must exist."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        raise ValueError(f"{path}: expected this file, found none that can be read") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: expected UTF-8 text") from None
