"""Progress bars of a curation."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Bars:
    """A bar a source and one for each step behind them; use it with `with`."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[kept]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._kept: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def add(self, name: str, rows: int | None, limit: int | None) -> None:
        """A source with so many rows, if that is known."""
        total = limit if rows is None else min(rows, limit or rows)
        self._tasks[name] = self._progress.add_task(name, total=total, kept="")

    def advance(self, name: str, rows: int, kept: int) -> None:
        """Rows of a source are done."""
        self._kept[name] = self._kept.get(name, 0) + kept
        self._progress.update(self._tasks[name], advance=rows, kept=f"{self._kept[name]} kept")

    def share(self, name: str, share: float) -> None:
        """How much of a step is done, from 0 to 1."""
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=100, kept="%")
        self._progress.update(self._tasks[name], completed=int(100 * share))
