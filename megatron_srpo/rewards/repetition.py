"""Does a response say the same again and again?"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable

from megatron_srpo.recipe.reward import RepetitionSection

# Scripts without spaces between words: there each character counts.
UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
LONGEST_WORD = 20  # letters; longer is cut up, or `aaaa...` would be a single word
# Each digit counts, as do marks, so that what differs in a table or formula has its weight.
WORD = re.compile(rf"[{UNSPACED}]|\d|(?:(?![{UNSPACED}])[^\W\d]){{1,{LONGEST_WORD}}}|[^\w\s]")


def repetition(response: str, section: RepetitionSection) -> float:
    """The share of a response's word sequences that have occurred in it before.

    A word is a run of letters, or one digit, one mark, or one character of a script that has no spaces.
    Sequences have `section.words` words; a response with fewer has none, and its share is 0.  The time is
    linear: each sequence has a number, and that of a longer one follows from two shorter ones.
    """
    words = WORD.findall(response.lower())
    sequences = len(words) - section.words + 1
    if sequences < 1:
        return 0.0
    return 1 - len(set(_sequences(words, section.words))) / sequences


def _sequences(words: Iterable[str], length: int) -> list[int]:
    """A number for each sequence of so many words; the same sequence has the same number."""
    numbers = _numbers(words)
    covered = 1
    while covered < length:
        step = min(covered, length - covered)
        numbers = _numbers(zip(numbers, numbers[step:], strict=False))
        covered += step
    return numbers


def _numbers(items: Iterable[Hashable]) -> list[int]:
    """For each item, how many different ones came before its first occurrence."""
    known: dict[Hashable, int] = {}
    return [known.setdefault(item, len(known)) for item in items]
