"""Child processes that are watched, and that end with us: each runs under a small guard (guard.py)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from megatron_srpo.files import unwritable

GUARD = Path(__file__).with_name("guard.py")
# Nothing that we start has anything to save when it is asked to end, and SGLang looks at SIGTERM every 5 seconds.
GRACE_SECONDS = 1.0
# The guard needs a moment after the grace to kill and reap.
GUARD_MARGIN_SECONDS = 10.0
LOG_TAIL_BYTES = 64 * 1024

# Only at the start of a line: SGLang also mentions exceptions that it has dealt with.
_EXCEPTION_LINE = re.compile(r"^(\w+\.)*\w*(Error|Exception)\b")
# As Python prints it, with the line of source below it.
_WARNING = re.compile(r"^\S+:\d+: \w*Warning: .*\n([ \t].*\n)?", re.MULTILINE)
_SENTENCE = re.compile(r"^error: (.+)$")


class GuardedProcess:
    """A command and all its children, with its output in a log file; `pid` is its guard's."""

    def __init__(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str], log_file: Path
    ) -> None:
        self.name = name
        self.log_file = log_file
        self._arguments = tuple(arguments)
        self._environment = dict(environment)
        self._log_start = 0
        self._process: asyncio.subprocess.Process | None = None
        self.stopping = False

    @property
    def _started(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process

    @property
    def pid(self) -> int:
        """Process id of the guard; killing it kills the command and its children."""
        return self._started.pid

    async def start(self, first_line: str | None = None) -> None:
        """Start it; `first_line`, a secret for instance, is all that it finds on its standard input."""
        guard = (str(GUARD), str(GRACE_SECONDS), str(os.getpid()))
        with self._open_log() as log:
            self._log_start = log.tell()
            # A session of its own: Ctrl-C in the terminal is for the controller, which then stops it.
            # -P keeps our folder, with names like those of the standard library, off the guard's path.
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", *guard, *self._arguments),
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL if first_line is None else asyncio.subprocess.PIPE,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        if first_line is not None and self._process.stdin is not None:
            self._process.stdin.write(first_line.encode() + b"\n")
            await self._process.stdin.drain()
            self._process.stdin.close()

    def _open_log(self) -> IO[bytes]:
        try:
            self.log_file.parent.mkdir(parents=True, exist_ok=True)
            return self.log_file.open("ab")
        except OSError as error:
            raise unwritable(self.log_file, error) from error

    async def wait(self) -> int:
        """Wait for its end and return the exit code, 128 + number for a signal."""
        return await self._started.wait()

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.returncode is None

    @property
    def exit_code(self) -> int | None:
        """The exit code, none while it runs."""
        return self._started.returncode

    async def stop(self) -> None:
        """End it and its children; they have `GRACE_SECONDS` after SIGTERM to do so themselves."""
        self.stopping = True
        if not self.running:
            return
        with contextlib.suppress(ProcessLookupError):
            self._started.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(asyncio.shield(self._started.wait()), GRACE_SECONDS + GUARD_MARGIN_SECONDS)
        except TimeoutError:
            self._started.kill()
            await self._started.wait()

    def last_words(self) -> str:
        """The last line of this start's log that tells of an exception, else its last one that is no warning."""
        lines = self._log_lines()
        told = [line for line in lines if _EXCEPTION_LINE.match(line)] or lines
        return told[-1][:500] if told else "(none)"

    def sentence(self) -> str | None:
        """The `error: ...` sentence with which one of our own programs ended, if it did."""
        lines = self._log_lines()
        match = _SENTENCE.match(lines[-1]) if lines else None
        return match.group(1) if match else None

    def _log_lines(self) -> list[str]:
        with self.log_file.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - LOG_TAIL_BYTES))
            text = log.read().decode(errors="replace")
        return [line.strip() for line in _WARNING.sub("", text).splitlines() if line.strip()]


def describe_exit(code: int) -> str:
    """An exit code with the signal's name where there was one (the guard hands it on as 128 + number)."""
    number = -code if code < 0 else code - 128
    if number in {item.value for item in signal.Signals}:
        return f"{code} ({signal.Signals(number).name})"
    return str(code)
