"""Programs that try to break out of the sandbox, to cheat its judge, or to harm what comes after them.

A program is told, as a line of JSON on standard input or as the argument of its function, what an attacker could
at best find out: paths, ports and processes of the host (`told`).  Each attempt is a function that returns
something, anything but None, where it has succeeded, which it must not.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

ESCAPED, END = "ESCAPED", "the attack is over"
LEVELS = ("namespaces", "landlock", "seccomp")

TOOLS = f"""
import ctypes, json, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
machine = ("x86_64", "aarch64").index(os.uname().machine)

def syscall(numbers, *arguments):
    "A system call by its numbers on both machines; raises OSError."
    number = numbers if isinstance(numbers, int) else numbers[machine]
    if number is None:
        raise OSError(38, "not on this machine")
    ctypes.set_errno(0)
    result = libc.syscall(number, *[ctypes.c_long(one) if isinstance(one, int) else one for one in arguments])
    if result < 0:
        raise OSError(ctypes.get_errno(), f"system call {{number}}")
    return result

def attempt(function):
    try:
        found = function()
    except BaseException as error:
        print(function.__name__, "was refused:", type(error).__name__)
    else:
        if found is not None:
            print("{ESCAPED}", function.__name__, repr(found)[:2000])
    sys.stdout.flush()

def each(values, function):
    "What was found with the first of the values with which the function succeeds."
    for value in values:
        try:
            found = function(value)
        except Exception:
            continue
        if found is not None:
            return value, found
"""
TOLD = "told = json.loads(sys.stdin.readline())\n"

Status = Literal["ok", "failed", "timeout", "flooded", "killed"]


class Attack(NamedTuple):
    """A program, and how it may end: "ok" means that it came to its end, and that all was refused."""

    program: str
    ends: tuple[Status, ...] = ("ok",)
    kind: Literal["stdio", "call"] = "stdio"
    levels: tuple[str, ...] = LEVELS


def attempts(body: str, *ends: Status, levels: tuple[str, ...] = LEVELS) -> Attack:
    """An attack by functions under `@attempt`, with `told`, `syscall` and `each` at hand."""
    return Attack(f"{TOOLS}{TOLD}{body}\nprint({END!r})\n", ends or ("ok",), levels=levels)


def alone(body: str, *ends: Status, levels: tuple[str, ...] = LEVELS) -> Attack:
    """An attack as it is."""
    return Attack(body, ends, levels=levels)


def calls(body: str, *ends: Status, levels: tuple[str, ...] = LEVELS) -> Attack:
    """An attack that defines f(told, number), which is called thrice."""
    return Attack(f"{TOOLS}{body}", ends, "call", levels)
