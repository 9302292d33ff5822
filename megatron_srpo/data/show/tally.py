"""Counts of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from megatron_srpo.data.lengths import LENGTHS, count_length
from megatron_srpo.data.show.rows import KEPT, STATUSES, Row

UNKNOWN = "unknown"  # domain of rows that no problem could be made of
DIFFICULTIES = ("easy", "medium", "hard")
RATES = ("0", "0 to 0.1", *(f"0.{tenth} to 0.{tenth + 1}" for tenth in range(1, 9)), "0.9 to 1", "1")
"""Bins of pass rates: never right and always right are bins of their own."""


class Tally:
    """Adds up rows."""

    def __init__(self, status: str | None) -> None:
        self._lengths_of = status or KEPT
        self._rows: Counter[str] = Counter()
        self._sources: dict[str, Counter[str]] = {}
        self._domains: dict[str, Counter[str]] = {}
        self._difficulties: dict[str, Counter[str]] = {}
        self._rules: dict[str, Counter[str]] = {}
        self._lengths: dict[str, list[int]] = {}
        self._rates = [0] * len(RATES)

    def add(self, row: Row) -> None:
        """One more row."""
        self._rows[row.status] += 1
        groups = [(self._sources, row.source), (self._domains, row.domain or UNKNOWN)]
        if row.difficulty is not None:
            groups.append((self._difficulties, row.difficulty))
        for group, name in groups:
            group.setdefault(name, Counter())[row.status] += 1
        for kind, notes in (("repaired", row.repairs), ("refused", row.refusals)):
            for rule, _ in notes:
                self._rules.setdefault(rule, Counter())[kind] += 1
        if row.length is not None and row.status == self._lengths_of:
            count_length(self._lengths, row.domain or UNKNOWN, row.length)
        if row.pass_rate is not None:
            self._rates[rate_bin(row.pass_rate)] += 1

    def counts(self, rules: Iterable[str]) -> dict[str, Any]:
        """Everything, as JSON values.

        Args:
            rules: the names of known rules, in the order in which they are listed.
        """
        difficulties = dict.fromkeys([*DIFFICULTIES, *sorted(self._difficulties)])
        names = dict.fromkeys([*rules, *sorted(self._rules)])
        sources = sorted(self._sources, key=lambda name: (-self._sources[name].total(), name))
        return {
            "rows": _statuses(self._rows),
            "sources": {name: _statuses(self._sources[name]) for name in sources},
            "domains": {name: _statuses(self._domains[name]) for name in sorted(self._domains)},
            "difficulties": {
                name: _statuses(self._difficulties[name]) for name in difficulties if name in self._difficulties
            },
            "rules": {
                name: {kind: self._rules[name][kind] for kind in ("repaired", "refused")}
                for name in names
                if name in self._rules
            },
            "lengths": {
                "of": self._lengths_of,
                "bounds": list(LENGTHS),
                "domains": dict(sorted(self._lengths.items())),
            },
            "pass_rates": {"bins": list(RATES), "rows": self._rates} if any(self._rates) else None,
        }


def rate_bin(rate: float) -> int:
    """The bin of a pass rate."""
    if rate <= 0:
        return 0
    return len(RATES) - 1 if rate >= 1 else 1 + int(rate * 10)


def _statuses(of: Counter[str]) -> dict[str, int]:
    return {status: of[status] for status in STATUSES}
