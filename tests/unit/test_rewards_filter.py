"""The filter of system calls: its numbers, and what it says about every call on both kinds of machine."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from megatron_srpo.rewards.sandbox.inside import kernel, landlock, seccomp

MACHINES = ("x86_64", "aarch64")
HEADERS = (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm-generic/unistd.h"))
NAMED = {
    **seccomp.PLAIN,
    **seccomp.FILES,
    **seccomp.SERVER,
    "ioctl": seccomp.IOCTL,
    "fcntl": seccomp.FCNTL,
    "prlimit64": seccomp.PRLIMIT,
    "clone": seccomp.CLONE,
    "prctl": seccomp.PRCTL,
    "clone3": seccomp.UNKNOWN[0],
    "pivot_root": (155, 41),
}
ALLOW, REFUSE, UNKNOWN, KILL = "allow", "refuse", "unknown", "kill"
VERDICTS = {0x7FFF0000: ALLOW, 0x00050001: REFUSE, 0x00050026: UNKNOWN, 0x80000000: KILL}
FLOOD = 2**32  # added to an argument, its upper half must not matter where the kernel ignores it


def interpret(program: bytes, number: int, *arguments: int, arch: int | None = None) -> str:
    """What the kernel does with a call, by running the filter as <linux/bpf_common.h> describes it."""
    arch = seccomp.AUDIT_ARCH[kernel.MACHINE] if arch is None else arch
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, arch, 0, *[one & (2**64 - 1) for one in padded])
    instructions = list(struct.iter_unpack("=HBBI", program))
    assert len(instructions) <= 4096  # what the kernel takes
    at = accumulator = 0
    while True:
        code, when_true, when_false, value = instructions[at]
        at += 1
        if code == seccomp.LOAD:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif code == seccomp.RETURN:
            return VERDICTS[value]
        else:
            holds = {
                seccomp.EQUAL: accumulator == value,
                seccomp.GREATER_EQUAL: accumulator >= value,
                seccomp.ANY_BIT: bool(accumulator & value),
            }[code]
            at += when_true if holds else when_false


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Index of the machine that filters are made for."""
    monkeypatch.setattr(kernel, "MACHINE", request.param)
    return MACHINES.index(request.param)


@pytest.mark.parametrize("machine", [0, 1], ids=MACHINES)
def test_numbers_are_those_of_the_system(machine: int) -> None:
    header = HEADERS[machine]
    if not header.exists():
        pytest.skip(f"{header} is missing: install the headers of the C library")
    text = header.read_text()
    pairs = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\b", text)
    system = {name: int(number) for name, number in pairs}
    system = {{"fstatat": "newfstatat"}.get(name, name): number for name, number in system.items()}
    for name, numbers in NAMED.items():
        if numbers[machine] is not None:
            assert numbers[machine] == system[name], name
        else:
            assert name not in system, name
    for name, number in (
        ("landlock_create_ruleset", landlock.CREATE_RULESET),
        ("landlock_add_rule", landlock.ADD_RULE),
        ("landlock_restrict_self", landlock.RESTRICT_SELF),
    ):
        assert system[name] == number


def both(files: str, *, threads: bool) -> list[bytes]:
    """The filters around a case."""
    return [seccomp.server_filter(files), seccomp.case_filter(threads)]


def verdict(filters: list[bytes], numbers: tuple[int, int | None], machine: int, *arguments: int) -> str:
    """What the kernel makes of several filters: the strictest of what they say."""
    number = numbers[machine]
    assert number is not None
    order = [KILL, REFUSE, UNKNOWN, ALLOW]
    return min((interpret(one, number, *arguments) for one in filters), key=order.index)


@pytest.mark.parametrize("files", ["write", "read", "none"])
def test_every_number_has_the_right_verdict(machine: int, files: str) -> None:
    filters = both(files, threads=False)
    allowed = {numbers[machine] for numbers in seccomp.PLAIN.values()}
    if files == "write":
        allowed |= {numbers[machine] for numbers in seccomp.FILES.values()}
    conditional = {
        numbers[machine]
        for numbers in (seccomp.IOCTL, seccomp.FCNTL, seccomp.PRLIMIT, seccomp.CLONE, seccomp.PRCTL)
    }
    if files == "read":
        conditional |= {seccomp.FILES["open"][machine], seccomp.FILES["openat"][machine]}
    for number in set(range(1000)) - conditional:
        expected = ALLOW if number in allowed else UNKNOWN if number == 435 else REFUSE
        assert verdict(filters, (number, number), machine) == expected, number


def test_the_server_keeps_what_it_needs(machine: int) -> None:
    program = seccomp.server_filter("none")
    for numbers in (*seccomp.SERVER.values(), seccomp.CLONE, seccomp.PRCTL):
        assert interpret(program, numbers[machine] or 0, 17) == ALLOW
        assert verdict(both("none", threads=True), numbers, machine, 17) == REFUSE


def test_other_machines_calls_end_the_process(machine: int) -> None:
    program = seccomp.server_filter("write")
    for arch in (0x40000003, 0x40000028, seccomp.AUDIT_ARCH[MACHINES[1 - machine]], 0):
        for number in (0, 1, 39, 172):
            assert interpret(program, number, arch=arch) == KILL
    for number in (0, 1, 39, 57, 520):
        assert interpret(program, number | seccomp.X32_BIT) == REFUSE
        assert interpret(program, number | 0x80000000) == REFUSE
    assert interpret(program, 0xFFFFFFFF) == REFUSE


def test_controls_of_descriptors(machine: int) -> None:
    filters = both("write", threads=True)
    for what in range(2000):
        for high in (0, FLOOD):
            expected = ALLOW if what in (0, 1, 2, 3, 1030) else REFUSE
            assert verdict(filters, seccomp.FCNTL, machine, 1, what + high) == expected, what
    for what in range(0x5000, 0x9000):
        expected = ALLOW if what in (0x5401, 0x541B, 0x5451) else REFUSE
        assert verdict(filters, seccomp.IOCTL, machine, 1, what) == expected, hex(what)


def test_limits_of_others(machine: int) -> None:
    filters = both("write", threads=True)
    assert verdict(filters, seccomp.PRLIMIT, machine, 0, 7) == ALLOW
    for process in (1, 2, 4711, 2**31, 2**32 - 1):
        assert verdict(filters, seccomp.PRLIMIT, machine, process) == REFUSE


def test_controls_of_processes(machine: int) -> None:
    filters = both("write", threads=True)
    for option in (*range(100), 0x59616D61, 0x53564D41):
        expected = ALLOW if option in (15, 16) else REFUSE
        assert verdict(filters, seccomp.PRCTL, machine, option) == expected, option


THREAD = 0x3D0F00  # what the C library asks for


def test_threads(machine: int) -> None:
    filters = both("write", threads=True)
    assert verdict(filters, seccomp.CLONE, machine, THREAD) == ALLOW
    assert verdict(both("write", threads=False), seccomp.CLONE, machine, THREAD) == REFUSE
    for flags in (17, 0, 0x1200011, 0x4111, THREAD & ~0x10000, 17 + FLOOD):
        assert verdict(filters, seccomp.CLONE, machine, flags) == REFUSE
    for space in (0x80, 0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert verdict(filters, seccomp.CLONE, machine, THREAD | space) == REFUSE, hex(space)


def test_opening(machine: int) -> None:
    reading = both("read", threads=False)
    for name, place in (("open", 1), ("openat", 2)):
        numbers = seccomp.FILES[name]
        if numbers[machine] is None:
            continue
        for flags, expected in [
            (0, ALLOW),
            (0o2000000, ALLOW),
            (0o200000, ALLOW),
            (1, REFUSE),
            (2, REFUSE),
            (3, REFUSE),
            (0o100, REFUSE),
            (0o1000, REFUSE),
            (0o20200002, REFUSE),
        ]:
            arguments = [0, 0, 0]
            arguments[place] = flags
            assert verdict(reading, numbers, machine, *arguments) == expected, (name, oct(flags))
        assert verdict(both("none", threads=False), numbers, machine) == REFUSE
        assert verdict(both("write", threads=False), numbers, machine, 0, 0, 0) == ALLOW


def test_this_machine_must_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seccomp.supported()
    monkeypatch.setattr(kernel, "MACHINE", "riscv64")
    assert not seccomp.supported()
