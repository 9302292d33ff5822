"""The curriculum's state out of the run directory: a snapshot, and the steps of the journal behind it.

    curriculum/step-000020.npz             the fold of steps 0..19; a cache, whose loss costs time only
    rollouts/stage-000040.json             step 40 is the first of another stage, and why: part of the journal
    stage-request.json                     `srpo stage next`: a person wants the next stage

A snapshot is written with every checkpoint, so that a start folds few steps however long the run is.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from megatron_srpo.curriculum.curriculum import Curriculum
from megatron_srpo.curriculum.history import groups_of, outcomes_of
from megatron_srpo.curriculum.outcomes import GroupOutcome
from megatron_srpo.curriculum.stages import Switch
from megatron_srpo.errors import SrpoError
from megatron_srpo.files import replace_file, sync
from megatron_srpo.rollout.journal import Journal

_SNAPSHOT = re.compile(r"^step-(\d{6})\.npz$")
_SWITCH = re.compile(r"^stage-(\d{6})\.json$")
REQUEST = "stage-request.json"
# What reading a damaged snapshot, or one of another run, can raise.
_BROKEN = (OSError, EOFError, ValueError, TypeError, LookupError, zipfile.BadZipFile)


@dataclass(frozen=True)
class Restored:
    """What a start found: steps that came with the snapshot, steps folded, prompts added and removed by source."""

    from_snapshot: int
    folded: int
    changed: Mapping[str, tuple[int, int]]


class CurriculumStore:
    """Reads and writes what a run directory keeps of the curriculum."""

    def __init__(self, run_dir: Path, journal: Journal) -> None:
        self._run_dir, self._journal = run_dir, journal
        self._folder = run_dir / "curriculum"

    def restore(self, curriculum: Curriculum) -> Restored:
        """Bring a fresh curriculum to the end of the journal's closed steps.

        Raises SrpoError naming the file that cannot be read.
        """
        closed = len(self._journal.closed_steps())
        self._drop_newer_than(closed)
        snapshots = self._snapshots()
        changed: dict[str, tuple[int, int]] = {}
        if snapshots:
            changed = self._load(curriculum, snapshots[-1])
        start = curriculum.steps
        for step in range(start, closed):
            groups = groups_of(self._journal.step_path(step))
            curriculum.replay_step(outcomes_of(groups), groups["stage"][0].as_py())
        recorded = self.recorded_switch(closed)
        if recorded is not None:
            if recorded.stage != curriculum.stage_name:
                raise SrpoError(
                    f"{self._switch_path(closed)}: ends stage {recorded.stage}, but before step {closed} the "
                    f"journal is in stage {curriculum.stage_name}; restore it or delete its run"
                )
            curriculum.switch(recorded)
        return Restored(start, closed - start, changed)

    def _drop_newer_than(self, closed: int) -> None:
        """Remove what belongs to steps that are not in the journal any more: they will be others."""
        for step in self._snapshots():
            if step > closed:
                self._path(step).unlink()
        for path in _switch_files(self._journal.root):
            if int(path.stem.removeprefix("stage-")) > closed:
                path.unlink()

    def open_groups(self, step: int) -> list[GroupOutcome]:
        """The outcomes of the groups that the open step has already."""
        return [o for path in self._journal.open_paths(step).values() for o in outcomes_of(groups_of(path))]

    def _snapshots(self) -> list[int]:
        if not self._folder.exists():
            return []
        return sorted(int(m.group(1)) for p in self._folder.iterdir() if (m := _SNAPSHOT.match(p.name)))

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step:06d}.npz"

    def _load(self, curriculum: Curriculum, step: int) -> dict[str, tuple[int, int]]:
        path = self._path(step)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return curriculum.load_state_dict(arrays)
        except _BROKEN as error:
            raise SrpoError(
                f"{path}: is not a snapshot of this run's curriculum ({error}); remove it, it is folded "
                "again from the journal"
            ) from error

    def save(self, curriculum: Curriculum) -> None:
        """Write a snapshot between two steps and drop all but the newest two."""
        buffer = io.BytesIO()
        np.savez(buffer, **curriculum.state_dict())  # type: ignore[arg-type]  # its stub mistakes names for options
        replace_file(self._path(curriculum.steps), buffer.getbuffer())
        for step in self._snapshots()[:-2]:
            self._path(step).unlink()

    def recorded_switch(self, step: int) -> Switch | None:
        """The journal's switch before a step."""
        path = self._switch_path(step)
        return _read_switch(path) if path.exists() else None

    def _switch_path(self, step: int) -> Path:
        return self._journal.root / f"stage-{step:06d}.json"

    def record_switch(self, switch: Switch) -> None:
        """Write a switch to the journal, before anything is drawn behind it, and drop the request it answers."""
        replace_file(self._switch_path(switch.step), json.dumps(asdict(switch), indent=2).encode() + b"\n")
        if self.is_requested(switch.stage):
            self._request.unlink()
            sync(self._run_dir)

    @property
    def _request(self) -> Path:
        return self._run_dir / REQUEST

    def is_requested(self, stage: str) -> bool:
        """Whether a person has asked for the end of this stage; a request about another one is void."""
        try:
            return bool(json.loads(self._request.read_text())["stage"] == stage)
        except FileNotFoundError:
            return False
        except (ValueError, TypeError, KeyError) as error:
            raise SrpoError(f"{self._request}: is not a request for a stage's end ({error}); remove it") from error


def _read_switch(path: Path) -> Switch:
    try:
        return Switch(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise SrpoError(f"{path}: is not a stage's end ({error}); restore it or delete its run") from error


def switches(rollouts: Path) -> list[Switch]:
    """All recorded switches of a journal, in order."""
    return [_read_switch(path) for path in _switch_files(rollouts)]


def _switch_files(rollouts: Path) -> list[Path]:
    return sorted(path for path in rollouts.iterdir() if _SWITCH.match(path.name))


def request_next_stage(run_dir: Path, stage: str) -> None:
    """Ask a run, running or not, to end this stage before its next step."""
    replace_file(run_dir / REQUEST, json.dumps({"stage": stage}).encode())
