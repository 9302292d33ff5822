"""Parent of one of our processes, which lets nothing of it survive: `python guard.py GRACE PARENT COMMAND ...`.

An engine is a server with children (SGLang: scheduler, detokenizer).  They must all end when the server dies,
when the controller asks for it, and when the controller itself is killed and can ask for nothing.  So the
controller starts this small process, and this process starts the engine in a session of its own and waits for
one of three things:

- the engine ends: its remaining children are killed, the exit code is handed on (128 + signal, as shells do);
- SIGTERM arrives: the server gets SIGTERM, and all of the engine SIGKILL after GRACE seconds;
- the process PARENT is no longer our parent: all of the engine gets SIGKILL.

Its temporary files go into a folder that is removed then, and so is what it has made in shared memory.

If this process is killed, the kernel kills the server (PR_SET_PDEATHSIG) and the server's children follow it; its
temporary files stay.
It is started by path and imports the standard library only, so it starts in a moment and stays small.  Linux.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# From <linux/prctl.h>.
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

PARENT_CHECK_SECONDS = 0.5
# Python's own processes that remove semaphores and shared memory of the dead, when they see that those are dead.
TRACKER = b"multiprocessing.resource_tracker"
TRACKER_SECONDS = 2.0
SHARED_MEMORY = "/dev/shm/"


def prctl_setter() -> Callable[[int, int], None]:
    """Function (option, value) for the prctl system call; made beforehand, a forked child must not import."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def call(option: int, value: int) -> None:
        if prctl(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), f"prctl({option}, {value}) failed")

    return call


def die_with(parent: int, prctl: Callable[[int, int], None]) -> None:
    """In a forked child: have the kernel kill this process when its parent ends, or end now if it has ended."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def children_of(process: int) -> list[int]:
    """The processes that any thread of a process has started; none when it is gone."""
    with contextlib.suppress(OSError):
        lists = [path.read_text() for path in Path(f"/proc/{process}/task").glob("*/children")]
        return [int(child) for one in lists for child in one.split()]
    return []


def kill_orphans(before: Callable[[int], None] = lambda child: None) -> None:
    """Kill and reap all descendants, also those that left the group: as subreaper we become their parent.

    Resource trackers have a moment to clean up by themselves.  `before` is called with each child before its end.
    """
    deadline = time.monotonic() + TRACKER_SECONDS
    # Without children left waitpid raises ChildProcessError.
    with contextlib.suppress(ChildProcessError):
        while True:
            for child in children_of(os.getpid()):
                if time.monotonic() > deadline or not is_tracker(child):
                    before(child)
                    os.kill(child, signal.SIGKILL)
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.005)


def is_tracker(child: int) -> bool:
    """Whether a child of ours is a resource tracker."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return TRACKER in Path(f"/proc/{child}/cmdline").read_bytes()
    return False


class Litter:
    """Files that a program leaves when it is killed: temporary ones, and those in shared memory."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="srpo-"))
        self._began = self._folder.stat().st_ctime
        self._shared: set[Path] = set()

    def environment(self) -> dict[str, str]:
        """Ours, with a folder for temporary files; what torch has compiled stays where it was."""
        compiled = str(Path(tempfile.gettempdir()) / f"torchinductor_{os.getuid()}")
        return {"TORCHINDUCTOR_CACHE_DIR": compiled, **os.environ, "TMPDIR": str(self._folder)}

    def look(self, process: int) -> None:
        """Remember the shared memory that a process and its descendants have made, while they live."""
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{process}/maps").read_text().splitlines():
                path = Path(line.split(maxsplit=5)[-1])
                if str(path).startswith(SHARED_MEMORY) and path.exists() and path.stat().st_ctime >= self._began:
                    self._shared.add(path)
        for child in children_of(process):
            self.look(child)

    def remove(self) -> None:
        """Remove all of it."""
        for path in self._shared:
            path.unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)


def wait_for_end(engine: subprocess.Popen[bytes], grace: float, parent: int, litter: Litter) -> None:
    """Return when the engine's own process has ended, by itself or by us."""
    awaited = {signal.SIGCHLD, signal.SIGTERM}
    deadline: float | None = None
    while engine.poll() is None:
        received = signal.sigtimedwait(awaited, PARENT_CHECK_SECONDS)
        if received is not None and received.si_signo == signal.SIGTERM and deadline is None:
            deadline = time.monotonic() + grace
            litter.look(engine.pid)
            engine.terminate()
        orphaned = os.getppid() != parent
        if orphaned or (deadline is not None and time.monotonic() > deadline):
            litter.look(engine.pid)
            engine.kill()  # who is left of it is killed as our own child


def main() -> int:
    """Run the command line; returns the exit code."""
    grace, parent, command = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    # Blocked signals wait for sigtimedwait, so none is lost between two looks.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})
    prctl = prctl_setter()
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    guard = os.getpid()

    def in_child() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD, signal.SIGTERM})
        die_with(guard, prctl)

    litter = Litter()
    try:
        engine = subprocess.Popen(command, env=litter.environment(), start_new_session=True, preexec_fn=in_child)
        wait_for_end(engine, grace, parent, litter)
        kill_orphans(litter.look)
    finally:
        litter.remove()
    return engine.returncode if engine.returncode >= 0 else 128 - engine.returncode


if __name__ == "__main__":
    sys.exit(main())
