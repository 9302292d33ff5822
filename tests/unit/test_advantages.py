"""Advantages, their rescaling and the length penalty against plain float64 references."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from megatron_srpo.actor.advantages import (
    GroupOutcomes,
    advantages_of,
    group_advantages,
    pass_rate_weights,
    soft_overlong_penalty,
)
from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.schema import AlgorithmSection

KINDS = ("group_normalized", "mean_centered", "leave_one_out")


def reference(rewards: list[float], kind: str, epsilon: float) -> list[float]:
    mean, deviation = statistics.fmean(rewards), statistics.pstdev(rewards)
    if kind == "group_normalized":
        return [(r - mean) / (deviation + epsilon) for r in rewards]
    if kind == "mean_centered":
        return [r - mean for r in rewards]
    return [r - statistics.fmean(rewards[:i] + rewards[i + 1 :]) for i, r in enumerate(rewards)]


def outcomes(rewards: Any, **changes: Any) -> GroupOutcomes:
    rewards = np.array(rewards, dtype=np.float64)
    plain = {
        "correct": np.zeros(rewards.shape, bool),
        "lengths": np.ones(rewards.shape, np.int64),
        "cut_off": np.zeros(rewards.shape, bool),
    }
    return GroupOutcomes(rewards, **(plain | {name: np.array(value) for name, value in changes.items()}))


@pytest.mark.parametrize("kind", KINDS)
def test_matches_reference(kind: Any) -> None:
    rewards = np.random.default_rng(0).normal(size=(7, 5))
    for row, rewards_row in zip(group_advantages(rewards, kind, 1e-3), rewards, strict=True):
        assert row == pytest.approx(reference(rewards_row.tolist(), kind, 1e-3), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [1.0, 0.1, -0.7])
def test_equal_rewards_give_no_signal(kind: Any, value: float) -> None:
    """Exactly none: the mean of seven times 0.1 is not 0.1 in floating point."""
    assert not group_advantages(np.full((2, 7), value), kind, 1e-6).any()


def test_the_default_is_normalized_without_rescaling() -> None:
    rng = np.random.default_rng(1)
    rewards, cut_off = rng.normal(size=(7, 5)), rng.random((7, 5)) < 0.3
    given = outcomes(rewards, cut_off=cut_off, correct=rng.random((7, 5)) < 0.5, lengths=np.full((7, 5), 8))
    got = advantages_of(given, AlgorithmSection(), 8)
    for row, rewards_row, cut_row in zip(got, rewards, cut_off, strict=True):
        want = reference(rewards_row.tolist(), "group_normalized", 1e-6)
        assert row == pytest.approx([0.0 if c else a for a, c in zip(want, cut_row, strict=True)], abs=1e-12)


def test_cut_off_counts_in_the_mean_but_gets_zero() -> None:
    got = advantages_of(outcomes([[1.0, 0.0]], cut_off=[[False, True]]), AlgorithmSection(), 8)
    assert got[0, 1] == 0.0
    assert got[0, 0] == pytest.approx(1.0, abs=1e-5)


def test_overlong_none_treats_cut_off_like_any_other() -> None:
    algorithm = AlgorithmSection(overlong="none", advantage="mean_centered")
    got = advantages_of(outcomes([[1.0, 0.0]], cut_off=[[False, True]]), algorithm, 8)
    assert got.tolist() == [[0.5, -0.5]]


def test_soft_penalty_is_part_of_the_reward() -> None:
    algorithm = AlgorithmSection(overlong="soft_penalty", overlong_buffer=4, advantage="mean_centered")
    given = outcomes([[1.0, 1.0]], lengths=[[18, 20]], cut_off=[[False, True]])
    assert advantages_of(given, algorithm, 20).tolist() == [[0.25, -0.25]]  # rewards 0.5 and 0.0


def test_soft_penalty_by_the_papers_cases() -> None:
    limit, buffer = 20, 8
    for length in range(25):
        if length <= limit - buffer:
            want = 0.0
        elif length <= limit:
            want = ((limit - buffer) - length) / buffer
        else:
            want = -1.0
        assert soft_overlong_penalty(np.array([length]), limit, buffer)[0] == pytest.approx(want, abs=1e-15)


def test_a_buffer_beyond_the_limit_is_refused() -> None:
    with pytest.raises(SrpoError, match="overlong_buffer 21 is longer than max_response_tokens 20"):
        soft_overlong_penalty(np.array([1]), 20, 21)


def test_soft_penalty_without_buffer_is_refused_by_the_schema() -> None:
    with pytest.raises(ValidationError, match="soft_penalty needs overlong_buffer"):
        AlgorithmSection(overlong="soft_penalty")


def test_pass_rate_weights() -> None:
    correct = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=bool)
    for exponent in (0.5, 1.0, 2.0):
        want = [(1 - sum(row) / 4) ** exponent for row in correct.tolist()]
        assert pass_rate_weights(correct, exponent)[:, 0].tolist() == pytest.approx(want, abs=1e-15)


def test_rarely_solved_groups_weigh_more() -> None:
    """By correctness, not by reward: the rewards of both groups are the same."""
    algorithm = AlgorithmSection(pass_rate_exponent=2.0, advantage="mean_centered")
    given = outcomes([[1.0, 0.0, 0.0, 0.0]] * 2, correct=[[True, False, False, False], [True, True, True, False]])
    plain = [0.75, -0.25, -0.25, -0.25]
    got = advantages_of(given, algorithm, 8)
    assert got[0].tolist() == pytest.approx([a * 0.75**2 for a in plain])
    assert got[1].tolist() == pytest.approx([a * 0.25**2 for a in plain])
