"""Readers of files and of the hub: a few rows at a time, not decoded before somebody wants them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet

from megatron_srpo.data.curate.draft import BadRow
from megatron_srpo.data.curate.place import Place
from megatron_srpo.errors import SrpoError, one_line

READ_ROWS = 256
READ_BYTES = 2**20
PIECE_BYTES = 2**22  # of several rows together; tests of code problems can be megabytes a row
LONGEST_ELEMENT = 2**29  # characters
BETWEEN = re.compile(r"[ \t\r\n,]*+")
# What decides where an element of a list ends: brackets, commas, and strings, in which neither counts.
MARK = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{},]', re.DOTALL)

Row = Mapping[str, Any] | str | BadRow
"""The columns, or a line of JSON that nobody has parsed yet, or why there is no reading the row."""


@dataclass(frozen=True)
class Piece:
    """A few rows as a reader has them."""

    size: int
    bytes: int
    rows: Callable[[int, int], list[Row]]
    """Decodes those from one number to another."""


def of_parquet(file: Path) -> Iterator[Piece]:
    """The rows of a parquet file, of one row group after the other."""
    with open_parquet(file) as opened:
        yield from of_batches(opened.iter_batches(READ_ROWS))


def open_parquet(file: Path) -> pyarrow.parquet.ParquetFile:
    """A parquet file; raises SrpoError when it is none."""
    try:
        return pyarrow.parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise SrpoError(f"{file}: not a readable parquet file ({one_line(error)}).") from None


def of_arrow(file: Path) -> Iterator[Piece]:
    """Both of arrow's formats; `datasets` writes the stream."""
    with pyarrow.memory_map(str(file)) as opened:
        try:
            reader = pyarrow.ipc.open_file(opened)
        except pyarrow.ArrowInvalid:
            opened.seek(0)
            yield from of_batches(pyarrow.ipc.open_stream(opened))
        else:
            yield from of_batches(reader.get_batch(number) for number in range(reader.num_record_batches))


def of_lines(file: Path) -> Iterator[Piece]:
    """The lines that hold something; a byte that is no UTF-8 breaks its own line only."""
    with file.open("rb") as opened:
        for number, line in enumerate(opened):
            line = (line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line).strip()
            if line:
                yield _of_text(line.decode("utf-8", "surrogateescape"))


def of_list(file: Path) -> Iterator[Piece]:
    """The elements of a JSON list, or the lines of a file that holds one value a line.

    Elements are told apart by brackets and commas alone, so what is wrong within one costs one row.

    Raises:
        SrpoError: when the list does not end.
    """
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as opened:
        buffer = opened.read(READ_BYTES).lstrip()
        if not buffer.startswith("["):
            yield from of_lines(file)
            return
        at = 1
        while True:
            at = BETWEEN.match(buffer, at).end()  # type: ignore[union-attr]
            end = _end_of_element(buffer, at)
            if end is not None:
                if end > at:
                    yield _of_text(buffer[at:end].rstrip())
                if buffer[end] == "]":
                    return
                at = end
                continue
            more = opened.read(max(READ_BYTES, len(buffer) - at))
            if not more or len(buffer) - at > LONGEST_ELEMENT:
                raise SrpoError(f"{file}: the list does not end; the file is cut short or a bracket is missing.")
            buffer, at = buffer[at:] + more, 0


def _end_of_element(buffer: str, start: int) -> int | None:
    """Where the comma or bracket behind an element is; None where the buffer ends first."""
    depth = 0
    for found in MARK.finditer(buffer, start):
        mark = found[0]
        if mark[0] == '"':
            continue  # where it does not end, no mark follows
        if mark in "[{":
            depth += 1
        elif depth == 0 and mark != "}":
            return found.start()
        elif mark in "]}":
            depth = max(depth - 1, 0)
    return None


def of_datasets(source: Place) -> Iterator[Piece]:
    """A folder or a set on the hub, streamed by Hugging Face `datasets`."""
    import datasets

    from megatron_srpo.data.problems import quiet

    try:
        with quiet():
            stream = datasets.load_dataset(
                source.path, source.subset, split=source.split, revision=source.revision, streaming=True
            )
            yield from of_batches(
                batch for table in stream.with_format("arrow").iter(READ_ROWS) for batch in table.to_batches()
            )
    except SrpoError:
        raise
    except Exception as error:  # of the network, of the set's files, of its description: anything
        raise SrpoError(
            f"{source.path} (subset {source.subset or 'default'}, split {source.split}): cannot be read as a "
            f"folder or as a set on the hub ({type(error).__name__}: {one_line(error):.300})."
        ) from None


def of_batches(batches: Iterable[pyarrow.RecordBatch]) -> Iterator[Piece]:
    """Batches in pieces of few rows and not too many bytes."""
    for batch in batches:
        # Not by a size that was measured once: rows of a batch may differ a thousandfold.
        waiting = [batch.slice(start, READ_ROWS) for start in range(0, batch.num_rows, READ_ROWS)][::-1]
        while waiting:
            part = waiting.pop()
            half = part.num_rows // 2
            if half and part.nbytes > PIECE_BYTES:
                waiting += [part.slice(half), part.slice(0, half)]
            else:
                yield Piece(part.num_rows, part.nbytes, lambda start, end, part=part: decoded(part, start, end))  # type: ignore[misc]


def decoded(batch: pyarrow.RecordBatch, start: int, end: int) -> list[Row]:
    """Rows of a batch; one that Python cannot hold, as text that is no UTF-8 or the year 20000, is a BadRow."""
    part = batch.slice(start, end - start)
    try:
        part.validate(full=True)  # else a damaged file may end the process
        found: list[Row] = part.to_pylist()
        return found
    except Exception as error:  # of a conversion: there are many
        if part.num_rows > 1:
            return [row for at in range(start, end) for row in decoded(batch, at, at + 1)]
        return [BadRow(f"the row cannot be decoded ({one_line(error):.300})")]


def _of_text(text: str) -> Piece:
    rows: list[Row] = [text]
    return Piece(1, len(text), lambda start, end: rows[start:end])
