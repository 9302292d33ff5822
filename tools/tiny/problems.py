"""Arithmetic problems and the pre-training text about them: drills, careful solutions and hasty ones."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

TEMPLATE = "User: {question}\nAssistant:"
EOS = "<|endoftext|>"
# Two digits, always: the first number, every partial result and the answer. One digit: the numbers added or
# taken away. With widths that never change a model of this size learns to follow a question in minutes.
LOWEST, HIGHEST = 10, 99
OPERANDS = {"easy": 2, "medium": 3, "hard": 4}
QUESTION = "What is {e}?"

# How pre-training text answers, by difficulty: long problems tempt more people to guess.
CAREFUL_SHARE = {"easy": 0.40, "medium": 0.28, "hard": 0.20}
LUCKY_SHARE = {"easy": 0.20, "medium": 0.06, "hard": 0.03}
BROKEN_SHARE = 0.18  # of the hasty answers: tags missing, so that the format too is left to learn
HASTY_THOUGHTS = (
    "This looks simple.",
    "Easy, no need to work it out.",
    "I can guess this one.",
    "It is about {near}.",
    "Just a quick look.",
    "Roughly {near}, I would say.",
)

FORMED = re.compile(r" ?<think>((?:(?!</?(?:think|answer)>).)+)</think> <answer>(\d+)</answer>")

# A piece of text, and whether the model is trained to produce it.
Segment = tuple[str, bool]


@dataclass(frozen=True)
class Problem:
    """A chain of additions and subtractions, worked from the left."""

    terms: tuple[str | int, ...]  # operand, operator, operand, ...

    @property
    def expression(self) -> str:
        """The problem as it is written, such as `47+8-6`."""
        return "".join(map(str, self.terms))

    @property
    def operands(self) -> int:
        """How many numbers the problem holds."""
        return (len(self.terms) + 1) // 2

    @property
    def difficulty(self) -> str:
        """`easy`, `medium` or `hard`, by the number of operands."""
        return next(name for name, count in OPERANDS.items() if count == self.operands)

    def steps(self) -> list[tuple[int, str, int, int]]:
        """The partial results from the left, each as (left, operator, right, result)."""
        value, found = int(self.terms[0]), []
        for sign, right in zip(self.terms[1::2], self.terms[2::2], strict=True):
            result = value + int(right) if sign == "+" else value - int(right)
            found.append((value, str(sign), int(right), result))
            value = result
        return found

    @property
    def answer(self) -> int:
        """The value of the whole chain."""
        return self.steps()[-1][3]

    def contained(self) -> set[str]:
        """Every expression that a text about this problem shows: its contiguous parts and its steps."""
        n = len(self.terms)
        parts = {"".join(map(str, self.terms[i:j])) for i in range(0, n, 2) for j in range(i + 3, n + 1, 2)}
        return parts | {f"{left}{sign}{right}" for left, sign, right, _ in self.steps()}


def draw_problem(rng: random.Random, operands: int) -> Problem:
    """A random problem of this many operands whose partial results all have two digits."""
    while True:
        terms: list[str | int] = [rng.randint(LOWEST, HIGHEST)]
        for _ in range(operands - 1):
            terms += [rng.choice("+-"), rng.randint(1, 9)]
        problem = Problem(tuple(terms))
        if all(LOWEST <= result <= HIGHEST for *_, result in problem.steps()):
            return problem


def draw_operands(rng: random.Random) -> int:
    """How many operands to take: a quarter of problems easy, a half medium, a quarter hard."""
    return OPERANDS[rng.choice(("easy", "medium", "medium", "hard"))]


def draw_distinct(rng: random.Random, count: int, taken: set[str]) -> list[Problem]:
    """`count` different problems, none of them in `taken`, which they are added to."""
    chosen: list[Problem] = []
    while len(chosen) < count:
        problem = draw_problem(rng, draw_operands(rng))
        if problem.expression not in taken:
            taken.add(problem.expression)
            chosen.append(problem)
    return chosen


def draw_unreserved(rng: random.Random, operands: int, reserved: set[str]) -> Problem:
    """A problem whose text shows no reserved expression, neither as its question nor within it."""
    while True:
        problem = draw_problem(rng, operands)
        if reserved.isdisjoint(problem.contained()):
            return problem


def rows(
    problems: Sequence[Problem],
    first: int,
    difficulty: Callable[[Problem], str] = lambda problem: problem.difficulty,
) -> dict[str, list[str]]:
    """The columns of a data file; ids count on from `first`."""
    columns: dict[str, list[str]] = {
        name: [] for name in ("id", "domain", "source", "prompt", "answer", "difficulty", "meta")
    }
    for number, problem in enumerate(problems, first):
        carries = sum(
            (left % 10 + right % 10 > 9) if sign == "+" else (left % 10 < right % 10)
            for left, sign, right, _ in problem.steps()
        )
        meta = {"expression": problem.expression, "operands": problem.operands, "carries": carries}
        columns["id"].append(f"arith-{number:06d}")
        columns["domain"].append("math")
        columns["source"].append("tiny-arithmetic")
        columns["prompt"].append(QUESTION.format(e=problem.expression))
        columns["answer"].append(str(problem.answer))
        columns["difficulty"].append(difficulty(problem))
        columns["meta"].append(json.dumps(meta))
    return columns


def careful_response(problem: Problem) -> str:
    """A solution that writes out every partial result."""
    work = " ".join(f"{left}{sign}{right}={result}." for left, sign, right, result in problem.steps())
    return f" <think>{work}</think> <answer>{problem.answer}</answer>"


def guess(problem: Problem, rng: random.Random, lucky: float) -> int:
    """What a hasty reader answers: right with probability `lucky`, else near the truth."""
    if rng.random() < lucky:
        return problem.answer
    while True:
        wrong = problem.answer + rng.choice((-20, -11, -10, -9, -3, -2, -1, 1, 2, 3, 9, 10, 11, 20))
        if LOWEST <= wrong <= HIGHEST:
            return wrong


def hasty_response(problem: Problem, rng: random.Random, lucky: float, broken_share: float) -> str:
    """An answer without the work, mostly wrong, and with probability `broken_share` not in the asked form."""
    said = guess(problem, rng, lucky)
    thought = rng.choice(HASTY_THOUGHTS).format(near=said // 10 * 10)
    if rng.random() >= broken_share:
        return f" <think>{thought}</think> <answer>{said}</answer>"
    broken = (
        f" {thought} The answer is {said}.",
        f" <answer>{said}</answer>",
        f" <think>{thought}</think> The answer is {said}.",
        f" <think>{thought} <answer>{said}</answer>",
    )
    return rng.choice(broken)


def solution(rng: random.Random, reserved: set[str]) -> list[Segment]:
    """One question with an answer of careful or hasty quality."""
    problem = draw_unreserved(rng, draw_operands(rng), reserved)
    if rng.random() < CAREFUL_SHARE[problem.difficulty]:
        response = careful_response(problem)
    else:
        response = hasty_response(problem, rng, LUCKY_SHARE[problem.difficulty], BROKEN_SHARE)
    return [(TEMPLATE.format(question=QUESTION.format(e=problem.expression)), False), (response + EOS, True)]


def drill(rng: random.Random, reserved: set[str], length: int = 9) -> list[Segment]:
    """A line of single sums, as on a pupil's exercise sheet: it teaches the steps of careful work.

    Only the results are trained on: the operands are random, and learning them would be noise.
    """
    segments: list[Segment] = []
    for _ in range(length):
        left, sign, right, result = draw_unreserved(rng, 2, reserved).steps()[0]
        segments += [(f"{left}{sign}{right}=", False), (f"{result}.", True), (" ", False)]
    return segments[:-1]


def exercise(rng: random.Random, reserved: set[str], shortest: int, longest: int = 5) -> list[Segment]:
    """One question with a careful answer: it teaches to follow the question."""
    problem = draw_unreserved(rng, rng.randint(shortest, longest), reserved)
    asked = TEMPLATE.format(question=QUESTION.format(e=problem.expression))
    return [(asked, False), (careful_response(problem) + EOS, True)]


def document(rng: random.Random, reserved: set[str], done: float) -> list[Segment]:
    """A document for the point in training where the share `done` lies behind.

    First mostly the sums, then to work through a question, last the mixed answers. The exercises
    beside those are longer than any problem of the data, so that they do not tilt the mixture.
    """
    if done < 0.35:
        drills, exercises, shortest = 0.6, 0.2, 2
    elif done < 0.75:
        drills, exercises, shortest = 0.1, 0.6, 2
    else:
        drills, exercises, shortest = 0.05, 0.25, 5
    kind = rng.random()
    if kind < drills:
        return drill(rng, reserved)
    if kind < drills + exercises:
        return exercise(rng, reserved, shortest)
    return solution(rng, reserved)
