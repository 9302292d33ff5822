"""The link between controller and trainer: JSON lines over one TCP connection, opened by the trainer's rank 0.

A lost connection is the sign of a dead peer, so neither side can outlive the other unnoticed.  A process that
hangs keeps its connection, so rank 0 also says at intervals that it is there; that the other ranks are, it sees
in collectives, which have a time limit.  The trainer proves itself with a token that the controller gave it;
nothing it sends is executed.  No torch.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import socket
import threading
from typing import Any

from megatron_srpo.errors import SrpoError

# Bucket plans of large models are the longest messages.
_LONGEST_LINE = 64 * 2**20
BEAT_SECONDS = 5.0
_BEAT = {"alive": True}
Message = dict[str, Any]


class TrainerGoneError(SrpoError):
    """The trainer's rank 0 has closed its connection; its process knows why."""


class LastWordsError(SrpoError):
    """The trainer's rank 0 ends, and has said why over the link: its log may have found no room on the disk."""


class TrainerLink:
    """The controller's end: waits for the trainer and sends it one command at a time.

    `silence` seconds without a sign of rank 0 are taken for its death.
    """

    def __init__(self, token: str, silence: float) -> None:
        self._token, self._silence = token, max(silence, 3 * BEAT_SECONDS)
        self._server: asyncio.Server | None = None
        self._connected: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] | None = None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def listen(self, host: str) -> tuple[str, int]:
        """Open a port on `host` for the trainer and return the address."""
        self._connected = asyncio.get_running_loop().create_future()
        self._server = await asyncio.start_server(self._accept, host, 0, limit=_LONGEST_LINE)
        name = self._server.sockets[0].getsockname()
        return name[0], name[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ValueError):  # of a stranger
            line = await reader.readline()
            expected = json.dumps({"token": self._token}).encode() + b"\n"
            awaited = self._connected
            if awaited is not None and not awaited.done() and hmac.compare_digest(line, expected):
                awaited.set_result((reader, writer))
                return
        writer.close()

    async def hello(self) -> Message:
        """Wait for the trainer's first message."""
        assert self._connected is not None, "listen first"
        try:
            self._streams = await asyncio.wait_for(self._connected, self._silence)
        except TimeoutError:
            raise self._silent() from None
        return await self._receive()

    async def call(self, command: str, **arguments: Any) -> Message:
        """Send a command and return the trainer's answer; raises SrpoError when the trainer is gone."""
        assert self._streams is not None, "wait for hello first"
        writer = self._streams[1]
        try:
            writer.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
            await writer.drain()
        except ConnectionError as error:
            raise TrainerGoneError(
                f"trainer: the connection to rank 0 broke before {command}; see its log"
            ) from error
        return await self._receive()

    async def _receive(self) -> Message:
        """The next message that is more than a sign of life."""
        while (message := await self._next()) == _BEAT:
            pass
        if "last_words" in message:
            raise LastWordsError(message["last_words"])
        return message

    async def _next(self) -> Message:
        assert self._streams is not None
        try:
            line = await asyncio.wait_for(self._streams[0].readline(), self._silence)
        except TimeoutError:
            raise self._silent() from None
        except ConnectionError:
            line = b""
        if not line.endswith(b"\n"):  # nothing, or what it had sent when it died
            raise TrainerGoneError(
                "trainer: rank 0 closed its connection; see the trainer's logs in the run directory"
            )
        message: Message = json.loads(line)
        return message

    def _silent(self) -> TrainerGoneError:
        return TrainerGoneError(
            f"trainer: no sign of rank 0 for {self._silence:g} seconds (trainer.timeout_seconds); it hangs: see "
            "the trainer's logs in the run directory and start again"
        )

    async def close(self) -> None:
        """Close the connection; the trainer ends when it notices."""
        if self._streams is not None:
            self._streams[1].close()
        if self._server is not None:
            self._server.close()


class ControllerLink:
    """The trainer's end, in rank 0."""

    def __init__(self, address: str, port: int, token: str, timeout: float) -> None:
        self._socket = socket.create_connection((address, port), timeout=timeout)
        self._socket.settimeout(None)  # the next command comes when the rollouts are done
        self._file = self._socket.makefile("rwb")
        self._turn, self._closed = threading.Lock(), threading.Event()
        self.send({"token": token})
        threading.Thread(target=self._beat, name="signs of life", daemon=True).start()

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_SECONDS):
            try:
                self.send(_BEAT)
            except (OSError, ValueError):  # the connection is gone, which `receive` tells
                return

    def send(self, message: Message) -> None:
        """Send one message."""
        with self._turn:
            self._file.write(json.dumps(message).encode() + b"\n")
            self._file.flush()

    def send_last_words(self, reason: str) -> None:
        """Say why this rank ends, if there is still someone to listen."""
        with contextlib.suppress(OSError, ValueError):
            self.send({"last_words": reason})

    def receive(self) -> Message | None:
        """The next command; none when the controller is gone."""
        try:
            line = self._file.readline()
        except ConnectionError:
            line = b""
        return json.loads(line) if line.endswith(b"\n") else None

    def close(self) -> None:
        """Close the connection."""
        self._closed.set()
        self._file.close()
        self._socket.close()
