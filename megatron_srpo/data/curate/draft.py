"""A problem on its way from a public set to ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Domain = Literal["math", "code"]


@dataclass(frozen=True)
class Draft:
    """What an adapter has made of a row; rules change or refuse it.

    Texts are as the set has them.  What is not there is empty, never None.
    """

    domain: Domain
    prompt: str
    answer: str = ""
    """Of mathematics: the reference answer, without \\boxed and without the dollars around it."""
    solution: str = ""
    """Of mathematics: the worked solution."""
    options: tuple[str, ...] = ()
    """The choices, where the set keeps them apart from the prompt: A, B, C, ... in order, without the letters."""
    tests: str = ""
    """Of code: JSON as `data.code_tests.parse_tests` reads it."""
    references: tuple[str, ...] = ()
    """Of code: Python programs that the set calls right."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """What else is worth keeping: the set's own id, its difficulty, its origin; JSON values."""


class BadRow(Exception):
    """A row that no draft can be made of; its text is the reason, one sentence for people."""
