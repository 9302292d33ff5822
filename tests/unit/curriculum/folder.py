"""The world's disk as a real run directory: `Journal` and `CurriculumStore`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from megatron_srpo.curriculum.curriculum import Curriculum
from megatron_srpo.curriculum.history import outcome_of
from megatron_srpo.curriculum.outcomes import GroupOutcome
from megatron_srpo.curriculum.restore import CurriculumStore
from megatron_srpo.curriculum.stages import Switch
from megatron_srpo.rollout.journal import Journal, Row
from tests.support import journal_row


def rows_of(outcome: GroupOutcome, step: int, stage: str) -> list[Row]:
    """Rows of a group of which `outcome.correct` samples are right; rewards and lengths as in no power of two."""
    return [
        journal_row(
            outcome.number,
            sample,
            step,
            stage=stage,
            epoch=outcome.epoch,
            prompt_id=outcome.prompt_id,
            source=outcome.source,
            response_length=5 + sample,
            tokens=[3] * (5 + sample),
            log_probs=[-0.5] * (5 + sample),
            reward=0.1 + 0.7 * (sample < outcome.correct) - 0.01 * sample,
            accuracy=1.0 if sample < outcome.correct else 0.3,
        )
        for sample in range(outcome.samples)
    ]


class Folder:
    """A run directory; `Disk` of the world."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.journal = Journal(run_dir / "rollouts")
        self.store = CurriculumStore(run_dir, self.journal)

    def restore(self, curriculum: Curriculum) -> None:
        self.store.restore(curriculum)

    def open_groups(self, step: int) -> list[GroupOutcome]:
        return self.store.open_groups(step)

    def append(self, outcome: GroupOutcome, step: int, stage: str) -> GroupOutcome:
        rows = rows_of(outcome, step, stage)
        self.journal.append(rows)
        return outcome_of(rows)

    def close(self, step: int, groups: int, trained: Sequence[int]) -> None:
        self.journal.close(step, groups, trained)

    def record_switch(self, switch: Switch) -> None:
        self.store.record_switch(switch)

    def save(self, curriculum: Curriculum) -> None:
        self.store.save(curriculum)

    def lose_snapshots(self) -> None:
        shutil.rmtree(self.run_dir / "curriculum", ignore_errors=True)
