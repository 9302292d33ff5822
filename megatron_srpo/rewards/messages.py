"""What the pool and its workers say to each other: JSON behind four bytes of length.

Not pickles: a worker reads what a model wrote, and must not be able to have code run in the controller.
"""

from __future__ import annotations

import json
import socket
from dataclasses import asdict
from typing import Any

from megatron_srpo.data.code_tests import CodeTests
from megatron_srpo.data.problem import Problem
from megatron_srpo.rewards.score import Reward

LENGTH_BYTES = 4
LONGEST = 2**30


def encode(value: Any) -> bytes:
    """A message; lone surrogates, which a model's text may hold, survive."""
    content = json.dumps(value).encode()
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


def problem_message(problem: Problem) -> dict[str, Any]:
    """A problem as JSON values."""
    return asdict(problem)


def problem_of(message: dict[str, Any]) -> Problem:
    """The problem again."""
    tests = message.pop("tests")
    if tests is not None:
        tests = CodeTests(**{**tests, "inputs": tuple(tests["inputs"]), "expected": tuple(tests["expected"])})
    return Problem(**message, tests=tests)


def reward_message(reward: Reward) -> dict[str, Any]:
    """A reward as JSON values."""
    return asdict(reward)


def reward_of(message: dict[str, Any]) -> Reward:
    """The reward again."""
    return Reward(**message)
