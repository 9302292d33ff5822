"""What of a set is still to be graded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_srpo.data.grade.grade import key_of
from megatron_srpo.data.grade.journal import GradeJournal
from megatron_srpo.data.problem_set import Part, read_manifest, read_parts
from megatron_srpo.errors import SrpoError


@dataclass
class Survey:
    """What is missing, by parts, so that none is read again in which nothing is."""

    total: int = 0
    missing: int = 0
    programs: bool = False
    """Whether programs have to be run for what is missing."""
    parts: list[Part] = field(default_factory=list)


async def survey(folder: Path, journal: GradeJournal) -> Survey:
    """Read the set once and count.

    Raises:
        SrpoError: as `read_manifest` and `read_parts`, or when an id stands twice.
    """
    found = Survey()
    ids: set[str] = set()
    for part in read_manifest(folder).problems:
        before = found.missing
        for batch in read_parts(folder, [part]):
            for row in batch.to_pylist():
                if row["id"] in ids:
                    raise SrpoError(
                        f"{folder / part.file}: the id {row['id']!r} stands twice in the set; curate it."
                    )
                ids.add(row["id"])
                if journal.get(row["id"], key_of(row)) is None:
                    found.missing += 1
                    found.programs |= row["domain"] == "code"
            await asyncio.sleep(0)
        if found.missing > before:
            found.parts.append(part)
    found.total = len(ids)
    return found


def missing_rows(folder: Path, journal: GradeJournal, parts: list[Part]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Keys and rows that have no grade, read as they are asked for."""
    for batch in read_parts(folder, parts):
        for row in batch.to_pylist():
            key = key_of(row)
            if journal.get(row["id"], key) is None:
                yield key, row
