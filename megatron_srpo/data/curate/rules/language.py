"""The language that a prompt is written in."""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache

from megatron_srpo.data.curate.draft import Draft
from megatron_srpo.data.curate.rules.rule import RuleSettings
from megatron_srpo.data.curate.rules.segments import prose_of
from megatron_srpo.recipe.reward import LanguageSection
from megatron_srpo.rewards.language import UNKNOWN, mixing
from megatron_srpo.rewards.scripts import SAME, SCRIPTS

LONGEST = 20_000  # characters that are looked at; a text does not change its language after these
# What every text in English has, and no other language.
ENGLISH = re.compile(
    r"\b(?:the|of|is|and|what|find|which|how|many|if|are|for|with|that|evaluate|compute|simplify|solve"
    r"|calculate|determine|let|given|each|by|has|from|you)\b",
    re.IGNORECASE,
)
ENGLISH_SHARE = 0.15  # of the words
MOST_BYTES = 1.1  # a character, of a text in Latin letters
WORDS = re.compile(r"[^\W\d_]{2,40}")
SMALL_WORDS = re.compile(r"(?<![\w\\])[a-zà-ÿ][a-zà-ÿ]{1,30}(?![\w(])")
ALSO_ENGLISH = re.compile(
    r"\b(?:to|per|at|be|it|this|an|or|not|can|into|between|their|convert|express|write|factor|number|second|into"
    r"|add|subtract|multiply|divide|after|before|one|two|three|all|some|more|than|same|was|were|his"
    r"|her|he|she|they)\b",
    re.IGNORECASE,
)
FEWEST_WORDS, FEWEST_SMALL_WORDS, FEWEST_LETTERS = 5, 3, 12
LETTERS = {name: re.compile(f"[{script.ranges}]") for name, script in SCRIPTS.items()}


def language(draft: Draft, settings: RuleSettings) -> str | None:
    """Refuses a prompt that is not in one of the languages of the recipe."""
    if not settings.languages:
        return None
    ours = {SAME.get(code, code) for code in settings.languages}
    text = draft.prompt[:LONGEST]
    is_latin = len(text.encode("utf-8", "replace")) < MOST_BYTES * len(text)
    is_english = "en" in ours and share_of_english(text) >= ENGLISH_SHARE
    if is_latin and is_english:
        return None  # as below, without asking the classifier, which takes time
    found = mixing(text, _section(()))
    if found.main in ours:
        return None
    if found.main == UNKNOWN:
        return _foreign(prose_of(text), ours)
    if is_english:
        # The classifier may take a few names for another language.
        return None
    return f"written in {found.main}"


def share_of_english(text: str) -> float:
    """The share of the words that are small words of English."""
    words = WORDS.findall(text)
    return len(ENGLISH.findall(text)) / len(words) if words else 0.0


def _foreign(prose: str, ours: set[str]) -> str | None:
    """What a text too short for the classifier tells: its script, or that no word of it is English."""
    scripts = Counter(name for name, pattern in LETTERS.items() for _ in pattern.finditer(prose))
    letters = scripts.total()
    for name, count in scripts.items():
        if count >= FEWEST_LETTERS and count * 2 > letters and not ours & set(SCRIPTS[name].languages):
            return f"written in {name} letters"
    words, small = WORDS.findall(prose), SMALL_WORDS.findall(prose)
    enough = len(words) >= FEWEST_WORDS and len(small) >= FEWEST_SMALL_WORDS
    if ours == {"en"} and enough and not (ENGLISH.search(prose) or ALSO_ENGLISH.search(prose)):
        return "no word of it tells that it is English"
    return None


@lru_cache(maxsize=8)
def _section(expected: tuple[str, ...]) -> LanguageSection:
    return LanguageSection(expected=expected)
