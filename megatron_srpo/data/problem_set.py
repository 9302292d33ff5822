"""A set of problems on disk: parquet parts and a manifest that names them.

    SET/manifest.json                      written last and atomically: what it does not name is not there
    SET/problems/part-00000-1f2e3d4c.parquet
    SET/refused/, SET/quarantined/         the rows that were left out, with the reasons
    SET/card.md                            the same for people

A part's name holds the beginning of its hash, so a changed set has other names: a new version is written beside
the old one, the manifest is exchanged, and what it no longer names is removed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow
import pyarrow.parquet
from pydantic import Field, ValidationError

from megatron_srpo.errors import SrpoError, one_line
from megatron_srpo.files import hold, replace_file, sync
from megatron_srpo.recipe.section import Section

MANIFEST = "manifest.json"
PROBLEMS, REFUSED, QUARANTINED = "problems", "refused", "quarantined"  # its subfolders
FORMAT = 1
ROWS_PER_PART = 20_000
BYTES_PER_PART = 2**28  # of the rows in memory; tests of code problems can be megabytes
_READ_ROWS = 1_000
_CHUNK = 2**20
_PART_IN_WORK = "part.tmp"
_MEND = "restore it or curate again"

PROBLEM_SCHEMA = pyarrow.schema(
    [
        ("id", pyarrow.string()),
        ("domain", pyarrow.string()),
        ("source", pyarrow.string()),
        ("prompt", pyarrow.string()),
        ("answer", pyarrow.string()),  # null for code
        ("tests", pyarrow.string()),  # JSON as data.code_tests reads it; null for mathematics
        ("difficulty", pyarrow.string()),  # easy, medium, hard; null before grading
        ("pass_rate", pyarrow.float64()),  # share of correct samples; null before grading
        ("meta", pyarrow.string()),  # JSON object: what the set says of it, and what stands below
    ]
)
OUR_NOTES = ("repairs", "grade")
"""Keys of meta that curation and grading write."""


class Part(Section):
    """One file of a set."""

    file: str
    """Relative to the set's folder."""
    rows: int
    bytes: int
    sha256: str


class Manifest(Section):
    """What a set consists of, and how it came to be."""

    format: int = FORMAT
    name: str
    problems: tuple[Part, ...]
    refused: tuple[Part, ...] = ()
    """Rows that rules have left out, with the reasons."""
    quarantined: tuple[Part, ...] = ()
    """Rows that could not be handled."""
    counts: dict[str, Any] = Field(default_factory=dict)
    """By source, domain, rule and so on; for people and `srpo data show`."""
    inputs: dict[str, Any] = Field(default_factory=dict)
    """Of each source, what was read: files with sizes and hashes, or name and revision on the hub."""
    config: dict[str, Any] = Field(default_factory=dict)
    """The curation's config, resolved."""
    grading: dict[str, Any] | None = None
    """How difficulty was measured; none: it was not."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Of this project and of the libraries that decide what is kept."""


def hold_set(folder: Path) -> IO[str]:
    """Take the folder of a set, which is made, for this process; raises SrpoError when another one has it."""
    return hold(folder, f"{folder}: another srpo data command works on this set; wait for it or stop it")


def is_problem_set(path: Path) -> bool:
    """Whether the path is the folder of a finished set."""
    return (path / MANIFEST).is_file()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a set.

    Raises:
        SrpoError: when there is none, it cannot be read, or it is of another format.
    """
    path = folder / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SrpoError(
            f"{folder}: no {MANIFEST} in it, so it is no finished set of problems (looked for {path.absolute()}); "
            "run srpo data curate to its end."
        ) from None
    except (ValidationError, ValueError, OSError) as error:
        raise SrpoError(f"{path}: not a manifest of a set of problems ({one_line(error)}).") from None
    if manifest.format != FORMAT:
        raise SrpoError(f"{path}: format {manifest.format}, this version reads {FORMAT}; curate the set again.")
    return manifest


def check_parts(folder: Path, parts: Iterable[Part]) -> None:
    """Every part is there and as long as the manifest says; reads none.

    Raises:
        SrpoError: naming the file.
    """
    for part in parts:
        path = folder / part.file
        if not path.is_file():
            raise SrpoError(f"{path}: the manifest names this file, but it is not there; {_MEND}.")
        if (size := path.stat().st_size) != part.bytes:
            raise SrpoError(f"{path}: the manifest says {part.bytes} bytes, found {size}; {_MEND}.")


def read_parts(folder: Path, parts: Iterable[Part]) -> Iterator[pyarrow.RecordBatch]:
    """The rows of parts, some thousand at a time, after comparing each file with its hash.

    Raises:
        SrpoError: for a file that is missing or is not what the manifest says.
    """
    for part in parts:
        check_parts(folder, [part])
        path = folder / part.file
        if _sha256(path) != part.sha256:
            raise SrpoError(f"{path}: its content is not what the manifest says (sha256); {_MEND}.")
        with pyarrow.parquet.ParquetFile(path) as file:
            yield from file.iter_batches(_READ_ROWS)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Around the writing of a set: what the disk refuses is an SrpoError, and the set is what it was."""
    try:
        yield
    except OSError as error:
        raise SrpoError(
            f"{folder}: the set cannot be written ({one_line(error)}); make room and start the same command "
            "again, which goes on"
        ) from None


class PartWriter:
    """Writes rows into parts of a set's subfolder; use it with `with`, then take `parts`."""

    def __init__(
        self, folder: Path, kind: str, schema: pyarrow.Schema, rows_per_part: int = ROWS_PER_PART
    ) -> None:
        """Make the subfolder.

        Args:
            folder: of the set.
            kind: the subfolder's name.
            schema: of the rows.
            rows_per_part: the most rows of one file.
        """
        self._folder, self._kind, self._schema, self._limit = folder, kind, schema, rows_per_part
        self._tables: list[pyarrow.Table] = []
        self._rows = self._bytes = 0
        self.parts: list[Part] = []
        (folder / kind).mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            self._flush()
            sync(self._folder / self._kind)

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows; absent values are null."""
        self.write_table(pyarrow.Table.from_pylist(list(rows), schema=self._schema))

    def write_table(self, table: pyarrow.Table) -> None:
        """Add a table of the schema."""
        while table.num_rows:
            head = table.slice(0, self._limit - self._rows)
            table = table.slice(head.num_rows)
            self._tables.append(head)
            self._rows += head.num_rows
            self._bytes += head.nbytes
            if self._rows >= self._limit or self._bytes >= BYTES_PER_PART:
                self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        temporary = self._folder / self._kind / _PART_IN_WORK
        pyarrow.parquet.write_table(
            pyarrow.concat_tables(self._tables), temporary, compression="zstd", row_group_size=_READ_ROWS * 5
        )
        digest = _sha256(temporary)
        file = f"{self._kind}/part-{len(self.parts):05d}-{digest[:8]}.parquet"
        sync(temporary)
        temporary.replace(self._folder / file)
        size = (self._folder / file).stat().st_size
        self.parts.append(Part(file=file, rows=self._rows, bytes=size, sha256=digest))
        self._tables, self._rows, self._bytes = [], 0, 0


def commit(folder: Path, manifest: Manifest) -> None:
    """Exchange the manifest, which makes its parts the set, and remove parts that it does not name."""
    replace_file(folder / MANIFEST, (manifest.model_dump_json(indent=1) + "\n").encode())
    named = {part.file for part in (*manifest.problems, *manifest.refused, *manifest.quarantined)}
    for kind in (PROBLEMS, REFUSED, QUARANTINED):
        for path in (*(folder / kind).glob("part-*.parquet"), *(folder / kind).glob(_PART_IN_WORK)):
            if f"{kind}/{path.name}" not in named:
                path.unlink()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
