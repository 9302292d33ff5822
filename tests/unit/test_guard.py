"""Nothing outlives its guard, whenever that is killed; whole engines: tests/integration/test_engine_process.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_srpo.launch import guard

CHILD = """
import os, sys, time
from megatron_srpo.launch.guard import die_with, prctl_setter
prctl, parent = prctl_setter(), os.getpid()
reading, writing = os.pipe()
if os.fork() == 0:
    os.close(writing)
    if sys.argv[1] == "before":
        os.read(reading, 1)  # until the parent ends
        while os.getppid() == parent:  # and until it is gone
            time.sleep(0.001)
    die_with(parent, prctl)
    print("ready", flush=True)
    time.sleep(2)
    print("alive", flush=True)
    os._exit(0)
time.sleep(0.5)
"""


def test_a_child_ends_with_its_parent_also_when_that_was_faster() -> None:
    """The kernel's promise holds from the call on; a parent that is killed just before it would be missed."""
    for order, expected in (("before", ""), ("after", "ready\n")):
        done = subprocess.run([sys.executable, "-c", CHILD, order], capture_output=True, text=True, timeout=60)
        assert (done.stdout, done.stderr) == (expected, ""), order
    assert guard.PR_SET_PDEATHSIG == 1


LITTER = """
import multiprocessing, signal, subprocess, sys, tempfile, time
from multiprocessing import shared_memory
signal.signal(signal.SIGTERM, signal.SIG_IGN)
file = tempfile.NamedTemporaryFile(delete=False)
named = tempfile.mkstemp(dir="/dev/shm")[1]
with open(named, "r+b") as one:  # a child holds it, as SGLang's scheduler does
    one.truncate(16)
    program = "import mmap, os, time; held = mmap.mmap(0, 16); os.close(2); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", program], stdin=one, stderr=subprocess.PIPE)
child.stderr.read()
memory = shared_memory.SharedMemory(create=True, size=16)
lock = multiprocessing.get_context("spawn").Lock()
print(file.name, named, f"/dev/shm/{memory.name}", f"/dev/shm/sem.{lock._semlock.name[1:]}", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", ["asked to end", "orphaned", "by itself"])
def test_no_file_outlives_the_guarded(tmp_path: Path, how: str) -> None:
    """Temporary files, shared memory, also a child's, and semaphores, though the program is killed."""
    start = (
        "import os, subprocess, sys; "
        f"subprocess.Popen([sys.executable, {guard.__file__!r}, '0.1', str(os.getpid()), *sys.argv[1:]]).wait()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", start, sys.executable, "-c", LITTER],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stdout is not None
    files = [Path(name) for name in process.stdout.readline().split()]
    assert len(files) == 4 and all(file.exists() for file in files), files
    (its_guard,) = guard.children_of(process.pid)
    (program,) = guard.children_of(its_guard)
    victim, number = {
        "asked to end": (its_guard, signal.SIGTERM),
        "orphaned": (process.pid, signal.SIGKILL),
        "by itself": (program, signal.SIGKILL),
    }[how]
    os.kill(victim, number)
    process.stdout.read()  # until nobody holds the other end
    process.wait()
    assert not [file for file in files if file.exists()]
    assert not list(tmp_path.iterdir())
