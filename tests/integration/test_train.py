"""Whole runs with the deterministic engine: exact repetition, kills, replays, and every way to fail."""

from __future__ import annotations

import json
import shutil
import signal
import socket
from pathlib import Path

import pytest

from megatron_srpo.rollout.journal import read_step
from tests.conftest import REPOSITORY
from tests.integration.runs import Run, train

STEPS = 3
RECIPE = f"""
base: {REPOSITORY}/recipes/tiny_cpu.yaml
name: test
steps: {STEPS}
rollout: {{prompts_per_step: 4, samples_per_prompt: 4}}
engine: {{backend: deterministic}}
trainer: {{ranks: 1, tensor_parallel: 1, optimizer: {{learning_rate: 1.0e-3}}}}
checkpoint: {{every: 2, keep: 1}}
evaluation: {{samples_per_prompt: 1, max_prompts: 4}}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "test.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def straight(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a run that nothing disturbed."""
    run_dir = tmp_path_factory.mktemp("straight") / "run"
    code, out, err = train(recipe, run_dir)
    assert code == 0, err
    assert "held-out accuracy at weight version 0" in out
    assert f"held-out accuracy at weight version {STEPS}" in out
    return run_dir


def weights(run_dir: Path) -> bytes:
    return (run_dir / "model" / "model.safetensors").read_bytes()


def assert_same_run(run_dir: Path, straight: Path) -> None:
    """The same responses, metrics and weights, bit by bit."""
    for step in range(STEPS):
        name = f"rollouts/step-{step:06d}.parquet"
        assert read_step(run_dir / name) == read_step(straight / name)
    assert weights(run_dir) == weights(straight)


def test_the_run_directory_is_complete(straight: Path) -> None:
    metrics = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in metrics] == list(range(STEPS))
    assert all(record["mismatch_mean"] < 1e-4 for record in metrics), "engine and trainer agree at every step"
    assert metrics[0]["seconds_sync"] == 0.0 < metrics[1]["seconds_sync"]
    assert [path.name for path in sorted((straight / "checkpoints").iterdir())] == [f"step-{STEPS:06d}"]
    rows = read_step(straight / "rollouts/step-000001.parquet")
    assert [(row.group, row.sample) for row in rows] == [(g, s) for g in range(4) for s in range(4)]
    assert {row.weight_version for row in rows} == {1}
    assert len({row.reward for row in rows}) > 1, "without different rewards the run would train on nothing"
    assert weights(straight) != (REPOSITORY / "recipes/tiny/model/model.safetensors").read_bytes()
    assert not list((straight / "rollouts" / "open").iterdir())


def test_kills_at_any_instant_end_in_the_same_bits(recipe: Path, straight: Path, tmp_path: Path) -> None:
    """While groups of the first step arrive, between a closed step and its checkpoint, and in the last step."""
    run_dir, rollouts = tmp_path / "run", tmp_path / "run" / "rollouts"
    conditions = [
        lambda: len(list(rollouts.glob("open/step-000000/group-*.parquet"))) >= 2,
        lambda: (rollouts / "step-000000.parquet").exists(),
        lambda: (run_dir / "checkpoints" / "step-000002" / "manifest.json").exists(),
    ]
    for condition in conditions:
        run = Run(recipe, run_dir)
        run.wait_for(condition)
        run.kill()
    code, out, err = train(recipe, run_dir)
    assert code == 0, err
    assert "going on from weight version 2" in out
    assert_same_run(run_dir, straight)


def test_a_broken_newest_checkpoint_is_named_and_passed_over_when_allowed(
    recipe: Path, straight: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    code, _, err = train(recipe, run_dir, "steps=2", "checkpoint.every=1", "checkpoint.keep=2")
    assert code == 0, err
    damaged = run_dir / "checkpoints" / "step-000002" / "__0_0.distcp"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    code, _, err = train(recipe, run_dir)
    assert code == 2
    assert f"{damaged}: is damaged" in err and "checkpoint.fall_back=true" in err and "Traceback" not in err
    code, out, err = train(recipe, run_dir, "checkpoint.fall_back=true", "checkpoint.keep=3")
    assert code == 0, err
    told = " ".join(out.split())
    assert "going on from weight version 1 (checkpoint step-000001, checksums right)" in told
    assert "recorded step 1 is replayed, not sampled" in told
    assert f"{damaged}: is damaged" in told.replace("- ", "-") or "is damaged" in told
    assert "the recipe has changed since this run's last start: checkpoint.fall_back was False and is True" in told
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    start = [event for event in events if event["event"] == "start"][-1]
    assert str(damaged) in start["broken_checkpoints"][0]
    saved = {event["weight_version"]: event for event in events if event["event"] == "checkpoint"}
    assert saved[3]["bytes"] > 0 and saved[3]["stall_seconds"] < saved[3]["stall_seconds"] + saved[3]["seconds"]
    assert_same_run(run_dir, straight)


def stop_with(run: Run, number: signal.Signals) -> None:
    """Send the signal and check that the run ends in order: exit code, one sentence, nothing left."""
    run.process.send_signal(number)
    code, _, err = run.finish()
    run.assert_nothing_left()
    assert code == 128 + number
    assert number.name in err
    assert "Traceback" not in err


def test_sigterm_stops_in_order_and_the_run_goes_on(recipe: Path, straight: Path, tmp_path: Path) -> None:
    run = Run(recipe, tmp_path / "run")
    run.wait_for((tmp_path / "run" / "rollouts" / "step-000001.parquet").exists)
    stop_with(run, signal.SIGTERM)
    code, _, err = train(recipe, tmp_path / "run")
    assert code == 0, err
    assert_same_run(tmp_path / "run", straight)


def test_ctrl_c_while_everything_starts(recipe: Path, tmp_path: Path) -> None:
    run = Run(recipe, tmp_path / "run")
    run.wait_for((tmp_path / "run" / "logs" / "trainer-0.log").exists)
    stop_with(run, signal.SIGINT)


def test_replay_needs_no_engine(recipe: Path, straight: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    arguments = ("--replay", str(straight), "engine.backend=sglang", "engine.python=/nonexistent/python")
    code, out, err = train(recipe, run_dir, *arguments, f"steps={STEPS + 4}")
    assert code == 0, err
    assert f"the recording ends with step {STEPS - 1}; the recipe has {STEPS + 4} steps" in " ".join(out.split())
    assert json.loads((run_dir / "finished.json").read_text())["ended_by"] == "recording"
    assert not list((run_dir / "logs").glob("engine-*"))
    assert weights(run_dir) == weights(straight)


def test_disk_path_gives_the_same_run(recipe: Path, straight: Path, tmp_path: Path) -> None:
    code, _, err = train(recipe, tmp_path / "run", "sync.path=disk")
    assert code == 0, err
    assert_same_run(tmp_path / "run", straight)


def failure(recipe: Path, run_dir: Path, *arguments: str) -> str:
    """The one sentence of a run that must fail with exit code 2."""
    code, _, err = train(recipe, run_dir, *arguments)
    lines = err.strip().splitlines()
    assert code == 2, err
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    return lines[0]


def test_disagreement_stops_step_0(recipe: Path, tmp_path: Path) -> None:
    told = failure(recipe, tmp_path / "run", "algorithm.mismatch_limit=1e-15")
    assert "step 0" in told
    assert "algorithm.mismatch_limit" in told
    assert not (tmp_path / "run" / "model").exists()


def test_engine_port_taken(recipe: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        told = failure(recipe, tmp_path / "run", f"engine.port={port}")
    assert f"127.0.0.1:{port}" in told
    assert "engine.port" in told


def test_engine_dies_at_start(recipe: Path, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'RuntimeError: no such luck' >&2\nexit 7\n")
    python.chmod(0o755)
    told = failure(recipe, tmp_path / "run", "engine.backend=sglang", f"engine.python={python}")
    assert "engine 0" in told
    assert "exit code 7" in told
    assert "RuntimeError: no such luck" in told
    assert "engine-0.log" in told


@pytest.mark.parametrize(
    ("victim", "name"),
    [("megatron_srpo.actor.worker", "trainer rank 0"), ("megatron_srpo.rollout.deterministic_engine", "engine 0")],
)
def test_a_killed_process_is_named(recipe: Path, tmp_path: Path, victim: str, name: str) -> None:
    run = Run(recipe, tmp_path / "run")
    run.wait_for(lambda: any((tmp_path / "run" / "rollouts").glob("open/step-000000/group-*.parquet")))
    for process in run.marked():
        if victim in process.cmdline() and "guard.py" not in " ".join(process.cmdline()):
            process.kill()
    code, _, err = run.finish()
    run.assert_nothing_left()
    assert code == 2
    assert name in err
    assert "SIGKILL" in err


def test_broken_step_file_is_named(recipe: Path, straight: Path, tmp_path: Path) -> None:
    rollouts = tmp_path / "recorded" / "rollouts"
    rollouts.mkdir(parents=True)
    content = (straight / "rollouts/step-000000.parquet").read_bytes()
    (rollouts / "step-000000.parquet").write_bytes(content[:-100])
    told = failure(recipe, tmp_path / "run", "--replay", str(rollouts.parent))
    assert str(rollouts / "step-000000.parquet") in told
    (rollouts / "step-000000.parquet").write_bytes(content)
    code, _, err = train(recipe, tmp_path / "run", "--replay", str(rollouts.parent), "steps=1")
    assert code == 0, f"mended, the same command goes on: {err}"


def test_groups_of_another_size_are_refused(recipe: Path, straight: Path, tmp_path: Path) -> None:
    told = failure(recipe, tmp_path / "run", "--replay", str(straight), "rollout.samples_per_prompt=3")
    assert "rollout.samples_per_prompt" in told


def test_a_finished_run_does_no_work_twice(recipe: Path, straight: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in straight.rglob("*.log")}
    code, out, err = train(recipe, straight)
    assert code == 0, err
    assert "the run is finished" in out
    assert {path: path.stat().st_mtime_ns for path in straight.rglob("*.log")} == before


def test_pipeline_stages_and_several_engines(recipe: Path, tmp_path: Path) -> None:
    """Two weight groups, two engines: every engine's log-probs are the trainer's after each exchange."""
    arguments = ("trainer.ranks=2", "trainer.pipeline_parallel=2", "engine.count=2", "sync.bucket_megabytes=1")
    code, _, err = train(recipe, tmp_path / "run", *arguments)
    assert code == 0, err
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(record["mismatch_mean"] < 1e-5 for record in metrics)
    rows = read_step(tmp_path / "run" / "rollouts/step-000002.parquet")
    assert {row.weight_version for row in rows} == {2}
    for engine in range(2):
        assert (tmp_path / "run" / "logs" / f"engine-{engine}.log").exists()


def test_a_journal_that_has_lost_steps_is_refused(recipe: Path, straight: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(straight, run_dir)
    shutil.rmtree(run_dir / "model")
    (run_dir / "rollouts" / f"step-{STEPS - 1:06d}.parquet").unlink()
    assert "step-000002.parquet: is missing, and the checkpoint of step 3 was trained on it" in failure(
        recipe, run_dir
    )
