"""Programs in responses: where they are found, and when they pass."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_srpo.data.code_tests import CodeTests
from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.reward import AnswerFormat, CodeSection, SandboxSection
from megatron_srpo.rewards.code import CodeJudge, extract_program, last_fenced_block
from megatron_srpo.rewards.sandbox.choice import open_sandbox
from megatron_srpo.rewards.sandbox.inside.walls import LEVELS
from megatron_srpo.rewards.sandbox.jobs import CaseResult, Limits, Sandbox
from megatron_srpo.rewards.score import Score
from tests.unit.programs import ADD, FakeSandbox, calls, ok, response, runs

WORDS = "for line in open(0): print(*(2 * int(word) for word in line.split()))"
SUMS = calls([[1, 2], 3], [[-1, 1], 0], [["a", "b"], "ab"])
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@pytest.fixture(scope="module")
def sandboxes() -> Iterator[list[Sandbox]]:
    """Two of the strongest that this machine has."""
    both = [open_sandbox(SandboxSection()) for _ in range(2)]
    assert all(sandbox.level in LEVELS for sandbox in both)
    yield both
    for sandbox in both:
        sandbox.close()


def score(sandboxes: list[Sandbox], program: str, tests: CodeTests, **section: Any) -> Score:
    return CodeJudge(CodeSection(**section), *sandboxes).score(response(program), tests, "think_answer")


def verdict(sandboxes: list[Sandbox], program: str, tests: CodeTests, **section: Any) -> tuple[int, str]:
    found = score(sandboxes, program, tests, **section)
    return found.accuracy, found.reason


@pytest.mark.parametrize(
    ("text", "block"),
    [
        ("```\na\n```", "a"),
        ("Well:\n```python\na\n\n b\n```\nDone.", "a\n\n b"),
        ("```\na\n```\n```py\nb\n```", "b"),
        ("```\na\n```\n```\nb", "a"),
        ("```\na\n```\n```\n \n```", None),
        ("````\n```\na\n```\n````", "```\na\n```"),
        ("```\na\n`````", "a"),
        ("````\na\n```", None),
        ("  ```python\n  if a:\n    b\n  ```", "if a:\n  b"),
        ("  ```python\na\n```", "a"),
        ("```python\r\na\r\n```\r\n", "a\r"),
        ("```\na\n``` \t", "a"),
        ("```\na\n   ```", "a"),
        ("  ```\n  a\n     ```", "a"),
        ("```\na\n    ```\nb\n    ```\nc\n```", "a\n    ```\nb\n    ```\nc"),
        ("```\na\n``` b\n```", "a\n``` b"),
        ("```\na = '```'\n```", "a = '```'"),
        ("a ```\nb\n```", None),
        ("```\n \n```", None),
        ("```a```", None),
        ("```a```\n```\nb\n```", "b"),
        ("``\na\n``", None),
        ("~~~\na\n~~~", None),
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


@pytest.mark.parametrize("text", ["`" * 10**6, "```\n" * 10**5, "`" * 10**6 + "\na", " " * 10**6 + "```x`"])
def test_a_megabyte_of_backticks_is_read_in_no_time(text: str) -> None:
    assert last_fenced_block(text) is None


@pytest.mark.parametrize(
    ("text", "answer_format", "program", "format_ok", "reason"),
    [
        (response("a"), "think_answer", "a", True, ""),
        (response("a") + " Done.", "think_answer", "a", False, ""),
        (response("a").removeprefix("<think>Hm.</think>"), "think_answer", "a", False, ""),
        ("<think>a</think><answer>\n  ```\n  b\n  ```\n</answer>", "think_answer", "b", True, ""),
        ("<think>a</think><answer>    ```\nb\n       ```</answer>", "think_answer", "b", True, ""),
        (
            "<think>```\nb\n```</think> <answer>a</answer>",
            "think_answer",
            None,
            True,
            "no fenced block in the answer",
        ),
        (response("a") + response("b"), "think_answer", None, False, "2 answers"),
        ("```\na\n```", "think_answer", None, False, "no <answer>"),
        ("Hm. <answer>```\na\n```</answer>", "answer", "a", True, ""),
        ("Hm. <answer>```\na\n```</answer> ```\nb\n```", "answer", "a", False, ""),
        ("```\na\n```", "answer", None, False, "no <answer>"),
        ("Hm.\n```\na\n```", "boxed", "a", True, ""),
        ("Hm.", "boxed", None, False, "no fenced block"),
        ("<think>```\nb\n```</think>\n```\na\n```", "boxed", "a", True, ""),
        ("<think>```\nb\n```</think>", "boxed", None, False, "no fenced block"),
        ("<think>```\nb\n```\nno", "boxed", None, False, "no fenced block"),
    ],
)
def test_the_program_is_in_the_one_answer(
    text: str, answer_format: AnswerFormat, program: str | None, format_ok: bool, reason: str
) -> None:
    found = extract_program(text, answer_format)
    assert found[:2] == (program, format_ok)
    if program is None:
        assert found[2] == reason
        judge = CodeJudge(CodeSection(credit="share"), FakeSandbox(), FakeSandbox())
        assert judge.score(text, SUMS, answer_format) == Score(0, format_ok, None, reason)


def test_a_broken_form_does_not_make_a_program_wrong(sandboxes: list[Sandbox]) -> None:
    judge = CodeJudge(CodeSection(), *sandboxes)
    assert judge.score(response(ADD) + "!", SUMS, "think_answer") == Score(1, False, ADD, "3 of 3 cases")
    assert judge.score(response(ADD), SUMS, "answer") == Score(1, True, ADD, "3 of 3 cases")


@pytest.mark.parametrize(
    ("program", "right", "reason"),
    [
        (ADD, 1, "3 of 3 cases"),
        ("f = lambda *values: values[0] + values[1]", 1, "3 of 3 cases"),
        (f"class Solution:\n  {ADD.replace('(', '(self, ')}", 1, "3 of 3 cases"),
        (f"class Solution:\n  @staticmethod\n  {ADD}", 1, "3 of 3 cases"),
        ("class Solution: pass", 0, "0 of 3 cases, case 1: failed (AttributeError: 'Solution' object has no"),
        (f"{ADD}\nprint('Done.')", 1, "3 of 3 cases"),
        (f"import sys\n{ADD}\nif __name__ == '__main__': print(f(*input()))", 1, "3 of 3 cases"),
        ("def f(a, b): return 3", 0, "1 of 3 cases, case 2: wrong answer"),
        ("def f(a, b): return float(a + b)", 0, "0 of 3 cases, case 1: wrong answer"),
        ("def f(a, b): return a / b", 0, "0 of 3 cases, case 1: wrong answer"),
        ("def f(a, b): return 1 // (a - 1)", 0, "0 of 3 cases, case 1: failed (ZeroDivisionError: "),
        ("def g(): pass", 0, "0 of 3 cases, case 1: failed (NameError: no function f, nor a class Solution with"),
        ("def f(a, b) return a", 0, "0 of 3 cases, case 1: failed (SyntaxError: "),
        ("import sys\nsys.exit(0)", 0, "0 of 3 cases, case 1: failed (SystemExit: 0)"),
        ("def f(a, b): return {a, b}", 0, "0 of 3 cases, case 1: failed (TypeError: a set was returned"),
        ("def f(a, b): return 'x' * 5_000_000", 0, "0 of 3 cases, case 1: flooded (more than 4194304 bytes"),
        ("def f(a, b):\n  while True: pass", 0, "0 of 3 cases, case 1: timeout (longer than 0.5 s)"),
        ("import os\nos._exit(0)", 0, "0 of 3 cases, case 1: failed (ended before it returned)"),
        (f"x = bytearray(10**9)\n{ADD}", 0, "0 of 3 cases, case 1: failed (MemoryError"),
        ("class Any(int):\n  def __eq__(self, other): return True\ndef f(a, b): return Any()", 0, "0 of 3 cases"),
        (
            "import json\njson.dumps = lambda *a, **k: 'true'\ndef f(a, b): return 0",
            0,
            "0 of 3 cases, case 1: wrong",
        ),
        ("import os\nos.write(3, b'=3\\n=0\\n')\nos._exit(0)", 0, "2 of 3 cases, case 3: failed (ended before"),
        (
            "import os\nos.write(3, bytes([61, 255, 10]))\nos._exit(0)",
            0,
            "0 of 3 cases, case 1: the output is no text",
        ),
    ],
)
def test_a_program_passes_when_every_call_returns_what_is_expected(
    sandboxes: list[Sandbox], program: str, right: int, reason: str
) -> None:
    found = score(sandboxes, program, SUMS, seconds=0.5)
    assert (found.accuracy, found.format_ok, found.extracted, found.credit) == (right, True, program, None)
    assert found.reason.startswith(reason)


@pytest.mark.parametrize(
    ("program", "right", "reason"),
    [
        (WORDS, 1, "2 of 2 cases"),
        (
            "import sys\nprint(*[int(w) * 2 for w in sys.stdin.readline().split()], '\\n')",
            0,
            "1 of 2 cases, case 2",
        ),
        (f"if __name__ == '__main__':\n  {WORDS}", 1, "2 of 2 cases"),
        (f"{WORDS}\nimport sys\nsys.exit(0)", 1, "2 of 2 cases"),
        (f"{WORDS}\nimport sys\nsys.exit(3)", 0, "0 of 2 cases, case 1: failed"),
        (f"{WORDS}\n1 / 0", 0, "0 of 2 cases, case 1: failed (ZeroDivisionError: division by zero)"),
        ("print(input())", 0, "0 of 2 cases, case 1: wrong answer"),
        ("import os\nos.write(1, bytes([255]))", 0, "0 of 2 cases, case 1: the output is no text"),
        ("print('x' * 5_000_000)", 0, "0 of 2 cases, case 1: flooded (more than 4194304 bytes of output)"),
        ("while True: pass", 0, "0 of 2 cases, case 1: timeout (longer than 0.5 s)"),
        ("pass", 0, "0 of 2 cases, case 1: wrong answer"),
    ],
)
def test_a_program_passes_when_every_run_prints_what_is_expected(
    sandboxes: list[Sandbox], program: str, right: int, reason: str
) -> None:
    found = score(sandboxes, program, runs(["1 2\n", "2 4\n"], ["3\n4\n", "6\n8\n"]), seconds=0.5)
    assert (found.accuracy, found.extracted) == (right, program)
    assert found.reason.startswith(reason)


def test_credit_is_all_or_nothing_or_a_share_but_accuracy_needs_every_case(sandboxes: list[Sandbox]) -> None:
    tests = calls(*[[[n], n] for n in range(4)])
    not_two = "def f(n): return n if n != 2 else 0"
    assert score(sandboxes, not_two, tests) == Score(0, True, not_two, "2 of 4 cases, case 3: wrong answer")
    share = score(sandboxes, not_two, tests, credit="share")
    assert share == Score(0, True, not_two, "3 of 4 cases, case 3: wrong answer", 0.75)
    exits = "import os\ndef f(n): return os._exit(0) if n in (0, 2) else n"
    share = score(sandboxes, exits, tests, credit="share")
    assert (share.accuracy, share.credit) == (0, 0.5)
    assert share.reason == "2 of 4 cases, case 1: failed (ended before it returned)"
    assert score(sandboxes, "def f(n): return n", tests, credit="share").credit == 1.0
    assert score(sandboxes, "def f(n): return n", tests).credit is None
    assert score(sandboxes, "(", tests, credit="share").credit == 0.0
    no_program = CodeJudge(CodeSection(credit="share"), *sandboxes).score("?", tests, "think_answer")
    assert no_program.credit is None


def test_no_case_is_asked_for_after_the_first_wrong_answer() -> None:
    tests = calls(*[[[], n] for n in range(5)])
    for results, taken in [
        (ok("0", "9", "2", "3", "4"), 2),
        (ok("0", "1", "2", "3", "4"), 5),
        ([*ok("0"), CaseResult("timeout", b"", ""), *ok("2", "3", "4")], 2),
    ]:
        programs = FakeSandbox(results)
        CodeJudge(CodeSection(), programs, FakeSandbox()).score(response("a"), tests, "think_answer")
        assert (programs.taken, programs.stopped) == (taken, 1)
        assert programs.asked[0][1].stop_at_failure
        to_the_end = FakeSandbox(results)
        judge = CodeJudge(CodeSection(credit="share"), to_the_end, FakeSandbox())
        judge.score(response("a"), tests, "think_answer")
        assert to_the_end.taken == 5
        assert not to_the_end.asked[0][1].stop_at_failure


def test_runs_after_the_first_wrong_one_are_stopped(sandboxes: list[Sandbox]) -> None:
    cases = [["0", "right"]] + [["1", "right"]] * 50  # each but the first would sleep for longer than the test may
    program = "import time\nif int(input()): time.sleep(1000)\nprint('wrong')"
    patient = {"seconds": 1000.0, "program_seconds": 10000.0}
    assert verdict(sandboxes, program, runs(*cases), **patient) == (0, "0 of 51 cases, case 1: wrong answer")


def test_the_sandbox_is_told_the_inputs_the_limits_and_nothing_that_is_expected() -> None:
    section = CodeSection(seconds=2, program_seconds=7, patience=5, memory_megabytes=3, output_megabytes=0.5)
    for tests, kind in [(calls([["in"], "secret"]), "call"), (runs(["in", "secret"]), "stdio")]:
        programs, checkers = FakeSandbox(ok("x")), FakeSandbox()
        CodeJudge(section, programs, checkers).score(response("p"), tests, "think_answer")
        ((program, limits),) = programs.asked
        assert limits == Limits(2, 7, 5, 3 * 2**20, 2**19, True)
        assert (program.program, program.kind, program.language) == ("p", kind, "python")
        assert program.inputs == tests.inputs and program.function == tests.function
        assert "secret" not in repr(program)
        assert checkers.asked == []


def test_a_program_that_looks_around_does_not_find_what_is_expected(sandboxes: list[Sandbox]) -> None:
    program = (
        "import gc, sys\ndef f(x):\n frames = []\n frame = sys._getframe()\n"
        " while frame: frames.append(repr((frame.f_locals, frame.f_globals))); frame = frame.f_back\n"
        " everything = ''.join(frames) + ''.join(o for o in gc.get_objects() if isinstance(o, str))\n"
        " return [word for word in ('argument', 'expected' + 'value') if word in everything]"
    )
    assert verdict(sandboxes, program, calls([["argument"], ["argument"]])) == (1, "1 of 1 cases")
    assert (
        verdict(sandboxes, program, calls([["argument"], ["argument"]], [["argument"], "expectedvalue"]))[0] == 0
    )


@settings(max_examples=15)
@given(st.lists(JSON_VALUES, min_size=1, max_size=5))
def test_every_value_survives_the_way_through_a_program(sandboxes: list[Sandbox], values: list[Any]) -> None:
    cases = [[[value], value] for value in values]
    assert score(sandboxes, "def f(x): return x", calls(*cases)).accuracy == 1


@settings(max_examples=15)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\r")))
def test_every_text_survives_the_way_through_a_program(sandboxes: list[Sandbox], text: str) -> None:
    program = "import sys\nsys.stdout.write(sys.stdin.read())"
    assert score(sandboxes, program, runs([text, text])).accuracy == 1
    assert score(sandboxes, f"{program}\nprint('more')", runs([text, text])).accuracy == 0


def test_the_tolerance_is_the_problems(sandboxes: list[Sandbox]) -> None:
    assert verdict(sandboxes, "def f(): return 0.51", calls([[], 0.5], tolerance=0.1))[0] == 1
    assert verdict(sandboxes, "def f(): return 0.51", calls([[], 0.5]))[0] == 0
    assert verdict(sandboxes, "print(0.51)", runs(["", "0.5"], tolerance=0.1))[0] == 1
    assert verdict(sandboxes, "print(0.51)", runs(["", "0.5"]))[0] == 0


def test_tuples_are_lists_and_keys_are_texts(sandboxes: list[Sandbox]) -> None:
    assert verdict(sandboxes, "def f(): return 1, (2, 3)", calls([[], [1, [2, 3]]]))[0] == 1
    assert verdict(sandboxes, "def f(): return {1: 2}", calls([[], {"1": 2}]))[0] == 1


ANY_ORDER = "def check(given, output, expected): return sorted(output) == sorted(expected)"


@pytest.mark.parametrize(
    ("program", "right", "reason"),
    [
        ("def f(n): return list(range(n, 0, -1))", 1, "2 of 2 cases"),
        ("def f(n): return list(range(n))", 0, "0 of 2 cases, case 1: wrong answer"),
        ("def f(n): return [1, 2]", 0, "1 of 2 cases, case 2: wrong answer"),
        ("def f(n): return 1 / 0", 0, "0 of 2 cases, case 1: failed (ZeroDivisionError: division by zero)"),
    ],
)
def test_a_checker_decides_what_is_right(sandboxes: list[Sandbox], program: str, right: int, reason: str) -> None:
    tests = calls([[2], [1, 2]], [[3], [1, 2, 3]], checker=ANY_ORDER)
    assert verdict(sandboxes, program, tests) == (right, reason)


def test_checkers_are_given_values_of_calls_and_texts_of_runs() -> None:
    for tests, answer, arguments in [
        (calls([[1, "a"], {"b": 2.5}], checker="check"), "[null]", [[1, "a"], [None], {"b": 2.5}]),
        (runs(["1\n", "2\n"], checker="check"), " 3 \n", ["1\n", " 3 \n", "2\n"]),
    ]:
        programs, checkers = FakeSandbox(ok(answer)), FakeSandbox(ok("true"))
        judge = CodeJudge(CodeSection(), programs, checkers)
        judge.score(response("p"), replace(tests, language="other"), "think_answer")
        ((checker, _),) = checkers.asked
        assert checker.language == programs.asked[0][0].language == "other"
        assert (checker.program, checker.kind, checker.function) == ("check", "call", "check")
        assert [json.loads(text) for text in checker.inputs] == [arguments]
        assert [program.program for program, _ in programs.asked] == ["p"]  # never beside what knows the answer


def test_a_checker_may_return_a_bool_of_its_own_kind_of_number(sandboxes: list[Sandbox]) -> None:
    like_numpy = "class B:\n  def tolist(self): return True\ndef check(*_): return B()"
    assert verdict(sandboxes, "def f(): return 1", calls([[], 2], checker=like_numpy))[0] == 1


@pytest.mark.parametrize(
    ("checker", "said"),
    [
        ("def check(given, output, expected): return 1 / 0", "failed: ZeroDivisionError: division by zero"),
        ("def check(given, output, expected): return 1", "ok: 1"),
        ("def check(given, output, expected): return 'true'", 'ok: "true"'),
        ("def check(given, output, expected): pass", "ok: null"),
        (
            "def check(given): return True",
            "failed: TypeError: check() takes 1 positional argument but 3 were given",
        ),
        ("checked = True", "failed: NameError: no function check, nor a class Solution with it"),
        ("def check(", "failed: SyntaxError: "),
        ("def check(*_):\n  while True: pass", "timeout: longer than 0.5 s"),
        ("import os\ndef check(*_): os._exit(0)", "failed: ended before it returned"),
        ("def check(*_): return 'x' * 5_000_000", "flooded: more than 4194304 bytes of output"),
    ],
)
@pytest.mark.parametrize("tests", [calls([[], 1]), runs(["", "1"])], ids=["calls", "runs"])
def test_a_checker_that_fails_is_the_problems_fault(
    sandboxes: list[Sandbox], tests: CodeTests, checker: str, said: str
) -> None:
    checked = CodeTests(tests.kind, tests.inputs, tests.expected, tests.function, checker=checker)
    program = "def f(): return 2\nprint(2)"
    with pytest.raises(SrpoError) as caught:
        score(sandboxes, program, checked, seconds=0.5)
    assert str(caught.value).startswith(f"the problem's checker must return True or False; {said}")
    assert verdict(sandboxes, program, tests)[0] == 0  # and the next problem is judged


def test_a_checker_that_answers_and_fails_is_not_believed() -> None:
    checkers = FakeSandbox([CaseResult("failed", b"true", "")])
    judge = CodeJudge(CodeSection(), FakeSandbox(ok("1")), checkers)
    with pytest.raises(SrpoError, match="the problem's checker must return True or False; failed: true"):
        judge.score(response("p"), calls([[], 1], checker="check"), "think_answer")


@pytest.mark.parametrize("answer", ["", "[", "=1", "[" * 10**5, "1" * 5000, b"\xff"])
def test_an_answer_that_is_no_json_is_wrong_and_no_checker_sees_it(answer: str | bytes) -> None:
    checkers = FakeSandbox(ok("true"))
    judge = CodeJudge(CodeSection(), FakeSandbox(ok(answer)), checkers)
    assert judge.score(response("p"), calls([[], 1], checker="check"), "think_answer").accuracy == 0
    assert checkers.asked == []


def test_an_answer_of_any_depth_is_right_or_wrong_for_a_checker() -> None:
    for depth in range(700, 1010):
        judge = CodeJudge(CodeSection(), FakeSandbox(ok("[" * depth + "]" * depth)), FakeSandbox(ok("false")))
        assert judge.score(response("p"), calls([[], 1], checker="check"), "think_answer").accuracy == 0
