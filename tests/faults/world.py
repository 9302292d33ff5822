"""The tiny runs that faults strike: a few steps of a small model, every prompt with its own mixed rewards."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

from megatron_srpo.data.problem import Problem
from tests.conftest import REPOSITORY

STEPS = 5
RECIPE = """
base: {repository}/recipes/tiny_cpu.yaml
name: faults
steps: {steps}
model: {{path: {model}}}
data: {{train: {{math: {folder}/math.jsonl, more: {folder}/more.jsonl}}, heldout: {{}}}}
rollout: {{prompts_per_step: 4, samples_per_prompt: 3, max_response_tokens: 12, request_timeout_seconds: 60}}
engine: {{{engine}}}
trainer: {{ranks: 2, {layout}, timeout_seconds: 120, optimizer: {{learning_rate: 1.0e-3}}}}
checkpoint: {{every: 2, keep: 2}}
sync: {{path: {sync}, bucket_megabytes: 0.1}}
algorithm: {{overlong: none}}
reward: {{judge: {{path: "tests.faults.world:judge"}}, broken_format: 0.0}}
curriculum:
  strategy: history
  min_pool: 2
  stages:
    - {{name: first, mixture: {{math: 1}}, end: {{epochs: 2}}}}
    - name: second
      mixture: {{math: 1, more: 2}}
      overrides: {{prompts_per_step: 3, max_response_tokens: 14, learning_rate: 5.0e-4}}
"""


def judge(response: str, problem: Problem) -> float:
    """A verdict that any small change of the text turns over: what the model says means nothing yet."""
    return float(zlib.crc32(f"{problem.id}/{response}".encode()) % 3 > 0)


@dataclass(frozen=True)
class World:
    """What a tiny run needs, in a folder: `recipe(...)` writes the file that `srpo train` takes."""

    folder: Path
    model: Path

    @classmethod
    def make(cls, folder: Path, model: Path) -> World:
        """Write the data beside the recipes."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, size in (("math", 6), ("more", 5)):
            lines = [
                json.dumps({"id": f"{name}-{number}", "prompt": f"What is {number}+1?", "answer": str(number + 1)})
                for number in range(size)
            ]
            (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        return cls(folder, model)

    def recipe(self, layout: str = "tensor", sync: str = "distributed", engine: str = "deterministic") -> Path:
        """A recipe on two ranks, tensor or data parallel."""
        engines = {"deterministic": "backend: deterministic", "sglang": f"python: {_engine_python()}"}
        path = self.folder / f"{layout}-{sync}-{engine}.yaml"
        path.write_text(
            RECIPE.format(
                repository=REPOSITORY,
                folder=self.folder,
                model=self.model,
                steps=STEPS,
                layout=f"tensor_parallel: {2 if layout == 'tensor' else 1}",
                sync=sync,
                engine=engines[engine],
            )
        )
        return path


def _engine_python() -> Path:
    return REPOSITORY / ".venv-engine" / "bin" / "python"
