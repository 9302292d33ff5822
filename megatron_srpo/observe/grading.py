"""What a person sees while a set is graded: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.text import Text

SECONDS_BETWEEN_LINES = 30.0


class _Rate(ProgressColumn):
    """Problems a second."""

    def render(self, task: Task) -> Text:
        """The rate, once there is one."""
        return Text(f"{task.speed:.2f}/s" if task.speed else "-/s")


class GradingProgress:
    """Counts finished problems; use as a context manager."""

    def __init__(self, total: int, done: int, console: Console) -> None:
        self._total, self._done, self._first, self._console = total, done, done, console
        self._started = self._told = time.monotonic()
        columns = (TextColumn("grading"), BarColumn(), MofNCompleteColumn(), _Rate())
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self._bar = Bar(*columns, *times, console=console) if console.is_terminal else None
        if self._bar is not None:
            self._task = self._bar.add_task("", total=total, completed=done)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def advance(self) -> None:
        """One more problem is finished."""
        self._done += 1
        if self._bar is not None:
            self._bar.advance(self._task)
        elif time.monotonic() - self._told >= SECONDS_BETWEEN_LINES:
            self._told = time.monotonic()
            rate = (self._done - self._first) / (self._told - self._started)
            left = (self._total - self._done) / rate / 60
            self.say(f"graded {self._done} of {self._total}, {rate:.2f} a second, {left:.0f} minutes left")
