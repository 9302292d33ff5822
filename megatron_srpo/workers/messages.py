"""What workers and the process that they work for say to each other: JSON behind four bytes of length.

Not pickles: a worker reads what a model or a stranger wrote, and must not be able to have code run elsewhere.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

LENGTH_BYTES = 4
LONGEST = 2**30


def encode(value: Any, plain: Callable[[Any], Any] | None = None) -> bytes:
    """A message; lone surrogates, which a model's text may hold, survive.

    Args:
        value: of JSON values, and of others that `plain` makes into such.
        plain: as json.dumps has it as `default`.
    """
    content = json.dumps(value, default=plain).encode()
    return len(content).to_bytes(LENGTH_BYTES, "big") + content


def size_of(header: bytes) -> int:
    """The length of the content behind a header; raises ValueError when it cannot be one."""
    size = int.from_bytes(header, "big")
    if size > LONGEST:
        raise ValueError(f"a message of {size} bytes")
    return size


def receive(connection: socket.socket) -> Any:
    """The next message of a blocking socket, or None at its end."""
    header = _exactly(connection, LENGTH_BYTES)
    return json.loads(_exactly(connection, size_of(header))) if header else None


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = connection.recv(min(size - len(data), 2**20))
        if not part:
            return b""
        data += part
    return bytes(data)
