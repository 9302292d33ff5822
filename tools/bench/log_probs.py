"""Log-probs and entropy in blocks, fused with the output projection, against the whole logits: memory and time.

    python tools/bench/log_probs.py [--quick] [--device cuda]

Forward and backward of the same rows through vocabularies of several sizes.  The baseline multiplies hidden states
by the output weights, and takes log-softmax and entropy of the whole.  Memory is the largest amount in use beyond
inputs, weights and their gradient buffer, in a process of its own for every measurement.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
import typer
from common.report import Result, compare, progress, report

from megatron_srpo.actor.log_probs import Vocabulary, linear_log_probs

BLOCK_MEGABYTES = 64
MIB = 2**20


@dataclass(frozen=True)
class Size:
    """rows x width hidden states, vocabulary x width weights."""

    rows: int
    width: int
    vocabulary: int


@dataclass(frozen=True)
class Measured:
    """Seconds of each run, and the largest memory in MiB."""

    seconds: list[float]
    mebibytes: float


def in_blocks(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> None:
    """Ours."""
    elements = BLOCK_MEGABYTES * MIB // 4
    vocabulary = Vocabulary(len(weight), start=0, group=None, temperature=1.0, block_elements=elements)
    log_probs, _ = linear_log_probs(hidden, weight, targets, vocabulary)
    log_probs.sum().backward()


def whole(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> None:
    """The baseline."""
    distribution = (hidden @ weight.T).float().log_softmax(-1)
    with torch.no_grad():
        -(distribution.exp() * distribution).sum(-1)
    distribution.gather(1, targets[:, None]).sum().backward()
    weight.main_grad += weight.grad  # type: ignore[attr-defined]
    weight.grad = None


WAYS: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]] = {"blocks": in_blocks, "whole": whole}


def resident(what: str) -> float:
    """MiB of this process by a line of its status: VmRSS (now) or VmHWM (the most so far)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def measure(way: str, size: Size, device: str, runs: int) -> Measured:
    """Time `runs` runs after one to warm up, in this process alone."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    hidden = torch.randn(size.rows, size.width, device=device, dtype=dtype, requires_grad=True)
    weight = (torch.randn(size.vocabulary, size.width, device=device, dtype=dtype) * 0.02).requires_grad_()
    weight.main_grad = torch.ones(size.vocabulary, size.width, device=device)  # type: ignore[attr-defined]
    targets = torch.randint(0, size.vocabulary, (size.rows,), device=device)
    before = torch.cuda.memory_allocated() / MIB if device == "cuda" else resident("VmRSS")
    seconds = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        WAYS[way](hidden, weight, targets)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        hidden.grad = weight.grad = None
    peak = torch.cuda.max_memory_allocated() / MIB if device == "cuda" else resident("VmHWM")
    return Measured(seconds[1:], peak - before)


def alone(way: str, size: Size, device: str, runs: int) -> Measured:
    """`measure` in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(measure, way, size, device, runs).result()
    progress(f"{way}, vocabulary {size.vocabulary:,}: {min(found.seconds):.3f} s, {found.mebibytes:.0f} MiB")
    return found


def main(quick: bool = False, device: str = "cpu") -> None:
    """Measure and report."""
    vocabularies = (32_000, 152_064)
    rows, width, runs = (1024, 256, 2) if quick else (4096, 896, 3)
    if device == "cuda":
        rows, width = 16_384, 3584
    results: list[Result] = []
    memory: dict[int, float] = {}
    for vocabulary in vocabularies:
        size = Size(rows, width, vocabulary)
        ours, theirs = alone("blocks", size, device, runs), alone("whole", size, device, runs)
        memory[vocabulary] = ours.mebibytes
        results += [
            compare(f"seconds_{vocabulary}", ours.seconds, "seconds", "whole logits", theirs.seconds, "<= 1.1"),
            compare(f"memory_{vocabulary}", [ours.mebibytes], "MiB", "whole logits", [theirs.mebibytes], "<= 0.5"),
        ]
    small, large = (memory[vocabulary] for vocabulary in vocabularies)
    results.append(compare("memory_growth", [large], "MiB", f"vocabulary {vocabularies[0]}", [small], "<= 1.2"))
    report("log_probs", results, rows=rows, width=width, block_megabytes=BLOCK_MEGABYTES)


if __name__ == "__main__":
    typer.run(main)
