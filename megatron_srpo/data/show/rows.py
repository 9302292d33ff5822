"""The rows of a set or of a file of problems, whatever became of them, one after the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow

from megatron_srpo.data.problem_set import (
    MANIFEST,
    QUARANTINED,
    REFUSED,
    Manifest,
    is_problem_set,
    read_manifest,
    read_parts,
)
from megatron_srpo.data.problems import JSON, PARQUET, check_columns, pass_rate_of, problem_of, read_rows
from megatron_srpo.errors import SrpoError
from megatron_srpo.plain import line_of

KEPT = "kept"
STATUSES = (KEPT, REFUSED, QUARANTINED)
HEAVY = ("tests", "raw")
"""Columns that only a row which is shown needs; their texts can be megabytes."""
Notes = tuple[tuple[str, str], ...]
"""Names of rules, each with what it did or why it refused."""


@dataclass(frozen=True)
class Row:
    """What rows are counted and chosen by."""

    status: str
    id: str
    source: str
    domain: str | None
    """None where no problem could be made of the row."""
    difficulty: str | None
    pass_rate: float | None
    length: int | None
    """Characters of the prompt."""
    repairs: Notes
    refusals: Notes
    values: Callable[[], dict[str, Any]]
    """All columns, as they are stored."""

    @property
    def rules(self) -> set[str]:
        """The rules that acted on it."""
        return {rule for rule, _ in (*self.repairs, *self.refusals)}


@dataclass(frozen=True)
class Opened:
    """A set, or a file of problems, to be read."""

    path: Path
    manifest: Manifest | None
    """Of a set."""

    @property
    def name(self) -> str:
        """What it is called."""
        return self.path.name if self.manifest is None else self.manifest.name

    def rows(self, statuses: Sequence[str] = STATUSES) -> Iterator[Row]:
        """Its rows, of these statuses only; problems of a file are all kept.

        Raises:
            SrpoError: for a part that is not what the manifest says, or a row of a file that is no problem.
        """
        if self.manifest is None:
            if KEPT in statuses:
                yield from _of_file(self.path)
            return
        parts = {
            KEPT: self.manifest.problems,
            REFUSED: self.manifest.refused,
            QUARANTINED: self.manifest.quarantined,
        }
        for status in statuses:
            for batch in read_parts(self.path, parts[status]):
                yield from _of_batch(status, batch)


def open_path(path: Path) -> Opened:
    """What is at the path.

    Raises:
        SrpoError: when it is neither a finished set nor a file of problems.
    """
    if path.is_file() and path.name != MANIFEST:
        if path.suffix not in PARQUET + JSON:
            raise SrpoError(
                f"{path}: neither the folder of a set nor a file of problems ({', '.join(PARQUET + JSON)})."
            )
        return Opened(path, None)
    folder = path.parent if path.is_file() else path
    if not folder.exists():
        raise SrpoError(f"{path}: there is no such set or file (looked for {path.absolute()}).")
    if not is_problem_set(folder) and is_being_made(folder):
        raise SrpoError(
            f"{folder}: the set is not finished; run srpo data curate with its config again, which goes on where "
            "it stopped, and look at the set afterwards."
        )
    return Opened(folder, read_manifest(folder))


def is_being_made(folder: Path) -> bool:
    """Whether a curation has begun here and not ended."""
    return (folder / "work" / "job.json").is_file()


def _of_batch(status: str, batch: pyarrow.RecordBatch) -> Iterator[Row]:
    light = batch.select([name for name in batch.schema.names if name not in HEAVY])
    for at, values in enumerate(light.to_pylist()):
        yield _row(status, values, partial(_whole, batch, at))


def _whole(batch: pyarrow.RecordBatch, at: int) -> dict[str, Any]:
    (values,) = batch.slice(at, 1).to_pylist()
    return dict(values)


def _row(status: str, values: Mapping[str, Any], whole: Callable[[], dict[str, Any]]) -> Row:
    prompt = values["prompt"]
    return Row(
        status=status,
        id=values["id"],
        source=values["source"] or "",
        domain=values["domain"],
        difficulty=values.get("difficulty"),
        pass_rate=values.get("pass_rate"),
        length=None if prompt is None else len(prompt),
        repairs=repairs_in(values["meta"]) if status == KEPT else _split(values["repairs"]),
        refusals=tuple(zip(values.get("rules") or (), values.get("reasons") or (), strict=False)),
        values=whole,
    )


def repairs_in(meta: str | None) -> Notes:
    """The repairs that the notes of a kept problem name; a key `repairs` of another form is not ours."""
    if meta is None or '"repairs"' not in meta:
        return ()
    found = json.loads(meta).get("repairs")
    if not isinstance(found, list):
        return ()
    pairs = (tuple(pair) for pair in found if isinstance(pair, list) and len(pair) == 2)
    return tuple((str(rule), str(note)) for rule, note in pairs)


def _split(repairs: Sequence[str] | None) -> Notes:
    """Of a row that was left out: `rule: note` each."""
    pairs = (repair.partition(": ") for repair in repairs or ())
    return tuple((rule, note) for rule, _, note in pairs)


def _of_file(path: Path) -> Iterator[Row]:
    try:
        check_columns(path)
        for number, values in enumerate(read_rows(path), 1):
            yield _of_values(values, f"{path}: row {number}")
    except SrpoError as error:  # it may quote the file
        raise SrpoError(line_of(str(error))) from None


def _of_values(values: Mapping[str, Any], where: str) -> Row:
    problem = problem_of(values, where)
    known = {
        **values,
        "domain": problem.domain,
        "source": problem.source,
        "meta": json.dumps(dict(problem.meta), ensure_ascii=False, default=str),
        "pass_rate": pass_rate_of(values, where),
    }
    return _row(KEPT, known, partial(dict, known))
