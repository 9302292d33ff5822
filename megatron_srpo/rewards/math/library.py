"""math-verify's verdict, for references in a notation that our reader does not know (sums, integrals, limits).

The library is generous, takes unbounded time and reads almost any text as something, so it is asked only where the
reference leaves no other way; the pool's deadline bounds it.
"""

from __future__ import annotations

import logging
import re
from typing import Any

LONGEST = 400  # characters of either side
DEEP_BRACKETS = re.compile(r"(?:[({\[]\s*){4}")  # its parser's time doubles with each one
# Towers of powers, exponents of four digits and factorials of three, which it would work out.
ASTRONOMICAL = re.compile(r"\^\s*(?:\w|\{[^{}]*)\^|\^\s*\{?\s*\d{4}|\d{3}\s*!|!\s*[!)}]")
TWO_ANSWERS = re.compile(r"\bor\b|\band\b|\\text|\\boxed|\\pm|[;\n]")


def library_agrees(answer: str, gold: str) -> bool:
    """Whether math-verify finds an answer equal to the reference, both read whole.

    Raises:
        MemoryError, RecursionError: as the library does; other failures to read are its no.
    """
    if TWO_ANSWERS.search(answer):
        return False
    for text in (answer, gold):
        if len(text) > LONGEST or DEEP_BRACKETS.search(text) or ASTRONOMICAL.search(text):
            return False
    from math_verify import verify

    # Without time limits of its own, which are signals.
    return bool(verify(_parse(gold), _parse(answer), timeout_seconds=None))


def _parse(text: str) -> list[Any]:
    """The library's reading of a whole text as LaTeX; empty when it is not mathematics."""
    from math_verify import LatexExtractionConfig, parse

    # It warns of every text that it cannot read, and that it has no time limit.
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    return list(
        parse(
            f"\\boxed{{{text}}}",
            extraction_config=[LatexExtractionConfig(boxed_match_priority=0)],
            fallback_mode="no_fallback",
            parsing_timeout=None,
        )
    )
