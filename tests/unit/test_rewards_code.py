"""Programs in responses: where they are found, and when they pass."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_srpo.data.code_tests import CodeTests, parse_tests
from megatron_srpo.data.problems import Problem
from megatron_srpo.recipe.schema import RewardSection
from megatron_srpo.rewards import code
from megatron_srpo.rewards.code import extract_program, last_fenced_block, score_code, values_agree
from megatron_srpo.rewards.math.judge import AnswerFormat, Score
from megatron_srpo.rewards.pool import Reward, RewardPool
from megatron_srpo.rewards.sandbox import Limits

LIMITS = Limits(seconds=5.0, memory_megabytes=256)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def calls(*cases: Any, **more: Any) -> CodeTests:
    return parse_tests(json.dumps({"kind": "call", "function": "f", "cases": cases, **more}), "here")


ADD = calls([[1, 2], 3], [[-1, 1], 0])


def response(program: str) -> str:
    return f"<think>Add them.</think> <answer>\n```python\n{program}\n```\n</answer>"


@pytest.mark.parametrize(
    ("text", "block"),
    [
        ("```\na\n```", "a"),
        ("Well:\n```python\na\n\n b\n```\nDone.", "a\n\n b"),
        ("```\na\n```\n```py\nb\n```", "b"),
        ("```\na\n```\n```\nb", "a"),
        ("````\n```\na\n```\n````", "```\na\n```"),
        ("```\na\n`````", "a"),
        ("  ```python\n  if a:\n    b\n  ```", "if a:\n  b"),
        ("```python\r\na\r\n```\r\n", "a\r"),
        ("```\na = '```'\n```", "a = '```'"),
        ("```\n \n```", None),
        ("```a```", None),
        ("```\na", None),
        ("a", None),
        ("", None),
    ],
)
def test_the_last_closed_block_is_the_program(text: str, block: str | None) -> None:
    assert last_fenced_block(text) == block


@given(st.lists(st.text(alphabet="ab \n", min_size=1).filter(str.strip), min_size=1, max_size=4))
def test_the_last_of_many_blocks_is_found_unchanged(blocks: list[str]) -> None:
    text = "".join(f"text\n```python\n{block}\n```\n" for block in blocks)
    assert last_fenced_block(text) == blocks[-1]


@pytest.mark.parametrize(
    ("text", "answer_format", "program", "format_ok"),
    [
        (response("a"), "think_answer", "a", True),
        (response("a") + " Done.", "think_answer", "a", False),
        ("<think>```\nb\n```</think> <answer>a</answer>", "think_answer", None, True),
        (response("a") + response("b"), "think_answer", None, False),
        ("```\na\n```", "think_answer", None, False),
        ("Hm. <answer>```\na\n```</answer>", "answer", "a", True),
        ("```\na\n```", "answer", None, False),
        ("Hm.\n```\na\n```", "boxed", "a", True),
        ("Hm.", "boxed", None, False),
    ],
)
def test_the_program_is_in_the_one_answer(
    text: str, answer_format: AnswerFormat, program: str | None, format_ok: bool
) -> None:
    assert extract_program(text, answer_format) == (program, format_ok)


@pytest.mark.parametrize(
    ("expected", "returned", "right"),
    [
        (1, "1", True),
        (1, "1.0", False),
        (1, "true", False),
        (True, "1", False),
        ("a", '"a"', True),
        ([1, [2]], "[1, [2]]", True),
        ([1, 2], "[2, 1]", False),
        ([1, 2], "[1]", False),
        ([], "[1]", False),
        ({"a": 1.0}, '{"a": 1}', True),
        ({"a": 1}, '{"a": 1, "b": 2}', False),
        (None, "null", True),
        (None, "0", False),
        (0.5, "0.5000001", True),
        (0.5, "0.50001", False),
        (1e9, "1000000001", True),
        (1.0, "true", False),
        (1.0, '"1.0"', False),
        (1.0, "NaN", False),
        (1.0, "Infinity", False),
        (1.0, "1" + "0" * 400, False),
    ],
)
def test_values_agree_by_kind_and_within_the_tolerance(expected: Any, returned: str, right: bool) -> None:
    assert values_agree(f"[{returned}]", calls([[], expected])) is right


def test_the_tolerance_is_the_problems() -> None:
    assert values_agree("[0.55]", calls([[], 0.5], tolerance=0.2))
    assert not values_agree("[0.5000001]", calls([[], 0.5], tolerance=0))


@pytest.mark.parametrize(
    "text", ["", "[", "1", "{}", "[1", "[1, 1]", "[]", "[1] [1]", "[" * 10**5, "[" + "1" * 5000 + "]", "\ud800"]
)
def test_texts_that_hold_no_list_of_values_are_wrong(text: str) -> None:
    assert not values_agree(text, calls([[], 1]))


@given(JSON_VALUES, JSON_VALUES)
def test_values_without_floats_agree_when_their_json_is_the_same(one: Any, other: Any) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert values_agree(json.dumps([one]), calls([[], other])) is same
    assert values_agree(json.dumps([one]), calls([[], one]))


@settings(max_examples=15)
@given(st.lists(JSON_VALUES, min_size=1, max_size=5))
def test_every_value_survives_the_way_through_a_program(values: list[Any]) -> None:
    cases = [[[value], value] for value in values]
    assert score_code([response("def f(x): return x")], calls(*cases), "think_answer", LIMITS)[0].accuracy == 1


@pytest.mark.parametrize(
    ("program", "right"),
    [
        ("def f(a, b): return a + b", 1),
        ("def f(a, b): return 3", 0),
        ("def f(a, b): return b + 1", 0),
        ("def f(a, b): return float(a + b)", 0),
        ("class Any(int):\n  def __eq__(self, other): return True\ndef f(a, b): return Any()", 0),
        ("import json\njson.dumps = lambda *a, **k: 'true'\ndef f(a, b): return 0", 0),
        ("import os\nos.write(3, b'[true, true]')\nos._exit(0)", 0),
        ("import builtins\nbuiltins.all = builtins.bool = lambda *a: True\ndef f(a, b): return 0", 0),
        ("import gc\ndef f(a, b): return [x for x in gc.get_objects() if x == 3][0]", 0),
    ],
)
def test_credit_is_for_every_case_or_none(program: str, right: int) -> None:
    assert score_code([response(program)], ADD, "think_answer", LIMITS) == [Score(right, True, program)]


def test_a_sandbox_is_not_told_what_is_expected() -> None:
    tests = calls([["argument"], "expectedvalue"])
    program = (
        "import sys\ndef f(x):\n frames = []\n frame = sys._getframe()\n"
        " while frame: frames.append(repr((frame.f_locals, frame.f_globals))); frame = frame.f_back\n"
        " return [word for word in ('argument', 'expected' + 'value') if word in ''.join(frames)]"
    )
    seen: list[str | None] = code.run_programs([program], tests.function, tests.arguments, LIMITS)
    assert seen == ['[["argument"]]']


def test_equal_programs_of_a_group_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def run(programs: list[str], *_: Any) -> list[str | None]:
        ran.append(programs)
        return ["[3, 0]" if program == "a" else None for program in programs]

    monkeypatch.setattr(code, "run_programs", run)
    group = [response("b"), response("a"), "nothing", response("a") + ".", response("b")]
    scores = score_code(group, ADD, "think_answer", LIMITS)
    assert [score.accuracy for score in scores] == [0, 1, 0, 1, 0]
    assert [score.format_ok for score in scores] == [True, True, False, False, True]
    assert ran == [["b", "a"]]


async def test_the_pool_judges_by_tests_where_a_problem_has_them() -> None:
    section = RewardSection(workers=1, code_seconds=5.0)
    right, wrong = response("def f(a, b): return a + b"), response("def f(a, b): return a - b")
    async with RewardPool(section) as rewards:
        group = await rewards.score_group([wrong, right, "?"], Problem("p", "Add.", "", domain="code", tests=ADD))
        number = await rewards.score("<think>a</think> <answer>3</answer>", Problem("q", "1 + 2?", "3"))
    assert [reward.total for reward in group] == [0.0, 1.0, -0.5]
    assert group[1] == Reward(1.0, 1, True, "def f(a, b): return a + b")
    assert number.accuracy == 1


async def test_the_pools_limits_are_the_recipes() -> None:
    slow = response("import time\ntime.sleep(3)\ndef f(a, b): return a + b")
    large = response("x = bytearray(300 * 2**20)\ndef f(a, b): return a + b")
    problem = Problem("p", "Add.", "", domain="code", tests=ADD)
    async with RewardPool(RewardSection(workers=1, code_seconds=1.0, code_memory_megabytes=200)) as rewards:
        tight = await rewards.score_group([slow, large], problem)
    async with RewardPool(RewardSection(workers=1, code_seconds=30.0)) as rewards:
        wide = await rewards.score_group([slow, large], problem)
    assert [reward.accuracy for reward in tight + wide] == [0, 0, 1, 1]
