"""Hostile programs: no reward, nothing read, changed or reached outside, nothing left, no harm to the next one."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from megatron_srpo.data.code_tests import CodeTests
from megatron_srpo.recipe.reward import CodeSection
from megatron_srpo.rewards.code import CodeJudge
from megatron_srpo.rewards.sandbox.inside import kernel, seccomp
from megatron_srpo.rewards.sandbox.jobs import CaseResult, Limits, Program
from megatron_srpo.rewards.sandbox.local import StartError
from tests.attacks import END, ESCAPED, LEVELS, TOOLS, Attack, harness, limits, outside, processes
from tests.attacks.host import Host, Recorder, inside, run_honest, state_of_server

ATTACKS = limits.ATTACKS | outside.ATTACKS | processes.ATTACKS | harness.ATTACKS
TIGHT = CodeSection(
    seconds=0.3, program_seconds=0.5, patience=2, memory_megabytes=160, output_megabytes=0.25, credit="share"
)
TIGHT_LIMITS = Limits(0.3, 0.5, 2.0, 160 * 2**20, 2**18, False)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    host = Host(tmp_path_factory.mktemp("host"))
    yield host
    for listener in host.listeners:
        listener.close()
    del os.environ["ATTACKS_SECRET"]


@pytest.fixture(scope="module", params=LEVELS)
def sandbox(request: pytest.FixtureRequest, host: Host) -> Iterator[Recorder]:
    """One for all attacks: what an attack leaves behind, the next ones would find."""
    recorder = Recorder(request.param)
    try:
        recorder.inner.start()
    except StartError as error:
        pytest.skip(f"{request.param}: {error}")
    run_honest(recorder)
    yield recorder
    recorder.close()


def attack(sandbox: Recorder, host: Host, attack: Attack) -> list[CaseResult]:
    """Run it against an answer that nobody can know; everything that must hold of any attack."""
    before, server = state_of_server(sandbox), sandbox.process
    told = host.told | {"server": server}
    if attack.kind == "stdio":
        tests = CodeTests("stdio", (json.dumps(told),), (host.token,))
    else:
        expected = [json.dumps(f"{host.token}{number}") for number in range(3)]
        tests = CodeTests("call", tuple(json.dumps([told, number]) for number in range(3)), tuple(expected), "f")
    judge = CodeJudge(TIGHT, sandbox, sandbox)
    score = judge.score(f"``````\n{attack.program}\n``````", tests, "boxed")
    results = sandbox.results
    assert score.accuracy == 0 and score.credit == 0
    assert len(results) == len(tests.inputs)
    for result in results:
        assert host.token.encode() not in result.output and host.token not in result.note
        assert ESCAPED.encode() not in result.output, result
    host.check()
    run_honest(sandbox)
    assert sandbox.process == server, "the server was lost"
    assert state_of_server(sandbox) == before
    return results


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_fails(sandbox: Recorder, host: Host, name: str) -> None:
    one = ATTACKS[name]
    if sandbox.level not in one.levels:
        pytest.skip(f"makes no sense at {sandbox.level}")
    results = attack(sandbox, host, one)
    assert {result.status for result in results} <= set(one.ends), results
    if END in one.program and results[0].status == "ok":
        assert results[0].output.decode().endswith(f"{END}\n"), results


@pytest.mark.parametrize("name", limits.COMPILER)
def test_the_compiler_cannot_be_brought_down_for_long(sandbox: Recorder, host: Host, name: str) -> None:
    for kind in ("stdio", "call"):
        before = state_of_server(sandbox)
        results = list(sandbox.run(Program(limits.COMPILER[name], kind, ("[]",), "f"), TIGHT_LIMITS))
        assert len(results) == 1 and results[0].output in (b"", b"null")
        run_honest(sandbox)
        assert state_of_server(sandbox) == before


def test_no_other_system_call_is_known(sandbox: Recorder) -> None:
    """Every number that is in no list is refused, by the real kernel, with the worst of arguments."""
    lists = [*seccomp.PLAIN.values(), *seccomp.FILES.values()]
    lists += [seccomp.IOCTL, seccomp.FCNTL, seccomp.PRLIMIT, seccomp.CLONE, seccomp.PRCTL]
    machine = tuple(seccomp.AUDIT_ARCH).index(kernel.MACHINE)
    allowed = {numbers[machine] for numbers in lists}
    unknown = {numbers[machine] for numbers in seccomp.UNKNOWN}
    probes = {335, 336}  # of the kernel itself on x86-64, which no filter sees: they kill whoever else calls
    others = [number for number in range(600) if number not in allowed | unknown | probes]
    program = f"""{TOOLS}
for number in {others}:
    libc.syscall(number, *[ctypes.c_long(-1)] * 6)
    if ctypes.get_errno() != 1: print(number, ctypes.get_errno())
    ctypes.set_errno(0)
"""
    results = list(sandbox.run(Program(program, "stdio", ("",)), Limits(5, 5, 9, 2**28, 2**20, True)))
    assert results == [CaseResult("ok", b"", "")]


def test_what_the_interpreter_reads_is_mounted_read_only(sandbox: Recorder) -> None:
    """Whoever owns it: the kernel says so before it looks at owners and modes."""
    if sandbox.level != "namespaces":
        pytest.skip("nothing is mounted there")
    program = """
import os, sys
for place in ["/", "/dev", *sys.path]:
    try: os.mkdir(place + "/x")
    except OSError as error: print(error.errno)
"""
    (result,) = sandbox.run(Program(program, "stdio", ("",)), Limits(5, 5, 9, 2**28, 2**20, True))
    assert {*result.output.split()} <= {b"30", b"2"} and b"30" in result.output  # EROFS; ENOENT for a missing zip


def test_what_the_kernel_says_of_the_walls(sandbox: Recorder) -> None:
    """Of each process, as seen from outside while a program sleeps; some walls only stand behind others."""
    run_honest(sandbox)
    servers = inside(sandbox)
    sleeps = Program("import time\ntime.sleep(1000)", "stdio", ("",))
    results = sandbox.inner._submit(sleeps, Limits(99, 99, 9, 2**28, 2**20, True))
    deadline = time.monotonic() + 30
    while len(by_depth(sandbox)) < len(servers) + 2 or status_of(by_depth(sandbox)[-1])["Seccomp"] != "2":
        assert time.monotonic() < deadline
    *outer, program, case = by_depth(sandbox)
    while status_of(case)["Seccomp_filters"] != "2":
        assert time.monotonic() < deadline
    for process, filters in ((outer[-1], "1"), (program, "1"), (case, "2")):
        status = status_of(process)
        assert (status["NoNewPrivs"], status["Seccomp"], status["Seccomp_filters"]) == ("1", "2", filters)
        assert os.stat(f"/proc/{process}/fd").st_uid == 0, "it can be traced by its own user"
        if process == case or sandbox.level != "namespaces":
            assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    assert os.getsid(case) != os.getsid(0)
    bounds = Path(f"/proc/{program}/limits").read_text()
    assert re.search("Max cpu time +10 ", bounds) and re.search("Max address space +[0-9]{10} ", bounds)
    if sandbox.level == "namespaces" and os.geteuid() == 0:
        assert {"65534"} == {*status_of(case)["Uid"].split(), *status_of(case)["Gid"].split()}
        assert not status_of(case)["Groups"]
        for space in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup"):
            assert os.readlink(f"/proc/{case}/ns/{space}") != os.readlink(f"/proc/self/ns/{space}"), space
    del results
    sandbox.wait_until_idle()


def by_depth(sandbox: Recorder) -> list[int]:
    """The processes of a sandbox, from the outermost to the innermost."""
    return sorted(inside(sandbox), key=lambda process: len(psutil.Process(process).parents()))


def status_of(process: int) -> dict[str, str]:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}


def test_a_case_has_all_limits(sandbox: Recorder) -> None:
    names = ("CPU", "AS", "FSIZE", "CORE", "NOFILE", "MSGQUEUE", "MEMLOCK", "NPROC")
    program = f"import resource\nprint([resource.getrlimit(getattr(resource, 'RLIMIT_' + x)) for x in {names}])"
    (result,) = sandbox.run(Program(program, "stdio", ("",)), Limits(5, 6, 9, 2**28, 2**20, True))
    found = dict(zip(names, json.loads(result.output.replace(b"(", b"[").replace(b")", b"]")), strict=True))
    own = sandbox.level == "namespaces"
    expected = {"CPU": 7, "AS": 2**28, "FSIZE": 2**23 if own else 2**20, "CORE": 0, "NOFILE": 32, "MSGQUEUE": 0}
    expected |= {"MEMLOCK": 0} | ({"NPROC": 12} if own else {})
    assert {name: found[name] for name in expected} == {name: [value] * 2 for name, value in expected.items()}


def test_a_hundred_bad_programs_in_a_row_leave_no_trace(sandbox: Recorder) -> None:
    bad = [
        "x = bytearray(10 ** 10)",
        "import os\nos._exit(1)",
        "import os\nos.closerange(0, 99)",
        "import ctypes\nctypes.string_at(0)",
        "open('/tmp/left', 'w').write('x' * 10 ** 6)",
        "import builtins, sys\nbuiltins.__dict__.clear()",
        "import threading, time\nthreading.Thread(target=time.sleep, args=[9], daemon=True).start()",
        "x = (",
        "import inside.python\ninside.python.VALUE = b'?'",
        "def f(): return f()\nf()",
    ]
    before, server = state_of_server(sandbox), sandbox.process
    memory = memory_of_server(sandbox)
    for number in range(100):
        kind = "stdio" if number % 3 else "call"
        results = list(sandbox.run(Program(bad[number % 10], kind, ("[]",), "f"), TIGHT_LIMITS))
        assert len(results) == 1
    run_honest(sandbox)
    assert (state_of_server(sandbox), sandbox.process) == (before, server)
    assert memory_of_server(sandbox) - memory < 2**20


def memory_of_server(sandbox: Recorder) -> int:
    sandbox.wait_until_idle()
    processes = [psutil.Process(sandbox.process), *psutil.Process(sandbox.process).children(recursive=True)]
    return sum(process.memory_info().rss for process in processes)


def test_what_is_left_behind_would_be_seen(sandbox: Recorder, host: Host) -> None:
    """The checks themselves: they must fail where something has happened."""
    host.check()
    with socket.create_connection(("127.0.0.1", host.told["port"])), pytest.raises(AssertionError, match="called"):
        host.check()
    host.listeners[0].accept()[0].close()
    marked = host.folder / f"escaped-{host.name}"
    for change, undo in (
        (marked.touch, marked.unlink),
        (lambda: host.secret.chmod(0), lambda: host.secret.chmod(0o666)),
    ):
        change()
        with pytest.raises(AssertionError):
            host.check()
        undo()
    host.before = host.state()  # but for the time at which the folder was changed
    run_honest(sandbox)
    before = inside(sandbox)
    results = sandbox.inner._submit(Program("import time\ntime.sleep(100)", "stdio", ("",)), TIGHT_LIMITS)
    while len(inside(sandbox)) < len(before) + 2:
        time.sleep(0.001)
    del results
    sandbox.wait_until_idle()
    assert inside(sandbox) == before
