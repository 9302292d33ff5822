"""Engine server processes: start, watch, stop.

Every engine runs under a small guard process (guard.py), so that neither a dead server nor a killed
controller leaves any of the engine's processes behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.schema import EngineSection
from megatron_srpo.rollout.client import EngineClient
from megatron_srpo.rollout.engine_command import PACKAGE, EngineCommand, build_command

HEALTH_CHECK_SECONDS = 0.2
# An engine has nothing to save, and SGLang looks at a SIGTERM only every five seconds.
GRACE_SECONDS = 1.0
# The guard needs a moment after the grace to kill and reap.
GUARD_MARGIN_SECONDS = 10.0
LOG_TAIL_BYTES = 64 * 1024

# The last line of a traceback.
_EXCEPTION_LINE = re.compile(r"^(\w+\.)*\w*(Error|Exception)\b")


class EngineProcess:
    """One engine server with its children.  `pid` is its guard's; `url` is where it answers."""

    def __init__(self, index: int, host: str, port: int, command: EngineCommand, log_file: Path) -> None:
        self.index = index
        self.port = port
        # A server that binds to all addresses is reached, from here, by the loopback one.
        self.url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
        self.log_file = log_file
        self._command = command
        self._log_start = 0
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False

    @property
    def pid(self) -> int:
        """Process id of the guard; killing it kills the engine."""
        if self._process is None:
            raise RuntimeError(f"engine {self.index} was not started")
        return self._process.pid

    async def start(self, timeout: float) -> None:
        """Start the server and return when it is healthy.

        Raises SrpoError, with nothing left running, when it dies or is not healthy within `timeout` seconds.
        """
        await self._spawn()
        died = asyncio.create_task(self.watch())
        healthy = asyncio.create_task(self._until_healthy())
        try:
            tasks = (died, healthy)
            done, _ = await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise SrpoError(
                    f"engine {self.index} ({self.url}) was not healthy after {timeout:g} seconds "
                    f"(engine.start_timeout_seconds); its last words: {self._last_words()}; "
                    f"see {self.log_file}"
                )
            for task in done:
                task.result()
        except BaseException:
            await self.stop()
            raise
        finally:
            for task in (died, healthy):
                task.cancel()
            await asyncio.gather(died, healthy, return_exceptions=True)

    async def watch(self) -> None:
        """Return when the engine has been stopped; raise SrpoError when it ends by itself."""
        if self._process is None:
            raise RuntimeError(f"engine {self.index} was not started")
        code = await self._process.wait()
        if not self._stopping:
            raise SrpoError(
                f"engine {self.index} ({self.url}) ended by itself with exit code {_describe_exit(code)}; "
                f"its last words: {self._last_words()}; see {self.log_file}"
            )

    async def stop(self) -> None:
        """End the server and all its children; it has `GRACE_SECONDS` to do so itself."""
        self._stopping = True
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), GRACE_SECONDS + GUARD_MARGIN_SECONDS)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    async def _spawn(self) -> None:
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        guard = [str(PACKAGE / "rollout" / "guard.py"), str(GRACE_SECONDS), str(os.getpid())]
        with self.log_file.open("ab") as log:
            self._log_start = log.tell()
            # A session of its own: Ctrl-C in the terminal is for the controller, which then stops the engine.
            # -P keeps our folder, with names like those of the standard library, off the guard's path.
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", *guard, *self._command.arguments),
                env=dict(self._command.environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )

    async def _until_healthy(self) -> None:
        async with EngineClient(self.url) as client:
            while not await client.health():
                await asyncio.sleep(HEALTH_CHECK_SECONDS)

    def _last_words(self) -> str:
        """The last line of this start's log that tells of an exception, else its last line."""
        with self.log_file.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - LOG_TAIL_BYTES))
            text = log.read().decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        told = [line for line in lines if _EXCEPTION_LINE.match(line)] or lines
        return told[-1][:500] if told else "(none)"


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
        tasks = [asyncio.create_task(process.watch()) for process in self.processes]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def stop(self) -> None:
        """Stop all engines at once."""
        await asyncio.gather(*(process.stop() for process in self.processes))


async def start_engines(
    section: EngineSection, model_path: Path, log_dir: Path, gpus: Sequence[int] | None = None
) -> Engines:
    """Start `section.count` engines at once and return when all are healthy.

    They log to `log_dir/engine-<index>.log`.  `gpus`: see `build_command`.  Raises SrpoError, with nothing
    left running, when a port is taken, the interpreter is missing or an engine does not start.
    """
    processes = []
    for index, port in enumerate(_choose_ports(section)):
        command = build_command(section, model_path.absolute(), index=index, port=port, gpus=gpus)
        log_file = log_dir / f"engine-{index}.log"
        processes.append(EngineProcess(index, section.host, port, command, log_file))
    engines = Engines(processes)
    starts = [asyncio.create_task(process.start(section.start_timeout_seconds)) for process in processes]
    try:
        await asyncio.gather(*starts)
    except BaseException:
        for start in starts:
            start.cancel()
        await asyncio.gather(*starts, return_exceptions=True)
        await engines.stop()
        raise
    return engines


def _choose_ports(section: EngineSection) -> list[int]:
    """The recipe's ports, found free, or free ports; all are held until all are known, so they differ."""
    with contextlib.ExitStack() as held:
        ports = []
        for index in range(section.count):
            wanted = section.port + index if section.port else 0
            probe = held.enter_context(socket.socket())
            # As the servers do: a port in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((section.host, wanted))
            except (OSError, OverflowError) as error:
                raise SrpoError(
                    f"engine {index} cannot listen on {section.host}:{wanted} ({error}): stop what uses the "
                    "port, or set engine.port to another one or to 0 for free ports"
                ) from error
            ports.append(int(probe.getsockname()[1]))
    return ports


def _describe_exit(code: int) -> str:
    """The guard hands on a signal as 128 + its number."""
    number = -code if code < 0 else code - 128
    if number in {item.value for item in signal.Signals}:
        return f"{code} ({signal.Signals(number).name})"
    return str(code)
