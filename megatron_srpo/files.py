"""Files that are there in full or not at all, whatever crashes when."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import IO

import pyarrow
import pyarrow.parquet
import xxhash

from megatron_srpo.errors import SrpoError, one_line

_BLOCK = 4 * 2**20  # bytes read at a time
# As pyarrow and as safetensors put it: their errors have no number.
_ERRNO = re.compile(r"(?:\[errno|\(os error) (\d+)", re.IGNORECASE)


def replace_file(path: Path, content: bytes | memoryview) -> None:
    """Put content in a file's place: under a temporary name, synced, and renamed.

    Raises SrpoError when the disk does not take it, and leaves nothing of it then.
    """
    with _whole(path) as temporary:
        temporary.write_bytes(content)


def join_files(parts: Sequence[Path], path: Path) -> None:
    """The same with what some files hold, one after another."""
    with _whole(path) as temporary, temporary.open("wb") as joined:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, joined, _BLOCK)


def write_table(table: pyarrow.Table, path: Path, **options: object) -> None:
    """The same with a table as parquet; `options` are those of pyarrow.parquet.write_table."""
    with _whole(path) as temporary:
        pyarrow.parquet.write_table(table, temporary, **options)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """The name to write under; what is written there takes the file's place at the end."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        make_folder(path.parent)
        yield temporary
        sync(temporary)
        temporary.rename(path)
        sync(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> SrpoError:
    """What to say of a file that a disk does not take."""
    told = _ERRNO.search(str(error))
    number = error.errno or (int(told.group(1)) if told else 0)
    words = os.strerror(number) if number else one_line(error)
    advice = "free some space" if number in (errno.ENOSPC, errno.EDQUOT) else "see to the disk"
    return SrpoError(
        f"{path}: cannot be written ({words}); {advice} and start again: everything that was recorded before is "
        "kept"
    )


def make_folder(folder: Path) -> None:
    """Make a folder and what is missing above it, so that a crash of the machine does not lose them."""
    missing = list(takewhile(lambda path: not path.exists(), (folder, *folder.parents)))
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync(path.parent)


def is_plain_name(name: object) -> bool:
    """Whether what somebody else's file names is a file right in the folder that it speaks of."""
    return is_inside(name) and "/" not in str(name)


def is_inside(name: object) -> bool:
    """Whether what somebody else's file names lies in the folder that it speaks of, or in one below it."""
    if not isinstance(name, str) or "\0" in name:
        return False
    return all(part not in ("", ".", "..") for part in name.split("/"))


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
