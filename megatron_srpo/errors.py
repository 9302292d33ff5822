"""The exceptions that end a command on purpose."""

from __future__ import annotations

import signal
import traceback
from pathlib import Path


class SrpoError(Exception):
    """Something the user can mend: one sentence that names the file, key or rank and says what to do.

    The command line prints it without a traceback and ends with exit code 2.
    """


EXIT_BAD_INPUT = 2
LONGEST_CAUSE = 300  # characters


class StoppedError(Exception):
    """A signal asked a run to stop, and everything has been stopped in order; the text is the signal's name."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


def one_line(error: BaseException) -> str:
    """An exception's own words without line breaks, or its kind where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def cause_of(error: BaseException) -> str:
    """The exception and, unless it is our own, where it was raised."""
    text = " ".join(f"{error}".split())[:LONGEST_CAUSE]
    if isinstance(error, SrpoError):
        return text
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text} ({Path(frame.filename).name}, line {frame.lineno})"
