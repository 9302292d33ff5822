"""SIGINT and SIGTERM as an orderly end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

from megatron_srpo.errors import StoppedError
from megatron_srpo.launch.guard import PR_SET_CHILD_SUBREAPER, kill_orphans, prctl_setter


def run_until_signal(work: Coroutine[Any, Any, None]) -> None:
    """Run the work to its end; raises StoppedError when a signal has cancelled it and it has cleaned up."""
    asyncio.run(_until_signal(work))


def run_with_guards(work: Coroutine[Any, Any, None]) -> None:
    """The same for work that starts guards: what a killed one leaves behind falls to us, and ends with us."""
    adopt = prctl_setter()
    adopt(PR_SET_CHILD_SUBREAPER, 1)
    try:
        run_until_signal(work)
    finally:
        kill_orphans()
        adopt(PR_SET_CHILD_SUBREAPER, 0)


async def _until_signal(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(work)
    received: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        if not received:  # a second signal must not cut the stopping short
            task.cancel()
        received.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        await task
    except asyncio.CancelledError:
        if not received:
            raise
        raise StoppedError(received[0]) from None
