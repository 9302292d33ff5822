"""The rollout journal: the only truth about data.

    rollouts/open/step-000003/group-00017.parquet    a finished group of the step that is being collected
    rollouts/step-000002.parquet                     a closed step, immutable
    .../group-00017.experts, step-000002.experts     beside them, where wanted: the experts that engines chose

Invariants:
1. a group is on disk, complete and synced, before anything is derived from it;
2. every file appears by rename, so it is whole or absent, and a group is counted once however often the
   process dies;
3. a closed step holds exactly the groups 0..n-1, rows ordered by (group, sample);
4. once `step-N.parquet` exists, `open/step-N` means nothing and is removed;
5. a file that a disk has damaged is refused: pages have checksums, and nothing else of a file is free to vary.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from megatron_srpo.errors import SrpoError, one_line
from megatron_srpo.files import join_files, replace_file, write_table
from megatron_srpo.rollout.routed_experts import SUFFIX, checksum_of

if TYPE_CHECKING:
    # The trainer reads step files without the data and reward packages behind a group.
    from megatron_srpo.rollout.collect import Group


@dataclass(frozen=True)
class Row:
    """One sampled response with everything that training and reports need to know of it.

    `group` is the prompt's place in the step, `stage` and `source` are named as in the recipe, `epoch` counts
    the source's.  `trained` is false in groups that the curriculum has sampled and left out of the update.
    `log_probs` are the engine's, of `tokens`, after temperature; `response_length` is the number of `tokens`.
    `reward` is the sum of `components`; `error` says why a response could not be judged.
    `experts_checksum` is that of the sample's part of the file of experts, none without one.
    """

    step: int
    stage: str
    epoch: int
    group: int
    sample: int
    prompt_id: str
    source: str
    weight_version: int
    trained: bool
    response_length: int
    prompt_tokens: list[int]
    tokens: list[int]
    log_probs: list[float]
    text: str
    finish_reason: str
    reward: float
    accuracy: float
    format_ok: bool
    extracted: str | None
    components: dict[str, float]
    error: str | None
    experts_checksum: int | None = None


def rows_of(group: Group, step: int, stage: str) -> list[Row]:
    """The journal's rows of a finished group; `Journal.close` says which groups are trained on."""
    return [
        Row(
            step=step,
            stage=stage,
            epoch=group.prompt.epoch,
            group=group.prompt.number,
            sample=sample,
            prompt_id=group.prompt.problem.id,
            source=group.prompt.source,
            weight_version=response.generation.weight_version,
            trained=False,
            response_length=len(response.generation.tokens),
            prompt_tokens=list(group.prompt.tokens),
            tokens=response.generation.tokens,
            log_probs=response.generation.log_probs,
            text=response.text,
            finish_reason=response.generation.finish_reason,
            reward=response.reward.total,
            accuracy=response.reward.accuracy,
            format_ok=response.reward.format_ok,
            extracted=response.reward.extracted,
            components=dict(response.reward.components),
            error=response.reward.error,
            experts_checksum=checksum_of(response.generation.routed_experts),
        )
        for sample, response in enumerate(group.responses)
    ]


SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("stage", pa.string()),
        ("epoch", pa.int32()),
        ("group", pa.int32()),
        ("sample", pa.int32()),
        ("prompt_id", pa.string()),
        ("source", pa.string()),
        ("weight_version", pa.int64()),
        ("trained", pa.bool_()),
        ("response_length", pa.int32()),
        ("prompt_tokens", pa.list_(pa.int32())),
        ("tokens", pa.list_(pa.int32())),
        ("log_probs", pa.list_(pa.float32())),
        ("text", pa.string()),
        ("finish_reason", pa.string()),
        ("reward", pa.float64()),
        ("accuracy", pa.float64()),
        ("format_ok", pa.bool_()),
        ("extracted", pa.string()),
        ("components", pa.map_(pa.string(), pa.float64())),
        ("error", pa.string()),
        ("experts_checksum", pa.uint64()),
    ]
)
# Statistics are of no use here, and nothing would tell that they are damaged.
_OPTIONS = {"write_page_checksum": True, "write_statistics": False}
_STEP = re.compile(r"^step-(\d{6})\.parquet$")
_GROUP = re.compile(r"^group-(\d{5})\.parquet$")


def read_step(path: Path) -> list[Row]:
    """Rows of a step or group file; raises SrpoError when it is missing, broken or of another form."""
    return [Row(**row) for row in read_table(path).to_pylist(maps_as_pydicts="strict")]


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """All or some columns of a step or group file; raises SrpoError as `read_step` does."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read(columns)
            rows = _told_rows(file.metadata)
    except FileNotFoundError:
        raise SrpoError(f"{path}: step file not found") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _broken(path, one_line(error)) from error
    if missing := set(columns or ()) - set(table.schema.names):
        raise _broken(path, f"it has no column {', '.join(sorted(missing))}")
    if columns is None and table.schema.names != [field.name for field in fields(Row)]:
        raise SrpoError(f"{path}: columns {table.schema.names} are not those of a step file")
    if rows != {table.num_rows}:
        raise _broken(path, f"it says that it has {sorted(rows)} rows, and has {table.num_rows}")
    if columns is None and not table.schema.equals(SCHEMA):
        raise _broken(path, "its columns have types that a step file's have not")
    return table


def _told_rows(metadata: Any) -> set[int]:
    """All numbers of rows that a file's metadata tell; one, unless they are damaged."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    # The first column is no list: it has a value a row.
    values = sum(group.column(0).num_values for group in groups)
    return {metadata.num_rows, sum(group.num_rows for group in groups), values}


def _broken(path: Path, why: str) -> SrpoError:
    return SrpoError(f"{path}: cannot be read as parquet ({why}): restore it or delete its run")


class Journal:
    """Append finished groups, close steps, read both back."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def tidy(self) -> None:
        """Remove what a crash has left of closed steps; only for the process that owns the journal."""
        for step in self.closed_steps():
            shutil.rmtree(self._open_folder(step), ignore_errors=True)

    def step_path(self, step: int) -> Path:
        """Where a closed step lies."""
        return self.root / f"step-{step:06d}.parquet"

    def _open_folder(self, step: int) -> Path:
        return self.root / "open" / f"step-{step:06d}"

    def closed_steps(self) -> list[int]:
        """Closed steps in order; raises SrpoError when one is missing in between."""
        steps = sorted(int(m.group(1)) for p in self.root.iterdir() if (m := _STEP.match(p.name)))
        for expected, step in enumerate(steps):
            if step != expected:
                raise SrpoError(
                    f"{self.step_path(expected)}: missing although {self.step_path(steps[-1]).name} is there; "
                    "restore it or start a new run directory"
                )
        return steps

    def is_closed(self, step: int) -> bool:
        """Whether the step's file is there."""
        return self.step_path(step).exists()

    def append(self, rows: Sequence[Row], experts: Sequence[NDArray[Any] | None] = ()) -> None:
        """Record one finished group; it survives any crash from here on.

        `experts` are the choices of engines for every row, if there are any.
        """
        step, group = rows[0].step, rows[0].group
        if any((row.step, row.group) != (step, group) for row in rows):
            raise ValueError("a group's rows must share step and group")
        if self.is_closed(step):
            raise ValueError(f"step {step} is closed")
        table = pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA)
        path = self._open_folder(step) / f"group-{group:05d}.parquet"
        if any(choices is not None for choices in experts):
            content = b"".join(choices.tobytes() for choices in experts if choices is not None)
            replace_file(path.with_suffix(SUFFIX), content)
        write_table(table, path, **_OPTIONS)

    def open_paths(self, step: int) -> dict[int, Path]:
        """Files of the groups recorded so far for a step that is not closed, by their place in the step."""
        folder = self._open_folder(step)
        if not folder.exists():
            return {}
        found = {int(m.group(1)): p for p in folder.iterdir() if (m := _GROUP.match(p.name))}
        return dict(sorted(found.items()))

    def close(self, step: int, groups: int, trained: Collection[int]) -> Path:
        """Turn the open groups 0..groups-1 into the immutable step file and return its path.

        `trained` are the numbers of the groups that the trainer will train on.
        """
        paths = self.open_paths(step)
        if list(paths) != list(range(groups)):
            raise ValueError(f"step {step} has groups {list(paths)}, expected 0..{groups - 1}")
        table = pa.concat_tables([read_table(path) for path in paths.values()])
        marks = pc.is_in(table["group"], value_set=pa.array(sorted(trained), pa.int32()))
        table = table.set_column(table.schema.get_field_index("trained"), SCHEMA.field("trained"), marks)
        parts = [path.with_suffix(SUFFIX) for path in paths.values() if path.with_suffix(SUFFIX).exists()]
        if parts:
            join_files(parts, self.step_path(step).with_suffix(SUFFIX))
        write_table(table, self.step_path(step), **_OPTIONS)
        shutil.rmtree(self._open_folder(step), ignore_errors=True)
        return self.step_path(step)

    def drop_experts(self, before: int) -> None:
        """Remove what engines chose in steps before `before`, on which nobody will train again.

        Raises SrpoError for a file that cannot be removed.
        """
        for path in self.root.glob(f"step-*{SUFFIX}"):
            match = _STEP.match(path.with_suffix(".parquet").name)
            if match is not None and int(match.group(1)) < before:
                try:
                    path.unlink()
                except OSError as error:
                    raise SrpoError(f"{path}: cannot be removed ({error.strerror}); see to the disk") from error
