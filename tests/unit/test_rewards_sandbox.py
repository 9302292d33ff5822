"""The sandbox with ordinary programs: what they may do, how cases end, which limits hold."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from megatron_srpo.recipe.reward import SandboxSection
from megatron_srpo.rewards.sandbox.inside import walls
from megatron_srpo.rewards.sandbox.jobs import CaseResult, Limits, Program
from megatron_srpo.rewards.sandbox.local import LocalSandbox, StartError
from tests.attacks.honest import HONEST, READING, WRITING

# Generous: what is tested here must not fail on a busy machine.
LIMITS = Limits(20, 40, 10, 2**29, 2**20, False)


@pytest.fixture(scope="module", params=walls.LEVELS)
def sandbox(request: pytest.FixtureRequest) -> Iterator[LocalSandbox]:
    with LocalSandbox(SandboxSection(), request.param) as sandbox:
        try:
            sandbox.start()
        except StartError as error:
            pytest.skip(f"{request.param}: {error}")
        yield sandbox


def within(**changes: Any) -> Limits:
    return Limits(**{**LIMITS.__dict__, **changes})


def run(sandbox: LocalSandbox, program: str, *inputs: str, limits: Limits = LIMITS) -> list[CaseResult]:
    return list(sandbox.run(Program(program, "stdio", inputs or ("",)), limits))


def call(sandbox: LocalSandbox, program: str, *arguments: Any, limits: Limits = LIMITS) -> list[CaseResult]:
    inputs = tuple(json.dumps(one) for one in arguments)
    return list(sandbox.run(Program(program, "call", inputs, "f"), limits))


def printed(text: str) -> list[CaseResult]:
    return [CaseResult("ok", text.encode(), "")]


@pytest.mark.parametrize("reading", READING.values(), ids=READING)
def test_input_can_be_read_in_every_way(sandbox: LocalSandbox, reading: str) -> None:
    assert run(sandbox, f"{reading}\nprint(int(a) + int(b))", "3\n4\n") == printed("7\n")


@pytest.mark.parametrize("writing", WRITING.values(), ids=WRITING)
def test_output_can_be_written_in_every_way(sandbox: LocalSandbox, writing: str) -> None:
    (result,) = run(sandbox, writing)
    assert (result.status, result.output) == ("ok", b"x\n")


@pytest.mark.parametrize("program", HONEST.values(), ids=HONEST)
def test_honest_programs_run(sandbox: LocalSandbox, program: str) -> None:
    (result,) = run(sandbox, program)
    assert (result.status, result.output) == ("ok", b"1\n"), result


def test_threads_run_where_they_can_be_counted(sandbox: LocalSandbox) -> None:
    """Also the usual way to a large stack."""
    program = (
        "import sys, threading\nsys.setrecursionlimit(10 ** 6)\nthreading.stack_size(2 ** 27)\n"
        "def f(n): return f(n - 1) if n else 1\ndef main(): print(f(20000))\n"
        "t = threading.Thread(target=main)\nt.start()\nt.join()"
    )
    (result,) = run(sandbox, program)
    if sandbox.level == "namespaces":
        assert result == CaseResult("ok", b"1\n", "")
        pool = "from concurrent.futures import *\nwith ThreadPoolExecutor(4) as p: print(sum(p.map(abs, [-1, 0])))"
        assert run(sandbox, pool) == printed("1\n")
        assert run(sandbox, "import threading\nthreading.Timer(0.01, print, 'x').start()") == printed("x\n")
    else:
        assert result.status == "failed" and result.note == "RuntimeError: can't start new thread"


def test_functions_are_called_with_their_arguments(sandbox: LocalSandbox) -> None:
    results = call(sandbox, "def f(a, b=2): return [a, b]", [1], [1, 3], ["x", None])
    assert [json.loads(result.output) for result in results] == [[1, 2], [1, 3], ["x", None]]


@pytest.mark.parametrize(
    ("program", "value"),
    [
        ("from typing import *\nclass Solution:\n def f(self, x: List[int]) -> int: return x[0]", 1),
        ("class Solution:\n @staticmethod\n def f(x): return x[0]", 1),
        ("class Solution:\n def __init__(self): self.n = 0\n def f(self, x):\n  self.n += 1\n  return self.n", 1),
        ("def f(x): return (1, 2)", [1, 2]),
        ("def f(x): return {1: 2}", {"1": 2}),
        ("def f(x): return None", None),
        ("def f(x): return 0.1", 0.1),
        ("def f(x): return True", True),
        ("def f(x): return 'é🙂\\ud800'", "é🙂\ud800"),
        ("from enum import IntEnum\nclass E(IntEnum): A = 1\ndef f(x): return E.A", 1),
        ("class N:\n def tolist(self): return [1]\ndef f(x): return N()", [1]),
        ("f = lambda x: 1", 1),
        ("from operator import itemgetter\nf = itemgetter(0)", 1),
        ("import sys\nprint('noise')\ndef f(x):\n print('noise')\n return sys.stdin.read() + '1'", "1"),
        ("if __name__ == '__main__': 1 / 0\ndef f(x): return 1", 1),
    ],
)
def test_values_come_back_as_json(sandbox: LocalSandbox, program: str, value: Any) -> None:
    results = call(sandbox, program, [[1]], [[1]])
    assert [(result.status, json.loads(result.output)) for result in results] == [("ok", value)] * 2


@pytest.mark.parametrize(
    ("program", "note"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise MemoryError", "MemoryError"),
        ("raise ValueError('a\\nb')", "ValueError: a"),
        ("x = (", "SyntaxError: '(' was never closed (solution.py, line 1)"),
        ("import missing", "ModuleNotFoundError: No module named 'missing'"),
        ("raise SystemExit(3)", ""),
        ("import sys\nsys.exit('no')", ""),
        ("import os\nos._exit(1)", ""),
        ("import sys\nprint('why', file=sys.stderr)\nraise SystemExit(1)", "why"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("input()", "EOFError: EOF when reading a line"),
    ],
)
def test_failures_are_told_in_a_line(sandbox: LocalSandbox, program: str, note: str) -> None:
    if "missing" in program and sandbox.level == "seccomp":
        pytest.skip("there, files that are missing look like those that are forbidden")
    assert run(sandbox, program, "", "") == [CaseResult("failed", b"", note)] * 2


def test_what_was_printed_before_a_failure_is_there(sandbox: LocalSandbox) -> None:
    assert run(sandbox, "print(1)\n1 / 0") == [CaseResult("failed", b"1\n", "ZeroDivisionError: division by zero")]


@pytest.mark.parametrize(
    ("program", "note"),
    [
        ("def f(x): return 1 / 0", "ZeroDivisionError: division by zero"),
        ("def g(x): return 1", "NameError: no function f, nor a class Solution with it"),
        ("def f(): return 1", "TypeError: f() takes 0 positional arguments but 1 was given"),
        ("def f(x): return {1}", "TypeError: a set was returned, which JSON has no form for"),
        ("def f(x): return float('inf')", "ValueError: Out of range float values are not JSON compliant"),
        (
            "def f(x): return 10 ** 5000",
            "ValueError: Exceeds the limit (4300 digits) for integer string conversion",
        ),
        ("def f(x): exit()", "NameError: name 'exit' is not defined"),
        ("def f(x): raise SystemExit", "ended before it returned"),
        ("import os\ndef f(x): os._exit(0)", "ended before it returned"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("class Solution: pass", "AttributeError: 'Solution' object has no attribute 'f'"),
    ],
)
def test_failures_of_calls_are_told_in_a_line(sandbox: LocalSandbox, program: str, note: str) -> None:
    if "exit()" in program:
        program, note = "import sys\ndef f(x): sys.exit()", "ended before it returned"
    for result in call(sandbox, program, [1], [2]):
        assert (result.status, result.output) == ("failed", b"") and result.note.startswith(note)


def test_calls_go_on_after_one_that_has_ended_the_process(sandbox: LocalSandbox) -> None:
    program = "import os, ctypes\ndef f(x):\n if x == 1: os._exit(0)\n if x == 3: ctypes.string_at(0)\n return x"
    results = call(sandbox, program, [0], [1], [2], [3], [4])
    assert [result.status for result in results] == ["ok", "failed", "ok", "killed", "ok"]
    assert [result.output for result in results] == [b"0", b"", b"2", b"", b"4"]
    assert results[3].note == "ended by SIGSEGV"


@pytest.mark.parametrize("kind", ["stdio", "call"])
def test_nothing_runs_after_a_failure_if_so_asked(sandbox: LocalSandbox, kind: str) -> None:
    program = "x = eval(input())\nprint(1 // x)" if kind == "stdio" else "def f(x): return 1 // x"
    inputs = ("1\n", "0\n", "1\n") if kind == "stdio" else ("[1]", "[0]", "[1]")
    asked = Program(program, kind, inputs, "f")  # type: ignore[arg-type]
    for stop, statuses in ((False, ["ok", "failed", "ok"]), (True, ["ok", "failed"])):
        assert [result.status for result in sandbox.run(asked, within(stop_at_failure=stop))] == statuses
    asked = Program("x = (", kind, inputs, "f")  # type: ignore[arg-type]
    for stop, count in ((False, 3), (True, 1)):
        assert [result.status for result in sandbox.run(asked, within(stop_at_failure=stop))] == ["failed"] * count


def test_results_are_in_the_order_of_the_cases(sandbox: LocalSandbox) -> None:
    inputs = [str(number) for number in range(50)]
    assert [result.output.decode() for result in run(sandbox, "print(input(), end='')", *inputs)] == inputs
    assert [
        json.loads(one.output) for one in call(sandbox, "def f(x): return x", *([i] for i in range(500)))
    ] == list(range(500))


def test_no_case_is_no_result(sandbox: LocalSandbox) -> None:
    for kind in ("stdio", "call"):
        assert list(sandbox.run(Program("x", kind, (), "f"), LIMITS)) == []  # type: ignore[arg-type]


def test_processor_time_of_one_case_is_bounded(sandbox: LocalSandbox) -> None:
    limits = within(seconds=0.2, patience=99)
    late = CaseResult("timeout", b"", "longer than 0.2 s")
    assert run(sandbox, "while True: pass", limits=limits) == [late]
    program = "if input(): x = 1\nelse:\n while True: pass\nprint(1)"
    assert run(sandbox, program, "a\n", "\n", "a\n", limits=limits) == [*printed("1\n"), late, *printed("1\n")]
    calls = call(sandbox, "def f(x):\n while x: pass\n return 1", [0], [1], [0], limits=limits)
    assert calls == [CaseResult("ok", b"1", ""), late, CaseResult("ok", b"1", "")]


def test_wall_clock_of_one_case_is_bounded_by_patience(sandbox: LocalSandbox) -> None:
    limits = within(seconds=0.1, patience=2.0)
    assert run(sandbox, "import time\ntime.sleep(1000)", limits=limits) == [
        CaseResult("timeout", b"", "longer than 0.1 s")
    ]
    # With more patience, sleep is not held against it.
    patient = within(seconds=0.3, patience=99)
    assert run(sandbox, "import time\ntime.sleep(0.5)\nprint(1)", limits=patient) == printed("1\n")


@pytest.mark.parametrize("between", ["time.sleep(0.01)", "sum(range(10 ** 4))"])
def test_to_print_does_not_buy_time(sandbox: LocalSandbox, between: str) -> None:
    program = f"import time\nwhile True: {between}; print('x', flush=True)"
    limits = within(seconds=0.1, patience=2.0)
    assert [(one.status, one.note) for one in run(sandbox, program, limits=limits)] == [
        ("timeout", "longer than 0.1 s")
    ]


@pytest.mark.parametrize("kind", ["stdio", "call"])
@pytest.mark.parametrize("what", ["processor", "clock"])
def test_time_of_all_cases_is_bounded(sandbox: LocalSandbox, kind: str, what: str) -> None:
    """Though none of them takes too long."""
    busy = "import time\ndef f(x):\n end = time.process_time() + 0.1\n while time.process_time() < end: pass"
    program = busy if what == "processor" else "import time\ndef f(x): time.sleep(0.1)"
    limits = within(seconds=5, program_seconds=0.45, patience=20 if what == "processor" else 1)
    inputs = ("[1]",) * 30
    asked = Program(program if kind == "call" else f"{program}\nf(0)", kind, inputs, "f")  # type: ignore[arg-type]
    results = list(sandbox.run(asked, limits))
    assert len(results) == 30
    assert results[-1] == CaseResult("timeout", b"", "longer than 0.45 s for all cases")
    assert 1 <= sum(result.status == "ok" for result in results) <= 5


def test_limits_above_those_of_our_own_setup_hold(sandbox: LocalSandbox) -> None:
    """They were silently lowered once."""
    program = (
        "import resource\n"
        "print(*[resource.getrlimit(one)[1] for one in (resource.RLIMIT_CPU, resource.RLIMIT_AS)])"
    )
    limits = within(seconds=500, program_seconds=1000, memory=2**33)
    assert run(sandbox, program, limits=limits) == printed(f"1001 {2**33}\n")


def test_memory_is_bounded(sandbox: LocalSandbox) -> None:
    program = "x = bytearray(2 ** 28)\nprint(1)"
    assert run(sandbox, program, limits=within(memory=2**29)) == printed("1\n")
    assert run(sandbox, program, limits=within(memory=2**28)) == [CaseResult("failed", b"", "MemoryError")]


def test_output_is_bounded(sandbox: LocalSandbox) -> None:
    limits = within(output=1000)
    assert run(sandbox, "print('x' * 990)", limits=limits)[0].status == "ok"
    (result,) = run(sandbox, "print('x' * 2000)", limits=limits)
    assert (result.status, result.note) == ("flooded", "more than 1000 bytes of output")
    assert len(result.output) <= 1000
    results = call(sandbox, "def f(x): return 'x' * x", [10], [2000], limits=limits)
    assert [result.status for result in results] == ["ok", "flooded"]


def test_files_are_for_one_case_alone(sandbox: LocalSandbox) -> None:
    program = (
        "import os, tempfile\nassert os.getcwd() == '/tmp' and os.listdir() == []\n"
        "open('x', 'w').write('y' * 10 ** 6)\nos.makedirs('a/b')\nos.rename('x', 'a/x')\nos.rmdir('a/b')\n"
        "with tempfile.TemporaryFile('w+') as file:\n file.write('z')\n file.seek(0)\n assert file.read() == 'z'\n"
        "print(len(open('a/x').read()))\nos.remove('a/x')\n"
    )
    results = run(sandbox, program, "", "")
    if sandbox.level == "namespaces":
        assert results == printed("1000000\n") * 2
    else:
        assert [result.status for result in results] == ["failed"] * 2


def test_modules_of_the_standard_library_can_be_loaded(sandbox: LocalSandbox) -> None:
    names = ["sqlite3", "xml.etree.ElementTree", "zoneinfo", "unittest", "multiprocessing", "asyncio", "tomllib"]
    (result,) = run(sandbox, "".join(f"import {name}\n" for name in names) + "print(1)")
    assert result.status == ("failed" if sandbox.level == "seccomp" else "ok")


def test_packages_are_there_where_the_recipe_names_an_interpreter(sandbox: LocalSandbox) -> None:
    python = Path(sys.prefix).resolve() / "bin" / "python"  # a link to it may lie where programs write
    if not python.exists() or python.is_relative_to(walls.FOLDER):
        pytest.skip(f"{python} is missing, or lies where programs write")
    section = SandboxSection(python=python, preload=("numpy",))
    program = "import numpy as np\nprint(int(np.ones((200, 200)).dot(np.ones(200)).sum()))"
    with LocalSandbox(section, sandbox.level) as other:
        assert run(other, program) == printed("40000\n")
        (result,) = call(other, "import numpy as np\ndef f(x): return np.arange(x)", [3])
        assert result.output == b"[0, 1, 2]"
    assert run(sandbox, program)[0].status == "failed"


def test_an_interpreter_where_programs_write_is_refused() -> None:
    with pytest.raises(OSError, match="/tmp/lib would be hidden"):
        walls.build_root({"/tmp/lib": 0})


def test_what_a_program_leaves_in_memory_is_gone_with_it(sandbox: LocalSandbox) -> None:
    poison = "import builtins, json, math, sys\nmath.pi = 3\nbuiltins.print = None\njson.loads = sys.exit = None"
    assert run(sandbox, poison)[0].status == "ok"
    assert run(sandbox, "import math, json\nprint(math.pi > 3, json.loads('1'))") == printed("True 1\n")


def test_hashes_of_texts_are_the_same_in_every_run(sandbox: LocalSandbox) -> None:
    program = "print(hash('x'), list({'a', 'b', 'c'}))"
    with LocalSandbox(SandboxSection(), sandbox.level) as other:
        assert run(sandbox, program, "", "") == run(other, program, "", "")


def test_random_numbers_differ_between_runs(sandbox: LocalSandbox) -> None:
    results = run(sandbox, "import random\nprint(random.random())", *[""] * 5)
    assert len({result.output for result in results}) == 5


def test_a_closed_sandbox_starts_again(sandbox: LocalSandbox) -> None:
    other = LocalSandbox(SandboxSection(), sandbox.level)
    for _ in range(2):
        assert run(other, "print(1)") == printed("1\n")
        other.close()
        other.close()
