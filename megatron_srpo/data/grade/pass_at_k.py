"""Pass@k, and what difficulty it means."""

from __future__ import annotations

from fractions import Fraction
from math import comb

from megatron_srpo.recipe.data import Difficulty
from megatron_srpo.recipe.grading import GradingSection


def pass_at_k(n: int, c: int, k: int) -> float:
    """The unbiased estimate of the chance that one of k responses is right (Chen et al., arXiv 2107.03374).

    It is the share of the sets of k among n responses that hold one of the c right ones: 1 - C(n-c, k) / C(n, k),
    exact before it is rounded to a float.

    Raises:
        ValueError: when k is not from 1 to n, or c not from 0 to n.
    """
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError(f"Pass@{k} of {n} responses of which {c} are right")
    return float(1 - Fraction(comb(n - c, k), comb(n, k)))


def difficulty_of(value: float, grading: GradingSection) -> Difficulty:
    """What a Pass@k means by the recipe's thresholds, which belong to easy and hard themselves."""
    if value >= grading.easy:
        return "easy"
    return "hard" if value <= grading.hard else "medium"
