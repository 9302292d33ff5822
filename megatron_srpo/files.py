"""Files that are there in full or not at all, whatever crashes when."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

import pyarrow
import pyarrow.parquet
import xxhash

from megatron_srpo.errors import SrpoError

_BLOCK = 4 * 2**20  # bytes read at a time


def replace_file(path: Path, content: bytes | memoryview) -> None:
    """Put content in a file's place: under a temporary name, synced, and renamed."""
    temporary = _temporary(path)
    temporary.write_bytes(content)
    _put(temporary, path)


def write_table(table: pyarrow.Table, path: Path, **options: object) -> None:
    """The same with a table as parquet; `options` are those of pyarrow.parquet.write_table."""
    temporary = _temporary(path)
    pyarrow.parquet.write_table(table, temporary, **options)
    _put(temporary, path)


def sync(path: Path) -> None:
    """Have the disk hold a file's content, or what a folder's files are called."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checksum(path: Path) -> str:
    """XXH3-128 of a file's content, read in blocks."""
    digest = xxhash.xxh3_128()
    block = bytearray(_BLOCK)
    view = memoryview(block)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(view[:count])
    return digest.hexdigest()


def hold(folder: Path, taken: str) -> IO[str]:
    """Take a folder, which is made, for this process until what is returned is closed or the process ends.

    Raises:
        SrpoError: `taken`, when another process has it, or when the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise SrpoError(f"{folder}: cannot be used as a folder ({error.strerror})") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise SrpoError(taken) from None
    return lock


def _temporary(path: Path) -> Path:
    """The name to write under; the folder is made."""
    if not path.parent.exists():
        path.parent.mkdir(parents=True)
        sync(path.parent.parent)
    return path.with_name(path.name + ".tmp")


def _put(temporary: Path, path: Path) -> None:
    sync(temporary)
    temporary.rename(path)
    sync(path.parent)
