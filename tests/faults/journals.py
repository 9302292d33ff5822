"""What must hold of a journal whatever was killed, also where the engine draws other tokens each time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from megatron_srpo.rollout.journal import Row, read_step
from tests.faults.fingerprint import weights
from tests.faults.lives import live_through
from tests.faults.world import STEPS


class Keeper:
    """Remembers a run's journal from one death to the next and sees that nothing of it is lost or changed."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._steps: dict[str, bytes] = {}
        self._groups: dict[tuple[int, int], list[Row]] = {}
        self._starts = 0
        self.saw_open_groups = False

    def look(self) -> None:
        """Compare with what was there before, and remember what is there now; between two lives."""
        rollouts = self.run_dir / "rollouts"
        steps = {path.name: path.read_bytes() for path in rollouts.glob("step-*.parquet")}
        for name, content in self._steps.items():
            assert steps.get(name) == content, f"{name} is not what it was before the kill"
        groups = {
            (rows[0].step, rows[0].group): rows
            for path in rollouts.glob("open/step-*/group-*.parquet")
            if (rows := read_step(path))
        }
        for (step, group), rows in self._groups.items():
            name = f"step-{step:06d}.parquet"
            now = (
                [row for row in read_step(rollouts / name) if row.group == group]
                if name in steps
                else groups.get((step, group), [])
            )
            assert _plain(now) == _plain(rows), f"group {group} of step {step} is not what it was before the kill"
        self._check_replayed()
        self._steps, self._groups = steps, groups
        self.saw_open_groups |= bool(groups)

    def _check_replayed(self) -> None:
        """A start says how many steps it trains again: all that are closed behind the newest checkpoint."""
        starts = [event for event in _events(self.run_dir) if event["event"] == "start"]
        for event in starts[self._starts :]:
            replayed = event["closed_steps"] - event["weight_version"]
            assert event["replayed_steps"] == max(replayed, 0), event
            assert event["closed_steps"] >= len(self._steps), "a start sees every step closed before it"
        self._starts = len(starts)

    def check_whole(self) -> None:
        """Every step of the finished run has its groups once, each with all its samples."""
        for step in range(STEPS):
            rows = read_step(self.run_dir / "rollouts" / f"step-{step:06d}.parquet")
            groups = max(row.group for row in rows) + 1
            wanted = [(group, sample) for group in range(groups) for sample in range(3)]
            assert [(row.group, row.sample) for row in rows] == wanted, f"step {step}"
            assert {row.weight_version for row in rows} == {step}, f"step {step} is of other weights"
        assert not list((self.run_dir / "rollouts" / "open").glob("*/*"))
        steps = [json.loads(line)["step"] for line in (self.run_dir / "metrics.jsonl").read_text().splitlines()]
        assert steps == list(range(STEPS)), "one record a step"


def check_replay(recipe: Path, run_dir: Path) -> None:
    """Training on the run's journal alone ends in the run's weights, bit by bit."""
    replayed = run_dir.with_name(run_dir.name + "-replayed")
    shutil.rmtree(replayed, ignore_errors=True)
    live_through(recipe, replayed, [], "--replay", str(run_dir))
    assert weights(replayed) == weights(run_dir), "the replay of the journal gives other weights"
    shutil.rmtree(replayed)


def _plain(rows: list[Row]) -> list[dict[str, object]]:
    """Rows without the mark that closing a step puts on them."""
    return [{name: value for name, value in vars(row).items() if name != "trained"} for row in rows]


def _events(run_dir: Path) -> list[dict[str, int | str]]:
    path = run_dir / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
