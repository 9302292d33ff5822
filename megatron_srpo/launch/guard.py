"""Parent of one of our processes, which lets nothing of it survive: `python guard.py GRACE PARENT COMMAND ...`.

An engine is a server with children (SGLang: scheduler, detokenizer).  They must all end when the server dies,
when the controller asks for it, and when the controller itself is killed and can ask for nothing.  So the
controller starts this small process, and this process starts the engine in a session of its own and waits for
one of three things:

- the engine ends: its remaining children are killed, the exit code is handed on (128 + signal, as shells do);
- SIGTERM arrives: the server gets SIGTERM, and all of the engine SIGKILL after GRACE seconds;
- the process PARENT is no longer our parent: all of the engine gets SIGKILL.

Its temporary files go into a folder that is removed then, and so is what it has named after them in shared memory.

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
from collections.abc import Callable, Iterator
from pathlib import Path

# From <linux/prctl.h>.
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

PARENT_CHECK_SECONDS = 0.5
# Python's own processes that remove semaphores and shared memory of the dead, when they see that those are dead.
TRACKER = b"multiprocessing.resource_tracker"
TRACKER_SECONDS = 2.0
SHARED_MEMORY = Path("/dev/shm")


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


def kill_orphans() -> None:
    """Kill and reap all descendants, also those that left the group: as subreaper we become their parent.

    Resource trackers have a moment to clean up by themselves.
    """
    deadline = time.monotonic() + TRACKER_SECONDS
    # Without children left waitpid raises ChildProcessError.
    with contextlib.suppress(ChildProcessError):
        while True:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
            for child in children.split():
                if time.monotonic() > deadline or not is_tracker(int(child)):
                    os.kill(int(child), signal.SIGKILL)
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.005)


def is_tracker(child: int) -> bool:
    """Whether a child of ours is a resource tracker."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return TRACKER in Path(f"/proc/{child}/cmdline").read_bytes()
    return False


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for temporary files; removed at the end, with what SGLang names after them in shared memory."""
    folder = Path(tempfile.mkdtemp(prefix="srpo-"))
    try:
        yield folder
    finally:
        for path in folder.iterdir():
            for shared in SHARED_MEMORY.glob(f"*_{path.name}_*"):
                shared.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def with_scratch(environment: dict[str, str], folder: Path) -> dict[str, str]:
    """The environment with this folder for temporary files; what torch has compiled stays where it was."""
    compiled = str(Path(tempfile.gettempdir()) / f"torchinductor_{os.getuid()}")
    return {"TORCHINDUCTOR_CACHE_DIR": compiled, **environment, "TMPDIR": str(folder)}


def wait_for_end(engine: subprocess.Popen[bytes], grace: float, parent: int) -> None:
    """Return when the engine's own process has ended, by itself or by us."""
    awaited = {signal.SIGCHLD, signal.SIGTERM}
    deadline: float | None = None
    while engine.poll() is None:
        received = signal.sigtimedwait(awaited, PARENT_CHECK_SECONDS)
        if received is not None and received.si_signo == signal.SIGTERM and deadline is None:
            deadline = time.monotonic() + grace
            engine.terminate()
        orphaned = os.getppid() != parent
        if orphaned or (deadline is not None and time.monotonic() > deadline):
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

    with scratch() as folder:
        environment = with_scratch(dict(os.environ), folder)
        engine = subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=in_child)
        wait_for_end(engine, grace, parent)
        kill_orphans()
    return engine.returncode if engine.returncode >= 0 else 128 - engine.returncode


if __name__ == "__main__":
    sys.exit(main())
