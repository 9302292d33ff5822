"""Which GPUs the engines of this machine take."""

from __future__ import annotations

import pytest

from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.schema import EngineSection
from megatron_srpo.recipe.trainer import TrainerSection
from megatron_srpo.rollout import engine_command
from megatron_srpo.rollout.engine_command import gpus_of_engines


def engines(count: int = 1, **changes: object) -> EngineSection:
    return EngineSection.model_validate({"device": "cuda", "count": count, "tensor_parallel": 2, **changes})


@pytest.fixture(autouse=True)
def eight_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")


def test_engines_take_the_gpus_behind_the_trainer() -> None:
    assert gpus_of_engines(engines(2), TrainerSection(device="cuda", ranks=4)) == ["4", "5", "6", "7"]
    assert gpus_of_engines(engines(2), TrainerSection(device="cpu", ranks=4)) == ["0", "1", "2", "3"]


def test_too_few_are_refused() -> None:
    with pytest.raises(SrpoError, match=r"take 6 GPUs and engine.count 2 .* take 4, but this machine shows 8"):
        gpus_of_engines(engines(2), TrainerSection(device="cuda", ranks=6))


def test_gpus_may_have_uuids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-0a, MIG-1b,2,-1,3")
    assert gpus_of_engines(engines(), TrainerSection(device="cuda", ranks=1)) == ["MIG-1b", "2"]
    with pytest.raises(SrpoError, match="this machine shows 3;"):
        gpus_of_engines(engines(), TrainerSection(device="cuda", ranks=2))


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ("", "this machine shows 0;"),
        ("0,all", "CUDA_VISIBLE_DEVICES is 0,all, of which all names no GPU; give numbers"),
        ("0,,1", "of which an empty entry names no GPU"),
    ],
)
def test_what_shows_no_gpu_is_one_sentence(monkeypatch: pytest.MonkeyPatch, shown: str, said: str) -> None:
    monkeypatch.setattr(engine_command, "_count_gpus", lambda: 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    with pytest.raises(SrpoError, match=said):
        gpus_of_engines(engines(), TrainerSection(device="cuda"))


def test_engines_on_the_cpu_take_none() -> None:
    assert gpus_of_engines(engines(device="cpu"), TrainerSection(device="cuda")) is None
    assert gpus_of_engines(engines(backend="deterministic"), TrainerSection(device="cuda")) is None
