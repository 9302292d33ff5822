"""Runs programs, each in a forked child; started by `sandbox.py` as a script, with the standard library only.

It reads frames (four bytes of length, then the content) from standard input: first a JSON object with the
function, its arguments and the limits, then one program after the other.  It answers the first with READY and
each program with the JSON text that the child wrote, or with nothing.  What the child wrote is only data: who
started this process knows what is expected, this process does not, and its children inherit its memory.

A child is killed when it has answered, closed its pipe, or used up its time, and so is every process that it
started: as subreaper this process becomes their parent.  Linux.
"""

from __future__ import annotations

# Those that are unused here are for the programs: what is loaded before the fork, a child need not load.
import bisect  # noqa: F401
import collections  # noqa: F401
import contextlib
import ctypes
import errno
import functools  # noqa: F401
import heapq  # noqa: F401
import itertools  # noqa: F401
import json
import math
import os
import resource
import select
import signal
import sys
import time
import types
import typing

READY = b"ready"
LONGEST_ANSWER = 2**20  # bytes
NOBODY = 65534
OPEN_FILES = 32
CHUNK = 2**16

# From <linux/prctl.h> and <linux/capability.h>.
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
CAPABILITY_VERSION_3 = 0x20080522

LIBC = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Serve frames until standard input ends."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        return  # the parent died before the line above
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    drop_privileges()
    call = json.loads(read_frame() or b"null")
    write_frame(READY)
    while (program := read_frame()) is not None:
        write_frame(run(program, call))


def run(program: bytes, call: dict[str, typing.Any]) -> bytes:
    """What the program's child wrote within its time, or nothing; afterwards no process of it is left."""
    reader, writer = os.pipe()
    deadline = time.monotonic() + call["seconds"]
    if os.fork() == 0:
        try:
            child(program, call, writer)
        finally:
            os._exit(1)  # a program's exception must not return into the loop above
    os.close(writer)
    answer = collect(reader, deadline)
    os.close(reader)
    kill_children()
    return answer


def collect(reader: int, deadline: float) -> bytes:
    """Everything from the pipe; nothing if it is too much or has not ended at the deadline."""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    answer = b""
    while len(answer) <= LONGEST_ANSWER:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(math.ceil(left * 1000)):
            return b""
        part = os.read(reader, CHUNK)
        if not part:
            return answer
        answer += part
    return b""


def kill_children() -> None:
    """Kill and reap all descendants; those whose parent died have become our children."""
    while True:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            children = [int(child) for child in file.read().split()]
        for child in children:
            with contextlib.suppress(ProcessLookupError):  # it may lead no group
                os.killpg(child, signal.SIGKILL)
            os.kill(child, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def child(program: bytes, call: dict[str, typing.Any], writer: int) -> None:
    """In the forked child: shut it in, run the program, call its function, write what was returned."""
    runner = os.getppid()
    os.setpgid(0, 0)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != runner:
        return
    writer = keep_only(writer)
    set_limits(call["seconds"], call["memory_megabytes"])
    sys.addaudithook(fence)
    # In a module of its own, as dataclasses and others look their module up.
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    exec(compile(program, "solution.py", "exec", dont_inherit=True), module.__dict__)
    function = module.__dict__[call["function"]]
    returned = [function(*arguments) for arguments in json.loads(call["arguments"])]
    answer = memoryview(json.dumps(returned, allow_nan=False).encode())
    while answer:
        answer = answer[os.write(writer, answer) :]


def keep_only(writer: int) -> int:
    """Close everything but the pipe, which becomes descriptor 3; the standard streams lead nowhere."""
    null = os.open(os.devnull, os.O_RDWR)
    if writer < 3 or null < 3:
        raise RuntimeError("a standard stream was closed when the runner started")
    for stream in range(3):
        os.dup2(null, stream)
    os.dup2(writer, 3)
    os.closerange(4, max(writer, null) + 1)
    return 3


def set_limits(seconds: float, memory_megabytes: int) -> None:
    """Resource limits of a child: no files, no processes or threads, little memory and time."""
    for limit, value in (
        (resource.RLIMIT_CPU, math.ceil(seconds) + 1),
        (resource.RLIMIT_AS, memory_megabytes * 2**20),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
    ):
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))


# Operations that Python announces to audit hooks, by the beginning of their names; see `fence`.
FORBIDDEN = ("os.", "shutil.", "socket.", "subprocess.", "ctypes.", "pty.", "fcntl.", "resource.", "signal.")
ALLOWED = ("os.listdir", "os.scandir", "os.walk", "os.fwalk", "os.putenv", "os.unsetenv")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def fence(event: str, arguments: tuple[typing.Any, ...]) -> None:
    """Audit hook that refuses what no solution needs: files written or removed, signals, network, processes.

    A fence against accidents, such as a program that tidies up files it never made; not a wall.
    """
    forbidden = event.startswith(FORBIDDEN) and event not in ALLOWED
    if forbidden or (event == "open" and arguments[2] & WRITING):
        raise PermissionError(f"{event} is not allowed here")


def drop_privileges() -> None:
    """Give up for good what would lift limits: capabilities, and being root in the count of processes.

    Only the real user id changes: the files of Python may be readable for root alone.
    """
    if os.getuid() == 0:
        try:
            os.setresuid(NOBODY, -1, -1)
        except OSError as error:
            # EINVAL: this user namespace knows no such user.  Its root is as a rule an ordinary user outside,
            # whom the limit binds as it is; if real root made it, a program can fork, until its time is up.
            if error.errno != errno.EINVAL:
                raise
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    if LIBC.capset(header, (ctypes.c_uint32 * 6)()) != 0:
        raise OSError(ctypes.get_errno(), "capset failed")


def prctl(option: int, value: int) -> None:
    """The prctl system call."""
    if LIBC.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value}) failed")


def read_frame() -> bytes | None:
    """The next frame from standard input, or None at its end."""
    stream = sys.stdin.buffer
    size = stream.read(4)
    return stream.read(int.from_bytes(size, "big")) if len(size) == 4 else None


def write_frame(content: bytes) -> None:
    """One frame to standard output."""
    stream = sys.stdout.buffer
    stream.write(len(content).to_bytes(4, "big") + content)
    stream.flush()


if __name__ == "__main__":
    main()
