"""Tests of a code problem: what a program is given, and what it must answer."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

from megatron_srpo.errors import SrpoError

Kind = Literal["call", "stdio"]
KINDS: tuple[Kind, ...] = ("call", "stdio")
LANGUAGES = ("python",)
LONGEST_TESTS = 2**26  # characters of JSON; one test case is far smaller, hundreds of them may not be


@dataclass(frozen=True)
class CodeTests:
    """Calls of one function, or whole runs with standard input and output.

    Inputs and expected answers are apart from each other: the sandbox is given the inputs and nothing else.
    """

    kind: Kind
    inputs: tuple[str, ...]
    """For each case: JSON of the list of arguments, or the text on standard input."""
    expected: tuple[str, ...]
    """For each case: JSON of the value to return, or the text to print."""
    function: str = ""
    """Of calls: the function, or method of a class `Solution`, that a program must define."""
    tolerance: float = 1e-6
    """Relative and absolute; for expected numbers that are written with a decimal point or exponent."""
    checker: str | None = None
    """Instead of comparing: a program that defines check(input, output, expected), see docs/rewards.md."""
    language: str = "python"


def parse_tests(text: str, where: str) -> CodeTests:
    """Read tests from JSON, of one of the kinds:

        {"kind": "call", "function": "f", "cases": [[[argument, ...], expected], ...]}
        {"kind": "stdio", "cases": [["standard input", "standard output"], ...]}

    The keys `tolerance` (a number), `checker` (a program) and `language` may be left out.

    Args:
        text: JSON text.
        where: file, row and column, for messages.

    Raises:
        SrpoError: when the text is no JSON, or not of this form.
    """
    if len(text) > LONGEST_TESTS:
        raise SrpoError(f"{where}: {len(text)} characters, at most {LONGEST_TESTS}; leave out the largest cases.")
    try:
        value = json.loads(text, parse_float=_finite, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise SrpoError(f"{where}: not valid JSON ({error}).") from None
    if not isinstance(value, dict):
        raise SrpoError(f"{where}: expected an object, found {type(value).__name__}.")
    kind = value.get("kind")
    if kind not in KINDS:
        raise SrpoError(f"{where}: unknown kind {kind!r}; supported is {', '.join(KINDS)}.")
    keys = ["kind", *(["function"] if kind == "call" else []), "cases", "tolerance", "checker", "language"]
    unknown = [key for key in value if key not in keys]
    if unknown:
        raise SrpoError(f"{where}: unknown key {unknown[0]!r} for kind {kind}; expected {', '.join(keys)}.")
    inputs, expected = _call_cases(value, where) if kind == "call" else _stdio_cases(value, where)
    return CodeTests(
        kind,
        inputs,
        expected,
        value.get("function", ""),
        _tolerance(value.get("tolerance", 1e-6), where),
        _checker(value.get("checker"), where),
        _language(value.get("language", "python"), where),
    )


def _call_cases(value: dict[str, Any], where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Inputs and expected answers of kind `call`."""
    function = value.get("function")
    if not isinstance(function, str) or not function.isidentifier():
        raise SrpoError(f"{where}: function must be the name of a function, found {function!r}.")
    cases = _cases(value, where)
    for number, case in enumerate(cases, 1):
        if not isinstance(case, list) or len(case) != 2 or not isinstance(case[0], list):
            raise SrpoError(
                f"{where}: case {number} must be a list of the arguments and the expected value, "
                f"[[argument, ...], expected], found {_short(case)}."
            )
    return tuple(json.dumps(case[0]) for case in cases), tuple(json.dumps(case[1]) for case in cases)


def _stdio_cases(value: dict[str, Any], where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Inputs and expected answers of kind `stdio`."""
    cases = _cases(value, where)
    for number, case in enumerate(cases, 1):
        if not isinstance(case, list) or len(case) != 2 or not all(isinstance(text, str) for text in case):
            raise SrpoError(
                f"{where}: case {number} must be two texts, [standard input, standard output], "
                f"found {_short(case)}."
            )
    return tuple(case[0] for case in cases), tuple(case[1] for case in cases)


def _cases(value: dict[str, Any], where: str) -> list[Any]:
    cases = value.get("cases")
    if not isinstance(cases, list) or not cases:
        raise SrpoError(f"{where}: cases must be a list of one case or more, found {_short(cases)}.")
    return cases


def _tolerance(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise SrpoError(f"{where}: tolerance must be a number from 0 to below 1, found {value!r}.")
    return float(value)


def _checker(value: Any, where: str) -> str | None:
    if value is not None and (not isinstance(value, str) or "check" not in value):
        raise SrpoError(f"{where}: checker must be a program that defines check, found {_short(value)}.")
    return value


def _language(value: Any, where: str) -> str:
    if value not in LANGUAGES:
        raise SrpoError(f"{where}: unknown language {value!r}; supported is {', '.join(LANGUAGES)}.")
    return str(value)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text:.80} is beyond all floats")
    return number


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
