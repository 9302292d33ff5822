"""The language that a prompt is written in."""

from __future__ import annotations

import re
from functools import lru_cache

from megatron_srpo.data.curate.draft import Draft
from megatron_srpo.data.curate.rules.rule import RuleSettings
from megatron_srpo.recipe.reward import LanguageSection
from megatron_srpo.rewards.language import UNKNOWN, mixing
from megatron_srpo.rewards.scripts import SAME

LONGEST = 20_000  # characters that are looked at; a text does not change its language after these
# What every text in English has, and no other language.
ENGLISH = re.compile(
    r"\b(?:the|of|is|and|what|find|which|how|many|if|are|for|with|that|evaluate|compute|simplify|solve"
    r"|calculate|determine|let|given|each|by|has|from|you)\b",
    re.IGNORECASE,
)
ENGLISH_SHARE = 0.15  # of the words
WORDS = re.compile(r"[^\W\d_]{2,40}")


def language(draft: Draft, settings: RuleSettings) -> str | None:
    """Refuses a prompt that is not in one of the languages of the recipe."""
    if not settings.languages:
        return None
    ours = {SAME.get(code, code) for code in settings.languages}
    text = draft.prompt[:LONGEST]
    found = mixing(text, _section(()))
    if found.main == UNKNOWN or found.main in ours:
        return None
    if "en" in ours and share_of_english(text) >= ENGLISH_SHARE:
        # The classifier may take a few names for another language.
        return None
    return f"written in {found.main}"


def share_of_english(text: str) -> float:
    """The share of the words that are small words of English."""
    words = WORDS.findall(text)
    return len(ENGLISH.findall(text)) / len(words) if words else 0.0


@lru_cache(maxsize=8)
def _section(expected: tuple[str, ...]) -> LanguageSection:
    return LanguageSection(expected=expected)
