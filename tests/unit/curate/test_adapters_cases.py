"""Test cases of all forms: what they become, and what is left out."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from megatron_srpo.data.curate.adapters import cases
from megatron_srpo.data.curate.adapters.cases import call_cases, call_tests, returned_depth, stdio_tests
from megatron_srpo.data.curate.adapters.exact import read_tests
from megatron_srpo.data.curate.draft import BadRow
from tests.unit.curate.sets import SURROGATE


def test_values_keep_their_types() -> None:
    given_and_expected = [([1, 1.0, "1", True, None, [[1], ["1"]], {"a": [1.5]}], [1, "1", 1e300, -0.0, 2**100])]
    text, left_out = call_tests("f", given_and_expected)
    found = json.loads(text)["cases"]
    assert repr(found) == repr([[list(part) for part in case] for case in given_and_expected])
    assert left_out == {}


@pytest.mark.parametrize(
    ("expected", "starter_code", "unwrapped"),
    [
        ([[1], [2]], "", [1, 2]),
        ([[1], [2]], "def f(x):", [1, 2]),
        ([[1], [2]], "def f(x) -> int:", [1, 2]),
        ([[1], [2]], "def f(x) -> List[int]:", [[1], [2]]),
        ([[[1]], [[2, 3]]], "def f(x) -> List[int]:", [[1], [2, 3]]),
        ([[[1]], [[]]], "def f(x) -> list[list[int]]:", [[[1]], [[]]]),
        ([[[[1]]], [[]]], "def f(x) -> Optional[List[List[int]]]:", [[[1]], []]),
        ([[1], [2, 3]], "", [[1], [2, 3]]),
        ([[1], []], "", [[1], []]),
        ([[1], 2], "", [[1], 2]),
        ([[[1]], [[2]]], "", [[1], [2]]),
        (["a", "b"], "", ["a", "b"]),
    ],
)
def test_values_in_a_list_of_their_own_are_taken_out(
    expected: list[Any], starter_code: str, unwrapped: list[Any]
) -> None:
    found = call_cases([([0], value) for value in expected], starter_code)
    assert found == [([0], value) for value in unwrapped]


def test_how_deep_an_annotation_is() -> None:
    depths = {
        "-> int:": 0,
        "-> List[int]:": 1,
        "-> list:": 1,
        "-> List[List[str]]:": 2,
        "-> Optional[List[int]]:": 1,
    }
    assert {text: returned_depth(f"def f(x: List[int]) {text}\n  ") for text in depths} == depths
    assert returned_depth("def f(x: List[int]):") == 0
    assert returned_depth("-> " + "List[" * 10_000) < 10


def test_lines_of_arguments() -> None:
    pairs = [('[1, 2]\r\n"a\\nb"\n', "[1]"), ("", "null"), ("1\n\n2", 3), ("[1,\n2]", "0")]
    text, left_out = call_tests("f", call_cases(pairs, ""))
    assert json.loads(text)["cases"] == [[[[1, 2], "a\nb"], [1]], [[], None], [[1, 2], 3]]
    assert left_out == {"cases_left_out": 1}


def test_what_no_test_can_hold_costs_one_case() -> None:
    numbers = '["inputs", 1e999, -Infinity, NaN, 1%s, 0.5]' % ("0" * 5000)
    values = read_tests(numbers, "it")
    assert (values[0], values[5]) == ("inputs", 0.5)
    bad: list[Any] = [*values[1:5], float("inf"), {1}, {1: 2}, {True: 2}, SURROGATE, 10**5000, b"x", 1j, object()]
    nested: Any = []
    for _ in range(sys.getrecursionlimit()):
        nested = [nested]
    bad.append(nested)
    text, left_out = call_tests(
        "f", [([1], 2), *(([value], 0) for value in bad), *(([0], [value]) for value in bad)]
    )
    assert text == '{"kind": "call", "function": "f", "cases": [[[1], 2]]}'
    assert left_out == {"cases_left_out": 2 * len(bad)}
    with pytest.raises(BadRow, match=r"^none of the 1 tests can be used \(JSON has no form for a set\)\.$"):
        call_tests("f", [([{1}], 0)])


def test_the_largest_cases_are_left_out_of_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(size * "a", "b") for size in (10, 400, 20, 500, 30)]
    whole, left_out = stdio_tests(pairs)
    assert left_out == {}
    for limit, kept in ((len(whole), 5), (len(whole) - 1, 4), (200, 3), (60, 1)):
        monkeypatch.setattr(cases, "LONGEST_TESTS", limit)
        text, left_out = stdio_tests(pairs)
        assert len(text) <= limit
        assert len(json.loads(text)["cases"]) == kept == 5 - left_out.get("cases_left_out", 0)
        assert json.loads(text)["cases"][0][0] == 10 * "a"
    monkeypatch.setattr(cases, "LONGEST_TESTS", 20)
    with pytest.raises(BadRow, match="they are too large"):
        stdio_tests(pairs)
