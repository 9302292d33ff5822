"""Work that depends on processes, and ends with them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

from megatron_srpo.errors import SrpoError
from megatron_srpo.launch.control import LastWordsError
from megatron_srpo.tasks import cancel_all

T = TypeVar("T")

# How long the processes' own reason is waited for when the connection to them breaks.
_REASON_SECONDS = 3.0


async def supervise(work: Awaitable[T], watchers: list[Coroutine[Any, Any, None]]) -> T:
    """The work's result, while processes are watched; the death of a process ends the work with its reason."""
    main = asyncio.ensure_future(work)
    watching = [asyncio.create_task(watcher) for watcher in watchers]
    try:
        await asyncio.wait([main, *watching], return_when=asyncio.FIRST_COMPLETED)
        error = main.exception() if main.done() else None
        if isinstance(error, LastWordsError):
            raise error
        if watching and isinstance(error, SrpoError):
            # When a process dies, those that speak with it fail first; its own last words say why.
            await asyncio.wait(watching, timeout=_REASON_SECONDS, return_when=asyncio.FIRST_EXCEPTION)
        for task in watching:
            if task.done():
                task.result()
        return await main
    finally:
        await cancel_all([main, *watching])
