"""From the journal of grades into the set: a new version of its parts, exchanged as a whole."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from megatron_srpo.data.grade.grade import Grade, key_of
from megatron_srpo.data.grade.journal import GradeJournal
from megatron_srpo.data.grade.pass_at_k import difficulty_of, pass_at_k
from megatron_srpo.data.problem_set import (
    PROBLEM_SCHEMA,
    PROBLEMS,
    PartWriter,
    commit,
    read_manifest,
    read_parts,
    writing,
)
from megatron_srpo.recipe.data import Difficulty
from megatron_srpo.recipe.grading import GradingSection

REASONS = 10  # of the most frequent ones that the manifest names


@dataclass
class _Tally:
    """What the manifest counts."""

    difficulties: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    """Why problems are not graded."""
    responses: int = 0
    errors: int = 0


async def write_back(folder: Path, journal: GradeJournal, grading: GradingSection) -> dict[str, Any]:
    """Write difficulty, pass_rate and meta.grade of every problem; the rows keep their order.

    Until the last moment the set is the old one, so this may be cancelled or killed.

    Args:
        folder: of the set.
        journal: with its grades and the set-up of their measurement.
        grading: k and the thresholds.

    Returns:
        What the manifest now says of grading.

    Raises:
        SrpoError: as `read_manifest` and `read_parts`, and when the disk is full.
    """
    manifest = read_manifest(folder)
    tally = _Tally()
    with writing(folder), PartWriter(folder, PROBLEMS, PROBLEM_SCHEMA) as writer:
        for batch in read_parts(folder, manifest.problems):
            rows = batch.to_pylist()
            for row in rows:
                grade = journal.get(row["id"], key_of(row))
                _mark(row, grade, grading, tally)
            writer.write(rows)
            await asyncio.sleep(0)
    found = {
        "setup": journal.setup,
        "grading": grading.model_dump(mode="json"),
        "difficulty": {name: tally.difficulties[name] for name in get_args(Difficulty)},
        "ungraded": tally.reasons.total(),
        "reasons": dict(tally.reasons.most_common(REASONS)),
        "responses": tally.responses,
        "errors": tally.errors,
    }
    with writing(folder):
        commit(folder, manifest.model_copy(update={"problems": tuple(writer.parts), "grading": found}))
    return found


def _mark(row: dict[str, Any], grade: Grade | None, grading: GradingSection, tally: _Tally) -> None:
    """Set what a row says of its difficulty, or that it says nothing."""
    meta = json.loads(row["meta"] or "{}")
    meta.pop("grade", None)
    row["difficulty"] = row["pass_rate"] = None
    reason = "not measured" if grade is None else grade.ungraded(grading.k)
    if grade is not None:
        tally.responses += grade.n + grade.errors
        tally.errors += grade.errors
    if grade is None or reason is not None:
        tally.reasons[str(reason)] += 1
    else:
        value = pass_at_k(grade.n, grade.c, grading.k)
        row["difficulty"] = difficulty_of(value, grading)
        tally.difficulties[row["difficulty"]] += 1
        row["pass_rate"] = grade.c / grade.n
        meta["grade"] = {
            "n": grade.n,
            "c": grade.c,
            "errors": grade.errors,
            f"pass@{grading.k}": value,
            "length_mean": grade.length_mean,
            "truncated": grade.truncated,
            "model": grade.model,
        }
    row["meta"] = json.dumps(meta, ensure_ascii=False)
