"""Whole runs whose processes are killed; the long form is tools/soak.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.faults.conftest import Undisturbed
from tests.faults.fingerprint import differences, fingerprint
from tests.faults.journals import Keeper, check_replay
from tests.faults.lives import Death, Life, Strike, live_through, sentence_of
from tests.faults.roles import ROLES
from tests.faults.schedules import schedule
from tests.faults.world import STEPS, World

LONG = "max_response_tokens=320"  # several seconds a step, a second and more a group


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_whose_processes_are_killed_one_after_the_other_ends_in_the_same_bits(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """Every kind of death: of all, of one that the rest needs, and of one that is replaced."""
    strikes = [
        Strike("engine guard", seconds=3.0),
        Strike("reward worker", "a group is recorded", 0.01),
        Strike("reward host", "a step is closed"),
        Strike("trainer", "a checkpoint's tensors are written", 0.0, pick=0.9),
        Strike("controller", "a checkpoint is whole", 0.001),
        Strike("trainer guard", "the model is exported"),
    ]
    deaths: list[Death] = []
    live_through(undisturbed.recipe, tmp_path / "run", strikes, told=print, hit=deaths.append)
    assert [death.strike.role for death in deaths] == [strike.role for strike in strikes]
    assert deaths[0].phase == "start-up"
    assert not differences(fingerprint(tmp_path / "run"), undisturbed.fingerprint)


def test_the_undisturbed_run_would_show_a_difference(undisturbed: Undisturbed) -> None:
    """Updates, two stages, epochs, resampling: else the same bits would say nothing."""
    lines = [json.loads(line) for line in (undisturbed.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == STEPS
    assert all(line["grad_norm"] > 0 for line in lines)
    assert {line["stage"] for line in lines} == {0.0, 1.0}
    assert any(line["epoch/math"] > 0 for line in lines)
    names = "\n".join(undisturbed.fingerprint)
    for part in (
        "step-000004.parquet: tokens",
        "exp_avg_sq",
        "common",
        "curriculum",
        "model: ",
        "metrics of step 4",
    ):
        assert part in names


@pytest.mark.slow
def test_every_role_is_found(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """The killer sees all processes of a run and knows what each is for; a struck one is named in the end."""
    life = Life(undisturbed.recipe, tmp_path / "run")
    life.wait_for("a group is recorded")
    processes = life.roles_now()
    processes["trainer"][1].kill()
    assert "trainer rank 1" in sentence_of(*life.end()[::2])
    found = {role: len(of_role) for role, of_role in processes.items()}
    assert found.pop("reward worker") in (1, 2), "they are forked when there is work"
    assert found.pop("other") == 0
    assert found == {role: 2 if "trainer" in role else 1 for role in ROLES if role != "reward worker"}


def test_schedules_are_functions_of_their_seed() -> None:
    assert schedule(7, 13, 4) == schedule(7, 13, 4)
    assert schedule(7, 13, 4) != schedule(7, 14, 4) != schedule(8, 14, 4)


@pytest.mark.sglang
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kills_with_sglang_lose_no_group_and_count_none_twice(
    world: World, engine_python: Path, tmp_path: Path
) -> None:
    recipe, run_dir = world.recipe(engine="sglang"), tmp_path / "run"
    keeper, deaths = Keeper(run_dir), list[Death]()
    strikes = [
        Strike("engine", "a group is recorded", 0.01),
        Strike("controller", "a step is closed", 0.02),
    ]
    # One group after the other and long responses: a busy machine too strikes before the last group is there.
    arguments = (f"engine.python={engine_python}", "rollout.max_concurrent_requests=3", f"rollout.{LONG}")
    live_through(recipe, run_dir, strikes, *arguments, told=print, hit=deaths.append, between=keeper.look)
    assert len(deaths) == len(strikes)
    assert keeper.saw_open_groups, "the test says nothing unless groups were on disk"
    keeper.check_whole()
    check_replay(recipe, run_dir)
