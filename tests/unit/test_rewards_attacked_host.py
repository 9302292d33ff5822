"""The trusted side under attack: hostile tests and answers, lost servers and owners, and what is not to be had."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from megatron_srpo.data.code_tests import CodeTests
from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.reward import CodeSection, SandboxSection
from megatron_srpo.rewards.code import CodeJudge
from megatron_srpo.rewards.compare import texts_agree, values_agree
from megatron_srpo.rewards.sandbox import local
from megatron_srpo.rewards.sandbox.jobs import CaseResult, Limits, Program
from megatron_srpo.rewards.sandbox.local import LocalSandbox, StartError
from tests.attacks import END, ESCAPED, LEVELS, outside, processes
from tests.attacks.host import REPOSITORY, WIDE, Recorder, inside, processes_with, run_honest

LIMITS = Limits(20, 40, 3, 2**29, 2**22, False)
SLEEPS = "import time\nprint(1, flush=True)\ntime.sleep(1000)"


@pytest.fixture(params=LEVELS)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Recorder]:
    recorder = Recorder(request.param)
    try:
        recorder.inner.start()
    except StartError as error:
        pytest.skip(f"{request.param}: {error}")
    yield recorder
    recorder.close()


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for something that the kernel does in milliseconds, on a busy machine too."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    "text",
    ["", "\n", "\0", "\ud800", "\ufeff", "\r\n", "\x1b[2J", "x" * 10**6, "1\n" * 10**5, "\u2028", "é🙂", "'\"\\"],
    ids=ascii,
)
def test_inputs_and_outputs_of_all_sorts_come_through(text: str) -> None:
    program = "import os\nwhile part := os.read(0, 2 ** 16): os.write(1, part)"
    returning = "def f(x): return x"
    with LocalSandbox(SandboxSection(), LEVELS[-1]) as sandbox:
        (result,) = sandbox.run(Program(program, "stdio", (text,)), LIMITS)
        assert result == CaseResult("ok", text.encode("utf-8", "surrogatepass"), "")
        (result,) = sandbox.run(Program(returning, "call", (json.dumps([text]),), "f"), LIMITS)
        assert (result.status, json.loads(result.output)) == ("ok", text)


@pytest.mark.parametrize(
    "text", ["", "1", "{}", "[", "null", "[" * 10**5, "NaN", "[1, 2, 3]", "\0"], ids=lambda t: t[:9]
)
def test_arguments_that_are_none_fail_the_case_alone(sandbox: Recorder, text: str) -> None:
    inputs = ("[1]", text, "[2]")
    results = list(sandbox.run(Program("def f(x): return x", "call", inputs, "f"), LIMITS))
    assert [(result.status, result.output) for result in (results[0], results[2])] == [("ok", b"1"), ("ok", b"2")]
    assert results[1].status == "failed" and results[1].note


def test_a_program_of_a_megabyte_runs(sandbox: Recorder) -> None:
    tests = CodeTests("stdio", ("",), ("3000",))
    lines = "\n".join(f"x = {number}  # {'-' * 300}" for number in range(3001))
    judge = CodeJudge(WIDE, sandbox, sandbox)
    assert judge.score(f"```\n{lines}\nprint(x)\n```", tests, "boxed").accuracy == 1
    assert len(lines) > 900_000


def test_megabytes_that_are_no_text_earn_nothing(sandbox: Recorder) -> None:
    tests = CodeTests("stdio", ("", ""), ("x", "\ufffd" * 10))
    program = "import os\nfor _ in range(3): os.write(1, b'\\xff' * (2 ** 20))"
    score = CodeJudge(WIDE, sandbox, sandbox).score(f"```\n{program}\n```", tests, "boxed")
    assert score.accuracy == 0 and "the output is no text" in score.reason
    run_honest(sandbox)


DIGITS = 4 * 10**6


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        "1" * DIGITS + "ex",
        "1" * DIGITS + ".",
        "1." + "1" * DIGITS + "x",
        "1e" + "1" * DIGITS,
        "." * DIGITS,
        "1." * (DIGITS // 2),
        "+" * DIGITS,
        "-" + "0" * DIGITS + "e",
        "[" * DIGITS,
        "[[]," * (DIGITS // 4),
        '{"' * (DIGITS // 2),
        '"\\ud800' * (DIGITS // 7),
        " " * DIGITS,
        "\n" * DIGITS,
        "1 " * (DIGITS // 2),
    ],
    ids=lambda text: text[:4],
)
def test_hostile_answers_are_compared_in_time(text: str) -> None:
    """Time in proportion to the answer: with backtracking, the first would take days."""
    for expected in ("1.5", "1e5", "-.5 2.5", "[1.5]", "1"):
        assert not texts_agree(text, expected, 1e-6)
        if expected[0] == "[" or expected.isalnum():
            assert not values_agree(text, expected, 1e-6)


@pytest.mark.parametrize(
    "program",
    [
        SLEEPS,
        "print(1, flush=True)\nwhile True: pass",
        "while True: print(1)",
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nsignal.pause()",
        "x = 1\n" * 10**5,
    ],
    ids=["sleeps", "busy", "prints", "blocks signals", "is compiled"],
)
def test_who_stops_asking_stops_the_program(sandbox: Recorder, program: str) -> None:
    run_honest(sandbox)
    server, before = sandbox.process, inside(sandbox)
    threads = threading.active_count()
    for wait in (0.0, 0.02, 0.1):
        results = sandbox.inner._submit(Program(program, "stdio", ("",) * 5), LIMITS)
        time.sleep(wait)
        del results
        sandbox.wait_until_idle()
        assert inside(sandbox) == before
    run_honest(sandbox)
    assert sandbox.process == server and threading.active_count() == threads


def test_the_first_result_comes_before_the_last_case_has_run(sandbox: Recorder) -> None:
    program = "import time\nif input() == 'sleep': time.sleep(1000)\nprint(1)"
    results = sandbox.run(Program(program, "stdio", ("\n", "sleep\n", "sleep\n")), LIMITS)
    assert next(results).output == b"1\n"
    results.close()
    run_honest(sandbox)


@pytest.mark.parametrize("victim", ["server", "innermost", "program", "case"])
def test_a_server_that_is_killed_costs_one_program(sandbox: Recorder, victim: str) -> None:
    run_honest(sandbox)
    before = inside(sandbox)
    innermost = max(before, key=lambda process: len(psutil.Process(process).parents()))
    results: list[CaseResult] = []
    asked = Program("import time\nif input(): time.sleep(1000)\nprint(1)", "stdio", ("\n", "x\n", "x\n"))

    running = sandbox.run(asked, LIMITS)
    results.append(next(running))
    eventually(lambda: len(inside(sandbox)) == len(before) + 2)
    program, case = sorted(inside(sandbox) - before, key=lambda process: len(psutil.Process(process).parents()))
    os.kill({"server": sandbox.process, "innermost": innermost, "program": program, "case": case}[victim], 9)
    if victim == "case":
        results.append(next(running))
        running.close()
    else:
        results += running
    assert [result.status for result in results] == ["ok", "killed", "killed"][: len(results)]
    run_honest(sandbox)
    eventually(lambda: not {program, case} & set(psutil.pids()))
    assert len(inside(sandbox)) == len(before)


@pytest.mark.parametrize("victim", ["server", "innermost"])
def test_a_server_that_was_killed_between_two_programs_costs_none(sandbox: Recorder, victim: str) -> None:
    for _ in range(3):
        run_honest(sandbox)
        before = inside(sandbox)
        innermost = max(before, key=lambda process: len(psutil.Process(process).parents()))
        os.kill(sandbox.process if victim == "server" else innermost, 9)
        eventually(lambda before=before: all(ended(process) for process in before))
        run_honest(sandbox)


def ended(process: int) -> bool:
    try:
        return bool(psutil.Process(process).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


OWNER = """
import os, sys, time
from megatron_srpo.recipe.reward import SandboxSection
from megatron_srpo.rewards.sandbox.jobs import Limits, Program
from megatron_srpo.rewards.sandbox.local import LocalSandbox
sandbox = LocalSandbox(SandboxSection(), sys.argv[1])
print("starting", flush=True)
sandbox.start()
program = "import signal, time\\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\\n"
program += "if input() == 'x': time.sleep(1000)"
for result in sandbox.run(Program(program, "stdio", ("\\n", "x\\n")), Limits(1000, 1000, 3, 2**28, 2**20, False)):
    print(result.status, flush=True)
    heir = os.fork()
    if heir == 0:
        time.sleep(1000)
    print(heir, flush=True)
"""


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("after", [0.0, 0.02, 0.05, 0.1, None], ids=str)
def test_nothing_outlives_its_owner(level: str, after: float | None) -> None:
    """Killed by SIGKILL while the sandbox starts, or while a program sleeps in it.

    In the latter case somebody else still holds the owner's sockets and pipes: their end is no help.
    """
    heir = 0
    with subprocess.Popen([sys.executable, "-c", OWNER, level], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "starting\n"
        mark = f'"parent": {owner.pid}'
        try:
            if after is None:
                assert owner.stdout.readline() == "ok\n"
                heir = int(owner.stdout.readline())
                eventually(lambda: len(processes_with(mark)) >= 3)
            else:
                time.sleep(after)
        finally:
            owner.kill()
    try:
        eventually(lambda: not processes_with(mark))
    finally:
        if heir:
            os.kill(heir, 9)


USER = """
import json, sys
from megatron_srpo.recipe.reward import SandboxSection
from megatron_srpo.rewards.sandbox.jobs import Limits, Program
from megatron_srpo.rewards.sandbox.local import LocalSandbox
level, *programs = json.load(sys.stdin)
limits = Limits(20, 40, 3, 2**29, 2**20, False)
told = json.dumps(dict(secret=__file__, data=__file__, folder="/var", project="/", name="x", port=1, port6=1,
    socket="/x", parent=__import__("os").getppid(), server=1))
with LocalSandbox(SandboxSection(), level) as sandbox:
    print(json.dumps([[one.status, one.output.decode()] for program in programs
        for one in sandbox.run(Program(program, "stdio", (told,)), limits)]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="all tests run as an ordinary user already")
@pytest.mark.parametrize("level", LEVELS)
def test_an_ordinary_user_has_the_same_walls(level: str) -> None:
    """Where root makes them, some are others: users, groups, and who may map them."""
    # Not in `tmp_path`: the folders above it are for root alone, and how many there are depends on the runner.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        script = Path(folder, "user.py")
        script.write_text(USER)
        attacked_by_a_user(script, level)


def attacked_by_a_user(script: Path, level: str) -> None:
    """Run `script`, which is `USER`, as nobody under the first interpreter that nobody can start.

    Raises:
        AssertionError: a wall did not hold, or the script failed.
        pytest.skip.Exception: there is no such interpreter.
    """
    environment = {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path]), "PYTHONDONTWRITEBYTECODE": "1"}
    names = ("reads files", "reads processes", "removes files", "mounts", "forks", "signals", "changes who it is")
    attacks = [(outside.ATTACKS | processes.ATTACKS)[name].program for name in names]
    request = json.dumps([level, "print(1)", *attacks, "print(2)"])
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        try:
            done = subprocess.run(
                [python, str(script)], input=request, capture_output=True, text=True, env=environment, user=65534,
                group=65534, extra_groups=[], cwd="/",
            )  # fmt: skip
        except OSError:
            continue
        if "ModuleNotFoundError" in done.stderr or "PermissionError" in done.stderr:
            continue
        assert done.returncode == 0, done.stderr
        first, *attacked, last = json.loads(done.stdout)
        assert (first, last) == (["ok", "1\n"], ["ok", "2\n"])
        for name, (status, output) in zip(names, attacked, strict=True):
            assert status == "ok" and output.endswith(f"{END}\n") and ESCAPED not in output, (name, output)
        return
    pytest.skip("no interpreter with our packages that another user may run")


def test_a_server_that_lies_is_lost() -> None:
    """What comes from inside is read with care: sizes are bounded, and what is cut off is no result."""
    frame = struct.Struct("=BIH")
    for content in (
        frame.pack(5, 0, 0),
        frame.pack(255, 0, 0),
        frame.pack(0, 2**32 - 1, 0),
        frame.pack(0, 101, 0),
        frame.pack(0, 0, 2**16 - 1),
        frame.pack(0, 100, 0) + b"x" * 99,
        frame.pack(0, 1, 1) + b"x",
    ):
        reader, writer = os.pipe()
        os.write(writer, content)
        os.close(writer)
        with pytest.raises(local.LostError):
            list(local._frames(os.fdopen(reader, "rb", 0), 5.0, 100))
    reader, writer = os.pipe()
    os.write(writer, frame.pack(0, 2, 3) + b"\xff\xfe\xff!\n" + b"\x01")
    os.close(writer)
    assert list(local._frames(os.fdopen(reader, "rb", 0), 5.0, 100)) == [
        CaseResult("ok", b"\xff\xfe", "\ufffd!\n")
    ]


def test_a_server_that_says_nothing_is_lost() -> None:
    reader, writer = os.pipe()
    with pytest.raises(local.LostError):
        list(local._frames(os.fdopen(reader, "rb", 0), 0.1, 100))
    os.close(writer)


def test_time_that_is_spent_between_results_is_not_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a checker is slow."""
    monkeypatch.setattr(local, "GRACE_SECONDS", 1.0)
    monkeypatch.setattr(local.cases, "SETUP_SECONDS", 0.0)
    with LocalSandbox(SandboxSection(), LEVELS[-1]) as sandbox:
        statuses = []
        for result in sandbox.run(Program("print(1)", "stdio", ("",) * 4), Limits(1, 1, 1, 2**29, 2**20, False)):
            statuses.append(result.status)
            time.sleep(0.8)
    assert statuses == ["ok"] * 4


def test_a_checker_that_fails_is_no_verdict(sandbox: Recorder) -> None:
    judge = CodeJudge(CodeSection(), sandbox, Recorder(sandbox.level))
    for checker in ("def check(*a): return 1", "def check(*a): 1 / 0", "check = 1", "def check(*a): exit()"):
        tests = CodeTests("stdio", ("",), ("",), checker=checker)
        with pytest.raises(SrpoError, match="checker must return True or False"):
            judge.score("```\nprint(1)\n```", tests, "boxed")
    for answer, right in (("1", 1), ("0", 0)):
        tests = CodeTests("stdio", ("",), ("1",), checker="def check(a, b, c): return b.strip() == c")
        assert judge.score(f"```\nprint({answer})\n```", tests, "boxed").accuracy == right
    judge._checkers.close()
