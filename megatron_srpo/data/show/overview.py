"""Counts on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from megatron_srpo.data.show.text import literal

BAR = 30  # columns of a terminal


def print_overview(counts: Mapping[str, Any], meanings: Mapping[str, str], console: Console) -> None:
    """All tables that have something to say.

    Args:
        counts: of a tally, and `confusion` where there is one.
        meanings: one sentence for each rule.
        console: where to print.
    """
    rows = {status: number for status, number in counts["rows"].items() if number}
    for title in ("sources", "domains", "difficulties"):
        if counts[title]:
            console.print(_statuses(title, counts[title], list(rows)))
    if counts["rules"]:
        console.print(_rules(counts["rules"], meanings))
    if counts["lengths"]["domains"]:
        console.print(_lengths(counts["lengths"]))
    if counts["pass_rates"] is not None:
        console.print(_pass_rates(counts["pass_rates"]))
    if counts.get("confusion") is not None:
        console.print(_confusion(counts["confusion"]))


def sentence(counts: Mapping[str, Any], what: str) -> str:
    """How many rows there are, in one line."""
    parts = [f"{number:,} {status}" for status, number in counts["rows"].items() if number]
    return f"{what}: {sum(counts['rows'].values()):,} rows, {', '.join(parts)}"


def _statuses(title: str, groups: Mapping[str, Mapping[str, int]], statuses: Sequence[str]) -> Table:
    several = len(statuses) > 1
    table = _table(f"by {SINGULAR[title]}", (SINGULAR[title], *(["rows"] if several else []), *statuses))
    for name, of in groups.items():
        numbers = [sum(of.values())] * several + [of[status] for status in statuses]
        table.add_row(literal(name or "(none)"), *(_number(number) for number in numbers))
    return table


SINGULAR = {"sources": "source", "domains": "domain", "difficulties": "difficulty"}


def _rules(rules: Mapping[str, Mapping[str, int]], meanings: Mapping[str, str]) -> Table:
    table = _table("by rule (a row may name several)", ("rule", "repaired", "refused", "what it does"))
    table.columns[-1].justify = "left"
    for name, of in rules.items():
        numbers = (_number(of[kind]) for kind in ("repaired", "refused"))
        table.add_row(literal(name), *numbers, literal(meanings.get(name, "")))
    return table


def _lengths(lengths: Mapping[str, Any]) -> Table:
    bounds, domains = lengths["bounds"], lengths["domains"]
    names = [*(f"up to {bound:,}" for bound in bounds), f"above {bounds[-1]:,}"]
    title = f"characters of prompts, {lengths['of']} rows"
    lines = list(zip(names, zip(*domains.values(), strict=True), strict=True))
    return _histogram(title, "characters", list(domains), _trimmed(lines))


def _pass_rates(rates: Mapping[str, Any]) -> Table:
    lines = [(name, (number,)) for name, number in zip(rates["bins"], rates["rows"], strict=True)]
    return _histogram("pass rates, as graded", "pass rate", ["problems"], lines)


def _histogram(title: str, what: str, columns: Sequence[str], lines: Sequence[tuple[str, Sequence[int]]]) -> Table:
    table = _table(title, (what, *columns, ""))
    table.columns[0].justify, table.columns[-1].justify = "right", "left"
    table.columns[-1].min_width = BAR
    most = max((sum(numbers) for _, numbers in lines), default=0)
    for name, numbers in lines:
        table.add_row(literal(name), *map(_number, numbers), bar(sum(numbers), most))
    return table


def bar(number: int, most: int) -> str:
    """A bar of a histogram; what is there at all has a mark."""
    return "█" * round(BAR * number / most) or "▏" * bool(number) if most else ""


def _trimmed(lines: Sequence[tuple[str, Sequence[int]]]) -> Sequence[tuple[str, Sequence[int]]]:
    """Without what is empty at both ends."""
    filled = [at for at, (_, numbers) in enumerate(lines) if any(numbers)]
    return lines[filled[0] : filled[-1] + 1] if filled else ()


def _confusion(confusion: Mapping[str, Any]) -> Table:
    title = f"rules against the labels of {confusion['rows']:,} rows"
    table = _table(title, ("rule", "right", "too many", "missed", "precision", "recall"))
    for name, of in confusion["rules"].items():
        rates = ("" if of[rate] is None else f"{of[rate]:.3f}" for rate in ("precision", "recall"))
        table.add_row(literal(name), *(_number(of[kind]) for kind in ("right", "too_many", "missed")), *rates)
    return table


def _table(title: str, header: Iterable[str]) -> Table:
    """All columns but the first to the right."""
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, title_justify="left", title_style="bold")
    table.title = literal(title)
    for name in header:
        table.add_column(literal(name), justify="right" if table.columns else "left", overflow="fold")
    return table


def _number(number: int) -> str:
    return f"{number:,}" if number else ""
