"""An unfinished conversion on disk: TARGET.converting, with a journal of the files that are whole.

A file counts once its size and checksum are in the journal, which happens after it has been synced.  So a
conversion may be killed at any instant: the next one with the same arguments keeps the files that count and
writes the others again.  The folder gets its final name as the last step.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_srpo.checkpoints.manifest import FileEntry
from megatron_srpo.checkpoints.verify import problem_of
from megatron_srpo.errors import SrpoError, one_line
from megatron_srpo.files import hold, replace_file, sync

JOURNAL, PLAN, LOCK = "journal", "plan.json", "lock"


@dataclass(frozen=True)
class DoneFile:
    """A file of the journal; `extra` is whatever the conversion must know of it."""

    name: str
    size: int
    xxh3_128: str
    extra: Any


class Work:
    """The folder of a conversion to `target`, held against other processes until `close` or `commit`.

    arguments: what the bytes of the result depend on; work that was begun with others is thrown away.
    notice: what was kept or thrown away of an earlier attempt, a sentence or nothing.

    Raises:
        SrpoError: when `target` is there already, or another process converts to it.
    """

    def __init__(self, target: Path, arguments: dict[str, Any]) -> None:
        self.target = target
        self.folder = target.with_name(target.name + ".converting")
        self.notice = ""
        self.done: dict[str, DoneFile] = {}
        refuse_existing(target)
        self._lock = hold(self.folder, f"{self.folder}: another process converts to it; wait for it to end")
        try:
            self._open(arguments)
        except OSError as error:
            raise SrpoError(f"{self.folder}: cannot be written ({one_line(error)})") from None

    def _open(self, arguments: dict[str, Any]) -> None:
        journal = self.folder / JOURNAL
        plan = json.dumps(arguments, sort_keys=True).encode()
        if (journal / PLAN).exists() and (journal / PLAN).read_bytes() == plan:
            self._take_over(journal)
            return
        left = [path for path in self.folder.iterdir() if path.name != LOCK]
        if left:
            self.notice = f"{self.folder}: was begun with other arguments or another source; starting anew"
        for path in left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        journal.mkdir()
        replace_file(journal / PLAN, plan)

    def _take_over(self, journal: Path) -> None:
        """Keep the files that the journal has and that are as it says."""
        for entry in sorted(journal.glob("*.done")):
            file = DoneFile(**json.loads(entry.read_bytes()))
            if problem_of(self.folder / file.name, FileEntry(size=file.size, xxh3_128=file.xxh3_128)) is None:
                self.done[file.name] = file
            else:
                entry.unlink()
        self.notice = f"{self.folder}: going on; {len(self.done)} files are whole already"

    def finish(self, name: str, size: int, xxh3_128: str, extra: Any = None) -> None:
        """Count a file, which has been written and synced."""
        record = {"name": name, "size": size, "xxh3_128": xxh3_128, "extra": extra}
        replace_file(self.folder / JOURNAL / f"{name}.done", json.dumps(record).encode())
        self.done[name] = DoneFile(**record)

    def check_space(self, sizes: dict[str, int]) -> None:
        """Refuse to begin what the disk has no room for; `sizes` are those of all files to be written."""
        there = sum((self.folder / name).stat().st_size for name in sizes if (self.folder / name).exists())
        needed = sum(sizes.values()) - there
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise SrpoError(
                f"{self.folder}: needs {needed} bytes, and {free} are free on its disk; make room or choose "
                "another target"
            )

    def commit(self) -> None:
        """Drop the journal and give the folder its final name."""
        shutil.rmtree(self.folder / JOURNAL)
        (self.folder / LOCK).unlink()
        sync(self.folder)
        if self.target.exists():
            self.target.rmdir()  # it was empty
        self.folder.rename(self.target)
        sync(self.target.parent)
        self.close()

    def close(self) -> None:
        """Let another process go on."""
        self._lock.close()


def refuse_existing(target: Path) -> None:
    """Raise SrpoError unless `target` is missing or an empty folder."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise SrpoError(f"{target}: is there already and is no folder; give a new name")
    if target.is_dir() and any(target.iterdir()):
        raise SrpoError(f"{target}: is there already and not empty; remove it or give a new name")
