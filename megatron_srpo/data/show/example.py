"""One row on a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from megatron_srpo.data.code_tests import parse_tests
from megatron_srpo.data.show.rows import Row
from megatron_srpo.data.show.text import literal, shortened
from megatron_srpo.errors import SrpoError

PROMPT, PROMPT_LINES = 1000, 15  # shown of an example: characters and lines
SHORT = 240  # characters of an answer, a case, a note
STYLES = {"kept": "green", "refused": "yellow", "quarantined": "red"}


def print_row(row: Row, values: Mapping[str, Any], console: Console, whole: bool = False) -> None:
    """A row with what rules have done to it.

    Args:
        row: what it was chosen by.
        values: its columns.
        console: where to print.
        whole: with nothing left out.
    """
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    grid.add_row(literal(row.status, STYLES[row.status]), literal(row.id, "bold"))
    for label, text in _lines(row, values, whole):
        grid.add_row(f"  {label}", literal(text))
    console.print(grid)
    console.print()


def as_json(row: Row, values: Mapping[str, Any]) -> dict[str, Any]:
    """The same as JSON values."""
    return {"status": row.status, **values}


def _lines(row: Row, values: Mapping[str, Any], whole: bool) -> Iterator[tuple[str, str]]:
    def short(text: str, characters: int = SHORT, lines: int = PROMPT_LINES) -> str:
        return text if whole else shortened(text, characters, lines)

    yield "from", _facts(row, values)
    for rule, reason in row.refusals:
        yield "refused by", f"{rule}: {short(reason)}"
    if row.status == "quarantined":
        yield "because", short("; ".join(values["reasons"] or ()))
    for rule, note in row.repairs:
        yield "repaired by", f"{rule}: {short(note)}"
    for name in ("prompt", "answer"):
        if values.get(name):
            yield name, short(values[name], PROMPT if name == "prompt" else SHORT)
    if values.get("tests"):
        yield "tests", summary_of_tests(values["tests"])
    if values.get("raw"):
        yield "row as read", short(values["raw"].rstrip("\n"))
    if whole:
        yield from _rest(values)


def _facts(row: Row, values: Mapping[str, Any]) -> str:
    number = values.get("row")
    parts = [
        f"source {row.source}" if row.source else "",
        f"row {number}" if number is not None else "",
        row.domain or "",
        row.difficulty or "",
        f"pass rate {row.pass_rate:.3g}" if row.pass_rate is not None else "",
    ]
    return ", ".join(part for part in parts if part)


def _rest(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What examples leave out."""
    if values.get("tests"):
        yield "all tests", values["tests"]
    if values.get("meta") not in (None, "", "{}"):
        yield "meta", values["meta"]
    if values.get("labels") is not None:
        yield "labels", ", ".join(values["labels"]) or "none"


def summary_of_tests(text: str) -> str:
    """Kind, number of cases and the first case."""
    try:
        tests = parse_tests(text, "tests")
    except SrpoError as error:
        return f"cannot be read ({error})"
    number = len(tests.inputs)
    cases = f"{number} case{'s' * (number != 1)}"
    judged = ", judged by a checker" if tests.checker is not None else ""
    given, expected = (shortened(one[0], SHORT) for one in (tests.inputs, tests.expected))
    if tests.kind == "call":
        return f"{cases}, calls of {tests.function}{judged}; the first: {given} -> {expected}"
    return f"{cases}, standard input and output{judged}; the first: {json.dumps(given)} -> {json.dumps(expected)}"
