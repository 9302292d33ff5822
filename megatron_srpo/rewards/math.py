"""Is a response's answer right, and does the response have the asked form?

Correctness is decided by math-verify, which parses both sides and compares them.  It is generous in ways
that a policy under training would find and use, so an answer must pass these checks first:

* one candidate: no `12 or 15`, no `12 15` (parsed as a sum), no equation whose sides differ;
* worked out: where the reference is a plain number, the answer is a number too, not the problem's own
  expression (`47 + 38` equals 85, but answers nothing), and a fraction only where the reference is none
  that is whole.
"""

from __future__ import annotations

import re
from typing import Any

from megatron_srpo.recipe.reward import AnswerFormat, MathSection
from megatron_srpo.rewards.answers import extract
from megatron_srpo.rewards.score import Score

LONGEST_ANSWER = 400  # characters; nothing longer is a final answer, and parsing it would cost seconds
TIMEOUT_SECONDS = 3  # math-verify's own limit for one parse and for one comparison

# Delimiters that only say "this is mathematics".
WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("\\boxed{", "}"))
INTEGER = re.compile(r"[+-]?[0-9]{1,15}")
# Only space between two numbers, which the library adds up; 1 1/2 is one number.
TWO_NUMBERS = re.compile(r"\d(?:\s|~|\\[,;:!> ]|\\q?quad)+\d+(?![\d/])")
DEEP_BRACKETS = re.compile(r"(?:[({\[]\s*){4}")  # the parser's time doubles with each one
WHOLE_FRACTION = re.compile(r"/|\\[dt]?frac|\\div|÷")


def score_math(response: str, gold: str, answer_format: AnswerFormat, section: MathSection) -> Score:
    """Score one response against the reference answer.

    Args:
        response: the response's text without special tokens.
        gold: the reference answer, plain or LaTeX.
        answer_format: the form that the prompt asks for.
        section: the recipe's reward.math.
    """
    found = extract(response, answer_format, section.fallback)
    if found.answer is None:
        return Score(0, found.format_ok, None, found.reason)
    return Score(int(answers_agree(found.answer, gold)), found.format_ok, found.answer)


def _closing_brace(text: str, start: int) -> int | None:
    """Where the brace that was opened just before `start` closes; escaped braces are text."""
    depth, at = 1, start
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] == "{":
            depth += 1
        elif text[at] == "}":
            depth -= 1
            if depth == 0:
                return at
        at += 1
    return None


def answers_agree(answer: str, gold: str) -> bool:
    """Whether a final answer is one worked-out value that equals the reference."""
    answer, gold = _unwrap(answer), _unwrap(gold)
    if INTEGER.fullmatch(answer) and INTEGER.fullmatch(gold):
        return int(answer) == int(gold)
    # Another box in the text, or a brace that closes early, would let the text choose what gets parsed.
    if len(answer) > LONGEST_ANSWER or "\\boxed" in answer or _closing_brace(answer + "}", 0) != len(answer):
        return False
    return not DEEP_BRACKETS.search(answer) and verify_by_library(answer, gold)


def _unwrap(text: str) -> str:
    """Without white space and mathematics delimiters around the whole."""
    text = text.strip()
    for left, right in WRAPPERS:
        inner = text[len(left) : -len(right)]
        if len(text) > len(left + right) and text.startswith(left) and text.endswith(right):
            # `$12$ or $15$` also starts and ends so, but is not one wrapped text.
            if left == "\\boxed{" and _closing_brace(text, len(left)) != len(text) - 1:
                continue
            if left not in inner:
                return _unwrap(inner)
    return text


def verify_by_library(answer: str, gold: str) -> bool:
    """The comparison by math-verify, after the checks for one worked-out candidate.

    Both texts are parsed whole, as if boxed, so that the library cannot pick a number out of a sentence.
    """
    reference, parsed = _parse(gold), _parse(answer)
    if not reference or not parsed:
        return False
    # First, as it also spares the library powers and factorials of astronomical size.
    if _is_number(reference[0]) and not _worked_out(answer, parsed[0], gold, reference[0]):
        return False
    return _equal(reference, parsed) and ("=" in gold or _sides_agree(answer, reference))


def _worked_out(answer: str, parsed: Any, gold: str, reference: Any) -> bool:
    """Whether the answer to a numeric problem is one number, and no fraction where the reference is whole."""
    if TWO_NUMBERS.search(answer) or not _is_number(_value(parsed)):
        return False
    whole = bool(getattr(reference, "is_Integer", False)) and not WHOLE_FRACTION.search(gold)
    return not (whole and WHOLE_FRACTION.search(answer))


def _parse(text: str) -> list[Any]:
    """math-verify's reading of a whole text as LaTeX; empty when it is not mathematics."""
    from math_verify import LatexExtractionConfig, parse

    return list(
        parse(
            f"\\boxed{{{text}}}",
            extraction_config=[LatexExtractionConfig(boxed_match_priority=0)],
            fallback_mode="no_fallback",
            parsing_timeout=TIMEOUT_SECONDS,
        )
    )


def _equal(reference: list[Any], parsed: list[Any]) -> bool:
    """math-verify's comparison of two parsed texts; a comparison that takes too long is a no."""
    from math_verify import verify

    return bool(verify(reference, parsed, timeout_seconds=TIMEOUT_SECONDS))


def _sides_agree(answer: str, reference: list[Any]) -> bool:
    """Every side of a chain of equations that holds a number equals the reference: not `12 = 15`."""
    sides = answer.split("=")
    if len(sides) == 1:
        return True
    return all(_equal(reference, _parse(side)) for side in sides if any(c.isdigit() for c in side))


def _value(expression: Any) -> Any:
    """The right side of an equation, the member of a set of one, else the expression itself."""
    from sympy import Eq, FiniteSet

    if isinstance(expression, Eq):
        return _value(expression.rhs)
    if isinstance(expression, FiniteSet) and len(expression.args) == 1:
        return _value(expression.args[0])
    return expression


def _is_number(expression: Any) -> bool:
    """A written-out number: an integer, decimal or fraction, a percentage, or one in scientific notation."""
    from sympy import Mul, Number, Pow, Rational, UnevaluatedExpr

    if isinstance(expression, Number):
        return True
    if not isinstance(expression, Mul):
        return False
    # A minus sign is a factor of its own in what the library parses.
    factors = [factor for factor in expression.args if factor != -1]
    if len(factors) != 2 or not isinstance(factors[0], Number):
        return False
    scale = factors[1]
    if isinstance(scale, UnevaluatedExpr):
        return bool(scale.args[0] == Rational(1, 100))
    power = isinstance(scale, Pow) and scale.base == 10 and getattr(scale.exp, "is_Integer", False)
    return bool(power and abs(int(scale.exp)) < 100)
