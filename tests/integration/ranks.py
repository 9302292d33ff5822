"""Starts trainer ranks for tests and collects what they found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_srpo.launch.ports import unclaimed_port
from megatron_srpo.rollout.journal import Journal
from tests.conftest import REPOSITORY
from tests.support import journal_row

TIMEOUT_SECONDS = 240
# One layout after another in the same processes: what a layout does not name is as in this one.
PLAIN: dict[str, Any] = {
    "tensor_parallel": 1,
    "sequence_parallel": False,
    "pipeline_parallel": 1,
    "virtual_pipeline_parallel": 1,
    "pipeline_layers": None,
    "expert_parallel": 1,
    "context_parallel": 1,
    "overlap_gradient_reduce": False,
    "overlap_parameter_gather": False,
    "bucket_parameters": None,
    "recompute": {},
    "experts": {},
    "dtype": "float32",
}


@dataclass(frozen=True)
class Layout:
    """A parallel layout."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    sequence_parallel: bool = False

    @property
    def ranks(self) -> int:
        return self.tensor * self.pipeline * self.data

    def __str__(self) -> str:
        return f"tp{self.tensor}-pp{self.pipeline}-dp{self.data}{'-sp' if self.sequence_parallel else ''}"


def recipe_values(model: Path, layout: Layout, **trainer: Any) -> dict[str, Any]:
    """A recipe for the tests' step files on `layout`."""
    return {
        "name": "test",
        "steps": 5,
        "model": {"path": str(model)},
        "data": {"train": {"math": "unused"}},
        "rollout": {"prompts_per_step": 4, "samples_per_prompt": 4},
        "trainer": {
            "ranks": layout.ranks,
            "tensor_parallel": layout.tensor,
            "pipeline_parallel": layout.pipeline,
            "sequence_parallel": layout.sequence_parallel,
            "device": "cpu",
            "dtype": "float32",
            "max_tokens_per_microbatch": 64,
            "updates_per_step": 2,
            "optimizer": {"learning_rate": 1e-3, "warmup_updates": 3, "clip_grad": 0.5},
            **trainer,
        },
        "algorithm": {"mismatch_limit": 100.0},
    }


def run_ranks(
    folder: Path, recipe: dict[str, Any], jobs: Sequence[dict[str, Any]], timeout: float = TIMEOUT_SECONDS
) -> list[dict[str, Any]]:
    """Do the jobs on the recipe's ranks; returns what each rank wrote, in rank order."""
    folder.mkdir(parents=True)
    (folder / "jobs.json").write_text(json.dumps({"recipe": recipe, "jobs": list(jobs)}))
    size = recipe["trainer"]["ranks"]
    shared = {
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(unclaimed_port("127.0.0.1")),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "tests.integration.rank_main", str(folder / "jobs.json"), str(folder)]
    logs = [folder / f"rank-{rank}.log" for rank in range(size)]
    processes = []
    for rank, log in enumerate(logs):
        with log.open("wb") as file:
            environment = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append(
                subprocess.Popen(command, env=environment, cwd=REPOSITORY, stdout=file, stderr=subprocess.STDOUT)
            )
    try:
        for process, log in zip(processes, logs, strict=True):
            assert process.wait(timeout) == 0, f"{log}:\n{log.read_text()[-4000:]}"
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(size)]


def record_steps(root: Path, steps: int, seed: int = 0) -> list[Path]:
    """Step files of four groups of four random responses each, of lengths from 3 to 40 tokens."""
    import numpy as np

    rng = np.random.default_rng(seed)
    journal = Journal(root)
    for step in range(steps):
        for group in range(4):
            prompt = rng.integers(0, 512, size=int(rng.integers(2, 8))).tolist()
            rows = []
            for sample in range(4):
                length = int(rng.integers(3, 40))
                rows.append(
                    journal_row(
                        group,
                        sample,
                        step,
                        response_length=length,
                        prompt_tokens=prompt,
                        tokens=rng.integers(0, 512, size=length).tolist(),
                        log_probs=rng.normal(-6, 1, size=length).tolist(),
                        finish_reason="length" if rng.random() < 0.1 else "stop",
                        reward=float(rng.normal()),
                        accuracy=0.0,
                    )
                )
            journal.append(rows)
        journal.close(step, 4, range(4))
    return [journal.step_path(step) for step in range(steps)]
