"""When a stage ends, and that its switch and a person's request survive a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_srpo.curriculum.curriculum import Curriculum
from megatron_srpo.curriculum.restore import Restored, request_next_stage, switches
from megatron_srpo.curriculum.stages import StageProgress, Switch, plateau
from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.curriculum import PlateauSection, StageSection
from tests.unit.curriculum.folder import Folder
from tests.unit.curriculum.world import World, build_recipe, ids_of, simulate


@pytest.mark.parametrize(
    ("values", "window", "patience", "gain", "expected"),
    [
        ([0.1, 0.1], 1, 1, 0.01, (0.1, 0.1)),
        ([0.1, 0.109], 1, 1, 0.01, (0.1, 0.109)),
        ([0.25, 0.5], 1, 1, 0.25, None),  # a gain of exactly minimum_gain is one
        ([0.1, 0.2], 1, 1, 0.0, None),
        ([0.5], 1, 1, 0.01, None),
        ([0.5, 0.1], 1, 2, 0.01, None),  # fewer windows than patience and one before
        ([0.5, 0.1, 0.4], 1, 2, 0.01, (0.5, 0.4)),
        ([0.5, 0.1, 0.9], 1, 2, 0.01, None),
        ([0.9, 0.5, 0.1, 0.4], 1, 2, 0.01, (0.9, 0.4)),  # the best of all windows before counts, not the last
        ([0.0, 1.0, 0.5, 0.5], 2, 1, 0.01, (0.5, 0.5)),
        ([0.0, 1.0, 0.5, 0.5, 9.0], 2, 1, 0.01, (0.5, 0.5)),  # an unfinished window does not count
        ([0.0, 1.0, 0.5], 2, 1, 0.01, None),
        ([0.0, 0.0, 1.0, 0.0], 2, 1, 0.01, None),
    ],
)
def test_plateau_by_hand(
    values: list[float], window: int, patience: int, gain: float, expected: tuple[float, float] | None
) -> None:
    found = plateau(values, PlateauSection(window=window, patience=patience, minimum_gain=gain))
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert (found["best_before"], found["best_recent"]) == expected
        assert (found["windows"], found["window"]) == (len(values) // window, window)


def progress(end: dict[str, object]) -> StageProgress:
    return StageProgress(StageSection.model_validate({"name": "s", "end": end}), {"a": 2, "b": 0})


def test_ends_by_steps_and_by_epochs_of_every_source() -> None:
    stage = progress({"steps": 2, "epochs": 1})
    assert stage.ended_by({"a": 9, "b": 9}) is None  # a stage has one step at least
    stage.close_step(0.0, 0.0)
    assert stage.ended_by({"a": 2, "b": 1}) is None
    assert stage.ended_by({"a": 3, "b": 0}) is None
    assert stage.ended_by({"a": 3, "b": 1}) == ("epochs", {"epochs": 1, "limit": 1})
    stage.close_step(0.0, 0.0)
    assert stage.ended_by({"a": 2, "b": 0}) == ("steps", {"steps": 2, "limit": 2})


@pytest.mark.parametrize(("metric", "ends"), [("reward", True), ("accuracy", False)])
def test_ends_by_a_plateau_of_its_metric(metric: str, ends: bool) -> None:
    stage = progress({"plateau": {"metric": metric, "window": 1, "patience": 1}})
    stage.close_step(0.5, 0.1)
    stage.close_step(0.5, 0.2)
    ended = stage.ended_by({"a": 2, "b": 0})
    assert (ended is not None and ended[0] == "plateau") is ends


TWO = [{"name": "one", "end": {"steps": 50}}, {"name": "two", "overrides": {"prompts_per_step": 2}}]


def world(**options: object) -> World:
    return World(build_recipe(prompts_per_step=3, **{"stages": TWO, **options}), ids_of({"a": 7}))


def fresh(of: World) -> Curriculum:
    return Curriculum(of.recipe, of.ids)


def test_a_switch_is_recorded_and_restored(tmp_path: Path) -> None:
    stages = [{"name": "one", "end": {"steps": 2}}, *TWO[1:]]
    here, disk = world(stages=stages), Folder(tmp_path)
    simulate(here, disk, 2)
    curriculum = fresh(here)
    assert disk.store.restore(curriculum) == Restored(0, 2, {})
    assert curriculum.stage_name == "one"
    switch = curriculum.due_switch(False)
    assert switch == Switch(2, "one", "two", "steps", {"steps": 2, "limit": 2})
    disk.store.record_switch(switch)
    restored = fresh(here)
    disk.store.restore(restored)
    assert restored.stage_name == "two"
    assert restored.due_switch(False) is None
    assert switches(tmp_path / "rollouts") == [switch]
    trace = simulate(here, disk, 4)
    assert [(step.stage, len(step.groups)) for step in trace.steps] == [("two", 2)] * 2


def test_the_last_stages_end_ends_the_run_for_good(tmp_path: Path) -> None:
    here, disk = world(stages=[{"name": "only", "end": {"steps": 1}}]), Folder(tmp_path)
    assert simulate(here, disk, 9).ended == "curriculum"
    restored = fresh(here)
    disk.store.restore(restored)
    assert restored.ended
    assert restored.due_switch(requested=True) is None
    assert [s.to for s in switches(tmp_path / "rollouts")] == [None]


def test_a_request_ends_its_stage_once(tmp_path: Path) -> None:
    here, disk = world(), Folder(tmp_path)
    simulate(here, disk, 1)
    curriculum = fresh(here)
    disk.store.restore(curriculum)
    assert not disk.store.is_requested("one")
    request_next_stage(tmp_path, "one")
    assert disk.store.is_requested("one")
    assert not disk.store.is_requested("two")  # about another stage: void
    switch = curriculum.due_switch(disk.store.is_requested(curriculum.stage_name))
    assert switch == Switch(1, "one", "two", "request", {"steps": 1.0})
    disk.store.record_switch(switch)
    assert not disk.store.is_requested("one")
    request_next_stage(tmp_path, "two")
    disk.store.record_switch(switch)
    assert disk.store.is_requested("two"), "a request for another stage stays"


def test_a_request_waits_for_the_stages_first_step(tmp_path: Path) -> None:
    """Else its switch would take the file of the one that began the stage."""
    here = world(
        stages=[{"name": "one", "end": {"steps": 1}}, {"name": "two", "end": {"steps": 9}}, {"name": "x"}]
    )
    disk = Folder(tmp_path)
    simulate(here, disk, 1)
    curriculum = fresh(here)
    disk.store.restore(curriculum)
    first = curriculum.due_switch(False)
    assert first is not None
    disk.store.record_switch(first)
    curriculum.switch(first)
    assert curriculum.due_switch(requested=True) is None
    simulate(here, disk, 2)
    again = fresh(here)
    disk.store.restore(again)
    assert again.due_switch(requested=True) == Switch(2, "two", "x", "request", {"steps": 1.0})


def test_broken_files_of_stages_are_named(tmp_path: Path) -> None:
    here, disk = world(), Folder(tmp_path)
    file = tmp_path / "rollouts" / "stage-000000.json"
    for broken in ("{", "[]", '{"step": 1}', ""):
        file.write_text(broken)
        for read in (lambda: disk.store.restore(fresh(here)), lambda: switches(tmp_path / "rollouts")):
            with pytest.raises(SrpoError, match=r"stage-000000\.json: is not a stage's end \(.*\); restore it"):
                read()
    file.write_text('{"step": 0, "stage": "one", "to": "gone", "cause": "steps", "numbers": {}}')
    with pytest.raises(SrpoError, match="the journal has a stage gone; the recipe's are one, two"):
        disk.store.restore(fresh(here))
    for broken in ("{", "[]", "{}"):
        (tmp_path / "stage-request.json").write_text(broken)
        with pytest.raises(SrpoError, match=r"stage-request\.json: is not a request .*; remove it"):
            disk.store.is_requested("one")


def snapshots(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "curriculum").iterdir())


def test_the_newest_snapshot_that_the_journal_reaches_is_taken(tmp_path: Path) -> None:
    here, disk = world(), Folder(tmp_path)
    curriculum = fresh(here)
    for steps in (1, 2, 3):
        simulate(here, disk, steps)
        curriculum = fresh(here)
        disk.store.restore(curriculum)
        disk.store.save(curriculum)
    assert snapshots(tmp_path) == ["step-000002.npz", "step-000003.npz"]
    assert disk.store.restore(fresh(here)) == Restored(3, 0, {"a": (0, 0)})
    (tmp_path / "rollouts" / "step-000002.parquet").unlink()
    (tmp_path / "rollouts" / "stage-000003.json").write_text("of a step that is no more")
    assert disk.store.restore(fresh(here)) == Restored(2, 0, {"a": (0, 0)})
    # They must not be there when the journal comes that far again, with other groups.
    assert snapshots(tmp_path) == ["step-000002.npz"]
    assert not (tmp_path / "rollouts" / "stage-000003.json").exists()


def test_broken_snapshots_are_named(tmp_path: Path) -> None:
    here, disk = world(), Folder(tmp_path)
    simulate(here, disk, 1)
    curriculum = fresh(here)
    disk.store.restore(curriculum)
    disk.store.save(curriculum)
    path = tmp_path / "curriculum" / "step-000001.npz"
    whole = path.read_bytes()
    for broken in (b"", b"no zip", whole[: len(whole) // 2], whole.replace(b"a/keys", b"a/nose")):
        path.write_bytes(broken)
        with pytest.raises(SrpoError, match=r"step-000001\.npz: is not a snapshot .*; remove it"):
            disk.store.restore(fresh(here))
    path.write_bytes(whole)
    stages = [{"name": "one", "mixture": {"a": 1}}]
    wider = Curriculum(build_recipe(("a", "b"), stages=stages), ids_of({"a": 7, "b": 2}))
    with pytest.raises(SrpoError, match="is not a snapshot of this run's curriculum"):
        disk.store.restore(wider)
