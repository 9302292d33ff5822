"""What judges say of a response, and what a response earns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Score:
    """A judge's verdict on one response."""

    accuracy: int
    """1 when the answer is right, else 0; what the curriculum reads."""
    format_ok: bool
    """Whether the whole response has the asked form."""
    extracted: str | None
    """The final answer or program as it is written, or None when there is not exactly one."""
    reason: str = ""
    """Why, in a few words, for people: `12 is not 15`, `no <answer>`, `case 3: wrong output`."""
    credit: float | None = None
    """From 0 to 1 where a judge gives partial credit; None: the accuracy."""


@dataclass(frozen=True)
class Reward:
    """What one response earned, and why.

    `components` holds what each part adds; `total` is their sum.  `error` says why a response could not be
    judged (a judge that hung, crashed or raised), which is not the same as being wrong: its accuracy is 0 and its
    one component is `error`.
    """

    total: float
    accuracy: int
    format_ok: bool
    extracted: str | None
    components: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    error: str | None = None


def failure(cause: str, least: float) -> Reward:
    """The reward of a response that could not be judged; `least` is the recipe's, see `RewardSection.least`."""
    return Reward(least, 0, False, None, {"error": least}, "", cause)
