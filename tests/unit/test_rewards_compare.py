"""Whether what a program returned or printed is what was expected."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from megatron_srpo.rewards.compare import texts_agree, values_agree

TOLERANCE = 1e-6
MANY = 10**6
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
WORDS = st.lists(st.lists(st.text("ab01-+.eE٣½", min_size=1, max_size=6), max_size=4), max_size=4)


@pytest.mark.parametrize(
    ("expected", "returned", "right"),
    [
        (1, "1", True),
        (1, " 1\n", True),
        (1, "2", False),
        (1, "1.0", False),
        (1, "true", False),
        (0, "false", False),
        (1, '"1"', False),
        (True, "true", True),
        (True, "false", False),
        (True, "1", False),
        (None, "null", True),
        (None, "0", False),
        (None, "false", False),
        ("", "null", False),
        ("a", '"a"', True),
        ("a", '"b"', False),
        ("é", '"\\u00e9"', True),
        ("é", '"e\\u0301"', False),
        ([1, [2]], "[1, [2]]", True),
        ([1, [2]], "[1, [3]]", False),
        ([1, 2], "[2, 1]", False),
        ([1, 2], "[1]", False),
        ([1], "[1, 2]", False),
        ([], "[1]", False),
        ([], "[]", True),
        ([], "{}", False),
        ([], "null", False),
        ({"a": 1.0}, '{"a": 1}', True),
        ({"a": 1, "b": 2}, '{"b": 2, "a": 1}', True),
        ({"a": 1}, '{"a": 1, "b": 2}', False),
        ({"a": 1, "b": 2}, '{"a": 1}', False),
        ({"a": 1}, '{"b": 1}', False),
        ({"a": [1]}, '{"a": [2]}', False),
        (2**64, str(2**64), True),
        (2**64, str(2**64 + 1), False),
        (2**64, str(float(2**64)), False),
        (0.5, "0.5000001", True),
        (0.5, "0.50001", False),
        (0.0, "1e-7", True),
        (0.0, "-1e-5", False),
        (-0.0, "0", True),
        (1e9, "1000000001", True),
        (1e9, "1000002001", False),
        (1.0, "1", True),
        (1.0, "true", False),
        (1.0, '"1.0"', False),
        (1.0, "null", False),
        (1.0, "[1.0]", False),
        (1.0, "NaN", False),
        (1.0, "Infinity", False),
        (1.0, "1e999", False),
        (1.0, "1" + "0" * 400, False),
        ([[1, 0.5]], "[[1, 0.5000001]]", True),
        ([[1, 0.5]], "[[1, 0.6]]", False),
    ],
)
def test_values_agree_in_kind_and_value_and_floats_within_the_tolerance(
    expected: Any, returned: str, right: bool
) -> None:
    assert values_agree(returned, json.dumps(expected), TOLERANCE) is right


def test_the_tolerance_is_relative_and_absolute() -> None:
    assert values_agree("110.0", "100.0", 0.1) and not values_agree("112.0", "100.0", 0.1)
    assert values_agree("0.09", "0.0", 0.1) and not values_agree("0.11", "0.0", 0.1)
    assert values_agree("0.5", "0.5", 0.0) and not values_agree("0.5000001", "0.5", 0.0)
    assert not values_agree("11", "10", 0.2)  # whole numbers are never about right


@pytest.mark.parametrize(
    "text",
    ["", "[", "1 1", "1, 1", "[1", "(1)", "'a'", "1.", "\ud800", "True", "[" * MANY, "1" * 5000, "1e", "nan"],
)
def test_a_text_that_is_no_json_agrees_with_nothing(text: str) -> None:
    assert not values_agree(text, "1", TOLERANCE)


@given(VALUES)
def test_every_value_agrees_with_itself(value: Any) -> None:
    text = json.dumps(value)
    assert values_agree(text, text, 0.0)


@given(VALUES, VALUES)
@example([0.0], [-0.0])
@example({"a": 1}, {"a": 1.0})
def test_without_tolerance_values_agree_when_they_are_equal_in_kind(one: Any, other: Any) -> None:
    agree = values_agree(json.dumps(one), json.dumps(other), 0.0)
    if json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True):
        assert agree
    if one != other:
        assert not agree


@given(FLOATS, FLOATS, st.sampled_from([0.0, 1e-9, 1e-3, 0.5]))
def test_floats_agree_as_math_isclose_says(one: float, other: float, tolerance: float) -> None:
    close = math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)
    assert values_agree(json.dumps([one]), json.dumps([other]), tolerance) is close
    if "." in repr(other) or "e" in repr(other):
        assert texts_agree(repr(one), repr(other), tolerance) is close


def test_the_deepest_lists_that_json_has_are_compared() -> None:
    depth = 900
    inner = json.dumps(["inner"])
    for found, right in [(inner, True), (inner.replace("inner", "other"), False)]:
        returned = "[" * depth + found + "]" * depth
        assert values_agree(returned, "[" * depth + inner + "]" * depth, TOLERANCE) is right


@pytest.mark.parametrize(
    ("printed", "expected", "right"),
    [
        ("a b\n", "a b", True),
        ("a b", "a b\n", True),
        ("a b  \n\n \n", "a b\n", True),
        ("  a   b\tc", "a b c", True),
        ("a\r\nb\r\n", "a\nb\n", True),
        ("a\nb", "a\r\nb\r\n", True),
        ("1.50\r\n2", "1.5\n2", True),
        ("a b", "a\nb", False),
        ("a\nb", "a b", False),
        ("\na", "a", False),
        ("a\n\nb", "a\nb", False),
        ("a\nb", "a\n\nb", False),
        ("a\n \nb", "a\n\nb", True),
        ("a", "a\nb", False),
        ("a\nb", "a", False),
        ("a b", "a", False),
        ("a", "a b", False),
        ("ab", "a b", False),
        ("A", "a", False),
        ("b a", "a b", False),
        ("", "", True),
        ("\n\n", "", True),
        ("", "\n", True),
        ("", "a", False),
        ("a", "", False),
        ("Yes 0.3333333", "Yes 0.33333333", True),
        ("No 0.3333333", "Yes 0.33333333", False),
    ],
)
def test_texts_agree_up_to_space_around_words_and_empty_lines_at_the_end(
    printed: str, expected: str, right: bool
) -> None:
    assert texts_agree(printed, expected, TOLERANCE) is right


@pytest.mark.parametrize(
    ("printed", "expected", "right"),
    [
        ("0.5", "0.50", True),
        (".5", "0.5", True),
        ("+0.5", "0.5", True),
        ("5e-1", "0.5", True),
        ("0.50001", "0.5", False),
        ("-0.5", "0.5", False),
        ("2", "2.0", True),
        ("-2", "-2.0", True),
        ("2.", "2.0", True),
        ("2", "2e0", True),
        ("3", "2.0", False),
        ("2.0", "2", False),  # a whole number is expected: no decimal is right
        ("02", "2", False),
        ("2e0", "2", False),
        ("two", "2.0", False),
        ("0x2", "2.0", False),
        ("2_0.0", "20.0", False),
        ("1,000.0", "1000.0", False),
        ("1/2", "0.5", False),
        (".", "0.0", False),
        ("e5", "0.0", False),
        ("+", "0.0", False),
        ("٢", "2.0", False),
        ("2.٢", "2.2", False),
        ("٢", "٢", True),
        ("inf", "1e400", False),
        ("2e400", "1e400", False),
        ("1e400", "1e400", True),
        ("1e400", "1.0", False),
        ("nan", "0.5", False),
        ("inf", "0.5", False),
        ("Infinity", "0.5", False),
        ("nan", "nan", True),
        ("inf", "inf", True),
        ("Infinity", "inf", False),
        ("0.5", "nan", False),
        ("1" + "0" * 300, "1e300", True),
        ("1" + "0" * 400, "1e300", False),
        ("1" * MANY, "0.5", False),
        ("1.2.3", "1.2.3", True),
        ("1.2.30", "1.2.3", False),
        ("v1.50", "v1.5", False),
    ],
)
def test_decimal_numbers_may_differ_by_the_tolerance(printed: str, expected: str, right: bool) -> None:
    assert texts_agree(printed, expected, TOLERANCE) is right


def test_the_tolerance_of_texts_is_the_problems() -> None:
    assert texts_agree("0.55", "0.5", 0.2) and not texts_agree("0.55", "0.5", 0.0)
    assert texts_agree("0.50", "0.5", 0.0)


@pytest.mark.parametrize("word", ["1" * MANY + "ex", "1" * MANY + ".x", "." * MANY, "1e" + "1" * MANY, "+" * MANY])
def test_a_word_of_a_megabyte_takes_no_time_that_grows_with_its_square(word: str) -> None:
    assert not texts_agree(word, "0.5", TOLERANCE)  # a square would be days, and the test's own limit minutes
    assert texts_agree(word, word, TOLERANCE)


@given(WORDS, st.sampled_from(["", "\n", " \n\t\n", "\r\n"]), st.sampled_from([" ", "  ", "\t"]))
def test_other_white_space_between_words_changes_nothing(lines: list[list[str]], end: str, space: str) -> None:
    expected = "\n".join(" ".join(line) for line in lines)
    for line_end in ("\n", " \n", "\r\n"):
        printed = line_end.join(f"{space}{space.join(line)}" for line in lines) + end
        assert texts_agree(printed, expected, 0.0)


@given(WORDS, WORDS)
def test_texts_without_decimals_agree_when_their_words_are_the_same(
    one: list[list[str]], other: list[list[str]]
) -> None:
    def bare(lines: list[list[str]]) -> list[list[str]]:
        kept = [[word.replace(".", "_").replace("e", "x").replace("E", "X") for word in line] for line in lines]
        while kept and not kept[-1]:
            kept.pop()
        return kept

    first, second = bare(one), bare(other)
    assume(all(first) and all(second))
    text, expected = ("\n".join(" ".join(line) for line in lines) for lines in (first, second))
    assert texts_agree(text, expected, TOLERANCE) is (first == second)
