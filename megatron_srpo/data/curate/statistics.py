"""Counts and examples of a set, for its manifest and card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow
import pyarrow.compute

from megatron_srpo.data.curate.unit import EXAMPLES, SHOWN
from megatron_srpo.data.lengths import LENGTHS, count_length
from megatron_srpo.data.problem_set import QUARANTINED, REFUSED


class Statistics:
    """Adds up what units say and what becomes of their problems."""

    def __init__(self, sources: Iterable[str]) -> None:
        self._sources: dict[str, Counter[str]] = {name: Counter() for name in sources}
        self._domains: Counter[str] = Counter()
        self._repaired: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._examples: dict[str, list[dict[str, str]]] = {}
        self._evaluation: Counter[str] = Counter()
        self._lengths: dict[str, list[int]] = {}

    def add(
        self,
        summary: Mapping[str, Any],
        problems: pyarrow.Table,
        others: Iterable[Mapping[str, Any]],
        set_aside: Iterable[Mapping[str, Any]],
    ) -> None:
        """One unit.

        Args:
            summary: what it says of itself.
            problems: those that stay.
            others: all rows that do not.
            set_aside: of these, problems that only others speak against.
        """
        source = self._sources[summary["source"]]
        source.update(rows=summary["rows"], kept=problems.num_rows)
        self._repaired.update(summary["repaired"])
        self._refused.update(summary["refused"])
        for rule, examples in summary["examples"].items():
            self._add_examples(rule, ({"source": summary["source"], **example} for example in examples))
        for line in others:
            source.update([line["status"]])
            for rule, reason in zip(line["rules"], line["reasons"], strict=False):
                if rule == "contaminated":
                    self._evaluation.update([reason.partition(" of ")[2].partition("/")[0]])
        for line in set_aside:
            (rule,), (reason,) = line["rules"], line["reasons"]
            self._refused.update([rule])
            example = {"source": line["source"], "row": str(line["row"]), "what": reason}
            self._add_examples(rule, [{**example, "prompt": line["prompt"][:SHOWN]}])
        self._add_problems(problems)

    def _add_examples(self, rule: str, examples: Iterable[dict[str, str]]) -> None:
        known = self._examples.setdefault(rule, [])
        known += list(examples)[: EXAMPLES - len(known)]

    def _add_problems(self, problems: pyarrow.Table) -> None:
        domains = problems["domain"].to_pylist()
        lengths = pyarrow.compute.utf8_length(problems["prompt"]).to_pylist()
        self._domains.update(domains)
        for domain, length in zip(domains, lengths, strict=True):
            count_length(self._lengths, domain, length)

    def counts(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        kinds = ("rows", "kept", REFUSED, QUARANTINED)
        sources = {name: {kind: of[kind] for kind in kinds} for name, of in self._sources.items()}
        rules = sorted({*self._repaired, *self._refused})
        return {
            "total": {kind: sum(of[kind] for of in sources.values()) for kind in kinds},
            "sources": sources,
            "domains": dict(sorted(self._domains.items())),
            "rules": {
                rule: {
                    "repaired": self._repaired[rule],
                    "refused": self._refused[rule],
                    "examples": self._examples.get(rule, []),
                }
                for rule in rules
            },
            "evaluation": dict(sorted(self._evaluation.items())),
            "lengths": {"bounds": list(LENGTHS), **dict(sorted(self._lengths.items()))},
        }
