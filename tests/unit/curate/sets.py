"""The small copies of all sets' forms in tests/data/sets, and what their rows must become."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from megatron_srpo.data.curate.adapters import ADAPTERS
from megatron_srpo.data.curate.draft import BadRow, Draft

SETS = Path(__file__).resolve().parents[2] / "data" / "sets"
SURROGATE = chr(0xD83D)  # half of a pair, as JSON can have it and no file
Outcomes = Mapping[str, Sequence[Draft | str]]
"""Of each set, row by row: the draft, or how the reason against it begins."""


def rows(name: str) -> list[dict[str, Any]]:
    # Not splitlines: texts may hold other ends of lines.
    return [json.loads(line) for line in (SETS / f"{name}.jsonl").read_text().split("\n") if line]


def numbered(outcomes: Outcomes) -> list[Any]:
    """Parameters of a test: set, number of the row, outcome."""
    return [
        pytest.param(name, number, outcome, id=f"{name}-{number}")
        for name, expected in outcomes.items()
        for number, outcome in enumerate(expected)
    ]


def assert_becomes(name: str, row: Mapping[str, Any], outcome: Draft | str) -> None:
    adapter = ADAPTERS[name]
    if isinstance(outcome, str):
        with pytest.raises(BadRow, match="^" + re.escape(outcome)) as raised:
            adapter(row)
        assert str(raised.value).endswith((".", ")."))
        return
    draft = adapter(row)
    # Not `==` alone: to it 1, 1.0 and True are the same.
    assert repr(draft) == repr(outcome)
    assert_whole(draft)


def assert_whole(draft: Draft) -> None:
    """What holds for every draft."""
    assert json.loads(json.dumps(draft.meta, allow_nan=False)) == draft.meta
    for text in (draft.prompt, draft.answer, draft.solution, draft.tests, *draft.options, *draft.references):
        assert isinstance(text, str)
        text.encode()
