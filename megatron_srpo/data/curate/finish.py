"""From the units of a curation to the set: duplicates, contradictions, parts, manifest, card.

What is in memory is some numbers a problem and one unit's rows.
"""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from numpy.typing import NDArray

import megatron_srpo
from megatron_srpo.data.curate import unit
from megatron_srpo.data.curate.card import card
from megatron_srpo.data.curate.config import CurateConfig
from megatron_srpo.data.curate.confusion import Confusion
from megatron_srpo.data.curate.duplicates import Twins, near_duplicates, same_text
from megatron_srpo.data.curate.finished_units import DiskSignatures, Units
from megatron_srpo.data.curate.progress import Bars
from megatron_srpo.data.curate.statistics import Statistics
from megatron_srpo.data.problem_set import (
    PROBLEM_SCHEMA,
    PROBLEMS,
    QUARANTINED,
    REFUSED,
    Manifest,
    PartWriter,
    commit,
)
from megatron_srpo.files import replace_file
from megatron_srpo.observe.metrics import JsonLines

CARD = "card.md"
LIBRARIES = ("datasets", "datasketch", "ftfy", "math-verify", "py3langid", "pyarrow")
Verdict = tuple[str, str]
"""The rule that refuses a problem for another problem's sake, and why."""


def versions() -> dict[str, str]:
    """Of this project and of the libraries that decide what is kept."""
    return {"megatron-srpo": megatron_srpo.__version__, **{library: version(library) for library in LIBRARIES}}


class StoppedWritingError(Exception):
    """Somebody has asked to stop before the set was there."""


class Finish:
    """The steps behind the workers."""

    def __init__(
        self,
        config: CurateConfig,
        inputs: dict[str, Any],
        folders: list[Path],
        events: JsonLines,
        bars: Bars,
    ) -> None:
        self._config, self._inputs, self._events, self._bars = config, inputs, events, bars
        self._units = Units(folders)
        self._groups: list[NDArray[np.int64]] = []
        self._verdicts: dict[int, Verdict] = {}
        """Of problems with the same text as another one."""
        self._twins: Twins | None = None
        self._stopped = False

    def same_texts(self) -> list[list[str]]:
        """Answers to compare: of problems with the same text, where they are written differently."""
        text, answers = self._units.column("text_key"), self._units.column("answer_key")
        self._groups = same_text(text, answers)
        return [[str(self._units.find(int(row), "answer")) for row in group] for group in self._groups]

    def write(self, agreeing: list[list[bool]]) -> Manifest:
        """Find duplicates and write the set.

        Args:
            agreeing: for each list of answers of `same_texts`, which of them mean the same as the first.

        Raises:
            StoppedWritingError: after `stop`; the set is what it was.
        """
        for group, agrees in zip(self._groups, agreeing, strict=True):
            self._judge_group(group, agrees)
        started = time.monotonic()
        self._find_twins()
        found = len(self._twins.rows) if self._twins is not None else 0
        seconds = time.monotonic() - started
        self._events.write({"event": "duplicates", "of": self._units.rows, "found": found, "seconds": seconds})
        statistics, confusion = Statistics(self._config.sources), Confusion()
        out, limit = self._config.out, self._config.rows_per_part
        with (
            PartWriter(out, PROBLEMS, PROBLEM_SCHEMA, limit) as problems,
            PartWriter(out, REFUSED, unit.DROPPED_SCHEMA, limit) as refused,
            PartWriter(out, QUARANTINED, unit.DROPPED_SCHEMA, limit) as quarantined,
        ):
            writers = {"kept": problems, REFUSED: refused, QUARANTINED: quarantined}
            self._write_rows(writers, statistics, confusion)
        manifest = Manifest(
            name=self._config.name,
            problems=tuple(problems.parts),
            refused=tuple(refused.parts),
            quarantined=tuple(quarantined.parts),
            counts={**statistics.counts(), "confusion": confusion.table()},
            inputs=self._inputs,
            config=self._config.identity(),
            versions=versions(),
        )
        replace_file(out / CARD, card(manifest).encode())
        commit(out, manifest)
        self._events.write({"event": "written", "seconds": time.monotonic() - started - seconds})
        return manifest

    def summary(self, manifest: Manifest) -> str:
        """The outcome in a line."""
        total = manifest.counts["total"]
        return (
            f"{self._config.out}: {total['kept']} of {total['rows']} rows are problems of the set, "
            f"{total['refused']} were refused and {total['quarantined']} could not be handled; "
            f"{self._config.out / CARD} says why"
        )

    def stop(self) -> None:
        """Have `write`, which runs in another thread, raise StoppedWritingError at its next step."""
        self._stopped = True

    def _share(self, step: str, share: float) -> None:
        """Show how much of a step is done."""
        if self._stopped:
            raise StoppedWritingError
        self._bars.share(step, share)

    def _judge_group(self, group: NDArray[np.int64], agrees: list[bool]) -> None:
        """Problems with one text: with one answer only the first stays, with several none."""
        skip, first, same = self._config.rules.skip, int(group[0]), all(agrees)
        if same and self._config.duplicates is not None and "duplicate" not in skip:
            for row in group[1:]:
                self._verdicts[int(row)] = "duplicate", f"of {self._units.name(first)}, the same text"
        if not same and "conflict" not in skip:
            another = int(group[agrees.index(False)])
            for row, as_first in zip(group, agrees, strict=True):
                other = self._units.name(another if as_first else first)
                self._verdicts[int(row)] = "conflict", f"{other} has the same text and another answer"

    def _find_twins(self) -> None:
        section = self._config.duplicates
        if section is None or "duplicate" in self._config.rules.skip:
            return
        keys = self._units.column("twin_key").copy()
        for row in self._verdicts:
            keys[row] = row  # like no other: what is refused anyway makes nothing a duplicate
        self._twins = near_duplicates(
            DiskSignatures(self._units, section.permutations, self._config.out / "work" / "signatures"),
            keys,
            section.similarity,
            lambda share: self._share("duplicates", share),
        )

    def _write_rows(self, writers: dict[str, PartWriter], statistics: Statistics, confusion: Confusion) -> None:
        first = 0
        kept, dropped = self._units.tables(unit.KEPT), self._units.tables(unit.DROPPED)
        units = zip(self._units.summaries(), kept, dropped, strict=True)
        for number, (summary, problems, others) in enumerate(units, 1):
            verdicts = self._verdicts_of(first, first + problems.num_rows)
            stays = np.array([row not in verdicts for row in range(problems.num_rows)], np.bool_)
            set_aside = refused_rows(problems, verdicts)
            first += problems.num_rows
            problems = problems.filter(pyarrow.array(stays, pyarrow.bool_()))
            writers["kept"].write_table(problems.select(PROBLEM_SCHEMA.names))
            lines = others.to_pylist() + set_aside
            lines.sort(key=lambda line: line["row"])
            for status in (REFUSED, QUARANTINED):
                writers[status].write([line for line in lines if line["status"] == status])
            statistics.add(summary, problems, lines, set_aside)
            confusion.add(problems, lines)
            self._share("writing", number / len(self._units.folders))

    def _verdicts_of(self, first: int, last: int) -> dict[int, Verdict]:
        """The verdicts of the problems from `first` to `last`, by their place among these."""
        found = {row - first: self._verdicts[row] for row in range(first, last) if row in self._verdicts}
        if self._twins is not None:
            start, end = np.searchsorted(self._twins.rows, [first, last])
            for at in range(start, end):
                of, like = int(self._twins.of[at]), int(self._twins.like[at])
                way = "" if like == of else f" by way of {self._units.name(like)}"
                reason = f"of {self._units.name(of)}{way}, similarity {self._twins.similarity[at]:.2f}"
                found[int(self._twins.rows[at]) - first] = "duplicate", reason
        return found


def refused_rows(problems: pyarrow.Table, verdicts: dict[int, Verdict]) -> list[dict[str, Any]]:
    """The lines, as of dropped rows, of problems that others speak against."""
    found = []
    for row, (rule, reason) in sorted(verdicts.items()):
        (line,) = problems.slice(row, 1).to_pylist()
        known = {name: line[name] for name in unit.DROPPED_SCHEMA.names if name in line}
        found.append(known | {"status": REFUSED, "rules": [rule], "reasons": [reason], "raw": None})
    return found
