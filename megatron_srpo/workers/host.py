"""Worker processes from the side of the process that they work for, awaited from asyncio.

A worker can hang, crash or eat memory; deadlines are enforced from here, and a lost worker is replaced with the
next request.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from megatron_srpo.errors import SrpoError
from megatron_srpo.workers import messages, nursery

START_SECONDS = 120.0
GRACE_SECONDS = 1.0  # for a worker that has closed its socket to end, so that we learn why
END_SECONDS = 30.0  # for the kernel to end a killed process


class LostError(Exception):
    """A worker is gone or answers nonsense."""


@dataclass(frozen=True)
class Order:
    """What the workers of a nursery do."""

    factory: str
    """A function of this project, as module:function, see `nursery.Factory`."""
    settings: Any
    """JSON values for it."""
    memory: int
    """Address space of one worker in bytes."""
    what: str
    """What they are called in messages, as `reward workers`."""
    start_seconds: float = START_SECONDS
    """How long the factory may take."""


class Nursery:
    """The process that workers are forked from."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    async def start(self) -> None:
        """Start it and wait until it is ready; raises SrpoError with its reason when it cannot."""
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", nursery.__name__, str(theirs.fileno()), str(os.getpid())]
        with theirs:
            # From this thread, which stays: the kernel ends the child with the thread that has started it.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True
            )
        order = {name: getattr(self._order, name) for name in ("factory", "settings", "memory")}
        self._control.send(json.dumps(order).encode())
        self._control.setblocking(False)
        loop = asyncio.get_running_loop()
        what, seconds = self._order.what, self._order.start_seconds
        try:
            answer = await asyncio.wait_for(loop.sock_recv(self._control, nursery.LONGEST_REQUEST), seconds)
        except TimeoutError:
            answer = f"the {what} were not ready after {seconds:g} seconds; look for a busy machine".encode()
        except ConnectionError:
            answer = b""
        self._control.settimeout(END_SECONDS)  # a burst of requests may have to wait until it has read some
        if answer != nursery.READY.encode():
            await self.close()
            raise SrpoError(answer.decode() or f"the {what} did not start; their last words are above")

    def fork(self, name: int, connection: socket.socket, status: int) -> None:
        """Ask for a worker; raises SrpoError when the process is gone."""
        self._ask(f"{nursery.START} {name}", [connection.fileno(), status])

    def kill(self, name: int) -> None:
        """Ask for a worker's end, which `status` then tells."""
        self._ask(f"{nursery.KILL} {name}", [])

    def _ask(self, request: str, descriptors: list[int]) -> None:
        assert self._control is not None
        try:
            socket.send_fds(self._control, [request.encode()], descriptors)
        except OSError as error:
            raise SrpoError(
                f"the process that {self._order.what} are forked from is gone ({error}); "
                "look for a lack of memory and start again"
            ) from None

    async def close(self) -> None:
        """End it, and with it all workers."""
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)


class Worker:
    """One worker, started with the first request and replaced when it is lost."""

    def __init__(self, nursery: Nursery, name: int) -> None:
        self._nursery, self._name = nursery, name
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._status = -1  # a descriptor from which the end of the process can be read

    @property
    def runs(self) -> bool:
        """Whether the process that was asked last is there; it may have ended without our noticing."""
        return self._streams is not None

    async def ask(self, request: Any, plain: Callable[[Any], Any] | None = None) -> None:
        """Send a message to the worker, which is started if it is not there; see `messages.encode`.

        Raises:
            LostError: when it has ended.
            SrpoError: when workers cannot be started any more.
        """
        if self._streams is None:
            await self._start()
        assert self._streams is not None
        writer = self._streams[1]
        writer.write(messages.encode(request, plain))
        try:
            await writer.drain()
        except ConnectionError:
            raise LostError from None

    async def receive(self) -> Any:
        """Its next message; raises LostError where there is none."""
        assert self._streams is not None
        reader = self._streams[0]
        try:
            header = await reader.readexactly(messages.LENGTH_BYTES)
            return json.loads(await reader.readexactly(messages.size_of(header)))
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            raise LostError from None

    async def _start(self) -> None:
        ours, theirs = socket.socketpair()
        status, tell = os.pipe()
        try:
            try:
                with theirs:
                    self._nursery.fork(self._name, theirs, tell)
            finally:
                os.close(tell)
            self._streams = await asyncio.open_connection(sock=ours)
        except BaseException:
            ours.close()  # at which the worker, if there is one, ends
            os.close(status)
            raise
        self._status = status

    async def end(self, grace: float = 0.0) -> str:
        """Have the process killed, unless it ends by itself in time, and wait until it is gone; how it ended."""
        code = await _read(self._status, grace)
        if not code:
            self._nursery.kill(self._name)
            code = await _read(self._status, END_SECONDS)
        self._forget()
        return _ending(int(code)) if code else "nobody knows how"

    def close(self) -> None:
        """Have the process killed, if there is one, without waiting for it."""
        if self._streams is not None:
            with contextlib.suppress(SrpoError):  # then it has ended with the process that it was forked from
                self._nursery.kill(self._name)
            self._forget()

    def _forget(self) -> None:
        assert self._streams is not None
        self._streams[1].close()
        os.close(self._status)
        self._streams, self._status = None, -1


async def _read(descriptor: int, seconds: float) -> bytes:
    """What a pipe holds, as soon as it holds something or has ended; nothing after the seconds."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await asyncio.wait_for(ready.wait(), seconds)
        return os.read(descriptor, 32)
    except TimeoutError:
        return b""
    finally:
        loop.remove_reader(descriptor)


def _ending(code: int) -> str:
    """What the result of waitpid means."""
    if os.WIFSIGNALED(code):
        return f"ended by {signal.Signals(os.WTERMSIG(code)).name}"
    return f"ended with exit code {os.waitstatus_to_exitcode(code)}"
