"""The trainer's ranks as processes of this machine, and the controller's view of them."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from megatron_srpo.checkpoints.manifest import RunFacts
from megatron_srpo.errors import EXIT_BAD_INPUT, SrpoError
from megatron_srpo.launch.control import Message, TrainerLink
from megatron_srpo.launch.ports import unclaimed_port
from megatron_srpo.launch.process import GuardedProcess, describe_exit
from megatron_srpo.launch.supervise import supervise
from megatron_srpo.recipe.schema import Recipe
from megatron_srpo.tasks import gather_or_cancel

HOST = "127.0.0.1"
# When one rank dies the others soon fail in a collective; the first cause is told, so wait for all of them.
_SETTLE_SECONDS = 2.0


@dataclass(frozen=True)
class StageGroup:
    """A pipeline stage's weight group as the controller announces it to the engines."""

    name: str
    address: str
    port: int
    buckets: list[dict[str, Any]]


class Trainer:
    """All ranks as one thing that trains, sends and saves; one command at a time."""

    def __init__(self, processes: Sequence[GuardedProcess], link: TrainerLink, hello: Message) -> None:
        self.processes = tuple(processes)
        self._link = link
        self.version: int = hello["version"]
        self.backend: str = hello["backend"]
        self.groups = [StageGroup(**group) for group in hello["groups"]]
        self.broken_checkpoints: list[str] = hello["broken_checkpoints"]
        self._saved: list[Message] = []

    async def train(self, path: Path) -> dict[str, float]:
        """Train on a closed step and return the metrics."""
        answer = await self._call("train", path=str(path.absolute()))
        self.version = answer["version"]
        metrics: dict[str, float] = answer["metrics"]
        return metrics

    async def join(self, world_size: int) -> None:
        """Meet the engines in the weight groups; returns when all have."""
        await self._call("join", world_size=world_size)

    async def send(self) -> Message:
        """Broadcast the weights; returns bytes and seconds."""
        return await self._call("send")

    async def export(self, path: Path) -> None:
        """Write the weights as a Hugging Face folder."""
        await self._call("export", path=str(path.absolute()))

    async def save(self, run: RunFacts) -> None:
        """Begin to write a training checkpoint."""
        await self._call("save", run=run.model_dump(mode="json"))

    async def settle(self) -> None:
        """Wait until the checkpoint that is being written is whole."""
        await self._call("settle")

    def take_saved(self) -> list[Message]:
        """What became whole since the last call: weight_version, bytes, seconds and stall_seconds of each."""
        taken, self._saved = self._saved, []
        return taken

    async def _call(self, command: str, **arguments: Any) -> Message:
        answer = await self._link.call(command, **arguments)
        self._saved += answer["saved"]
        return answer

    async def watch(self) -> None:
        """Return when the ranks have been stopped; raise SrpoError when one ends by itself."""
        await watch_ranks(self.processes)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await stop_ranks(self.processes, self._link)


async def start_trainer(recipe: Recipe, run_dir: Path) -> Trainer:
    """Start all ranks and return when they hold the weights (of the newest checkpoint, if there is one).

    They log to `run_dir/logs/trainer-<rank>.log`.  Raises SrpoError, with nothing left running, when a rank
    does not start.
    """
    token = secrets.token_hex(16)
    link = TrainerLink(token, recipe.trainer.timeout_seconds)
    host, port = await link.listen(HOST)
    processes = [
        GuardedProcess(
            f"trainer rank {rank}",
            _command(run_dir, f"{host}:{port}"),
            environment,
            run_dir / "logs" / f"trainer-{rank}.log",
        )
        for rank, environment in enumerate(_environments(recipe))
    ]
    try:
        await gather_or_cancel(
            *(p.start(first_line=token if rank == 0 else None) for rank, p in enumerate(processes))
        )
        hello = await supervise(link.hello(), [watch_ranks(processes)])
    except BaseException:
        await stop_ranks(processes, link)
        raise
    return Trainer(processes, link, hello)


def _command(run_dir: Path, control: str) -> list[str]:
    recipe = run_dir / "recipe.yaml"
    module = [sys.executable, "-m", "megatron_srpo.actor.worker"]
    return [*module, "--recipe", str(recipe), "--run-dir", str(run_dir), "--control", control]


def _environments(recipe: Recipe) -> list[dict[str, str]]:
    threads = str(recipe.trainer.threads_per_rank)
    shared = {
        "WORLD_SIZE": str(recipe.trainer.ranks),
        "MASTER_ADDR": HOST,
        "MASTER_PORT": str(unclaimed_port(HOST)),
        "OMP_NUM_THREADS": threads,
        # Megatron wants it for tensor parallelism with overlapping communication.
        "CUDA_DEVICE_MAX_CONNECTIONS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    return [
        {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        for rank in range(recipe.trainer.ranks)
    ]


async def watch_ranks(processes: Sequence[GuardedProcess]) -> None:
    """See `Trainer.watch`."""
    tasks = [asyncio.create_task(process.wait()) for process in processes]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if all(process.stopping for process in processes):
            return
        await asyncio.wait(tasks, timeout=_SETTLE_SECONDS)
    finally:
        for task in tasks:
            task.cancel()
    raise SrpoError(_why(processes))


def _why(processes: Sequence[GuardedProcess]) -> str:
    """The sentence of the rank that knows why, else the last words of one that ended."""
    ended = [process for process in processes if process.exit_code is not None]
    for process in ended:
        sentence = process.sentence()
        if process.exit_code == EXIT_BAD_INPUT and sentence:
            return sentence
    # A rank that was killed is the cause; those that raised have mostly lost their connection to it.
    first = max(ended, key=lambda process: _kill_signal(process.exit_code or 0))
    return (
        f"{first.name} ended by itself with exit code {describe_exit(first.exit_code or 0)}; its last words: "
        f"{first.last_words()}; see {first.log_file}"
    )


def _kill_signal(code: int) -> int:
    """The signal in an exit code, of the process or of its guard; 0 for an end without one."""
    return -code if code < 0 else max(code - 128, 0)


async def stop_ranks(processes: Sequence[GuardedProcess], link: TrainerLink) -> None:
    """End all ranks at once."""
    for process in processes:
        process.stopping = True
    await link.close()
    await asyncio.gather(*(process.stop() for process in processes))
