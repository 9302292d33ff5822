"""A disk that is full while something is written, and has room again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.faults.conftest import Undisturbed
from tests.faults.fingerprint import differences, fingerprint
from tests.faults.lives import Life, sentence_of
from tests.faults.small_disk import small_disk


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_full_disk_ends_the_run_and_a_free_one_lets_it_go_on(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """While a group is recorded, and while a checkpoint is written; at the end metrics alone have no room."""
    with small_disk(tmp_path / "disk", "64m") as disk, small_disk(tmp_path / "full", "4k") as full:
        run_dir = disk.root / "run"
        life = Life(undisturbed.recipe, run_dir)
        life.wait_for("a group is recorded")
        disk.fill()
        told = sentence_of(*life.end()[::2])
        # The next group, or the step where that was its last; or, on a busy machine, a group of the next step.
        assert re.search(r"(group-\d+|step-\d+)\.parquet: cannot be written \(No space left on device", told), told
        assert not list(run_dir.rglob("*.tmp")), "what could not be written takes no space"
        rollouts = run_dir / "rollouts"
        recorded = [*rollouts.glob("open/*/group-*.parquet"), *rollouts.glob("step-*.parquet")]
        assert recorded, "what was recorded is kept"
        disk.clear()

        life = Life(undisturbed.recipe, run_dir)
        life.wait_for("a step is closed")
        disk.fill(spare=400_000)
        told = sentence_of(*life.end()[::2])
        # What the checkpoint has filled before it gave up may be missed by a group or a snapshot at the same time.
        assert "cannot be written (No space left" in told, told
        assert not list((run_dir / "checkpoints").glob("step-*")), "no half checkpoint counts"
        disk.clear()

        full.fill()
        (run_dir / "metrics.jsonl").rename(run_dir / "metrics-before.jsonl")
        (run_dir / "metrics.jsonl").symlink_to(full.root / "metrics.jsonl")
        (run_dir / "tensorboard").rename(run_dir / "tensorboard-before")
        (run_dir / "tensorboard").symlink_to(full.root / "tensorboard")
        code, _, err = Life(undisturbed.recipe, run_dir).end()
        assert code == 0, err
        assert err.count("the run goes on without it") == 2, err
        (run_dir / "metrics.jsonl").unlink()
        (run_dir / "metrics.jsonl").touch()
        expected = {name: value for name, value in undisturbed.fingerprint.items() if "metrics" not in name}
        assert not differences(fingerprint(run_dir), expected)
