"""The problems of a recipe's source: a file or a set, and of it what the source's filters choose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from megatron_srpo.data.problem import Problem
from megatron_srpo.data.problem_set import check_parts, read_manifest, read_parts
from megatron_srpo.data.problems import (
    NO_ROWS,
    PARQUET,
    check_columns,
    collect_problems,
    domain_of,
    pass_rate_of,
    read_rows,
    text_of,
)
from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.data import DataSource

COLUMNS = {"sources": "source", "min_pass_rate": "pass_rate", "max_pass_rate": "pass_rate"}
"""Of the filters that have another name than their column."""
UNGRADED = "ungraded"


def check_source(source: DataSource) -> None:
    """The file or set is there with the columns, or the grades, that its filters need; reads no rows.

    Raises:
        SrpoError: naming the file or set and what is missing.
    """
    if not source.path.exists():
        raise SrpoError(f"{source.path}: there is no such file or set (looked for {source.path.absolute()}).")
    if not source.path.is_dir():
        check_columns(source.path)
        if source.path.suffix in PARQUET:
            import pyarrow.parquet

            _require_filters(source, pyarrow.parquet.read_schema(source.path).names)
        return
    manifest = read_manifest(source.path)
    check_parts(source.path, manifest.problems)
    if not any(part.rows for part in manifest.problems):
        raise SrpoError(f"{source.path}: the set has no problems; at least one is needed.")
    if source.needs_grades and manifest.grading is None:
        asked = " and ".join(key for key in source.filters if key in ("difficulty", *COLUMNS) and key != "sources")
        raise SrpoError(
            f"{source.path}: the set has not been graded, so nothing can be chosen by {asked}; "
            f"run srpo data grade {source.path} --recipe RECIPE first."
        )


def load_source(source: DataSource) -> list[Problem]:
    """The problems that the source's filters choose, in the order of its rows.

    Rows that the filters leave out are not looked at further.

    Raises:
        SrpoError: as `check_source` and `problems.load_problems`, for a part of a set that is not what the
            manifest says, for filters that leave no problem, and for a name in `sources` that no problem has.
    """
    check_source(source)
    seen = _Seen()
    problems = collect_problems(_chosen(source, seen), source.path)
    if not seen.rows:
        raise SrpoError(f"{source.path}: {NO_ROWS}")
    for name in source.sources or ():
        if name not in seen.sources:
            found = ", ".join(sorted(filter(None, seen.sources))) or "none with a name"
            raise SrpoError(f"{source.path}: sources names {name}, but no problem is from there; found {found}.")
    if not problems:
        raise SrpoError(f"{source}: the filters leave none of {seen}.")
    return problems


@dataclass
class _Seen:
    """What was there before the filters."""

    rows: int = 0
    difficulties: Counter[str] = field(default_factory=Counter)
    sources: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(self.difficulties.items()))
        return f"its {self.rows} problems ({counts})"


def _chosen(source: DataSource, seen: _Seen) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows that the filters choose, with their numbers from 1."""
    for number, values in enumerate(_rows(source), 1):
        where = f"{source.path}: row {number}"
        seen.rows += 1
        seen.difficulties[text_of(values, "difficulty", where) or UNGRADED] += 1
        seen.sources.add(text_of(values, "source", where) or "")
        if _fits(source, values, where):
            yield number, values


def _rows(source: DataSource) -> Iterator[Mapping[str, Any]]:
    if source.path.is_dir():
        for batch in read_parts(source.path, read_manifest(source.path).problems):
            yield from batch.to_pylist()
        return
    rows = read_rows(source.path)
    if rows:
        _require_filters(source, rows[0])
    yield from rows


def _require_filters(source: DataSource, names: Collection[str]) -> None:
    """The columns that the filters look at are there."""
    for key in source.filters:
        column = COLUMNS.get(key, key)
        if column not in names:
            raise SrpoError(
                f"{source.path}: the filter {key} needs the column {column}, which is missing; "
                f"found {', '.join(names)}."
            )


def _fits(source: DataSource, values: Mapping[str, Any], where: str) -> bool:
    """Whether a row has everything that is asked; one that has not been graded has no difficulty and no rate."""
    if source.domain is not None and domain_of(values, where) != source.domain:
        return False
    if source.difficulty is not None and values["difficulty"] not in source.difficulty:
        return False
    if source.sources is not None and values["source"] not in source.sources:
        return False
    if source.min_pass_rate is None and source.max_pass_rate is None:
        return True
    rate = pass_rate_of(values, where)
    least = source.min_pass_rate if source.min_pass_rate is not None else 0.0
    most = source.max_pass_rate if source.max_pass_rate is not None else 1.0
    return rate is not None and least <= rate <= most
