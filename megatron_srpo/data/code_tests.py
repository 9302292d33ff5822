"""Tests of a code problem: which function is called with what, and what it must return."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from megatron_srpo.errors import SrpoError

KINDS = ("call",)
KEYS = ("kind", "function", "cases", "tolerance")
LONGEST_EXPECTED = 2**19  # characters of JSON; the sandbox takes back at most twice as much


@dataclass(frozen=True)
class CodeTests:
    """Calls of one function.

    Arguments and expected values are kept as JSON text, apart from each other: the sandbox is given the
    arguments and nothing else.
    """

    function: str
    """Name of the function that a program must define."""
    arguments: str
    """JSON: for each case the list of its arguments."""
    expected: str
    """JSON: for each case the value that must be returned."""
    tolerance: float = 1e-6
    """Relative and absolute; for expected values that are written with a decimal point or exponent."""


def parse_tests(text: str, where: str) -> CodeTests:
    """Read `{"kind": "call", "function": "f", "cases": [[[argument, ...], expected], ...]}`.

    The key `tolerance`, a number, may be left out.

    Args:
        text: JSON text.
        where: file, row and column, for messages.

    Raises:
        SrpoError: when the text is no JSON, or not of this form.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise SrpoError(f"{where}: not valid JSON ({error}).") from None
    if not isinstance(value, dict):
        raise SrpoError(f"{where}: expected an object, found {type(value).__name__}.")
    if value.get("kind") not in KINDS:
        raise SrpoError(f"{where}: unknown kind {value.get('kind')!r}; supported is {', '.join(KINDS)}.")
    unknown = [key for key in value if key not in KEYS]
    if unknown:
        raise SrpoError(f"{where}: unknown key {unknown[0]!r}; expected {', '.join(KEYS)}.")
    return _call_tests(value, where)


def _call_tests(value: dict[str, Any], where: str) -> CodeTests:
    """The tests of kind `call`, checked."""
    function, cases, tolerance = value.get("function"), value.get("cases"), value.get("tolerance", 1e-6)
    if not isinstance(function, str) or not function.isidentifier():
        raise SrpoError(f"{where}: function must be the name of a function, found {function!r}.")
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < 1:
        raise SrpoError(f"{where}: tolerance must be a number from 0 to below 1, found {tolerance!r}.")
    if not isinstance(cases, list) or not cases:
        raise SrpoError(f"{where}: cases must be a list of one case or more, found {_short(cases)}.")
    for number, case in enumerate(cases, 1):
        if not isinstance(case, list) or len(case) != 2 or not isinstance(case[0], list):
            raise SrpoError(
                f"{where}: case {number} must be a list of the arguments and the expected value, "
                f"[[argument, ...], expected], found {_short(case)}."
            )
    expected = json.dumps([case[1] for case in cases])
    if len(expected) > LONGEST_EXPECTED:
        raise SrpoError(
            f"{where}: the expected values are {len(expected)} characters long, but the sandbox allows "
            f"{LONGEST_EXPECTED}; leave out the largest cases."
        )
    return CodeTests(function, json.dumps([case[0] for case in cases]), expected, float(tolerance))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
