"""Problems and rewards as JSON values, for the pool and its workers."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from megatron_srpo.data.code_tests import CodeTests
from megatron_srpo.data.problem import Problem
from megatron_srpo.rewards.score import Reward


def problem_message(problem: Problem) -> dict[str, Any]:
    """A problem as JSON values."""
    return asdict(problem)


def problem_of(message: dict[str, Any]) -> Problem:
    """The problem again."""
    tests = message.pop("tests")
    if tests is not None:
        tests = CodeTests(**{**tests, "inputs": tuple(tests["inputs"]), "expected": tuple(tests["expected"])})
    return Problem(**message, tests=tests)


def reward_message(reward: Reward) -> dict[str, Any]:
    """A reward as JSON values."""
    return asdict(reward)


def reward_of(message: dict[str, Any]) -> Reward:
    """The reward again."""
    return Reward(**message)
