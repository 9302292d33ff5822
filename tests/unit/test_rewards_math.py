"""Answers and totals; what a policy under training would try."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from megatron_srpo.data.problems import Problem
from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.reward import MathSection
from megatron_srpo.recipe.schema import RewardSection
from megatron_srpo.rewards import math as judge_module
from megatron_srpo.rewards import pool as pool_module
from megatron_srpo.rewards.math import answers_agree, judge, references, score_math, shown
from megatron_srpo.rewards.pool import Reward, RewardPool, reward_of
from megatron_srpo.rewards.score import Score

PROBLEM = Problem("p", "What is 40 + 2?", "42")
OTHER = Problem("q", "What is 40 + 1?", "41")
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
        ("5", r"\sum_{i=1}^n i", r"5 is not written as \sum_{i=1}^n i"),
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
    ("score", "total"),
    [
        (Score(1, True, "1"), 2.0),
        (Score(0, True, "2"), 0.0),
        (Score(1, False, "1"), 1.75),
        (Score(0, False, None), -0.25),
    ],
)
def test_the_total_adds_accuracy_and_broken_form(score: Score, total: float) -> None:
    reward = reward_of(score, RewardSection(accuracy=2.0, broken_format=-0.25))
    assert reward == Reward(total, score.accuracy, score.format_ok, score.extracted)


async def test_the_pool_scores_a_group_as_this_process_does() -> None:
    group = [GOOD, "<answer>42</answer>", "<think>a</think> <answer>41</answer>", "", GOOD]
    section = RewardSection(workers=1)
    async with RewardPool(section) as rewards:
        pairs = await asyncio.gather(rewards.score_group(group, PROBLEM), rewards.score(GOOD, OTHER))
    expected = [reward_of(score_math(response, "42", "think_answer", SECTION), section) for response in group]
    assert pairs[0] == expected
    assert [reward.total for reward in expected] == [1.0, 0.5, 0.0, -0.5, 1.0]
    assert pairs[1].accuracy == 0


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT as at a terminal: a process started in the background ignores it, and so do its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
async def test_workers_ignore_interrupts_and_a_dead_one_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async with RewardPool(RewardSection(workers=1)) as rewards:
        await rewards.score(GOOD, PROBLEM)
        (worker,) = rewards._executor._processes.values()
        os.kill(worker.pid, signal.SIGINT)
        assert (await rewards.score(GOOD, PROBLEM)).accuracy == 1
        monkeypatch.setattr(pool_module, "_score_all", end_process)
        with pytest.raises(SrpoError, match=r"a reward worker .* died .* the problem p;"):
            await rewards.score(GOOD, PROBLEM)
    assert not worker.is_alive()


def end_process(*_: Any) -> None:
    os._exit(1)
