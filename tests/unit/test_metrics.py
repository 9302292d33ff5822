"""Metrics are append-only, survive crashes, and never stop a run."""

from __future__ import annotations

from pathlib import Path

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
