"""What each check refuses, and what only looks like it."""

from __future__ import annotations

import pytest

from megatron_srpo.data.curate.draft import Draft
from megatron_srpo.data.curate.rules import RULES, RuleSettings
from megatron_srpo.data.curate.rules.language import language
from tests.unit.curate.applying import TESTS, code, math, refusals, repaired
from tests.unit.curate.rule_texts import CLEAN_CODE, CLEAN_MATH, REFUSED_CODE, REFUSED_MATH

CALLS = '{"kind": "call", "function": "f", "cases": [%s]}'
STDIO = '{"kind": "stdio", "cases": [%s]}'
ANY = "If there are several answers, print any of them."


@pytest.mark.parametrize(
    ("rule", "case"), [(rule, case) for rule, cases in REFUSED_MATH.items() for case in cases], ids=repr
)
def test_mathematics_is_refused(rule: str, case: str | tuple[str, str]) -> None:
    prompt, answer = case if isinstance(case, tuple) else (case, "42")
    assert rule in refusals(math(prompt, answer))


@pytest.mark.parametrize(
    ("rule", "prompt"), [(rule, case) for rule, cases in REFUSED_CODE.items() for case in cases]
)
def test_tasks_are_refused(rule: str, prompt: str) -> None:
    assert rule in refusals(code(prompt))


@pytest.mark.parametrize(("prompt", "answer"), CLEAN_MATH)
def test_clean_mathematics_passes(prompt: str, answer: str) -> None:
    assert refusals(math(prompt, answer)) == {}
    assert repaired(math(prompt, answer))[1] <= {"markdown"}


@pytest.mark.parametrize("prompt", CLEAN_CODE)
def test_clean_tasks_pass(prompt: str) -> None:
    draft = code(prompt)
    assert refusals(draft) == {}
    assert repaired(draft) == (draft, set())


@pytest.mark.parametrize(
    "tests",
    [
        "",
        "  ",
        "[]",
        "{",
        "null",
        "not json",
        STDIO % "",
        CALLS % "",
        STDIO % '["1"]',
        STDIO % "[1, 2]",
        '{"kind": "pytest", "cases": []}',
        '{"cases": [["1", "2"]]}',
        "[" * 99_999,
        '{"kind": "call", "function": "1f", "cases": [[[1], 2]]}',
        '{"inputs": ["1"], "outputs": ["2"]}',
    ],
)
def test_no_usable_tests(tests: str) -> None:
    assert set(refusals(code("Print the sum of two integers.", tests))) == {"tests_missing"}


@pytest.mark.parametrize(
    "tests",
    [
        STDIO % '["1", "2"], ["1", "3"]',
        STDIO % '["1\\n", "2"], ["1", "3"]',
        STDIO % '["1 ", "yes"], ["2", "no"], ["1", "no"]',
        STDIO % '["1", "0.5"], ["1", "0.6"]',
        STDIO % '["1", "1 2"], ["1", "1 2 3"]',
        CALLS % "[[1], 2], [[1], 3]",
        CALLS % "[[1], 2], [[1, 2], 3]",
        CALLS % "[[], 2], [[1], 3]",
        CALLS % "[[[1, 2]], true], [[[1, 2]], false]",
        CALLS % '[["a"], "b"], [["a"], ["b"]]',
    ],
)
def test_tests_that_contradict_each_other(tests: str) -> None:
    assert set(refusals(code("Print the sum of two integers.", tests))) == {"tests_inconsistent"}


@pytest.mark.parametrize(
    "tests",
    [
        TESTS,
        STDIO % '["1", "2"], ["1", "2"]',
        STDIO % '["1", "2"], ["1\\n", "2\\n"]',
        STDIO % '["1", "0.50"], ["1", "0.5"]',
        STDIO % '["1 1", "2"], ["11", "3"]',
        STDIO % '["", "2"]',
        CALLS % "[[1, 2], 3], [[2, 2], 4]",
        CALLS % "[[1], 2.0], [[1], 2]",
        CALLS % "[[[1, 2, 3]], 3], [[[1]], 4]",
        CALLS % "[[null], null]",
        '{"kind": "stdio", "cases": [["1", "2"], ["1", "3"]], "checker": "def check(i, o, e): return True"}',
    ],
)
def test_tests_that_agree(tests: str) -> None:
    assert refusals(code("Print the sum of two integers.", tests)) == {}


def test_several_answers_need_a_checker() -> None:
    checked = TESTS.replace("]]}", ']], "checker": "def check(i, o, e): return True"}')
    assert set(refusals(code(f"Print two numbers with sum n. {ANY}"))) == {"tests_nondeterministic"}
    assert refusals(code(f"Print two numbers with sum n. {ANY}", checked)) == {}


def test_choices_are_dropped_where_the_recipe_says_so() -> None:
    draft = math("What is $2+2$? (A) 3 (B) 4 (C) 5", "B")
    assert refusals(draft) == {}
    assert set(refusals(draft, RuleSettings("drop"))) == {"multiple_choice"}
    assert set(refusals(Draft("math", "What is $2+2$?", "B", options=("3", "4")), RuleSettings("drop"))) == {
        "multiple_choice"
    }


def test_other_languages_may_be_asked_for() -> None:
    chinese = math("求所有满足方程 $x^2 - 5x + 6 = 0$ 的实数 $x$。")
    assert language(chinese, RuleSettings(languages=("zh",))) is None
    assert language(chinese, RuleSettings(languages=("zh", "en"))) is None
    assert language(
        math("Find the sum of all the positive divisors of the number."), RuleSettings(languages=("zh",))
    )
    assert language(chinese, RuleSettings(languages=())) is None


def test_every_rule_has_a_meaning_and_one_function() -> None:
    assert [rule.name for rule in RULES].count("multiple_choice") == 2
    kinds = [rule.repair is not None for rule in RULES]
    assert kinds == sorted(kinds, reverse=True)
    for rule in RULES:
        assert (rule.repair is None) != (rule.check is None)
        assert rule.meaning.endswith(".")
