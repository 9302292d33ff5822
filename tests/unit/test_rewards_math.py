"""Answers, forms and totals; what a policy under training would try."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_srpo.data.problems import Problem
from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.schema import RewardSection
from megatron_srpo.rewards import pool as pool_module
from megatron_srpo.rewards.math import Score, answers_agree, extract, score_math, verify_by_library
from megatron_srpo.rewards.pool import Reward, RewardPool, reward_of

PROBLEM = Problem("p", "What is 40 + 2?", "42")
OTHER = Problem("q", "What is 40 + 1?", "41")
GOOD = "<think>40 + 2 = 42.</think> <answer>42</answer>"


@pytest.mark.parametrize(
    ("response", "answer", "format_ok"),
    [
        (GOOD, "42", True),
        (f" \n{GOOD}\n ", "42", True),
        ("<think>a\nb</think>\n\n<answer>\n42\n</answer>", "42", True),
        (GOOD + " That is all.", "42", False),
        ("Well. " + GOOD, "42", False),
        ("<think>a</think> so <answer>42</answer>", "42", False),
        ("<answer>42</answer>", "42", False),
        ("<think>a <answer>42</answer>", "42", False),
        ("a</think> <answer>42</answer>", "42", False),
        ("<think></think> <answer>42</answer>", "42", False),
        ("<think>a</think><think>b</think> <answer>42</answer>", "42", False),
        ("<think>a <think>b</think> <answer>42</answer>", "42", False),
        ("<answer>42</answer> <think>a</think>", None, False),
        ("<think>a <answer>42</answer></think>", None, False),
        ("<think>a</think> <answer>41</answer> <answer>42</answer>", None, False),
        ("<think>a</think> <answer>41 <answer>42</answer>", None, False),
        ("<think>a</think> <answer>42</answer></answer>", None, False),
        ("<think>a</think> <answer>42", None, False),
        ("<think>a</think> </answer>42<answer>", None, False),
        ("<think>a</think> <answer> </answer>", None, False),
        ("<think>a</think> 42", None, False),
        ("", None, False),
    ],
)
def test_think_answer_form(response: str, answer: str | None, format_ok: bool) -> None:
    assert extract(response, "think_answer") == (answer, format_ok)


@pytest.mark.parametrize(
    ("response", "answer", "format_ok"),
    [
        ("Because. <answer>42</answer>\n", "42", True),
        ("<answer>42</answer> maybe", "42", False),
        ("<answer>41</answer> <answer>42</answer>", None, False),
        ("42", None, False),
    ],
)
def test_answer_form(response: str, answer: str | None, format_ok: bool) -> None:
    assert extract(response, "answer") == (answer, format_ok)


@pytest.mark.parametrize(
    ("response", "answer", "format_ok"),
    [
        (r"So it is \boxed{\frac{1}{2}}.", r"\frac{1}{2}", True),
        (r"\boxed{42} as said: \boxed{42}", "42", True),
        (r"\boxed{41} or \boxed{42}", None, False),
        (r"\boxed{42", None, False),
        (r"\boxed{}", None, False),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}", True),
        ("42", None, False),
    ],
)
def test_boxed_form(response: str, answer: str | None, format_ok: bool) -> None:
    assert extract(response, "boxed") == (answer, format_ok)


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
        ("12", "The answer is 12"),
        ("12", "about 12?"),
        ("12", "１２"),  # noqa: RUF001
        ("12", ""),
        ("", "12"),
    ],
)
def test_other_answers_have_none(gold: str, answer: str) -> None:
    assert not answers_agree(answer, gold)


@pytest.mark.parametrize(
    ("answer", "spared"),
    [
        ("9^{9^{9^{9}}}", "_equal"),
        ("(10^9)!", "_equal"),
        ("{" * 30 + "12" + "}" * 30, "_parse"),
        ("( [" * 30, "_parse"),
        ("9" * 5000, "_parse"),
    ],
)
def test_answers_made_to_cost_time_are_refused_before_they_do(
    monkeypatch: pytest.MonkeyPatch, answer: str, spared: str
) -> None:
    def reached(*_: Any) -> None:
        raise AssertionError(f"{spared} must not be reached")

    monkeypatch.setattr(f"megatron_srpo.rewards.math.{spared}", reached)
    assert not answers_agree(answer, "12")


@settings(max_examples=60, deadline=None)
@given(st.integers(-(10**12), 10**12), st.integers(-3, 3), st.sampled_from(["{}", "+{}", "0{}", "00{}"]))
def test_the_quick_path_for_integers_is_the_librarys_verdict(gold: int, off: int, form: str) -> None:
    answer = form.format(gold + off) if gold + off >= 0 else str(gold + off)
    assert answers_agree(answer, str(gold)) == verify_by_library(answer, str(gold)) == (off == 0)


@settings(max_examples=40, deadline=None)
@given(st.integers(-999, 999), st.integers(-999, 999))
def test_a_sum_is_answered_by_its_value_alone(left: int, right: int) -> None:
    assert answers_agree(str(left + right), str(left + right))
    assert not answers_agree(f"{left} + {right}", str(left + right))


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
    expected = [reward_of(score_math(response, "42", "think_answer"), section) for response in group]
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
