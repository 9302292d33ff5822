"""Where a step's time goes: seconds by phase, always; and torch's traces of chosen steps."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from megatron_srpo.errors import SrpoError
from megatron_srpo.files import unwritable
from megatron_srpo.platform.select import Platform
from megatron_srpo.recipe.schema import ProfileSection


class Phases:
    """Seconds of one step by phase; at the end of each a GPU is waited for, a handful of times a step."""

    def __init__(self, platform: Platform) -> None:
        self._is_cuda = platform.is_cuda
        self._seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a phase; one that comes again is added up."""
        started = time.monotonic()
        yield
        if self._is_cuda:
            torch.cuda.synchronize()
        self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - started

    def metrics(self) -> dict[str, float]:
        """`seconds_<phase>` of every phase so far."""
        return {f"seconds_{name}": seconds for name, seconds in self._seconds.items()}


class StepProfiler:
    """Writes one trace of the recipe's `profile.steps` for this rank: RUN/traces/steps-A-B-rank-R.json.gz.

    A run that goes on in the middle of them traces the rest; one that ends before their last writes none.
    """

    def __init__(self, section: ProfileSection | None, folder: Path, rank: int, platform: Platform) -> None:
        self._section = section
        self._folder = folder
        self._rank = rank
        self._activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if platform.is_cuda else [])
        self._running: profile | None = None
        self._first = 0

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around one training step."""
        if self._section is None or not self._section.first <= number <= self._section.last:
            yield
            return
        if self._running is None:
            self._running, self._first = profile(activities=self._activities), number
            self._running.start()
        yield
        if number == self._section.last:
            self._running.stop()
            self._write(self._running, number)
            self._running = None

    def _write(self, finished: profile, last: int) -> None:
        name = f"steps-{self._first:06d}-{last:06d}-rank-{self._rank:05d}.json.gz"
        temporary = self._folder / f"writing-{name}"  # torch takes the kind of file from the name's end
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            finished.export_chrome_trace(str(temporary))
            os.replace(temporary, self._folder / name)
        except OSError as error:
            raise unwritable(self._folder, error) from error
        except RuntimeError as error:
            raise SrpoError(f"{temporary}: torch cannot write the trace ({error})") from error
