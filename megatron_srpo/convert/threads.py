"""Doing a conversion's files in threads, with a limit on the bytes that are in memory at a time."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

Task = TypeVar("Task")
_SMALL = 2**20


class Stopped(Exception):
    """Another thread has failed, or the user has had enough."""


class Flow:
    """What the threads of a conversion share: memory within a budget, a progress bar, and the wish to stop.

    Buffers are used again: fresh memory costs the kernel as much time as copying into it.
    """

    def __init__(self, budget: int, advance: Callable[[int], None] = lambda size: None) -> None:
        self._budget, self._taken = budget, 0
        self._free: list[torch.Tensor] = []
        self._change = threading.Condition()
        self._advance = advance
        self._stopping = False

    @contextlib.contextmanager
    def buffer(self, size: int, beside: int = 0) -> Iterator[torch.Tensor]:
        """Wait for a buffer [size] of uint8, and for `beside` bytes that the caller takes himself.

        More than the whole budget waits to be alone.

        Raises:
            Stopped: when the conversion ends meanwhile.
        """
        with self._change:
            self._change.wait_for(lambda: self._stopping or not self._taken or self._fits(size + beside))
            if self._stopping:
                raise Stopped
            whole = self._take(size, beside)
            cost = whole.numel() + beside
            self._taken += cost
        try:
            yield whole[:size]
        finally:
            with self._change:
                self._taken -= cost
                self._free.append(whole)
                self._change.notify_all()

    def _fits(self, size: int) -> bool:
        return self._taken + size <= self._budget

    def _take(self, size: int, beside: int) -> torch.Tensor:
        """The smallest free buffer that is large enough but not by far, or a new one in the place of free ones."""
        fitting = [free for free in self._free if size <= free.numel() <= max(2 * size, _SMALL)]
        fitting = [free for free in fitting if self._fits(free.numel() + beside)]
        if fitting:
            found = min(fitting, key=torch.Tensor.numel)
            self._free = [free for free in self._free if free is not found]
            needed = self._taken + found.numel() + beside
        else:
            found = None
            needed = self._taken + size + beside
        while self._free and needed + sum(free.numel() for free in self._free) > self._budget:
            self._free.pop(0)
        return torch.empty(size, dtype=torch.uint8) if found is None else found

    def advance(self, size: int) -> None:
        """Count written bytes."""
        with self._change:
            self._advance(size)

    def stop(self) -> None:
        """Let every thread end before its next tensor."""
        with self._change:
            self._stopping = True
            self._change.notify_all()


def default_threads() -> int:
    """One a core, at least 2 and at most 8: more only wait for the disk."""
    return max(2, min(8, len(os.sched_getaffinity(0))))


def run(work: Callable[[Task], None], tasks: Sequence[Task], threads: int, flow: Flow) -> None:
    """Do every task, `threads` at a time; the first error ends all and is raised."""
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(work, task) for task in tasks]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            flow.stop()
            for future in futures:
                future.cancel()
    errors = [error for future in futures if not future.cancelled() and (error := future.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, Stopped)):
        raise error


@contextlib.contextmanager
def progress_bar(text: str, total: int, console: Console) -> Iterator[Callable[[int], None]]:
    """A bar that counts bytes on a terminal; nothing elsewhere."""
    columns = (TextColumn(text), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(text, total=total)
        yield lambda size: bar.advance(task, size)
