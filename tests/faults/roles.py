"""Which process of a run does what, found from outside by family and command line."""

from __future__ import annotations

import psutil

# A line of argv that names the role.  The guards' command lines hold those of what they guard.
_TRAINER = "megatron_srpo.actor.worker"
_ENGINES = ("megatron_srpo.rollout.deterministic_engine", "sglang_cpu.py")
_NURSERY = "megatron_srpo.workers.nursery"
_GUARD = "guard.py"

Roles = dict[str, list[psutil.Process]]
ROLES = ("controller", "trainer", "engine", "trainer guard", "engine guard", "reward host", "reward worker")


def roles(controller: int) -> Roles:
    """The living processes of the run with this controller, by role; trainers are in the order of their ranks.

    Processes that the named ones have forked for themselves (SGLang's, a checkpoint's writers) are `other`.
    """
    found: Roles = {role: [] for role in (*ROLES, "other")}
    try:
        first = psutil.Process(controller)
        family = [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return found
    for process in family:
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.cmdline():  # none: it is ending
                found[_role(process, controller)].append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it has ended between two looks
    found["trainer"].sort(key=_rank)
    return found


def _role(process: psutil.Process, controller: int) -> str:
    if process.pid == controller:
        return "controller"
    words = process.cmdline()
    guarded = any(word.endswith(_GUARD) for word in words[:4])
    if _TRAINER in words:
        if guarded:
            return "trainer guard"
        return "trainer" if _child_of(process, _GUARD) else "other"
    if any(word.endswith(_ENGINES) for word in words):
        if guarded:
            return "engine guard"
        return "engine" if _child_of(process, _GUARD) else "other"
    if _NURSERY in words:
        return "reward host" if process.ppid() == controller else "reward worker"
    return "other"


def _child_of(process: psutil.Process, name: str) -> bool:
    parent = process.parent()
    return parent is not None and any(word.endswith(name) for word in parent.cmdline()[:4])


def _rank(process: psutil.Process) -> int:
    try:
        return int(process.environ().get("RANK", "0"))
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
