"""Metrics are append-only, survive crashes, and never stop a run."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import pytest

from megatron_srpo.errors import SrpoError
from megatron_srpo.observe.metrics import JsonLines, RunMetrics, read_lines


def test_replayed_steps_are_recorded_once(tmp_path: Path) -> None:
    for steps in ((0, 1), (1, 2)):
        metrics = RunMetrics(tmp_path)
        for step in steps:
            metrics.record(step, {"reward": float(step)})
        metrics.close()
    assert [record["step"] for record in read_lines(tmp_path / "metrics.jsonl")] == [0, 1, 2]
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_cut_line_is_dropped_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"step": 1, "rew')
    assert read_lines(path) == [{"step": 0}]
    JsonLines(path).write({"step": 1})
    assert [record["step"] for record in read_lines(path)] == [0, 1]


def test_a_failing_disk_does_not_stop_the_run(tmp_path: Path, caplog) -> None:  # type: ignore[no-untyped-def]
    lines = JsonLines(tmp_path / "file")
    (tmp_path / "file").mkdir()
    lines.write({"step": 0})
    lines.write({"step": 1})
    assert caplog.text.count("goes on without it") == 1


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for damage in (b"{\xff}", b"17", b'{"step": '):
        path.write_bytes(b'{"step": 0}\n' + damage + b'\n{"step": 2}\n')
        with pytest.raises(SrpoError, match=r"metrics.jsonl: line 2 is damaged"):
            read_lines(path)


def test_a_disk_that_is_full_for_a_while_leaves_whole_lines(tmp_path: Path) -> None:
    """A line that is cut where the disk ended is dropped when there is room again."""
    limit, path = resource.getrlimit(resource.RLIMIT_FSIZE), tmp_path / "events.jsonl"
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    lines = JsonLines(path)
    try:
        lines.write({"event": "first"})
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, limit[1]))
        lines.write({"event": "cut"})
        assert path.read_bytes().count(b"\n") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    lines.write({"event": "last"})
    assert [record["event"] for record in read_lines(path)] == ["first", "last"]


def test_tensorboard_reads_what_is_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    metrics = RunMetrics(tmp_path)
    for step in range(3):
        metrics.record(step, {"reward": step / 2})
    metrics.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward")] == [(0, 0.0), (1, 0.5), (2, 1.0)]


def test_tensorboard_on_a_failing_disk_does_not_stop_the_run(tmp_path: Path, caplog) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    metrics = RunMetrics(tmp_path)
    for step in range(3):
        metrics.record(step, {"reward": 1.0})
    metrics.close()
    assert caplog.text.count("goes on without it") == 1
    assert len(read_lines(tmp_path / "metrics.jsonl")) == 3
