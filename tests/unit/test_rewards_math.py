"""Answers; what a policy under training would try."""

from __future__ import annotations

from typing import Any

import pytest

from megatron_srpo.recipe.reward import MathSection
from megatron_srpo.rewards.math import judge as judge_module
from megatron_srpo.rewards.math.judge import answers_agree, judge, references, score_math, shown
from megatron_srpo.rewards.score import Score

GOOD = "<think>40 + 2 = 42.</think> <answer>42</answer>"
SECTION = MathSection()


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("42", "42"),
        ("42", "$42$"),
        ("42", r"\(42\)"),
        ("42", r"\boxed{42}"),
        ("42", "+42"),
        ("42", "042"),
        ("42", "42.0"),
        ("42", "42 cm"),
        ("42", r"42\text{ apples}"),
        ("42", "x = 42"),
        ("42", "40 + 2 = 42"),
        ("42", r"42\%"),
        ("-42", "-42"),
        ("-0.045", r"-4.5\%"),
        ("1000", "1,000"),
        ("120000", r"1.2\times 10^5"),
        ("-120000", r"-1.2\times 10^5"),
        ("1/2", "0.5"),
        ("0.5", r"\frac{1}{2}"),
        ("1.5", r"1\frac{1}{2}"),
        (r"-\frac{1}{2}", "-1/2"),
        ("84/2", "42"),
        ("84/2", "84/2"),
        (r"2\sqrt{3}", r"\sqrt{12}"),
        ("x+1", "1+x"),
        ("x=3", "3"),
        ("1, 2", r"\{2, 1\}"),
        ("(1, 2)", "(1,2)"),
    ],
)
def test_equal_answers_have_credit(gold: str, answer: str) -> None:
    assert answers_agree(answer, gold)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("42", "41"),
        ("42", "-42"),
        ("3.14", "3.14159"),
        # two candidates
        ("12", "12 or 15"),
        ("15", "12 or 15"),
        ("15", "12, 15"),
        ("15", "12 and 15"),
        ("15", r"12\text{ or }15"),
        ("15", "$12$ or $15$"),
        ("15", "12 = 15"),
        ("12", "12 = 15"),
        ("12", r"\pm 12"),
        ("15", r"12} \boxed{15"),
        ("12", "12} or {15"),
        ("15", r"12 \boxed{15}"),
        ("27", "12 15"),
        ("27", "12\n15"),
        ("27", r"12\,15"),
        ("27", r"12\quad 15"),
        # the problem again, not its answer
        ("85", "47 + 38"),
        ("5", "10-5"),
        ("12", "2*6"),
        ("12", r"2 \cdot 6"),
        ("42", "84/2"),
        ("42", r"\frac{84}{2}"),
        ("42", r"\sqrt{1764}"),
        ("100", "10^2"),
        ("12", "|-12|"),
        # no mathematics
        ("12", "about 12?"),
        ("12", ""),
        ("", "12"),
    ],
)
def test_other_answers_have_none(gold: str, answer: str) -> None:
    assert not answers_agree(answer, gold)


@pytest.mark.parametrize(
    ("answer", "gold", "reason"),
    [
        ("42", "42", "42 equals 42"),
        ("41", "42", "41 is not 42"),
        ("$42.0$", "42", "42.0 equals 42"),
        ("12 or 15", "12", "2 candidates"),
        ("12, 15, 16", "12", "3 candidates"),
        ("47 + 38", "85", "47 + 38 is not worked out"),
        ("84/2", "42", "84/2 is not worked out"),
        ("12 = 15", "15", "12 = 15 is not 15"),
        ("12 +", "12", "12 + cannot be parsed"),
        (r"12 \boxed{15}", "12", "more than one answer around the box"),
        ("$$", "12", "the answer is empty"),
        ("12", "$$", "the reference is empty"),
        ("9^{9^{9^9}}", r"\sqrt{2}", "9^{9^{9^9}} cannot be worked out"),
        ("1/0", r"\sqrt{2}", "1/0 cannot be worked out"),
        ("5", r"\sum_{i=1}^n i", r"5 is not \sum_{i=1}^n i"),
        ("no", "yes", "no is not yes"),
        ("9" * 500, "12", "an answer of 500 characters"),
        ("7", '["1/2", "0.5"]', "7 is none of the references"),
        ("9" * 60, "1", "9" * 37 + "... is not 1"),
        ("\ud800", "1", r"\ud800 cannot be parsed"),
    ],
    ids=ascii,
)
def test_the_reason_says_why_in_a_few_words(answer: str, gold: str, reason: str) -> None:
    assert judge(answer, gold).reason == reason


def test_a_score_has_all_parts() -> None:
    assert score_math(GOOD, "42", "think_answer", SECTION) == Score(1, True, "42", "42 equals 42")
    assert score_math("<answer>41</answer>", "42", "think_answer", SECTION) == Score(
        0, False, "41", "41 is not 42"
    )
    assert score_math("42", "42", "think_answer", SECTION) == Score(0, False, None, "no <answer>")
    last = MathSection(fallback="last_number")
    assert score_math("42", "42", "think_answer", last) == Score(1, False, "42", "42 equals 42")


@pytest.mark.parametrize(
    ("gold", "texts"),
    [
        ('["1/2", "0.5"]', ("1/2", "0.5")),
        (' ["a"]', ("a",)),
        ("[1, 2]", ("[1, 2]",)),
        ('["a", 1]', ('["a", 1]',)),
        ("[]", ("[]",)),
        ('["a"', ('["a"',)),
        ('"a"', ('"a"',)),
        ("[" * 20_000, ("[" * 20_000,)),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_several_references_are_a_list_of_texts(gold: str, texts: tuple[str, ...]) -> None:
    assert references(gold) == texts


@pytest.mark.parametrize(
    ("gold", "answer", "tolerance", "right"),
    [
        ("1/3", "0.3333", 1e-4, True),
        ("1/3", "0.3333", 0.99e-4, False),
        ("1/3", "0.333", 1e-3, True),
        ("1/3", "0.33333333", 0.0, False),
        ("0.3333", "1/3", 1e-4, True),
        ("2/3", "0.66", 1e-2, True),
        ("10000", "10001", 1e-2, False),
        ("10000", "10000.5", 1e-2, False),
        ("100.5", "100.51", 1e-2, False),
        ("1000000/3", "333333", 1e-2, False),
        ("1000000/3", "333333.3", 1e-4, True),
        (r"\pi", "3.14", 1e-3, True),
        (r"\pi", "3", 0.5, False),
        ("3.14", r"\pi", 1e-3, False),
        (r"3.14\cdot 1", r"\pi", 1e-3, False),
        (r"\sqrt{2}", r"\sqrt{2.0001}", 1e-2, False),
        (r"\cos 60^\circ", "0.5001", 1e-2, False),
        ("1/1024", "0.000977", 1e-2, False),
        ("1/2048", "0.000488", 1e-2, True),
        ("1/3", r"33.33\%", 1e-4, True),
        ("(1/3, 2)", "(0.3333, 2)", 1e-4, True),
        ("(1/3, 2)", "(0.3333, 2.0001)", 1e-2, False),
        (r"[0, \pi]", "[0, 3.1416]", 1e-4, True),
    ],
)
def test_the_tolerance_is_between_a_decimal_and_what_no_short_decimal_writes(
    gold: str, answer: str, tolerance: float, right: bool
) -> None:
    assert answers_agree(answer, gold, tolerance) == right


def test_a_reason_is_one_short_line_that_can_be_printed() -> None:
    text = shown("a\nb\x00\ud800\u202e" + "x" * 100)
    assert text.isprintable() and len(text) < 80
    assert shown("42") == "42"


def test_running_out_of_memory_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(judge_module, "read", exhausted)
    with pytest.raises(MemoryError):
        judge("x + 2", "x + 3")


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        (r"\sum_{k=1}^3 k", "6", True),
        (r"\sum_{k=1}^3 k", "7", False),
        (r"\sum_{k=1}^n k", r"\frac{n(n+1)}{2}", True),
        (r"\int_0^1 x^2 dx", "1/3", True),
        (r"\int_0^1 x^2 dx", "1/4", False),
        (r"\lim_{x\to 0} \frac{\sin x}{x}", "1", True),
        (r"\sum_{k=1}^3 k", "6 or 7", False),
        (r"\sum_{k=1}^3 k", r"6\text{ or }7", False),
        (r"\sum_{k=1}^3 k", "hello", False),
        (r"\sum_{k=1}^3 k", "9^{9^{9^9}}", False),
        (r"\sum_{k=1}^3 k", "((((((((((6))))))))))", False),
        (r"\sum_{k=1}^3 k", "100!!", False),
        (r"\sum_{k=1}^3 k", "6" + "+0" * 200, False),
    ],
)
def test_references_that_only_the_library_reads(gold: str, answer: str, right: bool) -> None:
    assert references(gold) == (gold,)
    assert not judge_module.reference_of(gold).readings
    assert answers_agree(answer, gold) is right
