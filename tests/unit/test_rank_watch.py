"""Which rank's end is told when several end."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from megatron_srpo.errors import SrpoError
from megatron_srpo.launch.process import GuardedProcess
from megatron_srpo.launch.trainer import watch_ranks


async def test_a_killed_guard_is_told_before_the_ranks_that_fail_because_of_it(tmp_path: Path) -> None:
    programs = ("import sys; sys.stdin.read(); sys.exit('connection reset')", "import time; time.sleep(600)")
    processes = [
        GuardedProcess(
            f"trainer rank {rank}", [sys.executable, "-c", program], dict(os.environ), tmp_path / f"{rank}.log"
        )
        for rank, program in enumerate(programs)
    ]
    for process in processes:
        await process.start()
    os.kill(processes[1].pid, signal.SIGKILL)
    with pytest.raises(SrpoError, match=r"trainer rank 1 ended by itself with exit code -9 \(SIGKILL\)"):
        await watch_ranks(processes)
    for process in processes:
        await process.stop()
