"""What a cleaning rule is.

A rule is a function of a draft.  A repair returns what it made of the draft and a short note of what it did, or
None where there is nothing to do.  A check returns why the draft is refused, in a few words, or None.
The first line of the function's docstring is what the card says of the rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from megatron_srpo.data.curate.draft import Domain, Draft


@dataclass(frozen=True)
class RuleSettings:
    """What a recipe says about rules."""

    multiple_choice: Literal["open", "drop"] = "open"
    """Whether a question with choices becomes an open one where it can."""
    languages: tuple[str, ...] = ("en",)
    """ISO 639 codes of the languages that prompts may be written in."""


Repaired = tuple[Draft, str]
Repair = Callable[[Draft, RuleSettings], Repaired | None]
Check = Callable[[Draft, RuleSettings], str | None]


@dataclass(frozen=True)
class Rule:
    """A named rule; exactly one of `repair` and `check` is there."""

    name: str
    domains: tuple[Domain, ...]
    repair: Repair | None = None
    check: Check | None = None

    @property
    def meaning(self) -> str:
        """One sentence: the first line of the function's docstring."""
        function = self.repair or self.check
        return (function.__doc__ or "").strip().partition("\n")[0]
