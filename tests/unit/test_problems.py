"""Data files and prompts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_srpo.data import code_tests
from megatron_srpo.data.code_tests import CodeTests, parse_tests
from megatron_srpo.data.problems import Problem, PromptEncoder, load_problems
from megatron_srpo.errors import SrpoError
from tests.unit.folders import write_problems, write_tokenizer

CALL = '{"kind": "call", "function": "add", "cases": [[[1, 2], 3], [[[1.5], 2], [1.5, null]]]}'
STDIO = '{"kind": "stdio", "cases": [["1 2\\n", "3\\n"], ["", ""]]}'
CALL_TESTS = CodeTests("call", ("[1, 2]", "[[1.5], 2]"), ("3", "[1.5, null]"), "add")
STDIO_TESTS = CodeTests("stdio", ("1 2\n", ""), ("3\n", ""))


def test_all_columns_are_read_in_order(tmp_path: Path) -> None:
    file = write_problems(
        tmp_path / "p.parquet",
        ["first", "second"],
        domain=["math", None],
        source=["a", None],
        difficulty=["hard", None],
        meta=['{"n": 1}', ""],
        other=[1, 2],
    )
    first, second = load_problems(file)
    assert first == Problem("p0", "first", "1", domain="math", source="a", difficulty="hard")
    assert first.meta == {"n": 1}
    assert second == Problem("p1", "second", "1", domain="math", source="", difficulty=None)
    assert second.meta == {}


@pytest.mark.parametrize("name", ["p.jsonl", "p.json"])
def test_json_files_are_read_alike(tmp_path: Path, name: str) -> None:
    rows = [
        {"id": "a", "prompt": "x", "answer": "1", "meta": {"n": 1}},
        {"id": "b", "prompt": "y", "answer": "2"},
    ]
    text = json.dumps(rows) if name == "p.json" else "\n".join(map(json.dumps, rows))
    (tmp_path / name).write_text(text)
    assert [problem.id for problem in load_problems(tmp_path / name)] == ["a", "b"]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"id": ["a", "b", "a"]}, "row 3, column id: 'a' already stands in row 1"),
        ({"answer": ["1", "", "3"]}, "row 2, column answer: the text is empty"),
        ({"prompt": ["x", "y", None]}, "row 3, column prompt: expected text, found nothing"),
        ({"answer": [1, 2, 3]}, "row 1, column answer: expected text, found 1, of type int"),
        (
            {"domain": ["math", "music", "code"]},
            "row 2, column domain: unknown domain 'music'; expected math or",
        ),
        ({"answer": ["1", None, "3"]}, "row 2, column answer: expected text, found nothing"),
        (
            {"domain": ["math"] * 3, "tests": [None, "", CALL]},
            "row 3, column tests: a math problem has none; empty it, or set domain",
        ),
        ({"domain": ["math", "math", "code"]}, "row 3, column tests: a code problem needs tests, found none"),
        ({"domain": ["code"] * 3, "tests": [CALL, " ", CALL]}, "row 2, column tests: a code problem needs tests"),
        ({"domain": ["code"] * 3, "tests": [CALL, "{", CALL]}, "row 2, column tests: not valid JSON"),
        ({"domain": ["code"] * 3, "tests": [1, 2, 3]}, "row 1, column tests: expected text, found 1, of type int"),
        ({"meta": ["{}", "{", "{}"]}, "row 2, column meta: not valid JSON"),
        ({"meta": ["{}", "[]", "{}"]}, "row 2, column meta: expected an object, found list"),
    ],
)
def test_a_bad_field_is_named_by_row_and_column(tmp_path: Path, columns: dict[str, list[Any]], said: str) -> None:
    file = write_problems(tmp_path / "p.parquet", ["x", "y", "z"], **columns)
    with pytest.raises(SrpoError) as caught:
        load_problems(file)
    assert str(caught.value).startswith(f"{file}: {said}")


def test_code_problems_stand_among_others_and_need_no_answer(tmp_path: Path) -> None:
    domains = ["code", "math", "code", None]
    columns = {"domain": domains, "answer": ["", "2", None, "4"], "tests": [CALL, None, STDIO, ""]}
    problems = load_problems(write_problems(tmp_path / "p.parquet", list("abcd"), **columns))
    assert [(problem.domain, problem.answer) for problem in problems] == [
        ("code", ""),
        ("math", "2"),
        ("code", ""),
        ("math", "4"),
    ]
    assert [problem.tests for problem in problems] == [CALL_TESTS, None, STDIO_TESTS, None]


def test_everything_but_the_cases_may_be_left_out() -> None:
    checker = "def check(given, output, expected): return True"
    assert parse_tests(CALL, "here") == CALL_TESTS
    assert (CALL_TESTS.tolerance, CALL_TESTS.checker, CALL_TESTS.language) == (1e-6, None, "python")
    more = {"tolerance": 0, "checker": checker, "language": "python"}
    for text, tests in [(CALL, CALL_TESTS), (STDIO, STDIO_TESTS)]:
        found = parse_tests(json.dumps(json.loads(text) | more), "here")
        assert found == replace(tests, tolerance=0.0, checker=checker)
        assert parse_tests(json.dumps(json.loads(text) | {"checker": None, "tolerance": 0.5}), "here") == replace(
            tests, tolerance=0.5
        )


def test_numbers_are_kept_as_they_are() -> None:
    text = '{"kind": "call", "function": "f", "cases": [[[1.0, 1, true, 123456789012345678901], 1e2]]}'
    assert parse_tests(text, "here").inputs == ("[1.0, 1, true, 123456789012345678901]",)
    assert parse_tests(text, "here").expected == ("100.0",)


BOTH = [CALL, STDIO]
KEYS_CALL = "expected kind, function, cases, tolerance, checker, language."
KEYS_STDIO = "expected kind, cases, tolerance, checker, language."
CALL_CASE = "must be a list of the arguments and the expected value, [[argument, ...], expected], found"
STDIO_CASE = "must be two texts, [standard input, standard output], found"


@pytest.mark.parametrize(
    ("forms", "changes", "said"),
    [
        (BOTH, {"kind": "stdin"}, "unknown kind 'stdin'; supported is call, stdio."),
        (BOTH, {"kind": None}, "unknown kind None; supported is call, stdio."),
        (BOTH, {"kind": []}, "unknown kind []; supported is call, stdio."),
        ([CALL], {"points": 1}, f"unknown key 'points' for kind call; {KEYS_CALL}"),
        ([STDIO], {"points": 1}, f"unknown key 'points' for kind stdio; {KEYS_STDIO}"),
        ([STDIO], {"function": "f"}, f"unknown key 'function' for kind stdio; {KEYS_STDIO}"),
        ([CALL], {"function": "a.b"}, "function must be the name of a function, found 'a.b'."),
        ([CALL], {"function": ""}, "function must be the name of a function, found ''."),
        ([CALL], {"function": None}, "function must be the name of a function, found None."),
        (BOTH, {"tolerance": -1}, "tolerance must be a number from 0 to below 1, found -1."),
        (BOTH, {"tolerance": 1}, "tolerance must be a number from 0 to below 1, found 1."),
        (BOTH, {"tolerance": True}, "tolerance must be a number from 0 to below 1, found True."),
        (BOTH, {"tolerance": False}, "tolerance must be a number from 0 to below 1, found False."),
        (BOTH, {"tolerance": "0.1"}, "tolerance must be a number from 0 to below 1, found '0.1'."),
        (BOTH, {"tolerance": None}, "tolerance must be a number from 0 to below 1, found None."),
        (
            BOTH,
            {"checker": "def f(): pass"},
            "checker must be a program that defines check, found 'def f(): pass'.",
        ),
        (BOTH, {"checker": ["check"]}, "checker must be a program that defines check, found ['check']."),
        (BOTH, {"checker": ""}, "checker must be a program that defines check, found ''."),
        (BOTH, {"language": "rust"}, "unknown language 'rust'; supported is python."),
        (BOTH, {"language": None}, "unknown language None; supported is python."),
        (BOTH, {"cases": []}, "cases must be a list of one case or more, found []."),
        (BOTH, {"cases": {"a": 1}}, "cases must be a list of one case or more, found {'a': 1}."),
        (BOTH, {"cases": None}, "cases must be a list of one case or more, found None."),
        ([CALL], {"cases": [[[1], 2], [1, 2]]}, f"case 2 {CALL_CASE} [1, 2]."),
        ([CALL], {"cases": [[[1]]]}, f"case 1 {CALL_CASE} [[1]]."),
        ([CALL], {"cases": [[[1], 2, 3]]}, f"case 1 {CALL_CASE} [[1], 2, 3]."),
        ([CALL], {"cases": [{"a": 1, "b": 2}]}, f"case 1 {CALL_CASE} {{'a': 1, 'b': 2}}."),
        ([CALL], {"cases": [[["a"], 2], "x" * 99]}, f"case 2 {CALL_CASE} '{'x' * 79}...."),
        ([STDIO], {"cases": [["1", "2"], ["1"]]}, f"case 2 {STDIO_CASE} ['1']."),
        ([STDIO], {"cases": [["1", "2", "3"]]}, f"case 1 {STDIO_CASE} ['1', '2', '3']."),
        ([STDIO], {"cases": [["1", 2]]}, f"case 1 {STDIO_CASE} ['1', 2]."),
        ([STDIO], {"cases": [[["1"], "2"]]}, f"case 1 {STDIO_CASE} [['1'], '2']."),
        ([STDIO], {"cases": ["12"]}, f"case 1 {STDIO_CASE} '12'."),
        (BOTH, {"cases": float("nan")}, "not valid JSON (NaN is no JSON number)."),
        (BOTH, {"cases": float("-inf")}, "not valid JSON (-Infinity is no JSON number)."),
    ],
)
def test_tests_of_another_form_are_refused(forms: list[str], changes: dict[str, Any], said: str) -> None:
    for form in forms:
        with pytest.raises(SrpoError) as caught:
            parse_tests(json.dumps(json.loads(form) | changes), "p.parquet: row 2, column tests")
        assert str(caught.value) == f"p.parquet: row 2, column tests: {said}"


def test_the_function_of_calls_and_the_cases_are_needed() -> None:
    with pytest.raises(SrpoError, match="here: function must be the name of a function, found None"):
        parse_tests('{"kind": "call", "cases": [[[], 1]]}', "here")
    with pytest.raises(SrpoError, match="here: cases must be a list of one case or more, found None"):
        parse_tests('{"kind": "stdio"}', "here")


@pytest.mark.parametrize("case", ["[[1e999], 1]", "[[1], -1e999]"])
def test_numbers_that_no_program_can_return_are_refused(case: str) -> None:
    with pytest.raises(SrpoError, match=r"here: not valid JSON \(-?1e999 is beyond all floats\)"):
        parse_tests(f'{{"kind": "call", "function": "f", "cases": [{case}]}}', "here")


def test_tests_of_too_many_characters_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_tests, "LONGEST_TESTS", len(STDIO))
    assert parse_tests(STDIO, "here") == STDIO_TESTS
    with pytest.raises(SrpoError) as caught:
        parse_tests(STDIO + " ", "here")
    size = len(STDIO)
    assert str(caught.value) == f"here: {size + 1} characters, at most {size}; leave out the largest cases."


@pytest.mark.parametrize("text", ["[]", "1", '"call"', "null", "", "{", "[" * 10**5, "[" + "1" * 5000 + "]"])
def test_tests_are_an_object(text: str) -> None:
    with pytest.raises(SrpoError, match="here: (expected an object, found|not valid JSON)"):
        parse_tests(text, "here")


def test_a_file_that_holds_no_problems_is_refused(tmp_path: Path) -> None:
    def refused(file: Path) -> str:
        with pytest.raises(SrpoError, match=file.name) as caught:
            load_problems(file)
        return str(caught.value)

    assert "there is no such data file" in refused(tmp_path / "gone.parquet")
    assert "no rows" in refused(write_problems(tmp_path / "empty.parquet", []))
    (tmp_path / "text.parquet").write_text("hello")
    assert "not a readable parquet file" in refused(tmp_path / "text.parquet")
    (tmp_path / "p.csv").write_text("id,prompt,answer\n")
    assert "unknown kind of data file" in refused(tmp_path / "p.csv")
    (tmp_path / "p.jsonl").write_text('{"id": "a", "prompt": "x"}\n')
    assert "the column answer is missing" in refused(tmp_path / "p.jsonl")
    (tmp_path / "bad.jsonl").write_text("{\n")
    assert "cannot be read" in refused(tmp_path / "bad.jsonl")


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    write_tokenizer(tmp_path / "tokenizer.json")
    return tmp_path / "tokenizer.json"


def test_prompts_are_rendered_literally_and_decoded_back(tokenizer: Path) -> None:
    encoder = PromptEncoder(tokenizer, "{x} {question}\nA:", 100)
    ids = encoder.encode(Problem("p", r"\frac{1}{2} für {question}", "1"))
    assert encoder.decode(ids) == "{x} \\frac{1}{2} für {question}\nA:"
    assert encoder.decode([*ids, 256]) == encoder.decode(ids)


def test_the_longest_allowed_prompt_is_accepted_and_one_more_token_refused(tokenizer: Path) -> None:
    encoder = PromptEncoder(tokenizer, "{question}", 5)
    assert len(encoder.encode(Problem("p", "abcde", "1"))) == 5
    problems = [Problem("a", "abc", "1"), Problem("b", "abcdef", "1"), Problem("c", "abcdefgh", "1")]
    with pytest.raises(SrpoError) as caught:
        encoder.encode_all(problems)
    assert "problem b: its prompt has 6 tokens (1 more are too long)" in str(caught.value)
    assert "rollout.max_prompt_tokens is 5; raise it to 8" in str(caught.value)


def test_tests_make_a_problem_one_of_code_and_need_no_answer(tmp_path: Path) -> None:
    columns = {"id": ["a", "b"], "prompt": ["x", "y"], "tests": [CALL, CALL]}
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    assert [(p.domain, p.answer) for p in load_problems(tmp_path / "p.parquet")] == [("code", "")] * 2
