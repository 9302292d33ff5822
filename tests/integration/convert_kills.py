"""A conversion that is killed again and again at random instants until one comes to its end.

python -m tests.integration.convert_kills to_megatron|to_hf SOURCE TARGET      prints kills, and how many had files

Attempts are forks of this process, which has imported everything and started no thread.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

from rich.console import Console

from megatron_srpo.convert import to_megatron
from megatron_srpo.convert.options import Options
from megatron_srpo.convert.to_hf import megatron_to_hf

FILE_BYTES = 200_000  # of a .distcp file, so that there are several
SLOWEST = 3.0  # seconds after which an attempt is killed at the latest


def convert(kind: str, source: Path, target: Path) -> None:
    """What a child does; it never returns."""
    try:
        to_megatron.FILE_BYTES = FILE_BYTES
        function = to_megatron.hf_to_megatron if kind == "to_megatron" else megatron_to_hf
        function(source, target, Options("keep", 2), Console(quiet=True))
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def killed(kind: str, source: Path, target: Path, seconds: float) -> bool:
    """One attempt; whether it was killed."""
    pid = os.fork()
    if pid == 0:
        convert(kind, source, target)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            assert os.waitstatus_to_exitcode(status) == 0
            return False
        time.sleep(0.0005)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0


def main() -> None:
    kind, source, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    rng = random.Random(7)
    kills = resumed = 0
    for attempt in range(1000):
        if not killed(kind, source, target, rng.uniform(0, 0.02 + SLOWEST * attempt / 300)):
            break
        kills += 1
        if target.exists():  # killed with the work done
            break
        resumed += any(target.with_name(target.name + ".converting").glob("journal/*.done"))
    print(kills, resumed)


if __name__ == "__main__":
    main()
