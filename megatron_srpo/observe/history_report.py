"""`srpo history`: what became of every prompt, as a table on the terminal and as parquet.  No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from megatron_srpo.curriculum.history import journal_groups
from megatron_srpo.errors import SrpoError
from megatron_srpo.files import write_table
from megatron_srpo.rollout.journal import Journal


def select(run: Path, prompt: str | None, stage: str | None) -> pa.Table:
    """The groups of a run, of one prompt or of one stage.

    Raises SrpoError when there is no run, or nothing of that prompt or stage in it.
    """
    if not (run / "rollouts").is_dir():
        raise SrpoError(f"{run}: is no run directory (it has no rollouts folder); give the directory of a run")
    groups = journal_groups(Journal(run / "rollouts"))
    for column, wanted, option in (("stage", stage, "--stage"), ("prompt_id", prompt, "--prompt")):
        if wanted is None:
            continue
        found = groups.filter(pc.equal(groups[column], wanted))
        if not found.num_rows:
            known = sorted(pc.unique(groups[column]).to_pylist())
            names = f"; there are {', '.join(known[:5])}{', ...' if len(known) > 5 else ''}" if known else ""
            raise SrpoError(f"{run}: has no group of {option} {wanted}{names}")
        groups = found
    return groups


def print_prompt(groups: pa.Table, console: Console) -> None:
    """Every group of one prompt, a line each."""
    titles = ("step", "stage", "source", "epoch", "correct", "reward", "length", "weights", "trained")
    table = Table(*titles, box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for row in groups.to_pylist():
        table.add_row(
            str(row["step"]),
            row["stage"],
            row["source"],
            str(row["epoch"]),
            f"{row['correct']}/{row['samples']}",
            f"{_mean(row['rewards']):.3f}",
            f"{_mean(row['lengths']):.1f}",
            _range(row["weight_versions"]),
            {True: "yes", False: "no", None: "open"}[row["trained"]],
        )
    console.print(table)


def print_epochs(groups: pa.Table, console: Console) -> None:
    """One line for every stage, source and epoch."""
    titles = ("stage", "source", "epoch", "steps", "groups", "accuracy", "reward", "length", "tokens")
    table = Table(*titles, box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    table.title = "groups by stage, source and epoch: all right / mixed / all wrong"
    parts: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for row in groups.to_pylist():
        parts.setdefault((row["stage"], row["source"], row["epoch"]), []).append(row)
    for (stage, source, epoch), rows in parts.items():
        right = sum(row["correct"] == row["samples"] for row in rows)
        wrong = sum(row["correct"] == 0 for row in rows)
        lengths = [length for row in rows for length in row["lengths"]]
        table.add_row(
            stage,
            source,
            str(epoch),
            _range([row["step"] for row in rows]),
            f"{right}/{len(rows) - right - wrong}/{wrong}",
            f"{_mean([a for row in rows for a in row['accuracies']]):.1%}",
            f"{_mean([r for row in rows for r in row['rewards']]):.3f}",
            f"{_mean(lengths):.1f}",
            f"{sum(lengths):,}",
        )
    for column in table.columns[2:]:
        column.justify = "right"
    console.print(table)


def write(groups: pa.Table, path: Path) -> None:
    """The groups as a parquet file; raises SrpoError when it cannot be written."""
    write_table(groups, path)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _range(values: list[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}-{high}"
