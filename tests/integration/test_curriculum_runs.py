"""Whole runs with stages, resampling and mixtures, on the deterministic engine."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from megatron_srpo.cli import app
from megatron_srpo.errors import SrpoError
from megatron_srpo.rollout.journal import read_step
from tests.conftest import REPOSITORY
from tests.integration.runs import Run, train

STEPS = 7
RECIPE = """
base: {repository}/recipes/tiny_cpu.yaml
name: staged
steps: {steps}
data: {{train: {{math: {folder}/math.parquet, more: {folder}/more.parquet}}}}
rollout: {{prompts_per_step: 4, samples_per_prompt: 2, max_response_tokens: 40}}
engine: {{backend: deterministic}}
trainer: {{ranks: 1, tensor_parallel: 1, optimizer: {{learning_rate: 1.0e-3}}}}
checkpoint: {{every: 3, keep: 1}}
evaluation: {{samples_per_prompt: 1, max_prompts: 2}}
curriculum:
  strategy: {strategy}
  min_pool: 2
  stages:
    - {{name: first, mixture: {{math: 1}}, end: {{epochs: 2}}}}
    - name: second
      mixture: {{math: 1, more: 2}}
      overrides: {{prompts_per_step: 3, max_response_tokens: 48, learning_rate: 5.0e-4}}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    problems = pq.read_table(REPOSITORY / "recipes/tiny/train.parquet")
    pq.write_table(problems.slice(0, 6), folder / "math.parquet")
    pq.write_table(problems.slice(6, 5), folder / "more.parquet")
    return folder


def recipe(data: Path, strategy: str) -> Path:
    path = data / f"{strategy}.yaml"
    path.write_text(RECIPE.format(repository=REPOSITORY, folder=data, strategy=strategy, steps=STEPS))
    return path


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("straight") / "run"
    code, _, err = train(recipe(data, "history"), run_dir)
    assert code == 0, err
    return run_dir


def events(run_dir: Path, name: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == name]


def metrics(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_stages_follow_and_say_why(straight: Path) -> None:
    steps = [read_step(straight / f"rollouts/step-{step:06d}.parquet") for step in range(STEPS)]
    stages = [rows[0].stage for rows in steps]
    assert all(len({row.stage for row in rows}) == 1 for rows in steps)
    assert stages == sorted(stages), "first, then second"
    [switch] = events(straight, "stage")
    first = stages.index("second")
    assert (switch["step"], switch["cause"], switch["to"]) == (first, "epochs", "second")
    assert switch["numbers"] == {"epochs": 2, "limit": 2}
    assert json.loads((straight / f"rollouts/stage-{first:06d}.json").read_text())["cause"] == "epochs"
    assert [len(rows) for rows in steps] == [8] * first + [6] * (STEPS - first), "prompts_per_step of the stage"
    assert [m["learning_rate"] for m in metrics(straight)] == [1e-3] * first + [5e-4] * (STEPS - first)
    assert {row.source for row in steps[0]} == {"math"}
    later = [row.source for rows in steps[first:] for row in rows if row.sample == 0]
    assert later[:3].count("more") == 2, "one part math, two parts more"


def test_solved_prompts_leave_the_pool(straight: Path) -> None:
    """By hand from the journal: epoch by epoch, what was drawn is what was not all correct before."""
    groups: dict[int, dict[str, list[float]]] = {}
    for step in range(STEPS):
        for row in read_step(straight / f"rollouts/step-{step:06d}.parquet"):
            if row.source == "math":
                groups.setdefault(row.epoch, {}).setdefault(row.prompt_id, []).append(row.accuracy)
    assert all(len(accuracies) == 2 for epoch in groups.values() for accuracies in epoch.values()), "once an epoch"
    solved: set[str] = set()
    everyone = set(groups[0])
    assert len(everyone) == 6
    for epoch in range(max(groups)):  # the last one is not finished
        assert set(groups[epoch]) == everyone - solved
        solved |= {prompt for prompt, accuracies in groups[epoch].items() if min(accuracies) == 1}
    assert solved, "the test says nothing unless a prompt was solved"


def test_kills_end_in_the_same_bits(data: Path, straight: Path, tmp_path: Path) -> None:
    """In mid-step, between a step's close and its checkpoint, and behind the snapshot of the curriculum."""
    run_dir, rollouts = tmp_path / "run", tmp_path / "run" / "rollouts"
    for condition in (
        lambda: len(list(rollouts.glob("open/step-000001/group-*.parquet"))) >= 2,
        lambda: (rollouts / "step-000002.parquet").exists(),
        lambda: len(list(rollouts.glob("open/step-000004/group-*.parquet"))) >= 1,
    ):
        run = Run(recipe(data, "history"), run_dir)
        run.wait_for(condition)
        run.kill()
    code, _, err = train(recipe(data, "history"), run_dir)
    assert code == 0, err
    assert events(run_dir, "curriculum")[-1]["snapshot_steps"] == 3
    for step in range(STEPS):
        name = f"rollouts/step-{step:06d}.parquet"
        assert read_step(run_dir / name) == read_step(straight / name)
    final = f"curriculum/step-{STEPS:06d}.npz"
    assert (run_dir / final).read_bytes() == (straight / final).read_bytes()
    model = "model/model.safetensors"
    assert (run_dir / model).read_bytes() == (straight / model).read_bytes()


def test_replay_trains_every_stage_as_recorded(data: Path, straight: Path, tmp_path: Path) -> None:
    code, _, err = train(recipe(data, "history"), tmp_path / "run", "--replay", str(straight))
    assert code == 0, err
    model = "model/model.safetensors"
    assert (tmp_path / "run" / model).read_bytes() == (straight / model).read_bytes()


def test_dynamic_trains_on_mixed_groups_and_a_budget_ends_the_run(data: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    options = ("curriculum.dynamic.max_draws=3", "budget_tokens=600", "steps=50")
    code, _, err = train(recipe(data, "dynamic"), run_dir, *options)
    assert code == 0, err
    sampled = 0
    records = metrics(run_dir)
    for step, record in enumerate(records):
        assert sampled < 600, "no step after the budget is spent"
        rows = read_step(run_dir / f"rollouts/step-{step:06d}.parquet")
        sampled += sum(row.response_length for row in rows)
        groups = {row.group: [r.accuracy for r in rows if r.group == row.group] for row in rows}
        trained = {row.group for row in rows if row.trained}
        mixed = {group for group, accuracies in groups.items() if 0 < sum(accuracies) < len(accuracies)}
        wanted = 4 if rows[0].stage == "first" else 3
        assert len(trained) == wanted
        assert mixed <= trained
        assert len(groups) == 3 * wanted or mixed == trained
        assert record["groups"] == len(groups)
        assert record["response_tokens"] == sum(row.response_length for row in rows if row.trained)
        assert record["dropped_all_correct"] + record["dropped_all_wrong"] == len(groups) - wanted
    assert sampled >= 600
    assert json.loads((run_dir / "finished.json").read_text())["ended_by"] == "budget"
    code, out, _ = train(recipe(data, "dynamic"), run_dir, *options)
    assert code == 0
    assert "the run is finished" in out


def test_a_person_ends_the_stage_and_the_run(data: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run = Run(recipe(data, "none"), run_dir, "steps=50")
    run.wait_for((run_dir / "rollouts" / "step-000000.parquet").exists)
    told = CliRunner().invoke(app, ["stage", "next", str(run_dir)])
    assert told.exit_code == 0
    assert "stage first ends after the step in hand; then stage second" in told.output
    run.wait_for(lambda: bool(list((run_dir / "rollouts").glob("stage-*.json"))))
    assert CliRunner().invoke(app, ["stage", "next", str(run_dir)]).exit_code == 0
    code, out, err = run.finish()
    run.assert_nothing_left()
    assert code == 0, err
    assert [switch["cause"] for switch in events(run_dir, "stage")] == ["request", "request"]
    assert "it was the last" in out
    assert json.loads((run_dir / "finished.json").read_text())["ended_by"] == "curriculum"
    again = CliRunner().invoke(app, ["stage", "next", str(run_dir)])
    assert isinstance(again.exception, SrpoError)
    assert "the run is finished" in str(again.exception)


def test_history_shows_every_group(straight: Path, tmp_path: Path) -> None:
    file = tmp_path / "history.parquet"
    shown = CliRunner().invoke(app, ["history", str(straight), "--parquet", str(file)])
    assert shown.exit_code == 0
    groups = pq.read_table(file).to_pylist()
    rows = [row for step in range(STEPS) for row in read_step(straight / f"rollouts/step-{step:06d}.parquet")]
    assert len(groups) == len(rows) / 2
    for group in groups:
        mine = [row for row in rows if (row.step, row.group) == (group["step"], group["group"])]
        assert group["prompt_id"] == mine[0].prompt_id
        assert group["rewards"] == pytest.approx([row.reward for row in mine])
        assert group["accuracies"] == [row.accuracy for row in mine]
        assert group["lengths"] == [len(row.tokens) for row in mine]
        assert group["weight_versions"] == [row.weight_version for row in mine]
        assert group["correct"] == sum(row.accuracy for row in mine)
    prompt = groups[0]["prompt_id"]
    shown = CliRunner().invoke(app, ["history", str(straight), "--prompt", prompt, "--stage", "first"])
    assert shown.exit_code == 0
    wanted = CliRunner().invoke(app, ["history", str(straight), "--prompt", "nobody"])
    assert "has no group of --prompt nobody" in str(wanted.exception)
