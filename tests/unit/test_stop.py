"""Work with guards changes nothing of the process that it ran in."""

from __future__ import annotations

import ctypes

from megatron_srpo.launch.stop import run_with_guards

PR_GET_CHILD_SUBREAPER = 37


def adopts_orphans() -> bool:
    answer = ctypes.c_int(-1)
    assert ctypes.CDLL(None).prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0) == 0
    return bool(answer.value)


def test_orphans_fall_to_us_during_the_work_alone() -> None:
    seen = []

    async def work() -> None:
        seen.append(adopts_orphans())

    run_with_guards(work())
    assert seen == [True] and not adopts_orphans()
