"""What a worker of curation does: one unit, some hundred rows of one source, into files.

A unit is a folder, written under another name and renamed when it is complete:

    kept.parquet       the problems, with what they are compared by
    dropped.parquet    the other rows, with the reasons
    signatures.npy     uint32 [permutations, kept]: the MinHash of each problem
    unit.json          counts and examples

Every row has a deadline that the kernel enforces (SIGALRM, which ends the process), because a library written in
C does not return to Python to look at a clock.  Before a row the worker writes its number to a file, so that
whoever starts the unit again knows which row to leave out.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow

from megatron_srpo.data.curate.config import CurateConfig, SourceSection
from megatron_srpo.data.curate.draft import BadRow
from megatron_srpo.data.curate.evaluation import read_evaluation
from megatron_srpo.data.curate.keys import numbers, signature, text_hash
from megatron_srpo.data.curate.process import NoSandboxError, Outcome, Processor, columns_of
from megatron_srpo.data.problem_set import OUR_NOTES, PROBLEM_SCHEMA, QUARANTINED, REFUSED
from megatron_srpo.errors import cause_of
from megatron_srpo.files import replace_file, sync, write_table
from megatron_srpo.rewards.math.judge import answers_agree, canonical
from megatron_srpo.workers import messages
from megatron_srpo.workers.nursery import Work

KEPT, DROPPED, SIGNATURES, SUMMARY = "kept.parquet", "dropped.parquet", "signatures.npy", "unit.json"
STRINGS = pyarrow.list_(pyarrow.string())
OF_COMPARISON = [
    ("text_key", pyarrow.uint64()),  # of the words: equal for the same text
    ("twin_key", pyarrow.uint64()),  # of numbers and answer: equal for all that may be duplicates
    ("answer_key", pyarrow.uint64()),
]
OF_HISTORY = [("row", pyarrow.int64()), ("labels", STRINGS), ("repairs", STRINGS)]
KEPT_SCHEMA = pyarrow.schema(
    [*PROBLEM_SCHEMA, *map(pyarrow.field, *zip(*OF_HISTORY, *OF_COMPARISON, strict=True))]
)
DROPPED_SCHEMA = pyarrow.schema(
    [
        ("id", pyarrow.string()),
        ("source", pyarrow.string()),
        ("row", pyarrow.int64()),  # in the source, from 0
        ("status", pyarrow.string()),  # refused or quarantined
        ("rules", STRINGS),
        ("reasons", STRINGS),
        ("repairs", STRINGS),
        ("domain", pyarrow.string()),
        ("prompt", pyarrow.string()),
        ("answer", pyarrow.string()),
        ("tests", pyarrow.string()),
        ("raw", pyarrow.string()),  # of what could not be handled: the row as it came
        ("labels", STRINGS),
    ]
)
EXAMPLES = 3  # of each rule, from each unit
SHOWN = 240  # characters of a text in an example
LONGEST_RAW = 100_000  # characters
CLEANING_SECONDS = 20.0  # of a row; it takes milliseconds


def folder_name(source: str, first: int) -> str:
    """The name of a unit's folder."""
    return f"{source}.{first:010d}"


def source_of(folder: Path) -> str:
    """The source that a unit is of."""
    return folder.name.rpartition(".")[0]


def problem_id(source: str, row: int) -> str:
    """The id of a problem, made of where it comes from."""
    return f"{source}/{row}"


@dataclass
class Unit:
    """What has been made of the rows of a unit."""

    source: str
    first: int
    rows: int = 0
    kept: list[dict[str, Any]] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    signatures: list[Any] = field(default_factory=list)
    repaired: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    def example(self, rule: str, **texts: str) -> None:
        """Keep an example of a rule, if there are not enough."""
        known = self.examples.setdefault(rule, [])
        if len(known) < EXAMPLES:
            known.append({name: text[:SHOWN] for name, text in texts.items()})


class UnitWorker:
    """Does units."""

    def __init__(self, config: CurateConfig) -> None:
        self._config = config
        self._processor = Processor(config, read_evaluation(config.contamination))

    def warm_up(self) -> None:
        """Load what rows need before workers are forked."""
        self._processor.warm_up()

    def do(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do a unit; the answer is its summary.

        Args:
            request: `folder` for the unit, `source`, `first` (number of the first row), `rows`, `at` (file for
                the number of the present row), `lost` (rows that a worker was lost with, and how).
        """
        folder = Path(request["folder"])
        if folder.exists():  # by a worker that was lost before it could say so
            return dict(json.loads((folder / SUMMARY).read_text(encoding="utf-8")))
        unit = Unit(request["source"], request["first"])
        source, lost = self._config.sources[unit.source], dict(request["lost"])
        progress = os.open(request["at"], os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            for number, row in enumerate(request["rows"], unit.first):
                os.pwrite(progress, number.to_bytes(8, "little"), 0)
                cause = lost.get(str(number))
                outcome = Outcome(quarantined=cause) if cause else self._outcome(row, source)
                self._record(unit, number, row, outcome, source)
                signal.setitimer(signal.ITIMER_REAL, 0)
            os.ftruncate(progress, 0)  # what is lost from here on is no row's fault
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.close(progress)
        return write_unit(folder, unit, self._permutations)

    def compare(self, answers: list[str]) -> list[bool]:
        """Which reference answers mean the same as the first."""
        signal.setitimer(signal.ITIMER_REAL, CLEANING_SECONDS)
        first, *others = answers
        same = [True, *(answers_agree(other, first, self._config.verify.math.tolerance) for other in others)]
        signal.setitimer(signal.ITIMER_REAL, 0)
        return same

    @property
    def _permutations(self) -> int:
        duplicates = self._config.duplicates
        return duplicates.permutations if duplicates is not None else 0

    def _outcome(self, row: Any, source: SourceSection) -> Outcome:
        try:
            signal.setitimer(signal.ITIMER_REAL, CLEANING_SECONDS)
            outcome = self._processor.clean_row(row, source)
            if outcome.kept:
                signal.setitimer(signal.ITIMER_REAL, self._processor.seconds(outcome))
                self._processor.verify(outcome)
            return outcome
        except NoSandboxError:
            raise
        except Exception as error:  # of a rule or a judge: the row is put aside with it
            return Outcome(quarantined=cause_of(error))

    def _record(self, unit: Unit, number: int, row: Any, outcome: Outcome, source: SourceSection) -> None:
        unit.rows += 1
        for rule, note in outcome.repairs:
            unit.repaired[rule] += 1
            unit.example(rule, row=str(number), what=note)
        history = {
            "row": number,
            "labels": labels_of(row, source.labels),
            "repairs": [f"{rule}: {note}" for rule, note in outcome.repairs],
        }
        name = problem_id(unit.source, number)
        if outcome.kept:
            unit.kept.append(kept_row(name, unit.source, outcome) | history)
            if self._permutations:
                assert outcome.hashes is not None
                unit.signatures.append(signature(outcome.hashes, self._permutations))
            return
        for rule, reason in outcome.refusals:
            unit.refused[rule] += 1
            prompt = outcome.draft.prompt if outcome.draft is not None else ""
            unit.example(rule, row=str(number), what=reason, prompt=prompt)
        unit.dropped.append(dropped_row(name, unit.source, outcome, row) | history)


def kept_row(name: str, source: str, outcome: Outcome) -> dict[str, Any]:
    """A problem, and what it is compared by."""
    draft = outcome.draft
    assert draft is not None
    answer = text_hash(canonical(draft.answer)) if draft.domain == "math" else 0
    meta = {**_their_notes(draft.meta), **({"repairs": outcome.repairs} if outcome.repairs else {})}
    of_numbers = text_hash(" ".join(numbers(outcome.words)))
    return {
        "id": name,
        "domain": draft.domain,
        "source": source,
        "prompt": draft.prompt,
        "answer": draft.answer if draft.domain == "math" else None,
        "tests": draft.tests if draft.domain == "code" else None,
        "meta": json.dumps(meta, ensure_ascii=False),
        "text_key": text_hash(" ".join((draft.domain, *outcome.words))),
        "twin_key": text_hash(f"{draft.domain} {of_numbers} {answer}"),
        "answer_key": answer,
    }


def _their_notes(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Notes of the set; what it calls by a name of ours has another name with us."""
    found = dict(meta)
    for name in OUR_NOTES:
        if name in found:
            other = f"source_{name}"
            while other in found:
                other = f"source_{other}"
            found[other] = found.pop(name)
    return found


def dropped_row(name: str, source: str, outcome: Outcome, row: Any) -> dict[str, Any]:
    """A row that does not go into the set."""
    draft, quarantined = outcome.draft, outcome.quarantined
    raw = row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)
    return {
        "id": name,
        "source": source,
        "status": REFUSED if quarantined is None else QUARANTINED,
        "rules": [rule for rule, _ in outcome.refusals],
        "reasons": [reason for _, reason in outcome.refusals] if quarantined is None else [quarantined],
        "domain": draft.domain if draft is not None else None,
        "prompt": draft.prompt if draft is not None else None,
        "answer": draft.answer if draft is not None else None,
        "tests": draft.tests or None if draft is not None else None,
        "raw": raw[:LONGEST_RAW] if quarantined is not None else None,
    }


def labels_of(row: Any, column: str | None) -> list[str] | None:
    """What the source says that rules should find, where it says so."""
    if column is None:
        return None
    try:
        labels = columns_of(row).get(column)
    except BadRow:
        return None
    if labels in (None, ""):
        return []
    return [str(label) for label in labels] if isinstance(labels, list) else [str(labels)]


def write_unit(folder: Path, unit: Unit, permutations: int) -> dict[str, Any]:
    """Write the unit's folder, all or nothing; its summary."""
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, rows, schema in ((KEPT, unit.kept, KEPT_SCHEMA), (DROPPED, unit.dropped, DROPPED_SCHEMA)):
        write_table(pyarrow.Table.from_pylist([_clean(row) for row in rows], schema), temporary / name)
    if permutations:
        of_rows = np.array(unit.signatures, np.uint32).reshape(len(unit.kept), permutations)
        np.save(temporary / SIGNATURES, np.ascontiguousarray(of_rows.T))
        sync(temporary / SIGNATURES)
    summary = {
        "source": unit.source,
        "first": unit.first,
        "rows": unit.rows,
        "kept": len(unit.kept),
        "quarantined": sum(row["status"] == QUARANTINED for row in unit.dropped),
        "repaired": dict(unit.repaired),
        "refused": dict(unit.refused),
        "examples": unit.examples,
    }
    replace_file(temporary / SUMMARY, json.dumps(_clean(summary), ensure_ascii=False).encode())
    os.rename(temporary, folder)
    return {name: value for name, value in summary.items() if name != "examples"}


def _clean(value: Any) -> Any:
    """Without lone surrogates, which JSON lets into texts and no file can hold."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {name: _clean(one) for name, one in value.items()}
    return [_clean(one) for one in value] if isinstance(value, list) else value


def work(worker: UnitWorker, connection: socket.socket) -> None:
    """Do units until the socket closes."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the deadline of a row ends the process
    while (request := messages.receive(connection)) is not None:
        answer: Any
        try:
            answer = worker.compare(request["compare"]) if "compare" in request else worker.do(request)
        except NoSandboxError as error:
            answer = {"error": str(error)}
        connection.sendall(messages.encode(answer))


def make_work(settings: Any) -> Work:
    """The work of a config; raises SrpoError when an evaluation set cannot be read."""
    worker = UnitWorker(CurateConfig.model_validate(settings))
    worker.warm_up()
    return partial(work, worker)
