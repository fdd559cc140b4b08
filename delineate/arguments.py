"""The words of a command line, in the form that the parser takes."""

import json
import re
from itertools import takewhile

SEVERAL = ("--losses", "--crop", "--classes", "--spacing", "--scale", "--lr_sweep")
"""Options that are followed by several words."""
SEVERAL_ARMS = ("--losses", "--semi", "--labeled")
"""Options that are followed by several texts, of compare."""


def join_lists(arguments: list[str]) -> list[str]:
    """Turn `--losses "CE" "Dice"` into what the parser takes, `--losses '["CE", "Dice"]'`, and `-o` into `--out`.

    >>> join_lists(["compare", "data", "--losses", "CE", "Dice + CE", "--crop", "64", "96", "-o", "x"])
    ['compare', 'data', '--losses', '["CE", "Dice + CE"]', '--crop', '[64, 96]', '--out', 'x']
    """
    joined, rest = [], ["--out" if word == "-o" else word for word in arguments]
    texts = SEVERAL_ARMS if arguments[:1] == ["compare"] else ()
    while rest:
        word = rest.pop(0)
        joined.append(word)
        several = word in SEVERAL or word in texts
        words = list(takewhile(lambda word: not word.startswith("--"), rest)) if several else []
        if words and not words[0].startswith("["):
            joined.append(json.dumps(words if word in texts else [_value(word) for word in words]))
            del rest[: len(words)]
    return joined


def name_truth(arguments: list[str]) -> list[str]:
    """Turn `evaluate PREDICTIONS TRUTH` into what the parser takes, `evaluate PREDICTIONS --truth TRUTH`.

    >>> name_truth(["evaluate", "--split", "val", "run"]), name_truth(["evaluate", "a", "--out", "c", "b"])
    (['evaluate', '--split', 'val', 'run'], ['evaluate', 'a', '--out', 'c', '--truth', 'b'])
    """
    if arguments[:1] != ["evaluate"]:
        return arguments
    words, free = enumerate(arguments[1:], start=1), []
    for place, word in words:
        if not word.startswith("-"):
            free.append(place)
        elif "=" not in word:
            next(words, None)
    return arguments if len(free) != 2 else [*arguments[: free[1]], "--truth", *arguments[free[1] :]]


def _value(word: str) -> int | float | str:
    """A number where the word is one.

    >>> _value("64"), _value("1.5"), _value("1e-3"), _value("CE")
    (64, 1.5, 0.001, 'CE')
    """
    if word.isdigit():
        return int(word)
    return float(word) if re.fullmatch(r"\d*\.\d+|\d+(\.\d*)?e-?\d+", word) else word
