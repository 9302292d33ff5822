"""`srpo data grade` as a whole: undisturbed, killed, stopped, and with the real SGLang."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from megatron_srpo.data.problem_set import read_manifest, read_parts
from megatron_srpo.launch.ports import unclaimed_port
from megatron_srpo.recipe.load import load_recipe
from megatron_srpo.rollout.engine import start_engines
from tests.conftest import REPOSITORY
from tests.integration.runs import Command
from tests.unit.folders import write_set

RECIPE = REPOSITORY / "recipes" / "tiny_cpu.yaml"
PROBLEMS = 20
DETERMINISTIC = ("engine.backend=deterministic", "grading.samples=4", "rollout.max_concurrent_requests=8")


def make_set(folder: Path) -> Path:
    rows = pq.read_table(REPOSITORY / "recipes/tiny/train.parquet", columns=["id", "prompt", "answer"]).to_pylist()
    return write_set(folder, rows[:PROBLEMS], rows_per_part=5)


class Grade(Command):
    """A started `srpo data grade`."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        super().__init__(folder / "logs", "data", "grade", str(folder), "--recipe", str(RECIPE), *arguments)


def grade(folder: Path, *arguments: str) -> str:
    """Grade to the end and check that nothing is left; returns what it said."""
    started = Grade(folder, *arguments)
    code, out, err = started.finish()
    assert code == 0, err
    started.assert_nothing_left()
    return out


def lines(folder: Path) -> list[dict[str, Any]]:
    """The finished problems of the journal, in order of their ids."""
    path = folder / "grades.jsonl"
    text = path.read_text() if path.exists() else ""
    return sorted(map(json.loads, text[: text.rfind("\n") + 1].splitlines()[1:]), key=lambda line: str(line["id"]))


def rows_of(folder: Path) -> list[dict[str, Any]]:
    parts = read_manifest(folder).problems
    return [row for batch in read_parts(folder, parts) for row in batch.to_pylist()]


def finished(folder: Path, least: int) -> Callable[[], bool]:
    return lambda: len(lines(folder)) >= least


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set that was graded without a disturbance."""
    folder = make_set(tmp_path_factory.mktemp("straight") / "set")
    out = grade(folder, *DETERMINISTIC)
    assert "0 not graded" in out
    return folder


def test_every_problem_has_its_difficulty(straight: Path) -> None:
    assert [line["id"] for line in lines(straight)] == [f"arith-{number:06d}" for number in range(PROBLEMS)]
    rows = rows_of(straight)
    assert [row["id"] for row in rows] == [f"arith-{number:06d}" for number in range(PROBLEMS)]
    assert [row["pass_rate"] for row in rows] == [line["c"] / 4 for line in lines(straight)]
    assert len({row["difficulty"] for row in rows}) > 1, "a model that knows nothing or all would show nothing"
    grading = read_manifest(straight).grading
    assert grading is not None
    assert sum(grading["difficulty"].values()) == PROBLEMS


def test_killed_and_gone_on_it_ends_as_undisturbed(straight: Path, tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set")
    for least in (2, 5):
        started = Grade(folder, *DETERMINISTIC)
        started.wait_for(finished(folder, least))
        started.kill()
        assert read_manifest(folder).grading is None
        assert len(lines(folder)) < PROBLEMS
    recorded = lines(folder)
    out = grade(folder, *DETERMINISTIC)
    assert f"going on: {len(recorded)} of {PROBLEMS} problems have a grade" in out
    assert lines(folder) == lines(straight), "every problem once, with the same counts"
    assert rows_of(folder) == rows_of(straight)
    assert read_manifest(folder).grading == read_manifest(straight).grading


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_in_order(tmp_path: Path, number: signal.Signals) -> None:
    folder = make_set(tmp_path / "set")
    started = Grade(folder, *DETERMINISTIC)
    started.wait_for(finished(folder, 1))
    started.process.send_signal(number)
    code, _, err = started.finish()
    started.assert_nothing_left()
    assert code == 128 + number
    assert number.name in err
    assert "Traceback" not in err
    assert 1 <= len(lines(folder)) < PROBLEMS


def test_other_thresholds_start_no_engine(straight: Path) -> None:
    before, logs = lines(straight), straight / "logs" / "engine-0.log"
    started = logs.stat().st_mtime_ns
    grade(straight, *DETERMINISTIC, "grading.easy=0.5", "grading.hard=0.1")
    assert {row["difficulty"] for row in rows_of(straight) if row["pass_rate"] >= 0.5} <= {"easy"}
    assert (lines(straight), logs.stat().st_mtime_ns) == (before, started)
    grade(straight, *DETERMINISTIC)


@pytest.mark.sglang
async def test_with_a_running_sglang_and_with_one_of_its_own(engine_python: Path, tmp_path: Path) -> None:
    own, served = make_set(tmp_path / "own"), make_set(tmp_path / "served")
    few = (f"engine.python={engine_python}", "grading.samples=4")
    await asyncio.to_thread(grade, own, *few)
    recipe = load_recipe(RECIPE, [*few, f"engine.port={unclaimed_port('127.0.0.1')}"])
    async with await start_engines(recipe.engine, recipe.model.path, tmp_path / "logs") as engines:
        await asyncio.to_thread(grade, served, *few, "--url", engines.urls[0])
    assert not (served / "logs").exists()
    for folder in (own, served):
        assert all(line["n"] == 4 and line["length_mean"] > 5 for line in lines(folder))
        assert any(line["c"] for line in lines(folder)), "the tiny model solves a quarter"
        assert all(row["difficulty"] for row in rows_of(folder))
