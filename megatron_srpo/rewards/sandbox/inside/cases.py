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
OF_ONE, OF_ALL = "longer than {0.seconds:g} s", "longer than {0.program_seconds:g} s for all cases"
CHUNK = 2**20
TOO_MUCH = "more than {} bytes of output"
LOOK_SECONDS = 0.05  # between looks at what a process with many cases has answered
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
        self._left = request.program_seconds  # of processor time
        self._left_wall = request.program_seconds * request.patience

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

        A call that takes the process with it ends the round, and so does a full file of answers; the next round
        begins after it.
        """
        request = self._request
        inputs = request.inputs[first:]
        with memory_file() as ignored, memory_file() as errors, memory_file() as descriptor:
            answers = Answers(descriptor, len(inputs), request.output, self._report)
            ended = self._in_fork(
                [ignored, ignored, errors, descriptor],
                lambda: python.call_each(program, request.function, inputs, 3),
                descriptor,
                answers.tell,
            )
            answers.tell()
            note = ended.note or last_line(errors) or "ended before it returned"
        if answers.told == len(inputs) or (answers.told and ended.status == FLOODED):
            return answers.told, answers.status
        status = FAILED if ended.status == PASSED else ended.status
        self._report(status, b"", note)
        return answers.told + 1, status

    def _in_fork(
        self, streams: list[int], body: Callable[[], None], output: int, goes_on: Callable[[], bool] | None = None
    ) -> Ended:
        """Run a case in a child with these descriptors (0, 1, ...) and wait for its end, or end it.

        With many cases in the one child, `goes_on` tells whether one has ended since it was last asked.
        """
        request = self._request
        parent, child = os.getpid(), os.fork()
        if child == 0:
            try:
                self._become_case(streams, parent)
                body()
            finally:
                os._exit(1)
        started = time.monotonic()
        too_long = self._wait(child, goes_on)
        self._left_wall -= time.monotonic() - started
        _, code, usage = os.wait4(child, 0)
        used = usage.ru_utime + usage.ru_stime
        if not too_long and os.WIFSIGNALED(code) and used >= self._left:
            too_long = OF_ALL  # the kernel was faster than we
        self._left = max(self._left - used, 0.0)
        if too_long:
            return Ended(TIMEOUT, too_long.format(request))
        if os.fstat(output).st_size >= request.output:
            return Ended(FLOODED, TOO_MUCH.format(request.output))
        if os.WIFSIGNALED(code):
            return Ended(KILLED, f"ended by {signal.Signals(os.WTERMSIG(code)).name}")
        return Ended(PASSED if code == 0 else FAILED, "")

    def _become_case(self, streams: list[int], parent: int) -> None:
        """In the child: nothing but the streams, the limits, and the walls."""
        request = self._request
        kernel.end_with_parent(parent)
        for number, descriptor in enumerate([os.dup(stream) for stream in streams]):
            os.dup2(descriptor, number)
        os.closerange(len(streams), MOST_DESCRIPTORS)
        self._walls.close_around_case(self._left, request.memory, request.output)

    def _wait(self, child: int, goes_on: Callable[[], bool] | None) -> str:
        """Wait until the child ends by itself, or end it and say which of its times was over.

        Time starts anew when one of its cases has ended; but not that of all cases.  The child is killed, too,
        when nobody wants the results any more.
        """
        request = self._request
        clock = (~child << 3) | 2  # the processor time of that process: CPUCLOCK_SCHED in clock_gettime(2)
        poll, ended = select.poll(), os.pidfd_open(child)
        poll.register(ended, select.POLLIN)
        poll.register(self._results, 0)  # the end of its reader is always reported
        used = used_before = 0.0
        now = started = started_before = time.monotonic()
        while True:
            of_one = request.seconds - (used - used_before)
            of_one = min(of_one, request.seconds * request.patience - (now - started_before))
            of_all = min(self._left - used, self._left_wall - (now - started))
            if min(of_one, of_all) <= 0:
                break
            wait = min(of_one, of_all) if goes_on is None else min(of_one, of_all, LOOK_SECONDS)
            events = dict(poll.poll(math.ceil(wait * 1000)))
            if ended in events:
                os.close(ended)
                return ""
            if self._results in events:
                os._exit(0)  # and the child with us
            used, now = time.clock_gettime(clock), time.monotonic()
            if goes_on is not None and goes_on():
                used_before, started_before = used, now
        os.kill(child, signal.SIGKILL)
        os.close(ended)
        return OF_ALL if of_all <= 0 else OF_ONE

    def _report(self, status: int, output: bytes, note: str) -> None:
        """Write one frame."""
        text = note.encode("utf-8", "replace")[:LONGEST_NOTE]
        data = memoryview(FRAME.pack(status, len(output), len(text)) + output + text)
        while data:
            data = data[os.write(self._results, data) :]


class Answers:
    """The answers of calls, reported as the process of the calls writes them."""

    def __init__(self, descriptor: int, wanted: int, most: int, report: Callable[[int, bytes, str], None]) -> None:
        """Look for `wanted` answers of at most `most` bytes in a file."""
        self._descriptor, self._wanted, self._most, self._report = descriptor, wanted, most, report
        self._at = 0
        self.told = 0
        self.status = PASSED  # of the last one

    def tell(self) -> bool:
        """Report the whole lines that are new; whether there were any."""
        lines = read(self._descriptor, os.fstat(self._descriptor).st_size, self._at).split(b"\n")[:-1]
        for line in lines[: self._wanted - self.told]:
            self.status, output, note = self._read(line)
            self._report(self.status, output, note)
            self._at += len(line) + 1
            self.told += 1
        return bool(lines)

    def _read(self, line: bytes) -> tuple[int, bytes, str]:
        """Status, output and note of an answer."""
        if not line.startswith(python.VALUE):
            return FAILED, b"", line[1:].decode("utf-8", "replace")
        if len(line) > self._most:
            return FLOODED, b"", TOO_MUCH.format(self._most)
        return PASSED, line[1:], ""


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


def read(descriptor: int, most: int, at: int = 0) -> bytes:
    """The bytes of a file from a place to another, wherever it was left."""
    parts = []
    while at < most and (part := os.pread(descriptor, min(CHUNK, most - at), at)):
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def last_line(descriptor: int) -> str:
    """The last line of what a case wrote to standard error, which in Python names the exception."""
    size = os.fstat(descriptor).st_size
    lines = os.pread(descriptor, LONGEST_NOTE, max(size - LONGEST_NOTE, 0)).strip().rsplit(b"\n", 1)
    return lines[-1].decode("utf-8", "replace")
