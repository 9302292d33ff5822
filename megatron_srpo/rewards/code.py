"""Does the program in a response pass its problem's tests?

All or nothing: every case must return what is expected.  The form of a response is judged as for mathematics,
by the same code; the program is the last fenced block of the answer.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from megatron_srpo.data.code_tests import CodeTests
from megatron_srpo.recipe.reward import AnswerFormat
from megatron_srpo.rewards.answers import extract
from megatron_srpo.rewards.sandbox import Limits, run_programs
from megatron_srpo.rewards.score import Score

OPENING = re.compile(r"([ \t]*)(`{3,})[^`]*")


def score_code(
    responses: Sequence[str], tests: CodeTests, answer_format: AnswerFormat, limits: Limits
) -> list[Score]:
    """Score the responses of one group, in order; `extracted` is the program.  Equal programs run once.

    Args:
        responses: texts without special tokens.
        tests: what a program must do.
        answer_format: the form that the prompt asks for.
        limits: of one program, over all cases.

    Raises:
        SrpoError: when programs cannot be run at all.
    """
    extracted = [extract_program(response, answer_format) for response in responses]
    programs = list(dict.fromkeys(program for program, _ in extracted if program is not None))
    returned = run_programs(programs, tests.function, tests.arguments, limits)
    right: dict[str | None, int] = {None: 0}
    for program, text in zip(programs, returned, strict=True):
        right[program] = int(text is not None and values_agree(text, tests))
    return [Score(right[program], format_ok, program) for program, format_ok in extracted]


def extract_program(response: str, answer_format: AnswerFormat) -> tuple[str | None, bool]:
    """The program, if there is one, and whether the whole response has the right form.

    With tags, the program is the last fenced block of the one answer, and the form is that of the tags.  Without
    (`boxed`; a program has no box) it is the last fenced block of the response, and the form is to have one.
    """
    if answer_format == "boxed":
        program = last_fenced_block(response)
        return program, program is not None
    found = extract(response, answer_format)
    return (None if found.answer is None else last_fenced_block(found.answer)), found.format_ok


def last_fenced_block(text: str) -> str | None:
    """The content of the last block between lines of three or more backticks; one left open is none."""
    found: str | None = None
    indent, fence, lines = "", "", list[str]()
    for line in text.split("\n"):
        opening = None if fence else OPENING.fullmatch(line)
        if opening:
            indent, fence, lines = *opening.groups(), []
        elif fence and line.strip().startswith(fence) and not line.strip().strip("`"):
            found, fence = "\n".join(lines), ""
        elif fence:
            lines.append(line.removeprefix(indent))
    return found if found and found.strip() else None


def values_agree(returned: str, tests: CodeTests) -> bool:
    """Whether a JSON text, which a program chose, holds the expected values and nothing else."""
    try:
        return _equal(json.loads(returned), json.loads(tests.expected), tests.tolerance)
    except (ValueError, RecursionError):
        return False  # no JSON, a number with thousands of digits, or nested too deeply


def _equal(value: Any, expected: Any, tolerance: float) -> bool:
    """Equal in value and kind; where a float is expected, an integer or float within the tolerance."""
    if isinstance(expected, float):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and _close(value, expected, tolerance)
    if type(value) is not type(expected):
        return False
    if isinstance(expected, list):
        return len(value) == len(expected) and all(
            _equal(one, other, tolerance) for one, other in zip(value, expected, strict=True)
        )
    if isinstance(expected, dict):
        return value.keys() == expected.keys() and all(
            _equal(value[key], other, tolerance) for key, other in expected.items()
        )
    return bool(value == expected)


def _close(value: float, expected: float, tolerance: float) -> bool:
    try:
        return math.isclose(value, expected, rel_tol=tolerance, abs_tol=tolerance)
    except OverflowError:  # an integer beyond all floats
        return False
