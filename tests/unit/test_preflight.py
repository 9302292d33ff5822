"""Refusals before anything starts, and their nearest neighbours that go through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe import preflight
from megatron_srpo.recipe.load import load_recipe
from megatron_srpo.recipe.model_config import read_model_config
from megatron_srpo.recipe.reward import RewardSection
from tests.unit.folders import write_problems, write_recipe

POOL = "curriculum.min_pool=2"  # as many as there are problems
BUFFER = "overlong_buffer: 64"  # as many as a response has tokens


def checked(folder: Path, *overrides: str) -> None:
    preflight.preflight(load_recipe(write_recipe(folder), list(overrides)))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["engine.tensor_parallel=3"], "engine.tensor_parallel"),
        (["trainer.ranks=8", "trainer.tensor_parallel=1", "trainer.updates_per_step=2"], "4 samples for 8 data"),
        (["curriculum.strategy=history", POOL], "curriculum.min_pool 2 is not below the 2 problems of"),
        (["curriculum.strategy=predictive", POOL], "curriculum.min_pool 2 is not below the 2 problems of"),
    ],
)
def test_refused(tmp_path: Path, overrides: list[str], said: str) -> None:
    with pytest.raises(SrpoError, match=said):
        checked(tmp_path, *overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["trainer.ranks=8", "trainer.tensor_parallel=1"],
        ["curriculum.strategy=history", "curriculum.min_pool=1"],
        ["curriculum.strategy=none", POOL],
        [f"algorithm={{overlong: soft_penalty, {BUFFER}}}"],
        ["algorithm={overlong: none, overlong_buffer: 65}"],
        ["engine.backend=deterministic", "engine.python=gone"],
    ],
)
def test_accepted(tmp_path: Path, overrides: list[str]) -> None:
    checked(tmp_path, *overrides)


def test_a_small_heldout_source_is_no_pool(tmp_path: Path) -> None:
    heldout = write_problems(tmp_path / "heldout.parquet", ["What is 2 - 1?"])
    checked(tmp_path, "curriculum.strategy=history", "curriculum.min_pool=1", f"data.heldout={{math: {heldout}}}")


def test_the_stage_is_named_where_it_differs(tmp_path: Path) -> None:
    recipe, stages = write_recipe(tmp_path), "curriculum.stages=[{name: one, end: {steps: 1}}, {name: two%s}]"
    model = read_model_config(load_recipe(recipe).model.path)
    later = load_recipe(recipe, [stages % ", overrides: {max_response_tokens: 481}"])
    with pytest.raises(SrpoError, match=r"^stage two: rollout\.max_prompt_tokens 30"):
        preflight.check_shapes(model, later)
    always = load_recipe(recipe, ["rollout.max_response_tokens=481"])
    with pytest.raises(SrpoError, match=r"^rollout\.max_prompt_tokens 30"):
        preflight.check_shapes(model, always)


@pytest.mark.parametrize("what", ["folder", "not executable"])
def test_an_engine_python_that_cannot_be_run(tmp_path: Path, what: str) -> None:
    recipe = write_recipe(tmp_path)
    if what == "not executable":
        (tmp_path / "python").chmod(0o644)
    python = tmp_path if what == "folder" else tmp_path / "python"
    with pytest.raises(SrpoError, match=r"engine\.python .*: no interpreter there"):
        preflight.check_engine_python(load_recipe(recipe, [f"engine.python={python}"]))


@pytest.mark.parametrize(
    ("section", "programs", "asked"),
    [
        ({}, False, []),
        ({}, True, ["sandbox"]),
        ({"judge": {"path": "some.where:judge"}}, False, ["workers"]),
        ({"functions": {"short": {"path": "some.where:short"}}}, True, ["workers", "sandbox"]),
    ],
)
def test_what_judges_responses_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, section: dict[str, Any], programs: bool, asked: list[str]
) -> None:
    found: list[str] = []

    async def check_workers(reward: RewardSection) -> None:
        found.append("workers")

    monkeypatch.setattr(preflight, "check_workers", check_workers)
    monkeypatch.setattr(preflight, "describe_sandbox", lambda sandbox: found.append("sandbox"))
    preflight.check_rewards(RewardSection.model_validate(section), programs)
    assert found == asked


@pytest.mark.parametrize("with_programs", [False, True])
def test_programs_are_found_and_every_source_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_programs: bool
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(preflight, "check_rewards", lambda reward, programs: asked.append(programs))
    file = write_recipe(tmp_path)
    heldout = write_problems(tmp_path / "heldout.parquet", ["What is 2 - 1?"])
    tests = ['{"kind": "stdio", "cases": [["", "1"]]}'] * 2
    if with_programs:
        write_problems(tmp_path / "train.parquet", ["Print one.", "Print 1."], answer=["", ""], tests=tests)
    recipe = load_recipe(file, [f"data.heldout={{math: {heldout}}}"])
    preflight.preflight(recipe)
    preflight.preflight(recipe, prompts=False)
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "rollouts" / "step-000000.parquet").touch()
    preflight.preflight(recipe, replay=tmp_path)
    assert asked == [with_programs], "without an engine or prompts nothing is judged"
    write_problems(tmp_path / "heldout.parquet", ["What is " + "2" * 99])
    with pytest.raises(SrpoError, match=r"heldout\.parquet"):
        preflight.preflight(recipe)
