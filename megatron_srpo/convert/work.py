"""An unfinished conversion on disk.

    TARGET.converting/files/      what becomes TARGET, by one rename, when all of it is there
    TARGET.converting/journal/    what it is made of, and which files are whole
    TARGET.converting/lock        held by the process that converts

A file counts once its size and checksum are in the journal, which happens after it has been synced.  So a
conversion may be killed at any instant: the next one with the same arguments keeps the files that count and
writes the others again.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_srpo.checkpoints.manifest import FileEntry
from megatron_srpo.checkpoints.verify import problem_of
from megatron_srpo.errors import SrpoError
from megatron_srpo.files import hold, replace_file, sync, unwritable

FILES, JOURNAL, PLAN = "files", "journal", "plan.json"


@dataclass(frozen=True)
class DoneFile:
    """A file of the journal; `extra` is whatever the conversion must know of it."""

    name: str
    size: int
    xxh3_128: str
    extra: Any

    @property
    def entry(self) -> FileEntry:
        """Its length and checksum."""
        return FileEntry(size=self.size, xxh3_128=self.xxh3_128)


class Work:
    """A conversion to `target`, held against other processes until `close`; `folder` is to be filled.

    arguments: what the bytes of the result depend on; work that was begun with others is thrown away.
    notice: what was kept or thrown away of an earlier attempt, a sentence or nothing.

    Raises:
        SrpoError: when `target` is there already, or another process converts to it.
    """

    def __init__(self, target: Path, arguments: dict[str, Any]) -> None:
        self.target = target
        self._root = target.with_name(target.name + ".converting")
        self.folder, self._journal = self._root / FILES, self._root / JOURNAL
        self.notice = ""
        self.done: dict[str, DoneFile] = {}
        refuse_existing(target)
        self._lock = hold(self._root, f"{self._root}: another process converts to it; wait for it to end")
        refuse_existing(target)  # that other process may just have ended
        try:
            self._open(json.dumps(arguments, sort_keys=True).encode())
        except OSError as error:
            raise unwritable(self._root, error) from None

    def _open(self, plan: bytes) -> None:
        if (self._journal / PLAN).exists() and (self._journal / PLAN).read_bytes() == plan:
            self._take_over()
        else:
            for path in (self.folder, self._journal):
                if path.exists():
                    self.notice = f"{self._root}: was begun with other arguments or another source; starting anew"
                    shutil.rmtree(path)
            replace_file(self._journal / PLAN, plan)
        self.folder.mkdir(exist_ok=True)

    def _take_over(self) -> None:
        """Keep the files that the journal has and that are as it says."""
        for entry in sorted(self._journal.glob("*.done")):
            file = _read_entry(entry)
            if file is None or problem_of(self.folder / file.name, file.entry) is not None:
                entry.unlink()
            else:
                self.done[file.name] = file
        self.notice = f"{self._root}: going on; {len(self.done)} files are whole already"

    def finish(self, name: str, size: int, xxh3_128: str, extra: Any = None) -> None:
        """Count a file, which has been written and synced."""
        record = {"name": name, "size": size, "xxh3_128": xxh3_128, "extra": extra}
        replace_file(self._journal / f"{name}.done", json.dumps(record).encode())
        self.done[name] = DoneFile(**record)

    def check_space(self, sizes: dict[str, int]) -> None:
        """Refuse to begin what the disk has no room for; `sizes` are those of all files to be written."""
        there = sum((self.folder / name).stat().st_size for name in sizes if (self.folder / name).exists())
        needed = sum(sizes.values()) - there
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise SrpoError(
                f"{self._root}: needs {needed} bytes, and {free} are free on its disk; make room or choose "
                "another target"
            )

    def commit(self) -> None:
        """Give the folder its final name, and remove what is left of the work."""
        sync(self.folder)
        if self.target.exists():
            self.target.rmdir()  # it was empty
        self.folder.rename(self.target)
        sync(self.target.parent)
        self.close()
        shutil.rmtree(self._root, ignore_errors=True)  # of no use any more, and of no harm

    def close(self) -> None:
        """Let another process go on."""
        self._lock.close()


def _read_entry(path: Path) -> DoneFile | None:
    """An entry of the journal; none where it is damaged."""
    try:
        return DoneFile(**json.loads(path.read_bytes()))
    except (ValueError, TypeError):
        return None


def refuse_existing(target: Path) -> None:
    """Raise SrpoError unless `target` is missing or an empty folder."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise SrpoError(f"{target}: is there already and is no folder; give a new name")
    if target.is_dir() and any(target.iterdir()):
        raise SrpoError(f"{target}: is there already and not empty; remove it or give a new name")
