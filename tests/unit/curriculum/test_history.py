"""The history of prompts out of step files, and what the curriculum learns from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_srpo.curriculum.history import SCHEMA, groups_of, journal_groups, outcome_of, outcomes_of
from megatron_srpo.curriculum.outcomes import GroupOutcome
from megatron_srpo.errors import SrpoError
from megatron_srpo.files import write_table
from megatron_srpo.rollout.journal import Journal, Row, read_step
from tests.unit.curriculum.folder import rows_of


def group(number: int, correct: int = 1, samples: int = 3, source: str = "a", epoch: int = 0) -> list[Row]:
    outcome = GroupOutcome(number, source, epoch, f"{source}{number}", samples, correct, 0.0, 0.0, 0)
    return rows_of(outcome, 0, "one")


def test_a_group_by_hand(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    rows = group(0, correct=2, samples=3, source="b", epoch=4)
    journal.append(rows)
    table = groups_of(journal.close(0, 1, [0]))
    assert table.schema == SCHEMA
    assert table.to_pylist() == [
        {
            "step": 0,
            "stage": "one",
            "source": "b",
            "epoch": 4,
            "group": 0,
            "prompt_id": "b0",
            "trained": True,
            "samples": 3,
            "correct": 2,
            "accuracies": [1.0, 1.0, 0.3],
            "rewards": [row.reward for row in rows],
            "lengths": [5, 6, 7],
            "weight_versions": [0, 0, 0],
        }
    ]


@settings(max_examples=25)
@given(
    st.lists(
        st.lists(st.tuples(st.floats(-2, 2), st.floats(0, 1.5)), min_size=1, max_size=12), min_size=1, max_size=5
    )
)
def test_memory_and_files_agree_in_every_bit(
    tmp_path_factory: pytest.TempPathFactory, values: list[list[tuple[float, float]]]
) -> None:
    """`outcome_of` of fresh rows equals `outcomes_of` of the group file, and of the step file."""
    journal = Journal(tmp_path_factory.mktemp("journal"))
    fresh = []
    for number, of_group in enumerate(values):
        rows = group(number, samples=len(of_group))
        rows = [replace(row, reward=r, accuracy=a) for row, (r, a) in zip(rows, of_group, strict=True)]
        journal.append(rows)
        fresh.append(outcome_of(rows))
    paths = journal.open_paths(0)
    assert [outcome for path in paths.values() for outcome in outcomes_of(groups_of(path))] == fresh
    path = journal.close(0, len(values), range(len(values)))
    assert outcomes_of(groups_of(path)) == fresh
    again = read_step(path)
    assert [outcome_of([row for row in again if row.group == number]) for number in range(len(values))] == fresh


def test_groups_of_different_sizes_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number, (correct, samples) in reversed(list(enumerate([(0, 2), (5, 5), (3, 4)]))):
        journal.append(group(number, correct, samples))
    found = outcomes_of(groups_of(journal.close(0, 3, [1])))
    assert [(o.number, o.correct, o.samples, o.tokens) for o in found] == [
        (0, 0, 2, 11),
        (1, 5, 5, 35),
        (2, 3, 4, 26),
    ]
    assert journal_groups(journal)["trained"].to_pylist() == [False, True, False]


def test_the_journals_history_has_the_open_step_last(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal_groups(journal).schema == SCHEMA
    assert journal_groups(journal).num_rows == 0
    journal.append(group(0))
    journal.close(0, 1, [0])
    journal.append([replace(row, step=1, group=2) for row in group(0)])
    table = journal_groups(journal)
    assert table.select(["step", "group"]).to_pylist() == [{"step": 0, "group": 0}, {"step": 1, "group": 2}]
    assert table["trained"].to_pylist() == [True, None], "nothing is decided about the open step"


def test_a_step_that_closes_while_the_history_is_read(tmp_path: Path) -> None:
    class ClosesMeanwhile(Journal):
        def open_paths(self, step: int) -> dict[int, Path]:
            paths = super().open_paths(step)
            if paths:
                Journal(self.root).close(step, 1, [0])
            return paths

    ClosesMeanwhile(tmp_path).append(group(0))
    assert journal_groups(ClosesMeanwhile(tmp_path))["trained"].to_pylist() == [True]


def test_broken_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "step-000000.parquet"
    with pytest.raises(SrpoError, match=r"step-000000\.parquet: step file not found"):
        groups_of(path)
    path.write_bytes(b"no parquet")
    with pytest.raises(SrpoError, match=r"step-000000\.parquet: cannot be read as parquet"):
        groups_of(path)
    journal = Journal(tmp_path / "rollouts")
    journal.append(group(0))
    table = journal_groups(journal)
    write_table(table, path)
    with pytest.raises(SrpoError, match=r"step-000000\.parquet: cannot be read"):
        groups_of(path)
    from megatron_srpo.rollout.journal import SCHEMA as ROWS

    write_table(ROWS.empty_table(), path)
    with pytest.raises(SrpoError, match=r"step-000000\.parquet: holds no group"):
        groups_of(path)
