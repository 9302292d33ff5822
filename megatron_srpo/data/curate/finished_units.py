"""The finished units of a curation as one long table that is never whole in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from megatron_srpo.data.curate import unit


@dataclass
class Units:
    """The units, in the order of the sources and their rows; a kept problem is called by its place among all."""

    folders: list[Path]
    sizes: list[int] = field(default_factory=list)
    """Kept problems of each."""

    def __post_init__(self) -> None:
        self.sizes = [pyarrow.parquet.read_metadata(folder / unit.KEPT).num_rows for folder in self.folders]
        self._ends = np.cumsum(self.sizes, dtype=np.int64)
        self._numbers = self.column("row")

    @property
    def rows(self) -> int:
        """All kept problems."""
        return sum(self.sizes)

    def column(self, name: str) -> NDArray[Any]:
        """A column of all kept problems."""
        parts = [
            pyarrow.parquet.read_table(folder / unit.KEPT, columns=[name])[name].to_numpy()
            for folder in self.folders
        ]
        kind = unit.KEPT_SCHEMA.field(name).type.to_pandas_dtype()
        return np.concatenate([np.empty(0, kind), *parts])

    def summaries(self) -> Iterator[dict[str, Any]]:
        """What each unit says of itself."""
        return (json.loads((folder / unit.SUMMARY).read_text(encoding="utf-8")) for folder in self.folders)

    def tables(self, name: str) -> Iterator[pyarrow.Table]:
        """The kept or the dropped rows, a table a unit."""
        return (pyarrow.parquet.read_table(folder / name) for folder in self.folders)

    def find(self, row: int, column: str) -> Any:
        """One value of one kept problem."""
        at = self._unit(row)
        values = pyarrow.parquet.read_table(self.folders[at] / unit.KEPT, columns=[column])[column]
        return values[row - int(self._ends[at]) + self.sizes[at]].as_py()

    def name(self, row: int) -> str:
        """The id of one kept problem."""
        return unit.problem_id(unit.source_of(self.folders[self._unit(row)]), int(self._numbers[row]))

    def _unit(self, row: int) -> int:
        """The unit that a problem is in."""
        return int(np.searchsorted(self._ends, row, "right"))


@dataclass
class DiskSignatures:
    """The signatures in the units' files."""

    units: Units
    permutations: int

    @property
    def rows(self) -> int:
        """All kept problems."""
        return self.units.rows

    def read(self, first: int, last: int) -> NDArray[np.uint32]:
        """The values of some permutations of all problems."""
        values = np.empty((last - first, self.rows), np.uint32)
        at = 0
        for folder, size in zip(self.units.folders, self.units.sizes, strict=True):
            if size:
                values[:, at : at + size] = np.load(folder / unit.SIGNATURES, mmap_mode="r")[first:last]
            at += size
        return values
