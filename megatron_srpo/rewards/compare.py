"""Whether what a program answered is what was expected."""

from __future__ import annotations

import json
import math
import re
from typing import Any

# Without two ways to read the same digits: a program chooses the text, and time must stay in proportion to it.
DECIMAL = re.compile(r"[+-]?(?=[0-9.]*[.eE])([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


def values_agree(returned: str, expected: str, tolerance: float) -> bool:
    """Whether a JSON text, which a program chose, holds the expected value, also JSON.

    Equal in value and kind; where a float is expected, an integer or float within the tolerance (relative and
    absolute).
    """
    try:
        return _equal(json.loads(returned), json.loads(expected), tolerance)
    except (ValueError, RecursionError):
        return False  # no JSON, a number with thousands of digits, or nested too deeply


def texts_agree(printed: str, expected: str, tolerance: float) -> bool:
    """Whether a program printed the expected lines, up to space around words and empty lines at the end.

    Words must be equal, but for decimal numbers, which may differ by the tolerance (relative and absolute) from
    what is expected there.
    """
    lines, wanted = printed.rstrip().split("\n"), expected.rstrip().split("\n")
    return len(lines) == len(wanted) and all(
        line == other or _words_agree(line.split(), other.split(), tolerance)
        for line, other in zip(lines, wanted, strict=True)
    )


def _words_agree(words: list[str], expected: list[str], tolerance: float) -> bool:
    return len(words) == len(expected) and all(
        word == other or (DECIMAL.fullmatch(other) is not None and _number_agrees(word, float(other), tolerance))
        for word, other in zip(words, expected, strict=True)
    )


def _number_agrees(word: str, expected: float, tolerance: float) -> bool:
    """Whether a word is a plain number, whole or decimal, within the tolerance."""
    if not re.fullmatch(r"[+-]?[0-9]{1,400}", word) and not DECIMAL.fullmatch(word):
        return False
    return _close(float(word), expected, tolerance)


def _equal(value: Any, expected: Any, tolerance: float) -> bool:
    if isinstance(expected, float):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and _close(value, expected, tolerance)
    if type(value) is not type(expected):
        return False
    if isinstance(expected, list):
        return len(value) == len(expected) and all(
            _equal(one, other, tolerance) for one, other in zip(value, expected, strict=True)
        )
    if isinstance(expected, dict):
        return value.keys() == expected.keys() and all(
            _equal(value[key], other, tolerance) for key, other in expected.items()
        )
    return bool(value == expected)


def _close(value: float, expected: float, tolerance: float) -> bool:
    try:
        return math.isclose(value, expected, rel_tol=tolerance, abs_tol=tolerance)
    except OverflowError:  # an integer beyond all floats
        return False
