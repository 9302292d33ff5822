"""Which rows are counted, and which of them are shown."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from megatron_srpo.data.show.rows import STATUSES, Row
from megatron_srpo.errors import SrpoError
from megatron_srpo.plain import line_of

NAMED = 8  # values that a message lists


@dataclass(frozen=True)
class Filter:
    """Values that rows must have; None: any."""

    rule: str | None = None
    """Repaired or refused it."""
    status: str | None = None
    source: str | None = None
    domain: str | None = None
    difficulty: str | None = None

    def __post_init__(self) -> None:
        if self.status not in (None, *STATUSES):
            raise SrpoError(f"--status {self.status}: unknown status; expected {', '.join(STATUSES)}.")

    @property
    def statuses(self) -> tuple[str, ...]:
        """What rows are to be read."""
        return STATUSES if self.status is None else (self.status,)

    def given(self) -> dict[str, str]:
        """The filters that are set."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def matches(self, row: Row) -> bool:
        """Whether a row has all the values."""
        return (
            self.status in (None, row.status)
            and self.source in (None, row.source)
            and self.domain in (None, row.domain)
            and self.difficulty in (None, row.difficulty)
            and (self.rule is None or self.rule in row.rules)
        )


class Seen:
    """The values that rows have, so that a mistyped filter can be told from one that nothing passes."""

    def __init__(self) -> None:
        self._values: dict[str, set[str]] = {"rule": set(), "source": set(), "domain": set(), "difficulty": set()}

    def add(self, row: Row) -> None:
        """The values of a row."""
        self._values["source"].add(row.source)
        self._values["rule"] |= row.rules
        if row.domain is not None:
            self._values["domain"].add(row.domain)
        if row.difficulty is not None:
            self._values["difficulty"].add(row.difficulty)

    def check(self, path: object, wanted: Filter, other_rules: Iterable[str]) -> None:
        """Raises SrpoError for a filter's value that no row has.

        Args:
            path: of the set, for messages.
            wanted: the filters.
            other_rules: rules that there are, though none of the rows may name them.
        """
        for name, value in wanted.given().items():
            if name == "status" or value in self._values[name] or (name == "rule" and value in other_rules):
                continue
            known = sorted(self._values[name])
            listed = ", ".join(known[:NAMED]) + (", ..." if len(known) > NAMED else "")
            there = f"there are {listed}" if known else f"no row names a {name}"
            raise SrpoError(line_of(f"{path}: has no row of --{name} {value}; {there}."))


class Examples:
    """Random rows of each status, as many as are wanted (reservoir sampling: all rows are equally likely)."""

    def __init__(self, number: int, seed: int) -> None:
        self._number = number
        self._random = {status: random.Random(f"{seed} {status}") for status in STATUSES}
        self._seen = dict.fromkeys(STATUSES, 0)
        self._chosen: dict[str, dict[int, tuple[int, Row, dict[str, Any]]]] = {status: {} for status in STATUSES}

    def offer(self, row: Row) -> None:
        """One more row."""
        order = self._seen[row.status]
        self._seen[row.status] += 1
        place = order if order < self._number else self._random[row.status].randrange(order + 1)
        if place < self._number:
            values = row.values()
            self._chosen[row.status][place] = order, _light(row), values

    def chosen(self, status: str) -> list[tuple[Row, dict[str, Any]]]:
        """Those of a status, in the set's order, with their columns."""
        return [(row, values) for _, row, values in sorted(self._chosen[status].values(), key=lambda one: one[0])]


def _light(row: Row) -> Row:
    """The row without what it was read from, which is far larger."""
    return replace(row, values=dict)
