"""Our weight exchange with a real engine against a raw gloo broadcast of the same bytes.

    python tools/bench/sync.py [--quick] [--engine sglang|deterministic]

Ours is all that happens between "the trainer has new weights" and "the engine serves them": gathering,
flattening, HTTP announcements, broadcast, unflattening, loading, flushing the cache.  The first baseline
broadcasts ready tensors of the same sizes to a process that does nothing with them.  In the second that process
also copies what it has received into place and says so, as every receiver of weights must.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
import typer
from common.models import write_model
from common.report import compare, progress, report

from megatron_srpo.actor import parallel
from megatron_srpo.actor.model import build_model
from megatron_srpo.bridge.weights import bind, load_weights
from megatron_srpo.launch.ports import unclaimed_port
from megatron_srpo.launch.trainer import StageGroup, Trainer
from megatron_srpo.platform.select import select_platform
from megatron_srpo.recipe.schema import Recipe
from megatron_srpo.rollout.client import EngineClient
from megatron_srpo.rollout.engine import start_engines
from megatron_srpo.rollout.fleet import EngineFleet
from megatron_srpo.sync.announce import DistributedPath
from megatron_srpo.sync.exchange import WeightSender, group_as_message
from megatron_srpo.sync.process_group import join_group

HOST = "127.0.0.1"
BUCKET_MEGABYTES = 256


class InProcessTrainer(Trainer):
    """The trainer's commands, carried out in threads of this process by one rank."""

    def __init__(self, sender: WeightSender) -> None:
        self.sender = sender
        self.version = 0
        self.backend = "gloo"
        group = sender.weight_group(HOST)
        assert group is not None
        self._group = group
        self.groups = [StageGroup(**group_as_message(group))]

    async def join(self, world_size: int) -> None:
        await asyncio.to_thread(self.sender.join, self._group, world_size)

    async def send(self) -> dict[str, Any]:
        return {"bytes": await asyncio.to_thread(self.sender.send)}


def receive(port: int, sizes: list[int], runs: int) -> None:
    """The baselines' receiver: in turn, a broadcast of everything, and one that is copied and acknowledged."""
    group = join_group(address=HOST, port=port, rank=1, world_size=2, name="raw", backend="gloo", timeout=300.0)
    buffers = [torch.empty(size, dtype=torch.uint8) for size in sizes]
    places = [torch.empty_like(buffer) for buffer in buffers]
    for _ in range(runs):
        for buffer in buffers:
            dist.broadcast(buffer, src=0, group=group)
        for buffer, place in zip(buffers, places, strict=True):
            dist.broadcast(buffer, src=0, group=group)
            place.copy_(buffer)
        dist.broadcast(torch.zeros(1), src=1, group=group)


class RawBroadcast:
    """The baseline's sender, with its receiving process."""

    def __init__(self, sizes: list[int], runs: int) -> None:
        port = unclaimed_port(HOST)
        text = ",".join(map(str, sizes))
        self.process = subprocess.Popen([sys.executable, __file__, "--receive", f"{port}:{text}:{runs}"])
        self.group = join_group(
            address=HOST, port=port, rank=0, world_size=2, name="raw", backend="gloo", timeout=300.0
        )
        self.buffers = [torch.ones(size, dtype=torch.uint8) for size in sizes]

    def run(self) -> tuple[float, float]:
        """Seconds of broadcasting everything once, and of doing it with copying and acknowledgement."""
        started = time.perf_counter()
        for buffer in self.buffers:
            dist.broadcast(buffer, src=0, group=self.group)
        between = time.perf_counter()
        for buffer in self.buffers:
            dist.broadcast(buffer, src=0, group=self.group)
        dist.broadcast(torch.zeros(1), src=1, group=self.group)
        return between - started, time.perf_counter() - between


async def measure(
    recipe: Recipe, sender: WeightSender, logs: Path, runs: int
) -> tuple[list[float], list[tuple[float, float]], int]:
    """Alternate ours and the baselines; returns seconds of all and the bytes of one exchange."""
    async with AsyncExitStack() as stack:
        engines = await stack.enter_async_context(await start_engines(recipe.engine, recipe.model.path, logs))
        fleet = EngineFleet([EngineClient(url) for url in engines.urls])
        stack.push_async_callback(fleet.close)
        trainer = InProcessTrainer(sender)
        path = DistributedPath(recipe, trainer, fleet)
        first = await path.exchange()
        sizes = [_bucket_bytes(bucket) for group in trainer.groups for bucket in group.buckets]
        raw = RawBroadcast(sizes, runs + 1)
        raw.run()
        ours, baseline = [], []
        for run in range(runs):
            trainer.version += 1
            ours.append((await path.exchange()).seconds)
            baseline.append(await asyncio.to_thread(raw.run))
            progress(
                f"run {run}: ours {ours[-1]:.3f} s, raw {baseline[-1][0]:.3f} s, copied {baseline[-1][1]:.3f} s"
            )
        raw.process.wait(60)
        return ours, baseline, first.bytes


def _bucket_bytes(bucket: dict[str, Any]) -> int:
    sizes = (
        getattr(torch, dtype).itemsize * torch.Size(shape).numel()
        for dtype, shape in zip(bucket["dtypes"], bucket["shapes"], strict=True)
    )
    return sum(sizes)


def main(
    quick: bool = False,
    engine: Annotated[str, typer.Option(help="sglang or deterministic")] = "sglang",
    engine_python: Path = Path(".venv-engine/bin/python"),
    receive_spec: Annotated[str, typer.Option("--receive", hidden=True)] = "",
) -> None:
    """Measure and report."""
    if receive_spec:
        port, sizes, runs = receive_spec.split(":")
        receive(int(port), [int(size) for size in sizes.split(",")], int(runs))
        return
    os.environ.update(RANK="0", WORLD_SIZE="1", MASTER_ADDR=HOST, MASTER_PORT="29642")
    hidden, layers, vocab, runs = (512, 6, 8192, 9) if quick else (1024, 12, 16384, 21)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = write_model(folder / "model", hidden, layers, vocab)
        recipe = Recipe.model_validate(
            {
                "name": "bench",
                "steps": 1,
                "model": {"path": folder / "model"},
                "data": {"train": {"math": "none"}},
                "engine": {
                    "backend": engine,
                    "python": engine_python,
                    "device": "cpu",
                    "dtype": "float32",
                    "max_total_tokens": 4096,
                },
                "trainer": {"dtype": "float32", "device": "cpu"},
                "sync": {"bucket_megabytes": BUCKET_MEGABYTES},
            }
        )
        platform = select_platform("cpu", threads=1)
        ranks = parallel.initialize(recipe.trainer, platform, 0)
        chunks = build_model(model, recipe.trainer, platform)
        load_weights(chunks, model)
        bindings = bind(chunks, model)
        sender = WeightSender(bindings, ranks, platform, torch.float32, BUCKET_MEGABYTES * 2**20, 300.0)
        ours, baseline, size = asyncio.run(measure(recipe, sender, folder / "logs", runs))
        speed = [size / seconds for seconds in ours]
        results = [
            compare(
                "weight_exchange",
                speed,
                "bytes/second",
                "raw gloo broadcast of the same bytes",
                [size / raw for raw, _ in baseline],
                ">= 0.7",
            ),
            compare(
                "weight_exchange",
                speed,
                "bytes/second",
                "raw gloo broadcast, copied into place and acknowledged",
                [size / copied for _, copied in baseline],
                ">= 0.7",
            ),
        ]
        report("sync", results, engine=engine, bytes=size, buckets=len(sender.plan))
        parallel.shutdown()


if __name__ == "__main__":
    typer.run(main)
