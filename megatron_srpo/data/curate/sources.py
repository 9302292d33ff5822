"""The rows of a source, in chunks, in a fixed order, in bounded memory.

Local files are read as a stream: parquet and arrow with pyarrow, JSON line by line, because one broken line must
cost one row and not the file.  Folders in the layout of the hub, and names on it, are read by Hugging Face
`datasets`, streaming.

A chunk is decoded only when somebody wants its rows, so that passing over finished ones is cheap.  Where a chunk
ends depends on the content alone, never on what was done before.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow
import xxhash

from megatron_srpo.data.curate.place import Place
from megatron_srpo.data.curate.readers import (
    Piece,
    Row,
    of_arrow,
    of_datasets,
    of_lines,
    of_list,
    of_parquet,
    open_parquet,
)
from megatron_srpo.errors import SrpoError, one_line

READERS: dict[str, Callable[[Path], Iterator[Piece]]] = {
    ".parquet": of_parquet,
    ".arrow": of_arrow,
    ".jsonl": of_lines,
    ".ndjson": of_lines,
    ".json": of_list,
}
CHUNK_BYTES = 2**25  # of the rows in memory
HASHED_BYTES = 2**20  # at a time
HUB_SECONDS = 30.0  # for one answer
COMMIT = re.compile("[0-9a-f]{40}")
SomePlace = TypeVar("SomePlace", bound=Place)

Rows = Callable[[], list[Row]]
"""Decodes some rows."""


@dataclass(frozen=True)
class Chunk:
    """Some rows of a source."""

    first: int
    """The number of its first row in the source, from 0."""
    size: int
    rows: Rows


def chunks(source: Place, rows: int, limit: int | None = None) -> Iterator[Chunk]:
    """The source in chunks.

    Args:
        source: where it is.
        rows: the most of one chunk.
        limit: only so many rows of the source; none: all.

    Raises:
        SrpoError: when it is not there or cannot be read as what it seems to be.
    """
    first, waiting, size, weight = 0, list[Rows](), 0, 0
    for piece in _limited(_pieces(source), limit):
        if waiting and weight + piece.bytes > CHUNK_BYTES:
            yield Chunk(first, size, _joined(waiting))
            first, waiting, size, weight = first + size, [], 0, 0
        weight += piece.bytes
        start = 0
        while start < piece.size:
            end = min(piece.size, start + rows - size)
            waiting.append(partial(piece.rows, start, end))
            size, start = size + end - start, end
            if size == rows:
                yield Chunk(first, size, _joined(waiting))
                first, waiting, size, weight = first + size, [], 0, piece.bytes if start < piece.size else 0
    if waiting:
        yield Chunk(first, size, _joined(waiting))


def pinned(source: SomePlace) -> SomePlace:
    """A set on the hub at the commit that its revision is now, for a branch may move while it is read.

    Raises:
        SrpoError: when the hub does not say.
    """
    if COMMIT.fullmatch(source.revision or "") or Path(source.path).is_dir() or local_files(source) is not None:
        return source
    import huggingface_hub

    try:
        commit = (
            huggingface_hub.HfApi().dataset_info(source.path, revision=source.revision, timeout=HUB_SECONDS).sha
        )
    except Exception as error:  # of the network, of the hub, of the name: anything
        raise SrpoError(
            f"{source.path}: neither a file nor a folder, and the hub cannot be asked for its revision "
            f"{source.revision or 'main'} ({type(error).__name__}: {one_line(error):.300})."
        ) from None
    return source.model_copy(update={"revision": commit})


def fingerprint(source: Place) -> dict[str, Any]:
    """What was read, so that a later start notices when it is another: files with hash, or the name on the hub."""
    folder = Path(source.path)
    files = sorted(_visible_files(folder)) if folder.is_dir() else local_files(source)
    if files is None:
        return {"hub": source.path, "subset": source.subset, "split": source.split, "revision": source.revision}
    common = os.path.commonpath([file.parent for file in files]) if files else ""
    return {"files": {os.path.relpath(file, common): _identity(file) for file in files}}


def known_rows(source: Place) -> int | None:
    """How many rows the source has, where its files say so; for progress bars."""
    files = local_files(source)
    if files is None or any(READERS[file.suffix] is not of_parquet for file in files):
        return None
    return sum(_parquet_rows(file) for file in files)


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
        if (
            path.suffix in READERS
            or glob.has_magic(source.path)
            or source.path.count("/") > 1
            or path.is_absolute()
        ):
            raise SrpoError(f"{source.path}: there is no such file (looked for {path.absolute()}).")
        return None
    for file in found:
        if file.is_dir():
            raise SrpoError(f"{file}: is a folder; {source.path} must find files only.")
        if file.suffix not in READERS:
            raise SrpoError(f"{file}: unknown kind of file; expected {', '.join(READERS)}.")
    return found


def _pieces(source: Place) -> Iterator[Piece]:
    files = local_files(source)
    if files is None:
        yield from of_datasets(source)
        return
    for file in files:
        try:
            yield from READERS[file.suffix](file)
        except (pyarrow.ArrowException, OSError) as error:
            raise SrpoError(f"{file}: cannot be read ({one_line(error)}); restore it or leave it out.") from None


def _limited(pieces: Iterable[Piece], limit: int | None) -> Iterator[Piece]:
    """Pieces of `limit` rows in all."""
    left = limit
    for piece in pieces:
        if left is None or piece.size < left:
            yield piece
            left = None if left is None else left - piece.size
        else:
            yield replace(piece, size=left, bytes=piece.bytes * left // piece.size)
            return


def _visible_files(folder: Path) -> Iterator[Path]:
    """Without what `datasets` does not read: notes of git and of downloads, which may change by themselves."""
    for file in folder.rglob("*"):
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts):
            yield file


def _joined(parts: list[Rows]) -> Rows:
    return lambda: [row for rows in parts for row in rows()]


def _parquet_rows(file: Path) -> int:
    with open_parquet(file) as opened:
        return int(opened.metadata.num_rows)


def _identity(file: Path) -> dict[str, Any]:
    digest, size = xxhash.xxh3_128(), 0
    try:
        with file.open("rb") as opened:
            while part := opened.read(HASHED_BYTES):
                digest.update(part)
                size += len(part)
    except OSError as error:
        raise SrpoError(f"{file}: cannot be read ({error.strerror}); restore it or leave it out.") from None
    return {"bytes": size, "xxh3": digest.hexdigest()}
