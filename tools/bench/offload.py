"""Optimizer state on its way between a GPU and the host's memory, against what the plan assumes of PCIe.

    python tools/bench/offload.py [--quick] [--device cuda]

State of as many tensors as a 7B model has on one of four ranks goes to the host and comes back.  On a CPU (where
the numbers say nothing of PCIe) it shows that the benchmark runs.
"""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import torch
import typer
from common.report import compare, progress, report

from megatron_srpo.actor.offload import Offload
from megatron_srpo.plan.gpus import GPUS, HOST_SHARE, gpu_of

TENSORS = 1000
GIGA = 1e9


def state(count: int, size: int, device: torch.device) -> list[torch.Tensor]:
    """`count` tensors of `size` numbers."""
    return [torch.full((size,), float(number), device=device) for number in range(count)]


def optimizer(tensors: list[torch.Tensor]) -> Any:
    """What `Offload` reads of a distributed optimizer."""
    inner = SimpleNamespace(param_groups=[{"params": tensors}], state={})
    return SimpleNamespace(model_float16_groups=[], model_fp32_groups=[], optimizer=inner)


def now(device: torch.device) -> float:
    """Seconds, when all that was begun has ended."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main(quick: bool = False, device: str = "cuda") -> None:
    """Measure and report."""
    count, size, runs = (100, 25_000, 3) if quick else (TENSORS, 5_000_000, 5)
    where = torch.device(device)
    tensors = state(count, size, where)
    total = sum(tensor.nbytes for tensor in tensors)
    offload = Offload(cast(Any, optimizer(tensors)), where)  # page-locks the memory
    left = sum(tensor.untyped_storage().nbytes() for tensor in tensors)
    held = torch.cuda.memory_allocated() if where.type == "cuda" else left
    there, back = [], []
    for run in range(runs):
        started = now(where)
        with offload.at_hand():
            there.append(total / GIGA / (now(where) - started))
            assert all(float(tensor[-1]) == number for number, tensor in enumerate(tensors))
            started = now(where)
        back.append(total / GIGA / (now(where) - started))
        progress(f"run {run}: to the device {there[-1]:.1f} GB/s, to the host {back[-1]:.1f} GB/s")
    known = gpu_of(torch.cuda.get_device_name()) if where.type == "cuda" else None
    planned = [(known or GPUS["h100"]).host_gbps * HOST_SHARE] * runs
    results = [
        compare("to_device", there, "GB/s", "the plan's", planned, ">= 1.0"),
        compare("to_host", back, "GB/s", "the plan's", planned, ">= 1.0"),
        compare("left", [float(held)], "bytes", "state", [float(total)], "<= 0.01"),
    ]
    report("offload", results, tensors=count, bytes=total, device=device)


if __name__ == "__main__":
    typer.run(main)
