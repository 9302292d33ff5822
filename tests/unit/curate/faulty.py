"""Workers whose adapter misbehaves where the prompt of a row tells it to."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_srpo.data.curate import process, unit
from megatron_srpo.data.curate.adapters import ADAPTERS
from megatron_srpo.data.curate.draft import Draft
from megatron_srpo.workers.nursery import Work


def problems(row: Mapping[str, Any]) -> Draft:
    """The adapter of the same name, after doing what the row asks for in `do`."""
    match row.get("do"):
        case "crash":
            ctypes.string_at(0)
        case "hang":
            while True:
                time.sleep(1)
        case "hang in C":
            # One call into the library that takes for ever and does not look for signals of Python.
            re.match(r"(a*)*b", "a" * 60)
        case "eat":
            bytearray(2**31)  # at once: to fill it bit by bit takes a busy machine longer than a row may take
        case "exit":
            os._exit(7)
        case "abort":
            os.abort()
        case "raise":
            raise ZeroDivisionError("out of\nluck")
        case "recurse":
            return problems(row)
        case "killed once":
            # As if the kernel had to end some process for lack of memory, and it was this one.
            mark = Path(row["mark"])
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        case "wait":
            # For somebody who has seen that the unit before is finished.
            Path(row["reached"]).touch()
            while not Path(row["gate"]).exists():
                time.sleep(0.01)
    return ADAPTERS["problems"](row)


def make_work(settings: Any) -> Work:
    """The work of a config, with this adapter and little patience."""
    process.ADAPTERS = {**ADAPTERS, "problems": problems}
    unit.CLEANING_SECONDS = 1.0
    return unit.make_work(settings)


def make_code_work(settings: Any) -> Work:
    """The same where no sandbox can be opened."""
    from megatron_srpo.data.curate import verify
    from megatron_srpo.errors import SrpoError

    def refuse(section: Any) -> Any:
        raise SrpoError("programs cannot be run on this machine; test only")

    verify.open_sandbox = refuse
    return unit.make_work(settings)
