"""Code: a reference passes every time, and nothing trivial does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from megatron_srpo.data.code_tests import parse_tests
from megatron_srpo.data.curate.config import VerifySection
from megatron_srpo.data.curate.draft import Draft
from megatron_srpo.data.curate.verify import OVERHEAD_SECONDS, CodeVerifier, code_seconds, trivial_programs
from megatron_srpo.errors import SrpoError

SECTION = {"code": {"seconds": 0.5, "program_seconds": 1.0}}
DOUBLE = {"kind": "stdio", "cases": [["1\n", "2\n"], ["5\n", "10\n"]]}
CALL = {"kind": "call", "function": "double", "cases": [[[1], 2], [[5], 10]]}
CHECKED = {**DOUBLE, "checker": "def check(given, output, expected):\n    return int(output) == 2 * int(given)"}
RIGHT, WRONG = "print(2 * int(input()))", "print(1 + int(input()))"
RIGHT_CALL = "def double(x):\n    return 2 * x"
RANDOM = "import os\nprint(int.from_bytes(os.urandom(8), 'big'))"
DICE = "import os\nprint(2 * int(input()) if os.urandom(1)[0] < 128 else 0)"


def stdio(given: str, expected: str) -> dict[str, Any]:
    return {"kind": "stdio", "cases": [[given, expected]]}


CASES: dict[str, tuple[dict[str, Any], tuple[str, ...], str | None, str]] = {
    "right": (DOUBLE, (RIGHT,), None, ""),
    "right function": (CALL, (RIGHT_CALL,), None, ""),
    "right method": (CALL, ("class Solution:\n    def double(self, x):\n        return 2 * x",), None, ""),
    "checker": (CHECKED, (RIGHT,), None, ""),
    "the third is right": (DOUBLE, (WRONG, "syntax error(", RIGHT), None, ""),
    "the fourth is not tried": (DOUBLE, (WRONG, WRONG, WRONG, RIGHT), "reference_fails", "case 2: wrong answer"),
    "wrong": (DOUBLE, (WRONG,), "reference_fails", "passes all 2 cases; the first: case 2: wrong answer"),
    "raises": (DOUBLE, ("1/0",), "reference_fails", "ZeroDivisionError"),
    "no program": (DOUBLE, ("def (",), "reference_fails", "SyntaxError"),
    "too slow": (DOUBLE, ("while True: pass",), "reference_fails", "case 1: "),
    "fails the checker": (CHECKED, ("print(3)",), "reference_fails", "case 1: wrong answer"),
    "missing": (DOUBLE, (), "reference_missing", "there is no reference program"),
    "random": (DOUBLE, (RANDOM,), "tests_nondeterministic", "answers case 1 differently in two runs"),
    "constant": (stdio("1\n", "7\n"), ("print(7)",), "trivial_passes", "every case expects"),
    "prints nothing": (stdio("1\n", ""), ("pass",), "trivial_passes", '""'),
    "always yes": (stdio("1\n", "YES\n"), ("print('YES')",), "trivial_passes", "print('YES')"),
    "its input": (stdio("a b\n", "a b\n"), ("print(input())",), "trivial_passes", "stdin"),
    "the argument": (
        {"kind": "call", "function": "same", "cases": [[[3], 3], [[4], 4]]},
        ("def same(x):\n    return x",),
        "trivial_passes",
        "arguments[0]",
    ),
    "true": (
        {"kind": "call", "function": "f", "cases": [[[3], True]]},
        ("def f(x):\n    return x > 2",),
        "trivial_passes",
        "return True",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def verifier() -> Iterator[CodeVerifier]:
    found = CodeVerifier(VerifySection.model_validate(SECTION))
    yield found
    for sandbox in (found._judge._programs, found._judge._checkers):
        sandbox.close()


@pytest.mark.parametrize("name", CASES)
def test_references_and_trivial_programs(name: str, verifier: CodeVerifier) -> None:
    tests, references, rule, reason = CASES[name]
    found = verifier.verify(Draft("code", "Double it.", tests=json.dumps(tests), references=references))
    if rule is None:
        assert found == []
        return
    ((found_rule, found_reason),) = found
    assert found_rule == rule and reason in found_reason
    assert "\n" not in found_reason


def test_a_reference_that_passes_only_sometimes_is_not_refused_for_failing(verifier: CodeVerifier) -> None:
    cases = [["1\n", "2\n"]] * 40  # to pass them all is no accident that happens
    tests = json.dumps({"kind": "stdio", "cases": cases})
    ((rule, _),) = verifier.verify(Draft("code", "p", tests=tests, references=(DICE,)))
    assert rule == "tests_nondeterministic"


def test_a_reference_must_pass_twice(verifier: CodeVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    results = [(2, ""), (1, "case 2: wrong answer")]
    monkeypatch.setattr(verifier._judge, "passes", lambda program, tests: results.pop(0))
    found = verifier.verify(Draft("code", "p", tests=json.dumps(DOUBLE), references=(RIGHT,)))
    assert found == [
        ("tests_nondeterministic", "a reference passes once and fails then: case 2: wrong answer"),
    ]  # fmt: skip


def test_problems_without_reference_can_be_kept() -> None:
    section = VerifySection.model_validate({**SECTION, "without_reference": "keep"})
    verifier = CodeVerifier(section)
    assert verifier.verify(Draft("code", "p", tests=json.dumps(DOUBLE))) == []
    trivial = json.dumps({"kind": "stdio", "cases": [["1", "1"]]})
    assert [rule for rule, _ in verifier.verify(Draft("code", "p", tests=trivial))] == ["trivial_passes"]
    for sandbox in (verifier._judge._programs, verifier._judge._checkers):
        sandbox.close()


def test_tests_of_a_form_that_is_not_ours_are_the_rows_fault(verifier: CodeVerifier) -> None:
    with pytest.raises(SrpoError, match="tests: unknown kind 'pytest'"):
        verifier.verify(Draft("code", "p", tests='{"kind": "pytest"}', references=(RIGHT,)))


@pytest.mark.parametrize("tests", [DOUBLE, CALL])
def test_trivial_programs_are_programs(tests: dict[str, Any]) -> None:
    programs = trivial_programs(parse_tests(json.dumps(tests), "tests"))
    assert len(set(programs)) == len(programs) >= 12
    for program in programs:
        compile(program, "trivial", "exec")


def test_a_checker_has_time_for_every_case() -> None:
    section = VerifySection.model_validate(SECTION)
    plain, checked = (
        code_seconds(Draft("code", "p", tests=json.dumps(tests)), section)
        for tests in (DOUBLE, DOUBLE | {"checker": "def check(given, answer, expected):\n    return True"})
    )
    own = OVERHEAD_SECONDS
    assert checked - own == (1 + len(DOUBLE["cases"])) * (plain - own) > plain - own
