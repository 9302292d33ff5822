"""A small disk that can be full: a tmpfs in the mount namespace of a process that does nothing else."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

_HOLD = 'mount -t tmpfs -o size="$1" none "$2" && echo mounted && exec sleep infinity'


class SmallDisk:
    """Its root, seen through /proc from everywhere, and a file that takes what must not be free."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._ballast = root / "ballast"

    def fill(self, spare: int = 0) -> None:
        """Leave `spare` bytes free."""
        with self._ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)) == 4096:
                pass
        with self._ballast.open("r+b") as file:
            size = self._ballast.stat().st_size
            file.truncate(max(size - spare, 0))

    def clear(self) -> None:
        """Free what `fill` has taken."""
        self._ballast.unlink()


@contextlib.contextmanager
def small_disk(mount_point: Path, size: str) -> Iterator[SmallDisk]:
    """A disk of this size, as `mount` takes it; the test is skipped where nothing can be mounted."""
    mount_point.mkdir(parents=True)
    reasons = []
    for options in ("-m", "-Urm"):
        command = ["unshare", options, "sh", "-c", _HOLD, "sh", size, str(mount_point)]
        holder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert holder.stdout is not None and holder.stderr is not None
        try:
            if holder.stdout.readline() == "mounted\n":
                yield SmallDisk(Path(f"/proc/{holder.pid}/root{mount_point}"))
                return
            reasons.append(holder.stderr.read().strip())
        finally:
            holder.kill()
            holder.communicate()
    pytest.skip(f"no tmpfs can be mounted here: {'; '.join(reasons)}")
