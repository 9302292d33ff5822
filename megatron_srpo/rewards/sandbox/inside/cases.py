"""A program's process: compiles the program and runs each test case in a fork of its own.

It reports one frame a case (`FRAME`, then output and note) as soon as it is known.  A case sees its input, a
file in memory for its output, and no other descriptor; it cannot reach this process.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import struct
import time
from collections.abc import Callable, Iterator
from types import CodeType
from typing import NamedTuple

from . import kernel, python, walls

FRAME = struct.Struct("=BIH")  # status, length of the output, length of the note
PASSED, FAILED, TIMEOUT, FLOODED, KILLED = range(5)
"""How a case ended: in order, by its own failure, by its time limit, by too much output, by a signal."""
LONGEST_NOTE = 300  # bytes
CHUNK = 2**20
MOST_DESCRIPTORS = 64  # of this process: the server's, its own, and a case's files
SETUP_SECONDS = 10.0  # processor time to read a request and to compile
SETUP_MEMORY = 1024 * 2**20


class Request(NamedTuple):
    """What to run and within which limits; see `local.py`, which writes it."""

    program: str
    kind: str
    inputs: list[str]
    function: str
    language: str
    seconds: float
    program_seconds: float
    patience: float
    memory: int
    output: int
    stop_at_failure: bool


class Ended(NamedTuple):
    """How a case's process ended."""

    status: int
    note: str


def run(request: int, results: int, around: walls.Walls) -> None:
    """Read a request, run its cases, write a frame for each."""
    with os.fdopen(request, "rb") as file:
        content = file.read()
    walls.limit_setup(SETUP_SECONDS, SETUP_MEMORY + 8 * len(content))
    wanted = Request(**json.loads(content))
    Cases(wanted, results, around).run()
    os._exit(0)


class Cases:
    """The test cases of one program."""

    def __init__(self, request: Request, results: int, around: walls.Walls) -> None:
        self._request, self._results, self._walls = request, results, around
        self._left = request.program_seconds

    def run(self) -> None:
        """All cases, until one has failed if the request says so."""
        request = self._request
        try:
            program = python.prepare(request.program)
        except (SyntaxError, ValueError, MemoryError, RecursionError, OverflowError) as error:
            for _ in request.inputs[: 1 if request.stop_at_failure else None]:
                self._report(FAILED, b"", python.describe(error))
            return
        done = 0
        while done < len(request.inputs):
            if request.kind == "call":
                reported, status = self._calls(program, done)
            else:
                reported, status = 1, self._standard_streams(program, request.inputs[done])
            done += reported
            if status != PASSED and request.stop_at_failure:
                return

    def _standard_streams(self, program: CodeType, text: str) -> int:
        """One case: a whole run of the program with the text on standard input; its status."""
        with memory_file(text) as given, memory_file() as output, memory_file() as errors:
            ended = self._in_fork([given, output, errors], lambda: python.run_whole(program), output)
            self._report(ended.status, read(output, self._request.output), ended.note or last_line(errors))
        return ended.status

    def _calls(self, program: CodeType, first: int) -> tuple[int, int]:
        """The calls from `first` on in one process; how many of them are settled, and the status of the last.

        A call that takes the process with it ends the round; the next one begins after it.
        """
        request = self._request
        inputs = request.inputs[first:]
        with memory_file() as ignored, memory_file() as errors, memory_file() as answers:
            ended = self._in_fork(
                [ignored, ignored, errors, answers],
                lambda: python.call_each(program, request.function, inputs, 3),
                answers,
            )
            lines = read(answers, request.output).split(b"\n")[:-1][: len(inputs)]
            note = ended.note or last_line(errors) or "ended before it returned"
        for number, line in enumerate(lines, 1):
            status = PASSED if line.startswith(python.VALUE) else FAILED
            text = "" if status == PASSED else line[1:].decode("utf-8", "replace")
            self._report(status, line[1:] if status == PASSED else b"", text)
            if status != PASSED and request.stop_at_failure:
                return number, status
        if len(lines) == len(inputs):
            return len(inputs), PASSED
        status = FAILED if ended.status == PASSED else ended.status
        self._report(status, b"", note)
        return len(lines) + 1, status

    def _in_fork(self, streams: list[int], body: Callable[[], None], progress: int) -> Ended:
        """Run a case in a child with these descriptors (0, 1, ...) and wait for its end, or end it.

        `progress` is the file in which it shows that it goes on: the time of a case counts from the last growth.
        """
        request = self._request
        seconds = min(request.seconds, self._left)
        child = os.fork()
        if child == 0:
            try:
                self._become_case(streams)
                body()
            finally:
                os._exit(1)
        in_time = self._wait(child, seconds, progress)
        _, code, usage = os.wait4(child, 0)
        self._left = max(self._left - usage.ru_utime - usage.ru_stime, 0.0)
        if not in_time or (os.WIFSIGNALED(code) and os.WTERMSIG(code) == signal.SIGXCPU):
            return Ended(TIMEOUT, f"longer than {seconds:.3g} s")
        if os.fstat(progress).st_size >= request.output:
            return Ended(FLOODED, f"more than {request.output} bytes of output")
        if os.WIFSIGNALED(code):
            return Ended(KILLED, f"ended by {signal.Signals(os.WTERMSIG(code)).name}")
        return Ended(PASSED if code == 0 else FAILED, "")

    def _become_case(self, streams: list[int]) -> None:
        """In the child: nothing but the streams, the limits, and the walls."""
        request = self._request
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        for number, descriptor in enumerate([os.dup(stream) for stream in streams]):
            os.dup2(descriptor, number)
        os.closerange(len(streams), MOST_DESCRIPTORS)
        self._walls.close_around_case(self._left, request.memory, request.output)

    def _wait(self, child: int, seconds: float, progress: int) -> bool:
        """Whether the child ends by itself in `seconds` of processor time, or `patience` times that of wall clock.

        It is killed when it does not, and when nobody wants the results any more.
        """
        clock = (~child << 3) | 2  # the processor time of that process: CPUCLOCK_SCHED in clock_gettime(2)
        poll, ended = select.poll(), os.pidfd_open(child)
        poll.register(ended, select.POLLIN)
        poll.register(self._results, 0)  # the end of its reader is always reported
        size = 0
        used_before, started = 0.0, time.monotonic()
        used = 0.0
        while True:
            wall = seconds * self._request.patience - (time.monotonic() - started)
            left = min(seconds - (used - used_before), wall)
            if left <= 0:
                break
            events = dict(poll.poll(math.ceil(left * 1000)))
            if ended in events:
                os.close(ended)
                return True
            if self._results in events:
                os._exit(0)  # and the child with us
            used = time.clock_gettime(clock)
            grown = os.fstat(progress).st_size
            if grown > size:
                size, used_before, started = grown, used, time.monotonic()
        os.kill(child, signal.SIGKILL)
        os.close(ended)
        return False

    def _report(self, status: int, output: bytes, note: str) -> None:
        """Write one frame."""
        text = note.encode("utf-8", "replace")[:LONGEST_NOTE]
        data = memoryview(FRAME.pack(status, len(output), len(text)) + output + text)
        while data:
            data = data[os.write(self._results, data) :]


@contextlib.contextmanager
def memory_file(content: str = "") -> Iterator[int]:
    """A file without a name that holds the text; its descriptor."""
    descriptor = os.memfd_create("case")
    try:
        data = memoryview(content.encode("utf-8", "surrogatepass"))
        while data:
            data = data[os.write(descriptor, data) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def read(descriptor: int, most: int) -> bytes:
    """The first bytes of a file, wherever it was left."""
    parts, at = [], 0
    while at < most and (part := os.pread(descriptor, min(CHUNK, most - at), at)):
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def last_line(descriptor: int) -> str:
    """The last line of what a case wrote to standard error, which in Python names the exception."""
    size = os.fstat(descriptor).st_size
    lines = os.pread(descriptor, LONGEST_NOTE, max(size - LONGEST_NOTE, 0)).strip().rsplit(b"\n", 1)
    return lines[-1].decode("utf-8", "replace")
