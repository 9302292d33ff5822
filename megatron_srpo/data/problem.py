"""One problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from megatron_srpo.data.code_tests import CodeTests


@dataclass(frozen=True)
class Problem:
    """One problem with what a response is judged by: a reference answer (math) or tests (code)."""

    id: str
    prompt: str
    answer: str
    """Empty where a code problem has none; for several right answers a JSON list of texts."""
    domain: str = "math"
    source: str = ""
    difficulty: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict, compare=False)
    tests: CodeTests | None = None
    """Of a code problem, and of no other."""
