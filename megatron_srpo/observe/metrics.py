"""Metrics and events of a run: append-only JSON lines, and TensorBoard.  No torch.

Logging must never stop training: a disk that refuses a line is reported once on the log, and the run goes on.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

_log = logging.getLogger(__name__)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole objects of a JSON-lines file; a last line that a crash has cut is left out."""
    if not path.exists():
        return []
    text = path.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


class JsonLines:
    """An append-only file of JSON objects, one a line, each stamped with the time it was written."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file: IO[str] | None = None
        self._failed = False

    def write(self, record: dict[str, Any]) -> None:
        """Append a record; a failing disk is logged, not raised."""
        try:
            self._opened().write(json.dumps({"time": round(time.time(), 3), **record}) + "\n")
        except OSError as error:
            if not self._failed:
                _log.warning("%s: cannot be written (%s); the run goes on without it", self.path, error)
            self._failed = True

    def _opened(self) -> IO[str]:
        if self._file is None:
            self._end_cut_line()
            self._file = self.path.open("a", buffering=1)
        return self._file

    def _end_cut_line(self) -> None:
        """Drop what a crash has left of a line, so that the next one begins at a line's start."""
        if self.path.exists():
            content = self.path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole != len(content):
                with self.path.open("r+b") as file:
                    file.truncate(whole)


class RunMetrics:
    """One record a step in metrics.jsonl and TensorBoard; a step that is replayed is not recorded again."""

    def __init__(self, run_dir: Path) -> None:
        path = run_dir / "metrics.jsonl"
        self._lines = JsonLines(path)
        self._recorded = {record["step"] for record in read_lines(path)}
        self._tensorboard = _TensorBoard(run_dir / "tensorboard")

    def record(self, step: int, values: dict[str, float]) -> None:
        """Record the metrics of a step, once."""
        if step in self._recorded:
            return
        self._recorded.add(step)
        self._lines.write({"step": step, **values})
        self._tensorboard.add(step, values.items())

    def close(self) -> None:
        """Write out what is buffered."""
        self._tensorboard.close()


class _TensorBoard:
    """TensorBoard's event file, written without torch or tensorflow."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(folder))

    def add(self, step: int, values: Iterable[tuple[str, float]]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values])
        self._writer.add_event(Event(step=step, wall_time=time.time(), summary=summary))

    def close(self) -> None:
        self._writer.close()
