"""The link between controller and trainer: JSON lines over one TCP connection, opened by the trainer's rank 0.

A lost connection is the sign of a dead peer, so neither side can outlive the other unnoticed.  The trainer
proves itself with a token that the controller gave it; nothing it sends is executed.  No torch.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import socket
from typing import Any

from megatron_srpo.errors import SrpoError

# Bucket plans of large models are the longest messages.
_LONGEST_LINE = 64 * 2**20
Message = dict[str, Any]


class TrainerGoneError(SrpoError):
    """The trainer's rank 0 has closed its connection; its process knows why."""


class TrainerLink:
    """The controller's end: waits for the trainer and sends it one command at a time."""

    def __init__(self, token: str) -> None:
        self._token = token
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
        line = await reader.readline()
        token = json.loads(line).get("token", "") if line else ""
        if self._connected is None or self._connected.done() or not hmac.compare_digest(token, self._token):
            writer.close()
            return
        self._connected.set_result((reader, writer))

    async def hello(self) -> Message:
        """Wait for the trainer's first message."""
        assert self._connected is not None, "listen first"
        self._streams = await self._connected
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
        assert self._streams is not None
        try:
            line = await self._streams[0].readline()
        except ConnectionError:
            line = b""
        if not line:
            raise TrainerGoneError(
                "trainer: rank 0 closed its connection; see the trainer's logs in the run directory"
            )
        message: Message = json.loads(line)
        return message

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
        self.send({"token": token})

    def send(self, message: Message) -> None:
        """Send one message."""
        self._file.write(json.dumps(message).encode() + b"\n")
        self._file.flush()

    def receive(self) -> Message | None:
        """The next command; none when the controller is gone."""
        try:
            line = self._file.readline()
        except ConnectionError:
            line = b""
        return json.loads(line) if line else None

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self._socket.close()
