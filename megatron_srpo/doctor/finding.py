"""What a check of the doctor says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Group = Literal["machine", "trainer", "engine", "rewards", "recipe"]
Status = Literal["ok", "missing", "warning", "error"]
Runs = Literal["cpu", "gpu"]

BOTH: tuple[Runs, ...] = ("cpu", "gpu")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        group: the part of a run that it is about.
        name: what was looked at.
        status: ok; missing, if a run can be without it; warning; error, if nothing runs as it should.
        found: what is there.
        advice: what it costs to be without and what to do, in one sentence; empty where there is nothing to do.
        blocks: runs that cannot be while this is so.
        reason: why not, in the few words of the conclusion; empty where nothing is blocked.
    """

    group: Group
    name: str
    status: Status
    found: str
    advice: str = ""
    blocks: tuple[Runs, ...] = ()
    reason: str = ""
