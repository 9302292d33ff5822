"""Processes that stop without dying: every wait for them has an end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.conftest import Undisturbed
from tests.faults.lives import Life, sentence_of

# Long enough for ranks that wait for each other while a busy machine starts them.
PATIENCE = 40
HANGING = [
    ("trainer", 0, f"no sign of rank 0 for {PATIENCE} seconds"),
    ("trainer", 1, "trainer rank 0 ended by itself"),
    ("engine", 0, "no answer within 4 seconds"),
]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_with_a_hanging_process_ends_with_a_sentence(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """Three runs beside each other, since they mostly wait."""
    arguments = (
        f"trainer.timeout_seconds={PATIENCE}",
        "rollout.request_timeout_seconds=4",
        "rollout.request_retries=1",
    )
    lives = []
    for number, (role, index, _) in enumerate(HANGING):
        life = Life(undisturbed.recipe, tmp_path / f"run-{number}", *arguments)
        life.wait_for("a group is recorded")
        life.roles_now()[role][index].suspend()
        lives.append(life)
    for (role, index, told), life in zip(HANGING, lives, strict=True):
        code, _, err = life.end()
        assert told in sentence_of(code, err), f"{role} {index}: {err}"
        assert list((life.run_dir / "rollouts").rglob("*.parquet")), "what was recorded is kept"
