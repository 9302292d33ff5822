"""How rules compare with labels, where a source has labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow


class Confusion:
    """For each rule: rows where it acted and should have, where it should not have, and where it should have."""

    def __init__(self) -> None:
        self._rows = 0
        self._both: Counter[str] = Counter()
        self._acted: Counter[str] = Counter()
        self._labelled: Counter[str] = Counter()
        self._mistakes: dict[str, list[str]] = {}

    def add(self, problems: pyarrow.Table, others: Iterable[Mapping[str, Any]]) -> None:
        """The rows of a unit: problems that stay, and the others."""
        kept = problems.select(["id", "labels", "repairs"]).to_pylist()
        for line in (*kept, *others):
            if line["labels"] is None:
                continue
            acted = {repair.partition(":")[0] for repair in line["repairs"] or ()} | set(line.get("rules") or ())
            labelled = set(line["labels"])
            self._rows += 1
            self._both.update(acted & labelled)
            self._acted.update(acted)
            self._labelled.update(labelled)
            for rule in acted ^ labelled:
                sign = "+" if rule in acted else "-"
                self._mistakes.setdefault(rule, []).append(f"{sign}{line['id']}")

    def table(self) -> dict[str, Any] | None:
        """By rule: counts, precision, recall and the rows that are mistaken; None where nothing is labelled."""
        if not self._rows:
            return None
        return {
            "rows": self._rows,
            "rules": {rule: self._of(rule) for rule in sorted({*self._acted, *self._labelled})},
        }

    def _of(self, rule: str) -> dict[str, Any]:
        both, acted, labelled = self._both[rule], self._acted[rule], self._labelled[rule]
        return {
            "right": both,
            "too_many": acted - both,
            "missed": labelled - both,
            "precision": round(both / acted, 4) if acted else None,
            "recall": round(both / labelled, 4) if labelled else None,
            "mistakes": self._mistakes.get(rule, []),
        }
