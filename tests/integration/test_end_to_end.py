"""The embedded job in short: two tensor-parallel trainer ranks, a real SGLang engine, real weight exchange."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatron_srpo.rollout.journal import read_step
from tests.conftest import REPOSITORY
from tests.integration.runs import train


@pytest.mark.sglang
def test_train_with_sglang(engine_python: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    arguments = (
        f"engine.python={engine_python}",
        "steps=3",
        "rollout.prompts_per_step=8",
        "evaluation.max_prompts=16",
        "evaluation.samples_per_prompt=2",
        "trainer.optimizer.learning_rate=1e-3",
        "sync.bucket_megabytes=1",
    )
    code, out, err = train(REPOSITORY / "recipes" / "tiny_cpu.yaml", run_dir, *arguments)
    assert code == 0, err
    assert "held-out accuracy at weight version 3" in out
    metrics = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    # Steps 1 and 2 are sampled from exchanged weights: stale or wrong ones would show here.
    assert all(record["mismatch_mean"] < 1e-5 for record in metrics)
    assert metrics[1]["sync_bytes"] == 4 * 829_568
    rows = read_step(run_dir / "rollouts" / "step-000002.parquet")
    assert len(rows) == 64
    assert {row.weight_version for row in rows} == {2}
    assert metrics[0]["effective_groups"] > 0
    exported = (run_dir / "model" / "model.safetensors").read_bytes()
    assert exported != (REPOSITORY / "recipes/tiny/model/model.safetensors").read_bytes()
