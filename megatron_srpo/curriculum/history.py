"""The history of every prompt, folded out of the journal: one row a group.

`srpo history` shows it and writes it as parquet; the curriculum learns from it.  Only narrow columns of the step
files are read, never tokens or text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from megatron_srpo.curriculum.outcomes import GroupOutcome
from megatron_srpo.errors import SrpoError
from megatron_srpo.rollout.journal import Journal, Row, read_table

SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("stage", pa.string()),
        ("source", pa.string()),
        ("epoch", pa.int32()),
        ("group", pa.int32()),
        ("prompt_id", pa.string()),
        ("trained", pa.bool_()),
        ("samples", pa.int32()),
        ("correct", pa.int32()),
        ("accuracies", pa.list_(pa.float64())),
        ("rewards", pa.list_(pa.float64())),
        ("lengths", pa.list_(pa.int32())),
        ("weight_versions", pa.list_(pa.int32())),
    ]
)
_ONE_A_GROUP = ("step", "stage", "source", "epoch", "group", "prompt_id", "trained")
_ONE_A_SAMPLE = {
    "accuracies": "accuracy",
    "rewards": "reward",
    "lengths": "response_length",
    "weight_versions": "weight_version",
}


def groups_of(path: Path) -> pa.Table:
    """The groups of a step or group file, in its order, as rows of SCHEMA.

    Raises SrpoError when the file is missing, broken or of another form.
    """
    table = read_table(path, [*_ONE_A_GROUP, *_ONE_A_SAMPLE.values()]).combine_chunks()
    if not table.num_rows:
        raise SrpoError(f"{path}: holds no group; restore it or delete its run")
    number = table["group"].to_numpy()
    starts = np.flatnonzero(np.diff(number, prepend=number[0] - 1))
    offsets = np.append(starts, len(number)).astype(np.int32)
    columns = {name: table[name].combine_chunks().take(pa.array(starts)) for name in _ONE_A_GROUP}
    for name, of_samples in _ONE_A_SAMPLE.items():
        values = table[of_samples].combine_chunks().cast(SCHEMA.field(name).type.value_type)
        columns[name] = pa.ListArray.from_arrays(pa.array(offsets), values)
    right = (table["accuracy"].to_numpy() >= 1).astype(np.int32)
    columns["samples"] = pa.array(np.diff(offsets), pa.int32())
    columns["correct"] = pa.array(np.add.reduceat(right, starts), pa.int32())
    return pa.table({field.name: columns[field.name] for field in SCHEMA}, schema=SCHEMA)


def outcomes_of(groups: pa.Table) -> list[GroupOutcome]:
    """What the curriculum learns from groups."""
    columns = zip(
        groups["group"].to_pylist(),
        groups["source"].to_pylist(),
        groups["epoch"].to_pylist(),
        groups["prompt_id"].to_pylist(),
        groups["samples"].to_pylist(),
        groups["correct"].to_pylist(),
        [_mean(values) for values in groups["rewards"].to_pylist()],
        [_mean(values) for values in groups["accuracies"].to_pylist()],
        [sum(values) for values in groups["lengths"].to_pylist()],
        strict=True,
    )
    return [GroupOutcome(*values) for values in columns]


def outcome_of(rows: Sequence[Row]) -> GroupOutcome:
    """What the curriculum learns from one group that has just been finished."""
    first = rows[0]
    return GroupOutcome(
        number=first.group,
        source=first.source,
        epoch=first.epoch,
        prompt_id=first.prompt_id,
        samples=len(rows),
        correct=sum(row.accuracy >= 1 for row in rows),
        reward=_mean([row.reward for row in rows]),
        accuracy=_mean([row.accuracy for row in rows]),
        tokens=sum(row.response_length for row in rows),
    )


def _mean(values: Sequence[float]) -> float:
    """Rounded once, so that it is the same out of memory and out of a file."""
    return math.fsum(values) / len(values)


def journal_groups(journal: Journal) -> pa.Table:
    """All groups of a run, those of the open step last, with no word yet on whether they are trained on.

    The run may be going on meanwhile.
    """
    tables = [groups_of(journal.step_path(step)) for step in journal.closed_steps()]
    try:
        still_open = [_undecided(groups_of(path)) for path in journal.open_paths(len(tables)).values()]
    except (SrpoError, FileNotFoundError):
        if not journal.is_closed(len(tables)):
            raise
        still_open = [groups_of(journal.step_path(len(tables)))]  # it was closed while we read
    return pa.concat_tables([SCHEMA.empty_table(), *tables, *still_open])


def _undecided(groups: pa.Table) -> pa.Table:
    column = SCHEMA.get_field_index("trained")
    return groups.set_column(column, SCHEMA.field(column), pa.nulls(groups.num_rows, pa.bool_()))
