"""The controller's side of a weight exchange: tells the engines what the trainer sends.  No torch."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from megatron_srpo.launch.trainer import Trainer
from megatron_srpo.recipe.schema import Recipe
from megatron_srpo.rollout.client import EngineClient
from megatron_srpo.rollout.fleet import EngineFleet
from megatron_srpo.tasks import gather_or_cancel


@dataclass(frozen=True)
class Exchange:
    """What an exchange moved; `bytes` left the trainer once, however many engines received them."""

    bytes: int
    seconds: float


class WeightPath(Protocol):
    """A way for weights to travel; afterwards every engine serves the trainer's present version."""

    async def exchange(self) -> Exchange:
        """Move the weights of `trainer.version` to all engines; no requests may be running."""


class DistributedPath:
    """Broadcasts from each pipeline stage's leader into a group with all engine ranks."""

    def __init__(self, recipe: Recipe, trainer: Trainer, fleet: EngineFleet) -> None:
        self._recipe, self._trainer, self._fleet = recipe, trainer, fleet
        self._joined = False

    async def exchange(self) -> Exchange:
        """See WeightPath."""
        if not self._joined:
            await self._join()
        started = time.monotonic()
        sent, _ = await gather_or_cancel(self._trainer.send(), self._fleet.all(self._receive))
        return Exchange(sent["bytes"], time.monotonic() - started)

    async def _join(self) -> None:
        ranks_per_engine = self._recipe.engine.tensor_parallel
        world_size = 1 + len(self._fleet.clients) * ranks_per_engine
        offsets = {client: 1 + i * ranks_per_engine for i, client in enumerate(self._fleet.clients)}

        async def join(client: EngineClient) -> None:
            for group in self._trainer.groups:
                await client.init_group(
                    address=group.address,
                    port=group.port,
                    rank_offset=offsets[client],
                    world_size=world_size,
                    name=group.name,
                    backend=self._trainer.backend,
                )

        await gather_or_cancel(self._trainer.join(world_size), self._fleet.all(join))
        self._joined = True

    async def _receive(self, client: EngineClient) -> None:
        buckets = [(group.name, bucket) for group in self._trainer.groups for bucket in group.buckets]
        await client.begin_update()
        for number, (name, bucket) in enumerate(buckets, 1):
            await client.update_from_distributed(
                **bucket,
                group=name,
                weight_version=self._trainer.version,
                # Cached prefixes belong to the old weights; the last bucket makes the engine forget them.
                flush_cache=number == len(buckets),
            )
        await client.end_update()


class DiskPath:
    """The trainer writes a Hugging Face folder that every engine can see, and the engines load it."""

    def __init__(self, trainer: Trainer, fleet: EngineFleet, folder: Path) -> None:
        self._trainer, self._fleet, self._folder = trainer, fleet, folder

    async def exchange(self) -> Exchange:
        """See WeightPath."""
        started = time.monotonic()
        target = self._folder / f"version-{self._trainer.version:06d}"
        await self._trainer.export(target)
        path, version = str(target.absolute()), self._trainer.version
        await self._fleet.all(lambda client: client.update_from_disk(path, version))
        size = sum(file.stat().st_size for file in target.glob("*.safetensors"))
        for old in self._folder.glob("version-*"):
            if old != target:
                shutil.rmtree(old)
        return Exchange(size, time.monotonic() - started)
