"""Nothing outlives its guard, whenever that is killed; whole engines: tests/integration/test_engine_process.py."""

from __future__ import annotations

import subprocess
import sys

from megatron_srpo.launch import guard

CHILD = """
import os, sys, time
from megatron_srpo.launch.guard import die_with, prctl_setter
prctl, parent = prctl_setter(), os.getpid()
reading, writing = os.pipe()
if os.fork() == 0:
    os.close(writing)
    if sys.argv[1] == "before":
        os.read(reading, 1)  # until the parent is gone
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
