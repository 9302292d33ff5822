"""Programs that go wrong, by accident or on purpose: no answer, no process left, no harm to the next one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from megatron_srpo.errors import SrpoError
from megatron_srpo.rewards import sandbox, sandbox_runner
from megatron_srpo.rewards.sandbox import Limits, run_programs

LIMITS = Limits(seconds=1.0, memory_megabytes=256)
GOOD = "def f(x): return x + 1"
# A program that means it can take the fence down; the limits and the runner must hold without it.
NO_FENCE = "import __main__, os, signal, sys, time\n__main__.FORBIDDEN = ()\n__main__.WRITING = 0\n"

BAD = {
    "hangs": "while True: pass",
    "sleeps": "import time\ndef f(x): time.sleep(1000)",
    "ignores signals": f"{NO_FENCE}for n in set(range(1, 32)) - {{9, 19}}: signal.signal(n, signal.SIG_IGN)\n"
    "time.sleep(1000)",
    "closes its pipe": f"{NO_FENCE}os.close(3); time.sleep(1000)",
    "forks": "import os\nos.fork()",
    "forks without the fence": f"{NO_FENCE}os.fork(); time.sleep(1000)",
    "forks without end": f"{NO_FENCE}while True:\n try: os.fork()\n except OSError: pass",
    "lifts its limits": f"{NO_FENCE}import resource\n"
    "resource.setrlimit(resource.RLIMIT_NPROC, (99, 99)); os.fork(); time.sleep(1000)",
    "exits": "import sys\nsys.exit(0)",
    "exits at once": "import os\nos._exit(0)",
    "exits when called": "def f(x): raise SystemExit",
    "raises": "def f(x): return 1 / 0",
    "recurses": "def f(x): return f(x)",
    "recurses without limit": "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x) + 1",
    "allocates at once": "def f(x): return len(bytearray(10**10))",
    "allocates without end": "def f(x):\n a = [x]\n while True: a += a",
    "prints without end": "while True: print('x' * 10**6)",
    "writes without end": "import os\nwhile True: os.write(1, b'x' * 10**6); os.write(2, b'x' * 10**6)",
    "returns too much": "def f(x): return 'x' * 2**21",
    "returns a set": "def f(x): return {x + 1}",
    "returns no number": "def f(x): return float('nan')",
    "returns an object": "class A:\n  def __eq__(self, other): return True\ndef f(x): return A()",
    "returns a circle": "def f(x):\n a = []\n a.append(a)\n return a",
    "returns a huge number": "def f(x): return 10 ** 5000",
    "returns depth": "def f(x):\n a = []\n for _ in range(10**5): a = [a]\n return a",
    "writes no text": f"{NO_FENCE}os.write(3, bytes([255])); os._exit(0)",
    "breaks json": "import json\ndef g(*a, **k): raise OSError\njson.dumps = g\ndef f(x): return x + 1",
    "deletes builtins": "import builtins\nfor n in dir(builtins): delattr(builtins, n)\ndef f(x): return x + 1",
    "kills its parent": f"{NO_FENCE}os.kill(os.getppid(), 9); time.sleep(1000)",
    "ends its parent": f"{NO_FENCE}os.kill(os.getppid(), 15); time.sleep(1000)",
    "stops its parent": f"{NO_FENCE}os.kill(os.getppid(), 19); time.sleep(1000)",
    "defines nothing": "x = 1",
    "takes no argument": "def f(): return 2",
    "is no Python": "def f(x) return x",
    "is no text": "def f(x): return x + 1\0",
    "has a surrogate": "def f(x): return '\ud800' \ud800",
    "is empty": "",
}


def ours(parent: int) -> list[psutil.Process]:
    """Runners that `parent` started, and their children, which have the same command line."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if (process.info["cmdline"] or [])[-2:] == [sandbox_runner.__file__, str(parent)]
    ]


def wait_until_gone(parent: int) -> None:
    """A killed child ends a moment after its parent."""
    until = time.monotonic() + 60
    while ours(parent):
        assert time.monotonic() < until, f"left: {ours(parent)}"
        time.sleep(0.01)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_program_answers_nothing_and_spares_the_next(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "GRACE_SECONDS", 1.0)
    assert run_programs([BAD[name], GOOD], "f", "[[1], [2]]", LIMITS) == [None, "[2, 3]"]
    wait_until_gone(os.getpid())


@pytest.mark.parametrize(
    ("program", "returned"),
    [
        ("print('noise')\nimport sys\nprint('x', file=sys.stderr)\ndef f(x): return x", [[1], [2]]),
        ("if __name__ == '__main__': raise OSError\nfrom __future__ import annotations\ndef f(x): return x", None),
        ("if __name__ == '__main__': raise OSError\ndef f(x: int) -> int: return x", [[1], [2]]),
        ("def f(x):\n x.append(len(x))\n return tuple(x), {'ä': 0}", [[[1, 1], {"ä": 0}], [[2, 1], {"ä": 0}]]),
        ("def f(x: int): return f.__annotations__['x'] is int", [True, True]),
        ("class A:\n  def __call__(self, x): return True\nf = A()", [True, True]),
        ("n = 0\ndef f(x):\n global n\n n += 1\n return n", [1, 2]),
        ("from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n  x: list\n"
         "def f(x): return A(x).x", [[1], [2]]),
        ("import fractions, statistics, random, string, re, operator, datetime, decimal\n"
         "def f(x): return str(fractions.Fraction(1, 3))", ["1/3", "1/3"]),
        ("import os\ndef f(x): return [dict(os.environ).get('HOME'), os.listdir()]", [[None, []]] * 2),
        ("def f(x): return 'a' * 1000000 == 1", [False, False]),
        ("import sys\ndef f(x): return sys.stdin.read()", ["", ""]),
    ],
)  # fmt: skip
def test_what_a_function_returns_comes_back(program: str, returned: list[object] | None) -> None:
    (text,) = run_programs([program], "f", "[[[1]], [[2]]]", LIMITS)
    assert (None if text is None else json.loads(text)) == returned


def test_the_order_of_sets_is_the_same_each_time() -> None:
    program = "def f(x): return list({str(n) for n in range(x)})"
    first, second = (run_programs([program], "f", "[[50]]", LIMITS) for _ in range(2))
    assert first == second != [None]


@pytest.mark.parametrize(
    "act",
    [
        "open({file!r}, 'w')",
        "open({file!r}, 'r+').write('x')",
        "os.remove({file!r})",
        "os.truncate({file!r}, 0)",
        "shutil.rmtree({folder!r})",
        "os.kill(os.getpid(), 0)",
        "os.system('true')",
        "subprocess.run(['true'])",
        "socket.create_connection(('127.0.0.1', 9))",
        "__import__('ctypes').CDLL(None)",
    ],
)
def test_the_fence_refuses_what_no_solution_needs(tmp_path: Path, act: str) -> None:
    file = tmp_path / "kept.txt"
    file.write_text("kept")
    body = act.format(file=str(file), folder=str(tmp_path))
    program = f"def f():\n try: {body}\n except PermissionError as e: return str(e)"
    program = f"import os, shutil, socket, subprocess\n{program}"
    (text,) = run_programs([program], "f", "[[]]", LIMITS)
    assert text is not None and "not allowed here" in text
    assert file.read_text() == "kept"


def test_files_cannot_grow_without_the_fence_either() -> None:
    program = f"{NO_FENCE}def f():\n try: open('x', 'wb', 0).write(b'x')\n except OSError as e: return e.errno"
    assert run_programs([program], "f", "[[]]", LIMITS) == ["[27]"]  # EFBIG


@pytest.mark.parametrize(
    "act",
    [
        "os.fork() or os._exit(0)",
        "threading.Thread(target=print).start()",
        "resource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))",
        "os.chroot('.')",
    ],
)
def test_limits_hold_without_the_fence(act: str) -> None:
    body = (
        f"import resource, threading\ndef f():\n try: {act}\n except (OSError, RuntimeError, ValueError): return 1"
    )
    assert run_programs([NO_FENCE + body], "f", "[[]]", LIMITS) == ["[1]"]


def test_a_program_runs_alone() -> None:
    count = "import os\ndef f():\n path = f'/proc/{os.getppid()}/task/{os.getppid()}/children'\n"
    count += " return len(open(path).read().split())"
    assert run_programs([BAD["sleeps"], BAD["closes its pipe"], count], "f", "[[]]", LIMITS) == [None, None, "[1]"]


def test_large_arguments_and_programs_pass() -> None:
    arguments = json.dumps([[["x" * 10**6, 1]]])
    assert run_programs([f"def f(x): return len(x[0])\n{'#' * 10**6}"], "f", arguments, LIMITS) == ["[1000000]"]


def test_the_runner_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = (
        "from megatron_srpo.rewards.sandbox import Limits, run_programs\n"
        "run_programs(['import time; time.sleep(1000)'], 'f', '[[]]', Limits(1000.0, 256))"
    )
    # A killed caller cannot remove the runner's folder.
    caller = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)})
    until = time.monotonic() + 60
    while len(ours(caller.pid)) < 2:  # the runner and its child
        assert time.monotonic() < until and caller.poll() is None
        time.sleep(0.01)
    caller.kill()
    caller.wait()
    wait_until_gone(caller.pid)


def test_descendants_that_left_their_group_are_found() -> None:
    code = """
import os, time
from megatron_srpo.rewards import sandbox_runner as runner
runner.prctl(runner.PR_SET_CHILD_SUBREAPER, 1)
reader, writer = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
        os.write(writer, b"x")
        time.sleep(1000)
    os._exit(0)
os.read(reader, 1)
os.close(writer)
runner.kill_children()
assert os.read(reader, 1) == b""
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("script", "said"),
    [("exit 3", "failed with exit code 3;"), ("kill -9 $$", r"did not start \(exit code -9\);")],
)
def test_a_runner_that_does_not_start_is_an_error_not_a_wrong_program(
    script: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "COMMAND", ("/bin/sh", "-c", script))
    with pytest.raises(SrpoError, match=f"sandbox_runner.py: the process that runs programs {said}"):
        run_programs([GOOD], "f", "[[1]]", LIMITS)
