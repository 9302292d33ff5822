"""From raw rows to a two-stage run: curate, grade and train with the tiny recipe and the real SGLang."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from megatron_srpo.data.problem_set import read_manifest, read_parts
from tests.conftest import REPOSITORY
from tests.integration.runs import Command, train

RECIPES = REPOSITORY / "recipes"
STAGES = "[{name: math, mixture: {math: 1}, end: {steps: 2}}, {name: both, mixture: {math: 1, code: 1}}]"


def srpo(logs: Path, *arguments: str) -> str:
    """What a command said; it must succeed and leave nothing running."""
    command = Command(logs, *arguments)
    code, out, err = command.finish()
    assert code == 0, err
    command.assert_nothing_left()
    return out


@pytest.mark.sglang
def test_the_two_stage_recipe_trains_on_a_curated_and_graded_set(engine_python: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    recipe, engine = str(RECIPES / "tiny_curated.yaml"), f"engine.python={engine_python}"
    limits = [f"sources.{name}.limit=60" for name in ("math", "code")]
    srpo(tmp_path, "data", "curate", str(RECIPES / "tiny_curated/curate.yaml"), f"out={folder}", *limits)
    said = srpo(tmp_path, "data", "grade", str(folder), "--recipe", recipe, "grading.samples=2", engine)
    assert "0 not graded" in said
    manifest = read_manifest(folder)
    problems = {row["id"]: row for batch in read_parts(folder, manifest.problems) for row in batch.to_pylist()}
    assert {row["difficulty"] for row in problems.values()} <= {"easy", "medium", "hard"}
    assert 40 < len(problems) < 120

    run = tmp_path / "run"
    paths = [f"data.train.{name}.path={folder}" for name in ("math", "code")]
    small = ["rollout.prompts_per_step=4", "rollout.samples_per_prompt=2", "evaluation.max_prompts=4"]
    code, _, err = train(
        Path(recipe),
        run,
        *paths,
        *small,
        engine,
        "steps=4",
        f"curriculum.stages={STAGES}",
        "evaluation.every=null",
    )
    assert code == 0, err
    seen: dict[str, set[str]] = {}
    for file in sorted(run.glob("rollouts/step-*.parquet")):
        for row in pq.read_table(file, columns=["stage", "source", "prompt_id"]).to_pylist():
            seen.setdefault(row["stage"], set()).add(row["source"])
            problem = problems[row["prompt_id"]]
            assert problem["domain"] == row["source"] and problem["difficulty"] != "easy"
    assert seen == {"math": {"math"}, "both": {"math", "code"}}
    held_out = pq.read_table(RECIPES / "tiny_ablation/math_heldout.parquet")["prompt"].to_pylist()
    assert not {problem["prompt"] for problem in problems.values()} & set(held_out)
    assert json.loads((run / "finished.json").read_text())["weight_version"] == 4
