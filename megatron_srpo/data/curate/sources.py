"""The rows of a source, in chunks, in a fixed order, in bounded memory.

Local files are read as a stream: parquet and arrow with pyarrow, JSON line by line, because one broken line must
cost one row and not the file.  Folders in the layout of the hub, and names on it, are read by Hugging Face
`datasets`, streaming.

A chunk is decoded only when somebody wants its rows, so that passing over finished ones is cheap.  Where a chunk
ends depends on the content alone, never on what was done before.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import xxhash

from megatron_srpo.data.curate.place import Place
from megatron_srpo.errors import SrpoError, one_line

PARQUET, ARROW, LINES, JSON = (".parquet",), (".arrow",), (".jsonl", ".ndjson"), (".json",)
FILES = (*PARQUET, *ARROW, *LINES, *JSON)
CHUNK_BYTES = 2**25  # of the rows in memory; tests of code problems can be megabytes a row
READ_ROWS = 256
READ_BYTES = 2**20
BETWEEN = re.compile(r"[ \t\r\n,]*")

Row = Mapping[str, Any] | str
"""The columns, or a line of JSON that nobody has parsed yet."""


@dataclass(frozen=True)
class Chunk:
    """Some rows of a source."""

    first: int
    """The number of its first row in the source, from 0."""
    size: int
    rows: Callable[[], list[Row]]


@dataclass(frozen=True)
class Piece:
    """A few rows as a reader has them, not decoded."""

    size: int
    bytes: int
    rows: Callable[[], list[Row]]


def chunks(source: Place, rows: int, limit: int | None = None) -> Iterator[Chunk]:
    """The source in chunks.

    Args:
        source: where it is.
        rows: the most of one chunk.
        limit: only so many rows of the source; none: all.

    Raises:
        SrpoError: when it is not there or cannot be read as what it seems to be.
    """
    first, waiting, size, weight = 0, list[Piece](), 0, 0
    for piece in _split(_pieces(source), rows, limit):
        if waiting and (size + piece.size > rows or weight + piece.bytes > CHUNK_BYTES):
            yield Chunk(first, size, _joined(waiting))
            first, waiting, size, weight = first + size, [], 0, 0
        waiting.append(piece)
        size, weight = size + piece.size, weight + piece.bytes
    if waiting:
        yield Chunk(first, size, _joined(waiting))


def fingerprint(source: Place) -> dict[str, Any]:
    """What was read, so that a later start notices when it is another: files with hash, or the name on the hub."""
    files = local_files(source)
    if files is None:
        return {"hub": source.path, "subset": source.subset, "split": source.split, "revision": source.revision}
    return {"files": {file.name: {"bytes": file.stat().st_size, "xxh3": _hash(file)} for file in files}}


def known_rows(source: Place) -> int | None:
    """How many rows the source has, where its files say so; for progress bars."""
    files = local_files(source)
    if files is None or any(file.suffix not in PARQUET for file in files):
        return None
    return sum(int(_parquet(file).metadata.num_rows) for file in files)


def local_files(source: Place) -> list[Path] | None:
    """The files of a source; None where it is a folder or a name on the hub.

    Raises:
        SrpoError: when what looks like a file is not there, or is of an unknown kind.
    """
    path = Path(source.path)
    if path.is_dir():
        return None
    found = [path] if path.is_file() else sorted(Path(name) for name in glob.glob(source.path, recursive=True))
    if not found:
        if path.suffix in FILES or glob.has_magic(source.path) or source.path.count("/") > 1 or path.is_absolute():
            raise SrpoError(f"{source.path}: there is no such file (looked for {path.absolute()}).")
        return None
    for file in found:
        if file.suffix not in FILES:
            raise SrpoError(f"{file}: unknown kind of file; expected {', '.join(FILES)}.")
    return found


def _pieces(source: Place) -> Iterator[Piece]:
    files = local_files(source)
    if files is None:
        yield from _of_datasets(source)
        return
    for file in files:
        try:
            if file.suffix in PARQUET:
                with _parquet(file) as opened:
                    yield from _of_batches(opened.iter_batches(READ_ROWS))
            elif file.suffix in ARROW:
                yield from _of_batches(_arrow(file))
            else:
                lines = _lines(file) if file.suffix in LINES else _elements(file)
                yield from _of_lines(lines)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise SrpoError(f"{file}: cannot be read ({one_line(error)}); restore it or leave it out.") from None


def _parquet(file: Path) -> pyarrow.parquet.ParquetFile:
    try:
        return pyarrow.parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise SrpoError(f"{file}: not a readable parquet file ({one_line(error)}).") from None


def _arrow(file: Path) -> Iterator[pyarrow.RecordBatch]:
    """Both of arrow's formats; `datasets` writes the stream."""
    with pyarrow.memory_map(str(file)) as opened:
        try:
            reader = pyarrow.ipc.open_file(opened)
        except pyarrow.ArrowInvalid:
            opened.seek(0)
            yield from pyarrow.ipc.open_stream(opened)
        else:
            yield from (reader.get_batch(number) for number in range(reader.num_record_batches))


def _lines(file: Path) -> Iterator[str]:
    """The lines that hold something; a byte that is no UTF-8 breaks its own line only."""
    with file.open("rb") as opened:
        for line in opened:
            if line.strip():
                yield line.decode("utf-8", "surrogateescape")


def _elements(file: Path) -> Iterator[str]:
    """The elements of a JSON list, or the lines of a file that holds one value a line."""
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as opened:
        start = opened.read(READ_BYTES).lstrip()
        if not start.startswith("["):
            opened.seek(0)
            yield from (line for line in opened if line.strip())
            return
        buffer, at, decoder = start, 1, json.JSONDecoder()
        while True:
            at = BETWEEN.match(buffer, at).end()  # type: ignore[union-attr]
            if buffer.startswith("]", at):
                return
            try:
                value, end = decoder.raw_decode(buffer, at)
                if end == len(buffer):
                    raise ValueError("the last element may go on")
            except (ValueError, RecursionError) as error:
                more = opened.read(max(READ_BYTES, len(buffer) - at))
                if not more:
                    raise SrpoError(f"{file}: the list is not valid JSON to its end ({error}).") from None
                buffer, at = buffer[at:] + more, 0
                continue
            yield json.dumps(value)
            at = end


def _of_datasets(source: Place) -> Iterator[Piece]:
    """A folder or a set on the hub, streamed by Hugging Face `datasets`."""
    import datasets

    from megatron_srpo.data.problems import quiet

    try:
        with quiet():
            stream = datasets.load_dataset(
                source.path, source.subset, split=source.split, revision=source.revision, streaming=True
            )
            yield from _of_batches(
                batch for table in stream.with_format("arrow").iter(READ_ROWS) for batch in table.to_batches()
            )
    except SrpoError:
        raise
    except Exception as error:  # of the network, of the set's files, of its description: anything
        raise SrpoError(
            f"{source.path} (subset {source.subset or 'default'}, split {source.split}): cannot be read as a "
            f"folder or as a set on the hub ({type(error).__name__}: {one_line(error):.300})."
        ) from None


def _of_batches(batches: Iterable[pyarrow.RecordBatch]) -> Iterator[Piece]:
    for batch in batches:
        for start in range(0, batch.num_rows, READ_ROWS):
            part = batch.slice(start, READ_ROWS)
            yield Piece(part.num_rows, part.nbytes, part.to_pylist)


def _of_lines(lines: Iterable[str]) -> Iterator[Piece]:
    for line in lines:
        yield Piece(1, len(line), lambda line=line: [line])  # type: ignore[misc]


def _split(pieces: Iterable[Piece], rows: int, limit: int | None) -> Iterator[Piece]:
    """Pieces of at most `rows` rows, `limit` rows in all."""
    left = limit
    for piece in pieces:
        for start in range(0, piece.size, rows):
            size = min(rows, piece.size - start)
            if left is not None:
                size = min(size, left)
                left -= size
            if size == piece.size:
                yield piece
            elif size:
                weight = piece.bytes * size // piece.size
                yield Piece(size, weight, lambda piece=piece, at=start, size=size: piece.rows()[at : at + size])  # type: ignore[misc]
        if left == 0:
            return


def _joined(pieces: list[Piece]) -> Callable[[], list[Row]]:
    return lambda: [row for piece in pieces for row in piece.rows()]


def _hash(file: Path) -> str:
    digest = xxhash.xxh3_128()
    with file.open("rb") as opened:
        while part := opened.read(READ_BYTES):
            digest.update(part)
    return digest.hexdigest()
