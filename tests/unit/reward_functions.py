"""Reward functions as a user might write them, good ones and terrible ones; named in recipes of the tests."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from megatron_srpo.data.problem import Problem


def length(response: str, problem: Problem, unit: int = 1) -> float:
    return len(response) / unit


def share(response: str, problem: Problem) -> float:
    return float(response) if response else 0.0


def slow(response: str, problem: Problem) -> float:
    time.sleep(1.0 if "wrong" in response else 0.0)
    return 0.0


def knows(response: str, problem: Problem) -> float:
    return float(problem.meta["wanted"] in response)


def behave(response: str, problem: Problem) -> Any:
    """Does what the response says, when it says something."""
    deeds = {
        "hang": lambda: time.sleep(10**6),
        "spin": spin,
        "ignore signals and hang": ignore_signals,
        "segfault": lambda: ctypes.string_at(0),
        "exit": lambda: os._exit(3),
        "leave": lambda: sys.exit(4),
        "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "memory": lambda: bytearray(2**40),
        "much memory": lambda: [mmap.mmap(-1, 2**26) for _ in range(10**6)],
        "print": flood,
        "raise": lambda: 1 // 0,
        "interrupt": lambda: os.kill(os.getpid(), signal.SIGINT),
        "close": lambda: os.closerange(3, 100),
        "recurse": lambda: behave(response, problem),
        "text": lambda: "much",
        "nan": lambda: float("nan"),
        "nothing": lambda: None,
    }
    result = deeds[response]() if response in deeds else 1.0
    return result if response in ("text", "nan", "nothing") else 1.0


def spin() -> None:
    while True:
        pass


def ignore_signals() -> None:
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    time.sleep(10**6)


def flood() -> None:
    block = "x" * 2**20
    for _ in range(300):
        print(block)
        print(block, file=sys.stderr)


def note(response: str, problem: Problem, folder: str) -> float:
    """How many calls of this function there are at the same time, this one included."""
    own = Path(folder) / response
    own.touch()
    time.sleep(0.05)
    together = len(list(Path(folder).iterdir()))
    own.unlink()
    return float(together)
