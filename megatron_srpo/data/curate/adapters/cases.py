"""Test cases of all sets in the one form that `data.code_tests.parse_tests` reads.

A value that our tests cannot hold (a number of ten thousand digits, one that is not finite, an object with
numbers for keys) costs the case that it stands in, and not the problem.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from megatron_srpo.data.code_tests import LONGEST_TESTS, parse_tests
from megatron_srpo.data.curate.adapters.exact import Unfit, read_line
from megatron_srpo.data.curate.draft import BadRow
from megatron_srpo.errors import SrpoError

DEEPEST = 8  # lists in lists that an annotation may have

Case = tuple[Any, Any]
"""What is given, and what is expected; `Unfit` where the set has something else."""


def stdio_tests(pairs: Iterable[Case]) -> tuple[str, dict[str, Any]]:
    """Tests of whole runs; texts may be lists of their lines.

    Returns:
        The tests, empty where there are no pairs, and for the notes how many cases had to be left out.

    Raises:
        BadRow: when no case is left.
    """
    return _built({"kind": "stdio"}, [(_joined(given), _joined(expected)) for given, expected in pairs])


def call_tests(function: str, cases: Iterable[Case]) -> tuple[str, dict[str, Any]]:
    """Tests of calls of one function, from lists of arguments and values; else like `stdio_tests`."""
    return _built({"kind": "call", "function": function}, list(cases))


def call_cases(pairs: Sequence[Case], starter_code: str) -> list[Case]:
    """Arguments and values of the calls that a set describes.

    Args:
        pairs: each call as a list of arguments and a value, or as text, where every line is JSON of one
            argument and the value is JSON too.
        starter_code: says whether the function returns lists.
    """
    wrapped = _are_wrapped([expected for given, expected in pairs if isinstance(given, list)], starter_code)
    cases: list[Case] = []
    for given, expected in pairs:
        if isinstance(given, str):
            lines = [line for line in given.split("\n") if line.strip()]
            case: Case = ([read_line(line) for line in lines], read_line(expected))
        elif isinstance(given, list):
            case = (given, expected[0] if wrapped else expected)
        else:
            case = (Unfit("the arguments are no list"), expected)
        cases.append((Unfit("an object had numbers for keys"), None) if _has_number_keys(case) else case)
    return cases


def paired(inputs: Any, outputs: Any, what: str) -> list[Case]:
    """Inputs and outputs side by side.

    Raises:
        BadRow: when they are not two lists of the same length.
    """
    if not isinstance(inputs, list) or not isinstance(outputs, list):
        raise BadRow(f"{what} must hold a list of inputs and a list of outputs.")
    if len(inputs) != len(outputs):
        raise BadRow(f"{what} holds {len(inputs)} inputs, but {len(outputs)} outputs.")
    return list(zip(inputs, outputs, strict=True))


def _built(head: Mapping[str, str], cases: Sequence[Case]) -> tuple[str, dict[str, Any]]:
    if not cases:
        return "", {}
    start = json.dumps(head)[:-1] + ', "cases": ['
    texts: list[str] = []
    reason = ""
    for case in cases:
        try:
            text = _written(case)
            # By the reader itself, so that nothing can pass here and fail there.
            parse_tests(f"{start}{text}]}}", "a test")
            texts.append(text)
        except (SrpoError, _UnfitError) as error:
            reason = reason or str(error).rstrip(".")
    _leave_out_largest(texts, LONGEST_TESTS - len(start))
    if not texts:
        raise BadRow(f"none of the {len(cases)} tests can be used ({reason or 'they are too large'}).")
    left_out = len(cases) - len(texts)
    return f"{start}{', '.join(texts)}]}}", {"cases_left_out": left_out} if left_out else {}


def _leave_out_largest(texts: list[str], room: int) -> None:
    """Take out as few texts as it needs for the others to fit, in place."""
    size = sum(len(text) + 2 for text in texts)
    out = set[int]()
    for number in sorted(range(len(texts)), key=lambda number: -len(texts[number])):
        if size <= room:
            break
        out.add(number)
        size -= len(texts[number]) + 2
    texts[:] = [text for number, text in enumerate(texts) if number not in out]


class _UnfitError(Exception):
    """Why a case cannot be used."""


def _written(case: Case) -> str:
    """A case as JSON that means the same; raises _UnfitError."""
    for value in case:
        if isinstance(value, Unfit):
            raise _UnfitError(value.reason)
    try:
        if _has_foreign_keys(case):
            raise _UnfitError("an object has keys that are no texts")
        text = json.dumps(case, ensure_ascii=False, allow_nan=False, default=_refuse)
        text.encode()
    except UnicodeEncodeError:
        raise _UnfitError("a text holds half of a surrogate pair") from None
    except (ValueError, RecursionError) as error:
        raise _UnfitError(str(error)) from None
    return text


def _refuse(value: Any) -> None:
    raise _UnfitError(
        value.reason if isinstance(value, Unfit) else f"JSON has no form for a {type(value).__name__}"
    )


def _joined(value: Any) -> Any:
    """Text from its lines, where a set keeps those apart."""
    if isinstance(value, list | tuple) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    return value if isinstance(value, str) else Unfit("what is read or printed is no text")


def _are_wrapped(expected: Sequence[Any], starter_code: str) -> bool:
    """Whether every value stands in a list of its own, as sets made from APPS have it.

    A function that returns lists of one element looks alike; where the starter code says how deep its lists
    are, that decides, and else the more frequent reading does.
    """
    if not expected or not all(isinstance(value, list) and len(value) == 1 for value in expected):
        return False
    depth = returned_depth(starter_code)
    return all(_has_depth(value[0], depth) for value in expected)


def returned_depth(starter_code: str) -> int:
    """How many lists deep the annotation of what the function returns is; 0 where it says nothing."""
    _, arrow, annotation = starter_code.rpartition("->")
    if not arrow:
        return 0
    head = annotation.partition(":")[0].replace(" ", "").lower()
    depth = 0
    while depth < DEEPEST and (head.startswith(("list[", "list]", "optional[list")) or head == "list"):
        depth += 1
        head = head.removeprefix("optional[").removeprefix("list").removeprefix("[")
    return depth


def _has_depth(value: Any, depth: int) -> bool:
    return depth == 0 or (isinstance(value, list) and all(_has_depth(inner, depth - 1) for inner in value))


def _has_number_keys(value: Any) -> bool:
    """Whether an object in the value has keys that are written numbers: JSON has made texts of them."""
    return any(_is_number(key) for key in _keys(value))


def _has_foreign_keys(value: Any) -> bool:
    return any(not isinstance(key, str) for key in _keys(value))


def _keys(value: Any) -> Iterable[Any]:
    """The keys of all objects within a value, however deep."""
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, Mapping):
            yield from found
            waiting.extend(found.values())
        elif isinstance(found, list | tuple):
            waiting.extend(inner for inner in found if isinstance(inner, Mapping | list | tuple))


def _is_number(key: Any) -> bool:
    return isinstance(key, str) and key.removeprefix("-").isdecimal()
