"""Held-out accuracy: sampled like the training rollouts, from problems that are never trained on.  No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa

from megatron_srpo.data.problems import Problem
from megatron_srpo.rollout.collect import Prompt, RolloutCollector
from megatron_srpo.rollout.journal import SCHEMA, read_step, rows_of, write_table


class HeldOut:
    """Measures versions of the weights; every response is kept in `folder/version-NNNNNN.parquet`."""

    def __init__(
        self, problems: Sequence[Problem], prompts: Sequence[list[int]], samples: int, folder: Path
    ) -> None:
        self._problems, self._prompts = problems, prompts
        self._samples, self._folder = samples, folder

    def _path(self, version: int) -> Path:
        return self._folder / f"version-{version:06d}.parquet"

    def recorded(self, version: int) -> float | None:
        """Accuracy of a version that has been measured before on these problems and samples, else none."""
        path = self._path(version)
        if not path.exists():
            return None
        rows = read_step(path)
        expected = [(p.id, sample) for p in self._problems for sample in range(self._samples)]
        if [(row.prompt_id, row.sample) for row in rows] != expected:
            return None
        return float(np.mean([row.accuracy for row in rows]))

    async def measure(self, collector: RolloutCollector, version: int) -> float:
        """Sample every problem and return the share of right answers (pass@1, averaged over the samples)."""
        prompts = [
            Prompt(number, 0, problem, tokens, f"eval-{version}-{number}")
            for number, (problem, tokens) in enumerate(zip(self._problems, self._prompts, strict=True))
        ]
        groups = [group async for group in collector.groups(prompts, self._samples)]
        groups.sort(key=lambda group: group.prompt.number)
        rows = [asdict(row) for group in groups for row in rows_of(group, version)]
        write_table(pa.Table.from_pylist(rows, schema=SCHEMA), self._path(version))
        return float(np.mean([row["accuracy"] for row in rows]))
