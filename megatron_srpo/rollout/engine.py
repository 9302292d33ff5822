"""Engine server processes: start, watch, stop.

Every engine runs under a guard (launch/guard.py), so that neither a dead server nor a killed controller
leaves any of the engine's processes behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from megatron_srpo.errors import SrpoError
from megatron_srpo.launch.ports import bind_unclaimed
from megatron_srpo.launch.process import GuardedProcess, describe_exit
from megatron_srpo.recipe.schema import EngineSection
from megatron_srpo.rollout.client import EngineClient
from megatron_srpo.rollout.engine_command import EngineCommand, build_command
from megatron_srpo.tasks import cancel_all, gather_or_cancel

HEALTH_CHECK_SECONDS = 0.2


class EngineProcess:
    """One engine server with its children; `url` is where it answers."""

    def __init__(self, index: int, host: str, port: int, command: EngineCommand, log_file: Path) -> None:
        self.index = index
        self.port = port
        # A server that binds to all addresses is reached, from here, by the loopback one.
        self.url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
        self._process = GuardedProcess(f"engine {index}", command.arguments, command.environment, log_file)

    @property
    def pid(self) -> int:
        """Process id of the guard; killing it kills the engine."""
        return self._process.pid

    @property
    def log_file(self) -> Path:
        """Where the server's output goes."""
        return self._process.log_file

    async def start(self, timeout: float) -> None:
        """Start the server and return when it is healthy.

        Raises SrpoError, with nothing left running, when it dies or is not healthy within `timeout` seconds.
        """
        await self._process.start()
        died = asyncio.create_task(self.watch())
        healthy = asyncio.create_task(self._until_healthy())
        tasks = (died, healthy)
        try:
            done, _ = await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise SrpoError(
                    f"engine {self.index} ({self.url}) was not healthy after {timeout:g} seconds "
                    f"(engine.start_timeout_seconds); its last words: {self._process.last_words()}; "
                    f"see {self.log_file}"
                )
            for task in done:
                task.result()
        except BaseException:
            await self.stop()
            raise
        finally:
            await cancel_all(tasks)

    async def watch(self) -> None:
        """Return when the engine has been stopped; raise SrpoError when it ends by itself."""
        code = await self._process.wait()
        if not self._process.stopping:
            raise SrpoError(
                f"engine {self.index} ({self.url}) ended by itself with exit code {describe_exit(code)}; "
                f"its last words: {self._process.last_words()}; see {self.log_file}"
            )

    async def stop(self) -> None:
        """End the server and all its children."""
        await self._process.stop()

    async def _until_healthy(self) -> None:
        async with EngineClient(self.url) as client:
            while not await client.health():
                await asyncio.sleep(HEALTH_CHECK_SECONDS)


class Engines:
    """All engine servers of a run; an async context manager that stops them at the end."""

    def __init__(self, processes: Sequence[EngineProcess]) -> None:
        self.processes = tuple(processes)

    @property
    def urls(self) -> list[str]:
        """Where the engines answer, in order."""
        return [process.url for process in self.processes]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def watch(self) -> None:
        """Raise SrpoError as soon as any engine ends by itself; return when all have been stopped."""
        await gather_or_cancel(*(process.watch() for process in self.processes))

    async def stop(self) -> None:
        """Stop all engines at once."""
        await asyncio.gather(*(process.stop() for process in self.processes))


async def start_engines(
    section: EngineSection,
    model_path: Path,
    log_dir: Path,
    gpus: Sequence[str] | None = None,
    record_experts: bool = False,
) -> Engines:
    """Start `section.count` engines at once and return when all are healthy.

    They log to `log_dir/engine-<index>.log`.  `gpus`, `record_experts`: see `build_command`.  Raises SrpoError,
    with nothing left running, when a port is taken, the interpreter is missing or an engine does not start.
    """
    processes = []
    for index, port in enumerate(_choose_ports(section)):
        command = build_command(
            section, model_path.absolute(), index=index, port=port, gpus=gpus, record_experts=record_experts
        )
        log_file = log_dir / f"engine-{index}.log"
        processes.append(EngineProcess(index, section.host, port, command, log_file))
    engines = Engines(processes)
    try:
        await gather_or_cancel(*(process.start(section.start_timeout_seconds) for process in processes))
    except BaseException:
        await engines.stop()
        raise
    return engines


def _choose_ports(section: EngineSection) -> list[int]:
    """The recipe's ports, found free, or free ports; all are held until all are known, so they differ."""
    with contextlib.ExitStack() as held:
        ports = []
        for index in range(section.count):
            wanted = section.port + index if section.port else None
            probe = held.enter_context(socket.socket())
            # As the servers do: a port in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                if wanted is None:
                    bind_unclaimed(probe, section.host)
                else:
                    probe.bind((section.host, wanted))
            except (OSError, OverflowError) as error:
                raise SrpoError(
                    f"engine {index} cannot listen on {section.host}:{wanted or 'any'} ({error}): stop what uses "
                    "the port, or set engine.port to another one or to 0 for free ports"
                ) from error
            ports.append(int(probe.getsockname()[1]))
    return ports
