"""Moments in the life of a run, seen from outside: a file appears."""

from __future__ import annotations

from pathlib import Path

# What appears in the run directory, by the moment's name.
MOMENTS = {
    "a rank writes its log": "logs/trainer-*.log",
    "a group is recorded": "rollouts/open/*/group-*.parquet",
    "a step is closed": "rollouts/step-*.parquet",
    "a step's metrics are written": "metrics.jsonl",
    "a stage ends": "rollouts/stage-*.json",
    "a checkpoint begins": "checkpoints/saving-*",
    "a checkpoint's tensors are written": "checkpoints/saving-*/*.distcp",
    "a checkpoint is whole": "checkpoints/step-*/manifest.json",
    "a curriculum snapshot is written": "curriculum/step-*.npz",
    "weights are written for the engines": "weights/*.tmp",
    "the model is exported": "model.tmp",
    "the model is there": "model/config.json",
}
TIME = "time"

Seen = frozenset[tuple[str, int]]


def seen(run_dir: Path, moment: str) -> Seen:
    """The files of a moment as they are now; a file that is written again is another one."""
    found = set()
    for path in run_dir.glob(MOMENTS[moment]):
        try:
            found.add((str(path), path.stat().st_ctime_ns))
        except FileNotFoundError:
            continue
    return frozenset(found)


def has_come(run_dir: Path, moment: str, before: Seen) -> bool:
    """Whether something has appeared that was not there before."""
    return bool(seen(run_dir, moment) - before)
