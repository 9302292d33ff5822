"""The sandbox of this machine: programs behind the strongest walls that its kernel lets us build.

A sandbox is one process (inside/server.py) behind walls (inside/walls.py), which forks a process for every
program and that one another for every test case: to fork takes a millisecond, to start Python twenty.  What is
expected never goes inside, so a program cannot forge a verdict: it can only say what it found.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import asdict
from io import FileIO
from pathlib import Path
from types import TracebackType

from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.reward import SandboxSection
from megatron_srpo.rewards.sandbox.inside import cases, server, walls
from megatron_srpo.rewards.sandbox.inside.cases import memory_file
from megatron_srpo.rewards.sandbox.jobs import STATUSES, CaseResult, Limits, Program, Results

START_SECONDS = 60.0
TRIAL = Program("print(input(), end='')", "stdio", ("trial\n",))
TRIAL_LIMITS = Limits(START_SECONDS, START_SECONDS, 1.0, 2**40, 2**10, True)
GRACE_SECONDS = 10.0  # for our own processes inside, on a busy machine
# Libraries of numerics would start threads when they are preloaded: walls enclose one.
ENVIRONMENT = {"PYTHONHASHSEED": "0"} | {
    f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")
}
# At the end of the path, so that nothing of ours hides a module of Python.
BOOTSTRAP = """
import sys
sys.path.append(sys.argv[1])
from inside import server
sys.path.pop()
server.main(sys.argv[2:])
"""


class StartError(Exception):
    """A level of isolation is not to be had; the text says why."""


class LocalSandbox:
    """One sandbox; a program at a time.  Use it as a context manager, or call `close`.

    It starts with the first program, and again after it was lost.
    """

    def __init__(self, section: SandboxSection, level: str) -> None:
        """Prepare a sandbox; `level` is one of `walls.LEVELS`."""
        self._section, self.level = section, level
        self._server: _Server | None = None

    def start(self) -> None:
        """Start the server, if it is not there; raises StartError when the level is not to be had.

        A trial shows that programs run: were it walls that fail, later, every program would seem to.
        """
        if self._server is not None:
            return
        self._server = _Server(self._section, self.level)
        try:
            results = list(self._server.submit(TRIAL, TRIAL_LIMITS))
        except LostError:
            results = []
        if [(result.status, result.output) for result in results] != [("ok", b"trial")]:
            self.close()
            why = f"{results[0].status}: {results[0].note}" if results else "the server was lost"
            raise StartError(f"a trial program does not run ({why})")

    def run(self, program: Program, limits: Limits) -> Results:
        """The result of each case as it is known, in order; who stops asking stops the program.

        With `limits.stop_at_failure` the case that failed is the last.  What was not run, because the program
        took our own process along, is reported as killed.

        Raises:
            SrpoError: when the server cannot be started or fails by itself.
        """
        try:
            results = self._submit(program, limits)
        except StartError as error:
            raise SrpoError(f"sandbox ({self.level}): {error}") from None
        cases_left = len(program.inputs)
        try:
            with closing(results):
                for result in results:
                    cases_left -= 1
                    yield result
                    if limits.stop_at_failure and result.status != "ok":
                        cases_left = 0
                        break
            assert self._server is not None
            self._server.wait_until_idle()  # what it leaves behind is not to slow the next program
        except LostError:
            self.close()
        for _ in range(min(cases_left, 1) if limits.stop_at_failure else cases_left):
            yield CaseResult("killed", b"", "the program's process ended before the case did")

    def _submit(self, program: Program, limits: Limits) -> Results:
        """Give the program to the server; to a new one, where what was before has taken the old one along."""
        for _ in range(2):
            self.start()
            assert self._server is not None
            try:
                return self._server.submit(program, limits)
            except LostError:
                self.close()
        raise StartError("the server ends as soon as it has started")

    def close(self) -> None:
        """End the server and everything inside."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def __enter__(self) -> LocalSandbox:
        """The sandbox itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()


class LostError(Exception):
    """The server is gone or does not answer."""


class _Server:
    """The process behind the walls and the way to speak with it."""

    def __init__(self, section: SandboxSection, level: str) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        python = sys.executable if section.python is None else str(section.python)
        packages = section.python is not None
        config = {
            "parent": os.getpid(),
            "level": level,
            "packages": packages,
            "preload": list(section.preload),
            "threads": section.threads,
            "files_megabytes": section.files_megabytes,
        }
        # Without user's packages and environment; the seed of hashes is fixed, as what a program prints may
        # depend on the order of a set.  -P: no folder of ours is searched for modules.  Warnings of the compiler
        # would go to our own standard error.
        options = ["-s", "-P", *([] if packages else ["-S"]), "-B", "-W", "ignore", "-X", "utf8"]
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [
                        python,
                        *options,
                        "-c",
                        BOOTSTRAP,
                        str(Path(__file__).parent),
                        str(theirs.fileno()),
                        json.dumps(config),
                    ],
                    env=ENVIRONMENT,
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            except OSError as error:
                self._control.close()
                raise StartError(f"{python} cannot be started ({error})") from None
        self._idle = True
        try:
            self._await_start(level)
        except BaseException:
            self.close()
            raise

    def _await_start(self, level: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        try:
            message = self._receive(deadline)
            if message == server.UNSHARED and level == "namespaces":
                map_user(self._process.pid)
                self._control.send(server.MAPPED)
                message = self._receive(deadline)
        except LostError:
            raise StartError("the server did not start; its last words are above") from None
        if message != server.READY:
            raise StartError(message.decode("utf-8", "replace"))

    def submit(self, program: Program, limits: Limits) -> Results:
        """Results of the cases; fewer than there are when the program's process ended before.

        Raises LostError when the server is lost: now, and the program has not run, or with a result.
        """
        self.wait_until_idle()
        request = json.dumps({**asdict(program), **asdict(limits)})
        reader, writer = os.pipe()
        results = os.fdopen(reader, "rb", 0)
        try:
            with memory_file(request) as descriptor:
                socket.send_fds(self._control, [server.RUN], [descriptor, writer])
        except OSError:
            results.close()
            raise LostError from None
        finally:
            os.close(writer)
        self._idle = False
        wall = limits.program_seconds * limits.patience + cases.SETUP_SECONDS
        return _frames(results, wall + GRACE_SECONDS, limits.output)

    def wait_until_idle(self) -> None:
        """Wait until nothing of the program before is left."""
        if not self._idle and self._receive(time.monotonic() + GRACE_SECONDS) != server.DONE:
            raise LostError
        self._idle = True

    def _receive(self, deadline: float) -> bytes:
        wait_for(self._control.fileno(), deadline)
        try:
            message = self._control.recv(server.LONGEST_MESSAGE)
        except OSError:
            raise LostError from None
        if not message:
            raise LostError
        return message

    def close(self) -> None:
        """Kill the server; the kernel kills all that is inside with it."""
        self._control.close()
        self._process.kill()
        self._process.wait()


def map_user(process: int) -> None:
    """Let the one user inside be, outside, ourselves, or nobody where we are root.

    Raises StartError when the kernel refuses.
    """
    root = os.geteuid() == 0
    user, group = (walls.NOBODY, walls.NOBODY) if root else (os.geteuid(), os.getegid())
    folder = Path("/proc") / str(process)
    try:
        if not root:
            (folder / "setgroups").write_text("deny")
        (folder / "uid_map").write_text(f"0 {user} 1")
        (folder / "gid_map").write_text(f"0 {group} 1")
    except OSError as error:
        raise StartError(f"the user of the namespace cannot be mapped ({error})") from None


def _frames(results: FileIO, seconds: float, output: int) -> Results:
    """Results from a pipe, which is closed at the end; LostError when one takes too long or is something else.

    The seconds are for each, from when it is asked for: what is done with the others is no fault of the program.
    """
    with results:
        descriptor = results.fileno()
        while True:
            deadline = time.monotonic() + seconds
            header = read_exactly(descriptor, cases.FRAME.size, deadline)
            if not header:
                return
            status, size, note = cases.FRAME.unpack(header)
            if status >= len(STATUSES) or size > output or note > cases.LONGEST_NOTE:
                raise LostError
            content = read_exactly(descriptor, size + note, deadline)
            if len(content) < size + note:
                raise LostError
            yield CaseResult(STATUSES[status], content[:size], content[size:].decode("utf-8", "replace"))


def read_exactly(descriptor: int, size: int, deadline: float) -> bytes:
    """So many bytes, or none where the pipe ends before; raises LostError at the deadline."""
    parts: list[bytes] = []
    while size:
        wait_for(descriptor, deadline)
        part = os.read(descriptor, min(size, 2**20))
        if not part:
            return b""
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def wait_for(descriptor: int, deadline: float) -> None:
    """Wait until there is something to read; raises LostError at the deadline."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if not poll.poll(max(deadline - time.monotonic(), 0.0) * 1000):
        raise LostError
