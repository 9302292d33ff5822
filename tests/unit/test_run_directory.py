"""Who may use a run directory, and with which recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megatron_srpo.errors import SrpoError
from megatron_srpo.launch.run_directory import RunDirectory, differences, is_finished
from megatron_srpo.recipe.schema import Recipe
from megatron_srpo.rollout.journal import read_step
from tests.architectures import write_tiny
from tests.unit.test_journal import row


def recipe(path: Path, **changes: Any) -> Recipe:
    values = {"name": "r", "steps": 2, "run_dir": path, "model": {"path": "m"}, "data": {"train": {"math": "t"}}}
    return Recipe.model_validate(values | changes)


def test_only_one_process_at_a_time(tmp_path: Path) -> None:
    with RunDirectory(recipe(tmp_path)), pytest.raises(SrpoError, match="another srpo train"):
        RunDirectory(recipe(tmp_path))


def record(run: RunDirectory, step: int = 0, text: str = "") -> None:
    """A closed step of one group."""
    run.journal.append([replace(row(0, 0, step), text=text)])
    run.journal.close(step, 1, [0])


def test_changes_that_would_spoil_the_run_are_refused(tmp_path: Path) -> None:
    with RunDirectory(recipe(tmp_path)) as run:
        record(run)
    with pytest.raises(SrpoError, match=r"seed was 0 and is 1"):
        RunDirectory(recipe(tmp_path, seed=1))


def test_harmless_changes_are_allowed(tmp_path: Path) -> None:
    with RunDirectory(recipe(tmp_path)) as run:
        record(run)
    with RunDirectory(recipe(tmp_path, steps=9, trainer={"ranks": 2, "tensor_parallel": 2})) as run:
        assert "steps: 9" in (run.path / "recipe.yaml").read_text()


LAYOUTS: list[dict[str, Any]] = [
    {"ranks": 8, "tensor_parallel": 2, "pipeline_parallel": 2, "sequence_parallel": True},
    {"ranks": 4, "data_parallel": 4, "expert_parallel": 2},
    {"ranks": 2, "pipeline_parallel": 2, "virtual_pipeline_parallel": 2},
    {"ranks": 2, "pipeline_parallel": 2, "pipeline_layers": [3, 1]},
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_may_follow_every_other(tmp_path: Path, layout: dict[str, Any]) -> None:
    with RunDirectory(recipe(tmp_path, trainer=layout)) as run:
        record(run)
    for other in LAYOUTS:
        with RunDirectory(recipe(tmp_path, trainer=other)):
            pass


@pytest.mark.parametrize(("policy", "used"), [("never", True), ("must", False)])
def test_resume_policy(tmp_path: Path, policy: str, used: bool) -> None:
    if used:
        with RunDirectory(recipe(tmp_path)) as run:
            record(run)
    with pytest.raises(SrpoError, match=f"resume is {policy}"):
        RunDirectory(recipe(tmp_path, resume=policy))
    assert used or not any(tmp_path.iterdir()), "a refused start leaves nothing"


def test_a_start_that_recorded_nothing_binds_nobody(tmp_path: Path) -> None:
    for seed in (0, 1):
        with RunDirectory(recipe(tmp_path, seed=seed, resume="never")) as run:
            assert not run.has_progress
            assert f"seed: {seed}\n" in (tmp_path / "recipe.yaml").read_text()


def test_replay_takes_over_steps_and_never_mixes_runs(tmp_path: Path) -> None:
    sources = {name: tmp_path / name for name in ("a", "b")}
    for name, source in sources.items():
        with RunDirectory(recipe(source)) as run:
            for step in range(2):
                record(run, step, text=name)
            run.journal.step_path(0).with_suffix(".experts").write_bytes(f"experts of {name}".encode())
    with RunDirectory(recipe(tmp_path / "replay")) as run:
        assert run.copy_steps(sources["a"]) == run.copy_steps(sources["a"]) == 2
        assert [r.text for r in read_step(run.journal.step_path(1))] == ["a"]
        assert run.journal.step_path(0).with_suffix(".experts").read_bytes() == b"experts of a"
        with pytest.raises(SrpoError, match="holds steps of its own"):
            run.copy_steps(sources["b"])
        assert [r.text for r in read_step(run.journal.step_path(1))] == ["a"]


def test_replay_needs_the_choices_of_experts_that_it_replays(tmp_path: Path) -> None:
    """Which a run with checkpoints has removed: said before any process is started."""
    model = write_tiny("qwen3_moe", tmp_path / "model")
    with RunDirectory(recipe(tmp_path / "recorded")) as run:
        record(run)
    replaying = {"trainer": {"experts": {"replay_routing": True}}, "model": {"path": model}}
    with RunDirectory(recipe(tmp_path / "replay", **replaying)) as run:
        with pytest.raises(SrpoError, match=r"step-000000\.parquet: was recorded without the engines' choices"):
            run.copy_steps(tmp_path / "recorded")
        assert run.journal.closed_steps() == []


def test_what_is_kept_of_choices_may_change(tmp_path: Path) -> None:
    with RunDirectory(recipe(tmp_path)) as run:
        record(run)
    with RunDirectory(recipe(tmp_path, trainer={"experts": {"keep_routing": True}})) as run:
        assert list(run.changed) == ["trainer.experts.keep_routing"]


def test_differences_are_dotted_keys(tmp_path: Path) -> None:
    changed = recipe(tmp_path, trainer={"optimizer": {"learning_rate": 0.5}})
    assert differences(recipe(tmp_path), changed) == {"trainer.optimizer.learning_rate": (1e-6, 0.5)}


def test_a_source_that_is_gone_is_a_change(tmp_path: Path) -> None:
    two = recipe(tmp_path, data={"train": {"math": "t", "code": "c"}})
    assert differences(two, recipe(tmp_path)) == {"data.train.code": ("c", None)}


def test_a_run_may_be_moved_and_renamed(tmp_path: Path) -> None:
    with RunDirectory(recipe(tmp_path / "old")) as run:
        record(run)
    (tmp_path / "old").rename(tmp_path / "new")
    with RunDirectory(recipe(tmp_path / "new", name="new")) as run:
        assert run.journal.closed_steps() == [0]


def test_what_to_do_at_the_cap_may_change(tmp_path: Path) -> None:
    with RunDirectory(recipe(tmp_path)) as run:
        record(run)
    more = {"dynamic": {"max_draws": 9, "at_cap": "stop"}}
    with RunDirectory(recipe(tmp_path, curriculum=more)):
        pass
    with pytest.raises(SrpoError, match=r"curriculum\.strategy was 'none' and is 'history'"):
        RunDirectory(recipe(tmp_path, curriculum={"strategy": "history"}))


@pytest.mark.parametrize(
    ("ended_by", "changes", "finished"),
    [
        ("steps", {}, True),
        ("steps", {"steps": 1}, True),
        ("steps", {"steps": 3}, False),
        ("recording", {"steps": 3}, False),
        ("curriculum", {"steps": 3}, True),
        ("budget", {"steps": 3}, True),
        ("budget", {"budget_tokens": 200}, False),
    ],
)
def test_a_finished_run_goes_on_when_it_is_given_more(
    tmp_path: Path, ended_by: str, changes: dict[str, int], finished: bool
) -> None:
    with RunDirectory(recipe(tmp_path, budget_tokens=100)) as run:
        assert not is_finished(run.recipe)
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "config.json").write_text("{}")
        run.finish(2, ended_by)
    assert is_finished(recipe(tmp_path, **{"budget_tokens": 100, **changes})) is finished


@pytest.mark.parametrize("broken", ["", "{}", "[]"])
def test_a_broken_note_of_the_end_is_named(tmp_path: Path, broken: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "finished.json").write_text(broken)
    with pytest.raises(SrpoError, match=r"finished\.json: does not say how the run ended .*; remove it"):
        is_finished(recipe(tmp_path))
