"""Arithmetic graded from two to six operands, and text about it whose quality falls with the length.

Short chains are answered well nearly always. Long ones are mostly guessed, and those who do work them out
slip now and then. So a model that learnt from this text has two things left to learn on long chains: to
work instead of guessing, which it finds soon, and to slip less, which takes it longer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from . import problems
from .problems import EOS, HIGHEST, LOWEST, TEMPLATE, Problem, Segment

DOMAIN = "math"
# How often a problem has so many operands.
WEIGHTS = {2: 20, 3: 20, 4: 20, 5: 20, 6: 20}
LABELS = "abcdefg"  # each change has a name, by which even a small model finds it again in the question
QUESTION = "Start at {list}."
EXERCISE = "From {list}."  # never a question of the data, so it does not tilt the mixture of answers

# By the number of operands: worked out; right although guessed; a wrong partial result in worked-out text.
CAREFUL_SHARE = {2: 0.95, 3: 0.75, 4: 0.35, 5: 0.14, 6: 0.06}
LUCKY_SHARE = {2: 0.60, 3: 0.30, 4: 0.05, 5: 0.03, 6: 0.02}
SLIP_SHARE = {2: 0.0, 3: 0.01, 4: 0.03, 5: 0.04, 6: 0.05}
BROKEN_SHARE = 0.12  # of the guesses, those without some of the tags


def difficulty(problem: Problem) -> str:
    """`easy` up to three operands, `medium` up to five, else `hard`."""
    return "easy" if problem.operands <= 3 else "medium" if problem.operands <= 5 else "hard"


def draw(rng: random.Random) -> Problem:
    """A problem of the data's mixture of lengths."""
    return problems.draw_problem(rng, draw_operands(rng))


def draw_operands(rng: random.Random) -> int:
    """How many operands to take."""
    return rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]


def in_words(problem: Problem) -> str:
    """The chain as a question lists it: `57: a-8, b+9`."""
    first, *changes = problem.terms[0], *zip(problem.terms[1::2], problem.terms[2::2], strict=True)
    return f"{first}: " + ", ".join(f"{label}{sign}{n}" for label, (sign, n) in zip(LABELS, changes, strict=False))


def rows(chosen: Sequence[Problem], first: int) -> dict[str, list[str]]:
    """The columns of a data file; ids count on from `first`."""
    columns = problems.rows(chosen, first, difficulty)
    columns["source"] = ["tiny-graded-arithmetic"] * len(chosen)
    columns["prompt"] = [QUESTION.format(list=in_words(problem)) for problem in chosen]
    return columns


def careful_response(problem: Problem, rng: random.Random, share: float = 0.0) -> str:
    """A worked-out solution in which each partial result is wrong with this probability.

    Work goes on from the wrong result, as a person's would. Where that would leave the two-digit
    numbers, there is no slip.
    """
    changes = [int(f"{sign}{right}") for _, sign, right, _ in problem.steps()]
    value = int(problem.terms[0])
    work = str(value)
    for at, change in enumerate(changes):
        result = value + change
        if rng.random() < share:
            wrong = result + rng.choice((-10, -2, -1, 1, 2, 10))
            rest = [wrong + sum(changes[at + 1 : end]) for end in range(at + 1, len(changes) + 1)]
            result = wrong if all(LOWEST <= number <= HIGHEST for number in rest) else result
        work += f" {LABELS[at]}{change:+d}={result}"
        value = result
    return f" <think>{work}.</think> <answer>{value}</answer>"


def response(problem: Problem, rng: random.Random) -> str:
    """An answer of the quality that is usual for a problem of this length."""
    if rng.random() < CAREFUL_SHARE[problem.operands]:
        return careful_response(problem, rng, SLIP_SHARE[problem.operands])
    return problems.hasty_response(problem, rng, LUCKY_SHARE[problem.operands], BROKEN_SHARE)


def solution(rng: random.Random, reserved: set[str]) -> list[Segment]:
    """One question of the data's form with an answer of mixed quality."""
    problem = problems.draw_unreserved(rng, draw_operands(rng), reserved)
    asked = TEMPLATE.format(question=QUESTION.format(list=in_words(problem)))
    return [(asked, False), (response(problem, rng) + EOS, True)]


def exercise(rng: random.Random, reserved: set[str]) -> list[Segment]:
    """An exercise with a right solution: it teaches to follow a question and to get the sums right."""
    problem = problems.draw_unreserved(rng, rng.randint(min(WEIGHTS), max(WEIGHTS)), reserved)
    asked = TEMPLATE.format(question=EXERCISE.format(list=in_words(problem)))
    return [(asked, False), (careful_response(problem, rng) + EOS, True)]


def drill(rng: random.Random, reserved: set[str], length: int = 9) -> list[Segment]:
    """A line of single changes; only their results are trained on, as the rest is random."""
    segments: list[Segment] = []
    for _ in range(length):
        left, sign, n, result = problems.draw_unreserved(rng, 2, reserved).steps()[0]
        segments += [(f"{left} {rng.choice(LABELS)}{sign}{n}=", False), (str(result), True), (" ", False)]
    return segments[:-1]


def right(text: str, row: dict[str, str]) -> tuple[bool, bool]:
    """Whether a response, without its end of text, has the asked form, and whether its answer is right."""
    found = problems.FORMED.fullmatch(text)
    return found is not None, found is not None and found[2] == row["answer"]
