"""What holds for all adapters, and the parts that they share."""

from __future__ import annotations

import json
import sys
import warnings
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_srpo.data.code_tests import parse_tests
from megatron_srpo.data.curate.adapters import ADAPTERS, renamed
from megatron_srpo.data.curate.adapters.functions import function_note
from megatron_srpo.data.curate.adapters.row import note
from megatron_srpo.data.curate.draft import BadRow, Draft
from tests.unit.curate.sets import SETS, SURROGATE, assert_whole, rows

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


def test_the_note_on_a_function() -> None:
    fenced = 'def f(x):\n    """\n    ```\n    f(1)\n    ```\n    """'
    assert function_note("f", fenced).endswith(f":\n````python\n{fenced}\n````")
    other = "def helper(x):"  # names another function
    assert other not in function_note("f", other)
    assert "\n" not in function_note("f", "")


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
