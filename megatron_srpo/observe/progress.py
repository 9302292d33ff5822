"""What a person sees while a run goes on: a live table on a terminal, a line a step elsewhere."""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

ROWS = 12
COLUMNS = {
    "step": ("step", "{:.0f}"),
    "reward": ("reward", "{:.3f}"),
    "accuracy": ("accuracy", "{:.1%}"),
    "format": ("format_share", "{:.0%}"),
    "length": ("response_length", "{:.1f}"),
    "tok/s": ("tokens_per_second", "{:.0f}"),
    "rollout s": ("seconds_rollout", "{:.1f}"),
    "train s": ("seconds_train", "{:.1f}"),
    "sync s": ("seconds_sync", "{:.2f}"),
    "entropy": ("entropy", "{:.3f}"),
    "mismatch": ("mismatch_mean", "{:.1e}"),
}


class Progress:
    """Shows one row a step; use as a context manager.  `total` is the number of steps of the run."""

    def __init__(self, total: int, console: Console) -> None:
        self._total, self._console = total, console
        self._rows: deque[dict[str, float]] = deque(maxlen=ROWS)
        self._phase = "starting"
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.update(self._table())
            self._live.stop()

    def phase(self, text: str) -> None:
        """Say what is going on now."""
        self._phase = text
        if self._live is not None:
            self._live.update(self._table())

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def step(self, step: int, values: dict[str, float]) -> None:
        """Show a finished step."""
        row = {"step": float(step), **values}
        self._rows.append(row)
        if self._live is not None:
            self._live.update(self._table())
        else:
            cells = [f"{title} {form.format(row[key])}" for title, (key, form) in COLUMNS.items() if key in row]
            self._console.print("  ".join(cells), highlight=False, soft_wrap=True)

    def _table(self) -> Table:
        table = Table(title=f"{self._phase}", title_justify="left", caption=f"{self._total} steps in all")
        for title in COLUMNS:
            table.add_column(title, justify="right")
        for row in self._rows:
            table.add_row(*(form.format(row[key]) if key in row else "" for key, form in COLUMNS.values()))
        return table
