"""Phases of a step and traces of chosen ones."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import pytest
import torch
from torch.profiler import profile

from megatron_srpo.actor.profiling import Phases, StepProfiler
from megatron_srpo.platform.select import Platform
from megatron_srpo.recipe.schema import ProfileSection, Recipe

CPU = Platform(torch.device("cpu"), "gloo", "local")


def test_phases_add_up() -> None:
    phases = Phases(CPU)
    for _ in range(2):
        with phases("pack"):
            time.sleep(0.01)
    with phases("update"):
        pass
    found = phases.metrics()
    assert set(found) == {"seconds_pack", "seconds_update"}
    assert found["seconds_pack"] >= 0.02 > found["seconds_update"]


def train(profiler: StepProfiler, steps: range) -> None:
    for number in steps:
        with profiler.step(number):
            torch.full((3, 3), float(number)).logdet() if number == 2 else torch.ones(2).cumsum(0)


def operations(file: Path) -> set[str]:
    return {event.get("name", "") for event in json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]}


def test_the_chosen_steps_are_traced_and_no_others(tmp_path: Path) -> None:
    train(StepProfiler(ProfileSection(steps=(2, 3)), tmp_path / "traces", 7, CPU), range(6))
    [file] = (tmp_path / "traces").iterdir()
    assert file.name == "steps-000002-000003-rank-00007.json.gz"
    assert {"aten::logdet", "aten::cumsum"} <= operations(file)
    train(StepProfiler(ProfileSection(steps=(4, 4)), tmp_path / "other", 0, CPU), range(6))
    [file] = (tmp_path / "other").iterdir()
    assert "aten::logdet" not in operations(file)


def test_a_run_that_goes_on_in_the_middle_traces_the_rest(tmp_path: Path) -> None:
    train(StepProfiler(ProfileSection(steps=(2, 4)), tmp_path / "traces", 0, CPU), range(3, 6))
    assert [file.name for file in (tmp_path / "traces").iterdir()] == ["steps-000003-000004-rank-00000.json.gz"]


def test_without_the_key_nothing_is_written(tmp_path: Path) -> None:
    train(StepProfiler(None, tmp_path / "traces", 0, CPU), range(3))
    assert not (tmp_path / "traces").exists()


def test_a_trace_that_cannot_be_written_ends_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "traces").write_text("a file")
    train(StepProfiler(ProfileSection(steps=(0, 0)), tmp_path / "traces", 0, CPU), range(2))
    assert "the trace could not be written" in caplog.text


def test_half_a_trace_does_not_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk torch writes a part, or nothing, and says that all is well."""
    monkeypatch.setattr(
        profile, "export_chrome_trace", lambda self, path: Path(path).write_text('{"traceEvents": [')
    )
    train(StepProfiler(ProfileSection(steps=(0, 0)), tmp_path / "traces", 0, CPU), range(2))
    assert "No space left on device" in caplog.text
    assert not list((tmp_path / "traces").iterdir())


@pytest.mark.parametrize("steps", [(3, 2), (0, 5)])
def test_steps_that_the_run_does_not_have(steps: tuple[int, int]) -> None:
    values = {"name": "x", "steps": 5, "model": {"path": "m"}, "data": {"train": {"math": "unused"}}}
    with pytest.raises(ValueError, match=r"profile\.steps .*0 to 4"):
        Recipe.model_validate({**values, "profile": {"steps": steps}})
