"""Runs programs that a policy wrote, under limits, in other processes.

THIS IS NOT YET A SECURITY BOUNDARY.  A program that goes wrong by accident is contained: time, memory, output
and processes are limited, its standard streams lead nowhere, its environment and folder are empty, it has no
capabilities, and an audit hook refuses what no solution needs.  A program that means harm is not: it runs as
the same user, so with some skill it can read every file that this user can read, the data set among them, use
the network, and signal or trace other processes of the user.  Train on code only where that is acceptable,
until namespaces and a system call filter close these ways.

Each call starts one process (`sandbox_runner.py`), which forks a child for every program: to fork takes a
millisecond, to start Python twenty.  What is expected stays with the caller, so a program cannot forge a
verdict: it can only say what its function returned.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import TracebackType

from megatron_srpo.errors import SrpoError
from megatron_srpo.rewards import sandbox_runner

START_SECONDS = 60.0
GRACE_SECONDS = 10.0  # for the runner itself, on a busy machine, to notice that a program's time is up
# Without environment, user or installed packages; the seed of hashes is fixed, as a program's result may depend
# on the order of a set.  -P: the script's folder is not searched for modules (it has a math.py).
COMMAND = (sys.executable, "-s", "-P", "-S", "-B", sandbox_runner.__file__)
ENVIRONMENT = {"PYTHONHASHSEED": "0"}


@dataclass(frozen=True)
class Limits:
    """What one program may use."""

    seconds: float
    """Wall clock, from the start of the program to the end of its last call."""
    memory_megabytes: int
    """Address space, with the interpreter's own 40."""


def run_programs(programs: Sequence[str], function: str, arguments: str, limits: Limits) -> list[str | None]:
    """What each program's function returned, as JSON text of a list; None where there is no such thing.

    The text is whatever the program chose to write: at most `sandbox_runner.LONGEST_ANSWER` bytes, perhaps not
    JSON.  When this returns, no process of the programs is left.

    Args:
        programs: sources of Python modules.
        function: the function that each must define.
        arguments: JSON text, for each call the list of its arguments.
        limits: of one program.

    Raises:
        SrpoError: when the runner cannot be started or fails by itself.
    """
    returned: list[str | None] = []
    # A program that kills the runner takes only itself along: the next ones get a new runner.
    while len(returned) < len(programs):
        with _Runner(function, arguments, limits) as runner:
            for program in programs[len(returned) :]:
                try:
                    returned.append(runner.run(program))
                except _LostError:
                    returned.append(None)
                    break
    return returned


class _LostError(Exception):
    """The runner was killed, or stopped answering."""


class _Runner:
    """One runner process in a session and an empty folder of its own; use it with `with`."""

    def __init__(self, function: str, arguments: str, limits: Limits) -> None:
        self._limits = limits
        self._call = json.dumps({"function": function, "arguments": arguments, **asdict(limits)}).encode()

    def __enter__(self) -> _Runner:
        self._folder = tempfile.TemporaryDirectory(prefix="srpo-code-", ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            [*COMMAND, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=self._folder.name,
            env=ENVIRONMENT,
            start_new_session=True,
            bufsize=0,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._to, False)
        try:
            self._exchange(self._call, START_SECONDS)
        except _LostError:
            self._end()
            raise SrpoError(
                f"{sandbox_runner.__file__}: the process that runs programs did not start (exit code "
                f"{self._process.returncode}); look for its message above and for a lack of memory."
            ) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def run(self, program: str) -> str | None:
        """What the program wrote, None if nothing or no text.

        Raises:
            _LostError: when the program took the runner with it.
            SrpoError: when the runner failed by itself.
        """
        # A lone surrogate is no UTF-8; as "?" the program is wrong, but the exchange goes on.
        answer = self._exchange(program.encode(errors="replace"), self._limits.seconds + GRACE_SECONDS)
        try:
            return answer.decode() or None
        except UnicodeDecodeError:
            return None

    def _exchange(self, content: bytes, seconds: float) -> bytes:
        """Send a frame and receive one."""
        deadline = time.monotonic() + seconds
        try:
            self._send(len(content).to_bytes(4, "big") + content, deadline)
            size = int.from_bytes(self._receive(4, deadline), "big")
            return self._receive(size, deadline)
        except (BrokenPipeError, EOFError):
            code = self._process.wait()
            if code > 0:
                raise SrpoError(
                    f"{sandbox_runner.__file__}: the process that runs programs failed with exit code {code}; "
                    "look for its message above and for a lack of memory or processes."
                ) from None
            raise _LostError from None
        except TimeoutError:
            raise _LostError from None

    def _send(self, data: bytes, deadline: float) -> None:
        while data:
            self._await(self._to, select.POLLOUT, deadline)
            data = data[os.write(self._to, data) :]

    def _receive(self, size: int, deadline: float) -> bytes:
        data = b""
        while len(data) < size:
            self._await(self._from, select.POLLIN, deadline)
            part = os.read(self._from, size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def _await(self, descriptor: int, event: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise TimeoutError

    def _end(self) -> None:
        """Kill the runner; the kernel kills its child with it."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        with self._process:  # closes the pipes and waits
            pass
        self._folder.cleanup()
