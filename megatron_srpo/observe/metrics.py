"""Metrics and events of a run: append-only JSON lines, and TensorBoard.  No torch.

Logging must never stop training: a disk that refuses a line is reported once on the log, and the run goes on.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from megatron_srpo.errors import SrpoError, one_line

_log = logging.getLogger(__name__)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole objects of a JSON-lines file; a last line that a crash has cut is left out.

    Raises SrpoError naming the line that is none.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    return [_object(line, path, number) for number, line in enumerate(lines, 1)]


def _object(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        found = json.loads(line)
        if isinstance(found, dict):
            return found
        reason = f"{found!r:.40} is no object"
    except ValueError as error:
        reason = one_line(error)
    raise SrpoError(f"{path}: line {number} is damaged ({reason}); mend or remove this line")


class JsonLines:
    """An append-only file of JSON objects, one a line, each stamped with the time it was written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None
        self._failed = False

    def write(self, record: dict[str, Any]) -> None:
        """Append a record; a failing disk is logged, not raised."""
        line = json.dumps({"time": round(time.time(), 3), **record}).encode() + b"\n"
        try:
            if self._opened().write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if not self._failed:
                _log.warning("%s: cannot be written (%s); the run goes on without it", self.path, error)
            self._failed = True
            self.close()  # the next one opens it again, and drops what is there of this line

    def close(self) -> None:
        """Let go of the file; another write opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> IO[bytes]:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._end_cut_line()
            # Unbuffered: a line is on its way when it is written, and none is left to fail at the end.
            self._file = self.path.open("ab", buffering=0)
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
    """TensorBoard's event file, written without torch or tensorflow.

    Not by its EventFileWriter: where the disk fails, a thread of that prints a traceback and ends the run.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._writer: Any = None
        self._failed = False

    def add(self, step: int, values: Iterable[tuple[str, float]]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values])
        self._write(Event(step=step, wall_time=time.time(), summary=summary))

    def _write(self, event: Any) -> None:
        """Append an event; a file in which one is cut cannot be read behind it, so nothing follows a failure."""
        if self._failed:
            return
        try:
            self._opened().write(event.SerializeToString())
        except OSError as error:
            self._failed = True
            _log.warning("%s: cannot be written (%s); the run goes on without it", self.path, error)

    def _opened(self) -> Any:
        if self._writer is None:
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.summary.writer.record_writer import RecordWriter

            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = RecordWriter(self.path.open("wb", buffering=0))
            self._writer.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        return self._writer

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
