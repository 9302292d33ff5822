"""What holds for all adapters, and the parts that they share."""

from __future__ import annotations

import base64
import contextlib
import json
import pickle
import sys
import warnings
import zlib
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_srpo.data.code_tests import parse_tests
from megatron_srpo.data.curate.adapters import ADAPTERS, cases, livecodebench, renamed
from megatron_srpo.data.curate.adapters.cases import call_cases, call_tests, returned_depth, stdio_tests
from megatron_srpo.data.curate.adapters.exact import read_tests
from megatron_srpo.data.curate.adapters.functions import function_note
from megatron_srpo.data.curate.adapters.livecodebench import pickled_text
from megatron_srpo.data.curate.adapters.row import note
from megatron_srpo.data.curate.draft import BadRow, Draft
from tests.unit.curate.sets import SETS, assert_whole, rows

SURROGATE = chr(0xD83D)  # half of a pair, as JSON can have it and no file
DEEP = "[" * 3000 + "]" * 3000
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(
        [SURROGATE, DEEP, "9" * 5000, "\\boxed{1}", "f(1) == 2", "assert f(1) == 2", "math", "code"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
AS_TEXT = JSON_VALUES.map(json.dumps)


def nested_rows(name: str) -> st.SearchStrategy[dict[str, Any]]:
    """Rows of the fixtures in which some values, at any depth or within JSON text, are others."""
    return st.builds(
        _mutated, st.sampled_from(rows(name)), st.randoms(use_true_random=False), JSON_VALUES | AS_TEXT
    )


def _mutated(value: Any, random: Any, other: Any) -> Any:
    """With one value replaced."""
    if isinstance(value, str) and value[:1] in ("{", "[") and random.random() < 0.8:
        try:
            return json.dumps(_mutated(json.loads(value), random, other))
        except ValueError:
            return other
    if isinstance(value, dict) and value:
        chosen = random.choice(sorted(value))
        if random.random() < 0.1:
            return {key: inner for key, inner in value.items() if key != chosen}
        return {**value, chosen: _mutated(value[chosen], random, other)}
    if isinstance(value, list) and value and random.random() < 0.8:
        chosen = random.randrange(len(value))
        return [_mutated(inner, random, other) if at == chosen else inner for at, inner in enumerate(value)]
    return other


def assert_total(name: str, row: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            draft = ADAPTERS[name](row)
        except BadRow as error:
            assert str(error)
            return
    assert isinstance(draft, Draft)
    assert_whole(draft)
    if draft.tests and name != "problems":  # whose tests are looked into by rules
        parse_tests(draft.tests, "the tests")


def test_all_sets_have_fixtures() -> None:
    assert {path.stem for path in SETS.iterdir()} == set(ADAPTERS)
    assert len(ADAPTERS) == 15


@pytest.mark.parametrize("name", ADAPTERS)
def test_any_row_becomes_a_draft_or_has_a_reason(name: str) -> None:
    columns = sorted({column for row in rows(name) for column in row})

    @settings(max_examples=60, deadline=None)
    @given(st.dictionaries(st.sampled_from(columns) | st.text(max_size=5), JSON_VALUES | AS_TEXT, max_size=8))
    def foreign(row: dict[str, Any]) -> None:
        assert_total(name, row)

    @settings(max_examples=60, deadline=None)
    @given(st.fixed_dictionaries(dict.fromkeys(columns, JSON_VALUES | AS_TEXT)))
    def filled(row: dict[str, Any]) -> None:
        assert_total(name, row)

    @settings(max_examples=150, deadline=None)
    @given(nested_rows(name))
    def nearly_right(row: dict[str, Any]) -> None:
        assert_total(name, row)

    foreign()
    filled()
    nearly_right()


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_column_of_every_row_may_be_anything(name: str) -> None:
    for row in rows(name):
        for column in row:
            for value in (
                None,
                "",
                " ",
                0,
                1.5,
                float("nan"),
                True,
                [],
                {},
                [None],
                SURROGATE,
                DEEP,
                10**5000,
                b"x",
            ):
                assert_total(name, {**row, column: value})
            assert_total(name, {key: inner for key, inner in row.items() if key != column})


def test_columns_are_renamed_before_an_adapter_sees_them() -> None:
    row = {"q": "What is 1?", "a": "1", "answer": "wrong", "b": 2}
    assert renamed(row, {}) == row
    ours = renamed(row, {"q": "problem", "a": "answer"})
    assert ours == {"problem": "What is 1?", "answer": "1", "b": 2}
    assert ADAPTERS["problems"](ours) == Draft("math", "What is 1?", "1", meta={"b": 2})
    assert renamed({"a": 1, "b": 2}, {"a": "b", "b": "a"}) == {"a": 2, "b": 1}
    with pytest.raises(BadRow, match=r"^the column c is missing; the columns are q, a, answer, b\.$"):
        renamed(row, {"c": "answer"})


def test_notes_are_json() -> None:
    when = datetime(2024, 1, 6, tzinfo=UTC)
    value = {
        "when": when,
        "nan": float("nan"),
        "half": SURROGATE,
        "bytes": b"x",
        "long": 10**30,
        "deep": [(1,)],
        1: 2,
    }
    assert note(value) == {
        "when": "2024-01-06T00:00:00+00:00",
        "nan": None,
        "half": "?",
        "bytes": None,
        "long": None,
        "deep": [[1]],
    }
    nested: Any = []
    for _ in range(sys.getrecursionlimit()):
        nested = [nested]
    json.dumps(note(nested))


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


def test_the_note_on_a_function() -> None:
    fenced = 'def f(x):\n    """\n    ```\n    f(1)\n    ```\n    """'
    assert function_note("f", fenced).endswith(f":\n````python\n{fenced}\n````")
    other = "def helper(x):"  # names another function
    assert other not in function_note("f", other)
    assert "\n" not in function_note("f", "")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("text", ["", "[]", "a\nb", "é" * 200, "x" * 70_000])
def test_a_pickle_of_one_text_is_read(protocol: int, text: str) -> None:
    assert pickled_text(pickle.dumps(text, protocol)) == text


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("this must never run",)


TEXT = pickle.dumps("[]")


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(Evil()),
        pickle.dumps(Evil(), 0),
        pickle.dumps(["[]"]),
        pickle.dumps(("[]", "[]")),
        pickle.dumps(b"[]"),
        pickle.dumps(None),
        pickle.dumps(5),
        TEXT + TEXT,
        TEXT + b"x",
        TEXT[:-1],
        TEXT[:-1] + TEXT,
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x04\x8c\x02[]\x8c\x02[].",
        b"\x80\x04\x8c\xff[].",
        b"\x80\x04.",
        b".",
        b"",
        b"\xff",
    ],
)
def test_any_other_pickle_is_refused(data: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError):
        pickled_text(data)
    packed = base64.b64encode(zlib.compress(data)).decode()
    with pytest.raises(BadRow, match="the column private_test_cases is no JSON, and no pickle of one text"):
        ADAPTERS["livecodebench"]({**rows("livecodebench")[0], "private_test_cases": packed})
    assert capsys.readouterr().out == ""


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=40)
    | st.builds(lambda at, new: TEXT[:at] + new + TEXT[at:], st.integers(0, 20), st.binary())
)
def test_no_bytes_are_more_than_a_text_or_a_reason(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(pickled_text(data), str)


def test_what_is_unpacked_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    row = rows("livecodebench")[0]

    def read(data: bytes) -> Draft:
        return ADAPTERS["livecodebench"]({**row, "private_test_cases": base64.b64encode(data).decode()})

    whole = zlib.compress(pickle.dumps(json.dumps([{"input": "x" * 1000, "output": "", "testtype": "stdin"}])))
    read(whole)
    for broken in (whole[:-1], whole + b"x", b"x" + whole):
        with pytest.raises(BadRow):
            read(broken)
    module = sys.modules[livecodebench.__module__]
    monkeypatch.setattr(module, "LARGEST", 1000)
    with pytest.raises(BadRow, match="cut off, or more than 1000 bytes"):
        read(whole)


def test_statements_are_never_run(capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "task_id": 1,
        "text": "Print.",
        "code": "print('ran')",
        "test_list": ["print('ran')", "assert f(print('ran')) == 1"],
    }
    with pytest.raises(BadRow, match="none of the 1 statements"):
        ADAPTERS["mbpp"](row)
    assert capsys.readouterr().out == ""
