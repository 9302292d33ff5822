"""Where a step's time goes: seconds by phase, always; and torch's traces of chosen steps."""

from __future__ import annotations

import contextlib
import errno
import gzip
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from megatron_srpo.errors import one_line
from megatron_srpo.platform.select import Platform
from megatron_srpo.recipe.schema import ProfileSection

_log = logging.getLogger(__name__)


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
        """What cannot be written is logged: a trace is no reason to end a run that trains."""
        target = self._folder / f"steps-{self._first:06d}-{last:06d}-rank-{self._rank:05d}.json.gz"
        plain = target.with_name(f"writing-{target.stem}")
        packed = target.with_suffix(".tmp")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            finished.export_chrome_trace(str(plain))
            with plain.open("rb") as source, gzip.open(packed, "wb", compresslevel=6) as stream:
                source.seek(max(0, source.seek(0, os.SEEK_END) - 8))
                if not source.read().rstrip().endswith(b"}"):  # torch says nothing of a full disk
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                source.seek(0)
                shutil.copyfileobj(source, stream)
            packed.replace(target)
        except (OSError, RuntimeError) as error:
            _log.warning("%s: the trace could not be written (%s); training goes on", target, one_line(error))
        finally:
            for part in (plain, packed):
                with contextlib.suppress(OSError):
                    part.unlink()
