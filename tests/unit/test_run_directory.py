"""Who may use a run directory, and with which recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from megatron_srpo.errors import SrpoError
from megatron_srpo.launch.run_directory import RunDirectory, differences
from megatron_srpo.recipe.schema import Recipe


def recipe(path: Path, **changes: Any) -> Recipe:
    values = {"name": "r", "steps": 2, "run_dir": path, "model": {"path": "m"}, "data": {"train": "t"}}
    return Recipe.model_validate(values | changes)


def test_only_one_process_at_a_time(tmp_path: Path) -> None:
    with RunDirectory(recipe(tmp_path)), pytest.raises(SrpoError, match="another srpo train"):
        RunDirectory(recipe(tmp_path))


def test_changes_that_would_spoil_the_run_are_refused(tmp_path: Path) -> None:
    with RunDirectory(recipe(tmp_path)):
        pass
    with pytest.raises(SrpoError, match=r"seed was 0 and is 1"):
        RunDirectory(recipe(tmp_path, seed=1))


def test_harmless_changes_are_allowed(tmp_path: Path) -> None:
    with RunDirectory(recipe(tmp_path)):
        pass
    with RunDirectory(recipe(tmp_path, steps=9, trainer={"ranks": 2, "tensor_parallel": 2})) as run:
        assert "steps: 9" in (run.path / "recipe.yaml").read_text()


@pytest.mark.parametrize(("policy", "used"), [("never", True), ("must", False)])
def test_resume_policy(tmp_path: Path, policy: str, used: bool) -> None:
    if used:
        with RunDirectory(recipe(tmp_path)):
            pass
    with pytest.raises(SrpoError, match=f"resume is {policy}"):
        RunDirectory(recipe(tmp_path, resume=policy))


def test_differences_are_dotted_keys(tmp_path: Path) -> None:
    changed = recipe(tmp_path, trainer={"optimizer": {"learning_rate": 0.5}})
    assert differences(recipe(tmp_path), changed) == {"trainer.optimizer.learning_rate": (1e-6, 0.5)}
