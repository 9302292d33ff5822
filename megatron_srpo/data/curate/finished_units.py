"""The finished units of a curation as one long table that is never whole in memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from megatron_srpo.data.curate import unit

BYTES = 4  # of one value of a signature


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


class DiskSignatures:
    """The signatures of all kept problems in one file, permutation after permutation.

    The units' files hold all permutations of some problems; the search wants some permutations of all problems.
    """

    def __init__(self, units: Units, permutations: int, path: Path) -> None:
        """Gather the units' signatures.

        Args:
            units: whose.
            permutations: values of one signature.
            path: of the file, which is written anew.
        """
        self.rows, self.permutations, self._path = units.rows, permutations, path
        first = 0
        with path.open("wb") as file:
            for folder, size in zip(units.folders, units.sizes, strict=True):
                values = np.load(folder / unit.SIGNATURES)
                for permutation in range(permutations if size else 0):
                    os.pwrite(
                        file.fileno(), values[permutation].tobytes(), self._offset(permutation) + first * BYTES
                    )
                first += size

    def _offset(self, permutation: int) -> int:
        return permutation * self.rows * BYTES

    def read(self, first: int, last: int) -> NDArray[np.uint32]:
        """The values of some permutations of all problems."""
        count = (last - first) * self.rows
        values = np.fromfile(self._path, np.uint32, count, offset=self._offset(first))
        return values.reshape(last - first, self.rows)
