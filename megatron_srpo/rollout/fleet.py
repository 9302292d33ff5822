"""The engines of a run, as one thing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Self, TypeVar

from megatron_srpo.recipe.schema import Recipe
from megatron_srpo.rollout.client import EngineClient
from megatron_srpo.tasks import gather_or_cancel

Result = TypeVar("Result")


class EngineFleet:
    """Some engine clients, at least one, in a fixed order."""

    def __init__(self, clients: Sequence[EngineClient]) -> None:
        if not clients:
            raise ValueError("a fleet needs at least one engine")
        self.clients = tuple(clients)

    @classmethod
    def from_recipe(cls, recipe: Recipe, urls: Sequence[str]) -> Self:
        """Clients of these engines, with the recipe's limits of time and retries."""
        return cls(
            [
                EngineClient(
                    url,
                    timeout=recipe.rollout.request_timeout_seconds,
                    control_timeout=recipe.sync.timeout_seconds,
                    retries=recipe.rollout.request_retries,
                )
                for url in urls
            ]
        )

    def for_group(self, index: int) -> EngineClient:
        """The engine of the group `index`: samples of one prompt share one engine's prefix cache."""
        return self.clients[index % len(self.clients)]

    async def all(self, call: Callable[[EngineClient], Awaitable[Result]]) -> list[Result]:
        """Call `call` for all engines at once; results in their order.  One failure cancels the others."""
        return await gather_or_cancel(*(call(client) for client in self.clients))

    async def close(self) -> None:
        """Close all connections."""
        for client in self.clients:
            await client.close()
