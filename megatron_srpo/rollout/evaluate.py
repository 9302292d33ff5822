"""Held-out accuracy: sampled like the training rollouts, from problems that are never trained on.  No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa

from megatron_srpo.data.problem import Problem
from megatron_srpo.files import write_table
from megatron_srpo.observe.summary import error_alarm
from megatron_srpo.recipe.schema import Recipe
from megatron_srpo.rollout.collect import Prompt, RolloutCollector
from megatron_srpo.rollout.journal import SCHEMA, read_table, rows_of


class HeldOut:
    """Measures versions of the weights; every response is kept in `folder/version-NNNNNN.parquet`."""

    def __init__(
        self,
        recipe: Recipe,
        problems: Mapping[str, Sequence[Problem]],
        prompts: Mapping[str, Sequence[list[int]]],
        folder: Path,
    ) -> None:
        """Hold the held-out problems of every source, and their prompts as token ids."""
        samples = recipe.evaluation.samples_per_prompt
        rollout = recipe.rollout.model_copy(update={"samples_per_prompt": samples})
        # Nothing is trained on these samples, so nobody asks which experts they used.
        experts = recipe.trainer.experts.model_copy(update={"replay_routing": False})
        trainer = recipe.trainer.model_copy(update={"experts": experts})
        self._recipe = recipe.model_copy(update={"rollout": rollout, "trainer": trainer})
        self._problems = [
            (source, problem, tokens)
            for source in problems
            for problem, tokens in zip(problems[source], prompts[source], strict=True)
        ]
        self._folder = folder
        self.warning: str | None = None
        """Of the last measurement: that many responses could not be judged."""

    @property
    def has_programs(self) -> bool:
        """Whether problems are judged by running programs."""
        return any(problem.tests is not None for _, problem, _ in self._problems)

    def recorded(self, version: int) -> dict[str, float] | None:
        """Accuracies of a version that has been measured before on these problems and samples, else none."""
        path = _path(self._folder, version)
        if not path.exists():
            return None
        found = read_table(path, ["source", "prompt_id", "sample"]).to_pylist()
        samples = range(self._recipe.rollout.samples_per_prompt)
        expected = [(source, p.id, sample) for source, p, _ in self._problems for sample in samples]
        if [(row["source"], row["prompt_id"], row["sample"]) for row in found] != expected:
            return None
        return accuracies_of(self._folder, version)

    async def measure(self, collector: RolloutCollector, version: int) -> dict[str, float]:
        """Sample every problem and return the accuracies."""
        waiting = [
            Prompt(number, source, 0, problem, tokens, f"eval-{version}-{number}")
            for number, (source, problem, tokens) in enumerate(self._problems)
        ]

        def draw() -> list[Prompt]:
            drawn = waiting[:]
            waiting.clear()
            return drawn

        groups = [group async for group in collector.groups(draw, self._recipe)]
        groups.sort(key=lambda group: group.prompt.number)
        rows = [row for group in groups for row in rows_of(group, version, "held-out")]
        self.warning = error_alarm(rows, self._recipe.reward.alarm_error_share)
        table = pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA)
        write_table(table, _path(self._folder, version))
        return accuracies_of(self._folder, version)


def _path(folder: Path, version: int) -> Path:
    return folder / f"version-{version:06d}.parquet"


def accuracies(sources: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """The share of right answers (pass@1, averaged over the samples), whole and by source."""
    by_source: dict[str, list[float]] = {}
    for source, value in zip(sources, values, strict=True):
        by_source.setdefault(source, []).append(value)
    whole = float(np.mean(values))
    return {"accuracy": whole} | {f"accuracy/{source}": float(np.mean(v)) for source, v in by_source.items()}


def measured_versions(folder: Path) -> list[int]:
    """The weight versions measured so far, in order."""
    return sorted(int(path.stem.removeprefix("version-")) for path in folder.glob("version-??????.parquet"))


def accuracies_of(folder: Path, version: int) -> dict[str, float]:
    """The recorded accuracies of a version; raises SrpoError when its file cannot be read."""
    table = read_table(_path(folder, version), ["source", "accuracy"])
    return accuracies(table["source"].to_pylist(), table["accuracy"].to_pylist())
