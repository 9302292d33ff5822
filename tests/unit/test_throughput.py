"""Tokens, operations and utilisation of a step."""

from __future__ import annotations

import pytest
import torch

from megatron_srpo.actor.throughput import peak_memory, throughput
from megatron_srpo.plan.gpus import GPUS, gpu_of
from megatron_srpo.platform.select import Platform
from megatron_srpo.recipe.flops import ModelFlops

FLOPS = ModelFlops(per_token=1e12, per_pair=1e10, per_target=1e11)


def test_of_a_step_on_cpus() -> None:
    operations = FLOPS.training(5, 2) + FLOPS.training(2, 1)
    found = throughput(7, operations, 7.0, 2, Platform(torch.device("cpu"), "gloo", "local"))
    needed = 3 * (1.0 * 7 + 0.01 * (15 + 3) + 0.1 * 3)
    assert found == {"train_tokens_per_second": 0.5, "train_tflops": pytest.approx(needed / 7 / 2)}


def test_utilisation_where_the_peak_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    found = throughput(
        5, FLOPS.training(5, 2), 1.0, 1, Platform(torch.device("cuda"), "nccl", "transformer_engine")
    )
    assert found["mfu"] == pytest.approx(found["train_tflops"] / 989)


def test_memory_of_gpus_alone() -> None:
    assert peak_memory(Platform(torch.device("cpu"), "gloo", "local")) == {}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA GeForce RTX 4090", None),
        ("NVIDIA GH200 480GB", None),
    ],
)
def test_kinds_by_the_drivers_name(name: str, kind: str | None) -> None:
    assert gpu_of(name) == (None if kind is None else GPUS[kind])
