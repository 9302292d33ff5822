"""What goes into a sandbox and what comes out of it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal, Protocol

Status = Literal["ok", "failed", "timeout", "flooded", "killed"]
STATUSES: tuple[Status, ...] = ("ok", "failed", "timeout", "flooded", "killed")
"""In the order of the numbers in `inside.cases`."""


@dataclass(frozen=True)
class Program:
    """A program and the inputs of its test cases."""

    program: str
    kind: Literal["stdio", "call"]
    inputs: tuple[str, ...]
    """Of each case: text on standard input, or the arguments of a call as a JSON list."""
    function: str = ""
    """For calls: a function of the module, or a method of its class `Solution`."""
    language: str = "python"


@dataclass(frozen=True)
class Limits:
    """What a program may use."""

    seconds: float
    """Processor time of one case."""
    program_seconds: float
    """Processor time of all cases."""
    patience: float
    """Wall clock, as a multiple of both."""
    memory: int
    """Address space of one case in bytes, the interpreter's own included."""
    output: int
    """Bytes that one case may print or return."""
    stop_at_failure: bool
    """Whether the cases after one that did not end in order are left out."""


@dataclass(frozen=True)
class CaseResult:
    """How a case ended and what it wrote: its standard output, or the returned value as JSON."""

    status: Status
    output: bytes
    note: str
    """For people: the last line of standard error, or which limit was reached."""


Results = Generator[CaseResult, None, None]
"""Results as they are known; to close it is to stop the program."""


class Sandbox(Protocol):
    """Runs untrusted programs."""

    level: str

    def run(self, program: Program, limits: Limits) -> Results:
        """The result of each case as it is known, in order."""

    def close(self) -> None:
        """End everything."""
