"""Programs to write, of one to four operations, and text about them whose quality falls with the length.

A careful answer notes the operations one by one and then writes one statement for each. A hasty one writes
a program at once, which does what was asked less and less often as the list of operations grows.
"""

from __future__ import annotations

import ast
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from .problems import EOS, TEMPLATE, Segment

DOMAIN = "code"
WEIGHTS = {1: 20, 2: 30, 3: 30, 4: 20}  # how often a problem has so many operations
WORDS = {"+": "plus", "-": "minus", "*": "times"}
LABELS = "abcde"  # each operation has a name, by which even a small model finds it again in the question
QUESTION = "Write f(x): {list}."
EXERCISE = "Code f(x): {list}."  # never a question of the data, so it does not tilt the mixture of answers
INPUTS = (0, 1, 2, -3, 7, 10)  # two different programs of this kind agree on at most one of them

# By the number of operations: noted down first; right although written at once; an operation noted wrongly.
CAREFUL_SHARE = {1: 0.90, 2: 0.50, 3: 0.20, 4: 0.07}
LUCKY_SHARE = {1: 0.60, 2: 0.15, 3: 0.04, 4: 0.01}
SLIP_SHARE = {1: 0.01, 2: 0.02, 3: 0.03, 4: 0.04}
BROKEN_SHARE = 0.12  # of the hasty answers, those without some of the tags or without the fence
HASTY_THOUGHTS = ("A short one.", "This looks simple.", "Easy, no need to note it down.", "Just write it.")

FORMED = re.compile(
    r" ?<think>((?:(?!</?(?:think|answer)>).)+)</think> <answer>((?:(?!</?answer>).)+)</answer>", re.DOTALL
)
FENCED = re.compile(r"\s*```python\n(.*?)\n```\s*", re.DOTALL)
HARMLESS = (
    *(ast.Module, ast.FunctionDef, ast.arguments, ast.arg, ast.Assign, ast.Return, ast.Name, ast.Load, ast.Store),
    *(ast.BinOp, ast.UnaryOp, ast.Add, ast.Sub, ast.Mult, ast.USub, ast.Constant),
)

Operation = tuple[str, int]  # sign and number


@dataclass(frozen=True)
class Program:
    """A list of operations on x, done from the left."""

    operations: tuple[Operation, ...]

    @property
    def question(self) -> str:
        """The problem in words."""
        return QUESTION.format(list=in_words(self.operations))

    @property
    def difficulty(self) -> str:
        """`easy` up to two operations, `medium` with three, else `hard`."""
        return "easy" if len(self.operations) <= 2 else "medium" if len(self.operations) == 3 else "hard"

    def tests(self) -> str:
        """The test cases as JSON text."""
        cases = [[[x], run(statements(self.operations), x)] for x in INPUTS]
        return json.dumps({"kind": "call", "function": "f", "cases": cases})


def in_words(operations: Sequence[Operation]) -> str:
    """The operations as a question lists them: `a times 3, b plus 12`."""
    named = zip(LABELS, operations, strict=False)
    return ", ".join(f"{label} {WORDS[sign]} {number}" for label, (sign, number) in named)


def statements(operations: Sequence[Operation]) -> str:
    """A program with one statement an operation."""
    names = "x" + LABELS
    lines = [f"{names[at + 1]}={names[at]}{sign}{n}" for at, (sign, n) in enumerate(operations)]
    return "\n    ".join(["def f(x):", *lines, f"return {names[len(operations)]}"])


def flat(operations: Sequence[Operation]) -> str:
    """One expression without brackets: right only where the order of operations happens to agree."""
    return "def f(x):\n    return x" + "".join(f"{sign}{number}" for sign, number in operations)


def run(source: str, x: int) -> int | None:
    """What `f(x)` of this program gives; None where it cannot be run or is more than sums and products."""
    try:
        tree = ast.parse(source)
        if not all(isinstance(node, HARMLESS) for node in ast.walk(tree)):
            return None
        scope: dict[str, object] = {"__builtins__": {}}
        exec(compile(tree, "<program>", "exec"), scope)
        value = scope["f"](x)  # type: ignore[operator]
    except (SyntaxError, NameError, TypeError, ValueError, KeyError):
        return None
    return value if isinstance(value, int) else None


def behaviour(source: str) -> list[int | None]:
    """The results on all test inputs."""
    return [run(source, x) for x in INPUTS]


def draw(rng: random.Random) -> Program:
    """A random program of the data's mixture of lengths."""
    return draw_program(rng, rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0])


def draw_program(rng: random.Random, length: int) -> Program:
    """A random program of this many operations."""
    return Program(tuple(draw_operation(rng) for _ in range(length)))


def draw_operation(rng: random.Random) -> Operation:
    """Plus or minus 1 to 20, or times 2 to 9."""
    sign = rng.choice("+-*")
    return sign, rng.randint(2, 9) if sign == "*" else rng.randint(1, 20)


def rows(chosen: Sequence[Program], first: int) -> dict[str, list[str]]:
    """The columns of a data file; ids count on from `first`."""
    meta = [{"operations": len(program.operations)} for program in chosen]
    return {
        "id": [f"program-{number:06d}" for number in range(first, first + len(chosen))],
        "domain": [DOMAIN] * len(chosen),
        "source": ["tiny-programs"] * len(chosen),
        "prompt": [program.question for program in chosen],
        "answer": [""] * len(chosen),
        "tests": [program.tests() for program in chosen],
        "difficulty": [program.difficulty for program in chosen],
        "meta": [json.dumps(entry) for entry in meta],
    }


def formed(thought: str, source: str) -> str:
    """A response in the asked form."""
    return f" <think>{thought}</think> <answer>\n```python\n{source}\n```\n</answer>"


def careful_response(operations: Sequence[Operation]) -> str:
    """Note the operations, then write them as statements."""
    noted = " ".join(f"{label}{sign}{n}" for label, (sign, n) in zip(LABELS, operations, strict=False))
    return formed(f"{noted}.", statements(operations))


def change_one(rng: random.Random, operations: Sequence[Operation]) -> list[Operation]:
    """The operations with one of them drawn anew."""
    changed = list(operations)
    changed[rng.randrange(len(changed))] = draw_operation(rng)
    return changed


def mistaken(rng: random.Random, operations: Sequence[Operation]) -> str:
    """A program that is not what was asked: an operation is missing or another, or brackets are."""
    asked = behaviour(statements(operations))
    while True:
        dropped = list(operations)
        dropped.pop(rng.randrange(len(dropped)))
        wrong = rng.choice((flat(operations), statements(dropped), statements(change_one(rng, operations))))
        if behaviour(wrong) != asked:
            return wrong


def hasty_response(rng: random.Random, operations: Sequence[Operation]) -> str:
    """A program written at once, mostly wrong, and sometimes not in the asked form either."""
    lucky = rng.random() < LUCKY_SHARE[len(operations)]
    source = statements(operations) if lucky else mistaken(rng, operations)
    thought = rng.choice(HASTY_THOUGHTS)
    if rng.random() >= BROKEN_SHARE:
        return formed(thought, source)
    broken = (
        f" {thought}\n```python\n{source}\n```\n",
        f" <answer>\n```python\n{source}\n```\n</answer>",
        f" <think>{thought}</think> <answer>{source}</answer>",
        f" <think>{thought}</think>\n```python\n{source}\n```\n",
    )
    return rng.choice(broken)


def response(program: Program, rng: random.Random) -> str:
    """An answer of the quality that is usual for a program of this length."""
    operations = list(program.operations)
    length = len(operations)
    if rng.random() >= CAREFUL_SHARE[length]:
        return hasty_response(rng, operations)
    slipped = [draw_operation(rng) if rng.random() < SLIP_SHARE[length] else one for one in operations]
    return careful_response(slipped)


def solution(rng: random.Random, reserved: set[str]) -> list[Segment]:
    """One question of the data's form, none that is reserved, with an answer of mixed quality."""
    while (program := draw(rng)).question in reserved:
        continue
    return [(TEMPLATE.format(question=program.question), False), (response(program, rng) + EOS, True)]


def exercise(rng: random.Random, reserved: set[str]) -> list[Segment]:
    """An exercise with a right answer, none that asks for a reserved program: it teaches to copy."""
    while (program := draw_program(rng, rng.randint(min(WEIGHTS), max(WEIGHTS)))).question in reserved:
        continue
    asked = TEMPLATE.format(question=EXERCISE.format(list=in_words(program.operations)))
    return [(asked, False), (careful_response(program.operations) + EOS, True)]


def right(text: str, row: dict[str, str]) -> tuple[bool, bool]:
    """Whether a response, without its end of text, has the asked form, and whether its program passes."""
    found = FORMED.fullmatch(text)
    fenced = FENCED.fullmatch(found[2]) if found else None
    cases = json.loads(row["tests"])["cases"]
    passes = fenced is not None and all(run(fenced[1], *arguments) == wanted for arguments, wanted in cases)
    return fenced is not None, passes
