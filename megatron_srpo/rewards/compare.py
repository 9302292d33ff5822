"""Whether what a program answered is what was expected."""

from __future__ import annotations

import json
import math
import re
from typing import Any

# One way to read each text: where digits could belong to two parts, a megabyte of them would take days.
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
    if not re.fullmatch(r"[+-]?[0-9]+", word) and not DECIMAL.fullmatch(word):
        return False
    # Beyond all floats, every number would be as good as any other.
    return math.isfinite(expected) and _close(float(word), expected, tolerance)


def _equal(value: Any, expected: Any, tolerance: float) -> bool:
    """Whether two values from JSON agree in kind, form and all that they hold."""
    pairs = [(value, expected)]  # yet to compare; a stack, as values may be nested deeper than functions can be
    while pairs:
        one, other = pairs.pop()
        if isinstance(other, float):
            if not isinstance(one, int | float) or isinstance(one, bool) or not _close(one, other, tolerance):
                return False
        elif type(one) is not type(other):
            return False
        elif isinstance(other, list):
            if len(one) != len(other):
                return False
            pairs += zip(one, other, strict=True)
        elif isinstance(other, dict):
            if one.keys() != other.keys():
                return False
            pairs += ((one[key], held) for key, held in other.items())
        elif one != other:
            return False
    return True


def _close(value: float, expected: float, tolerance: float) -> bool:
    try:
        return math.isclose(value, expected, rel_tol=tolerance, abs_tol=tolerance)
    except OverflowError:  # an integer beyond all floats
        return False
