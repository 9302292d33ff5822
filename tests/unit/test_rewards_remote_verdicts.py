"""The same programs on a SandboxFusion server and in our own sandbox: the same verdicts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from megatron_srpo.data.code_tests import CodeTests
from megatron_srpo.recipe.reward import CodeSection, SandboxSection
from megatron_srpo.rewards.code import CodeJudge
from megatron_srpo.rewards.sandbox.choice import open_sandbox
from megatron_srpo.rewards.sandbox.jobs import Sandbox
from tests.unit.fusion import fusion
from tests.unit.programs import ADD, calls, response, runs

SUMS = "print(sum(map(eval, input().split())))"
TESTS = calls([[1, 2], 3], [[-1, 1], 0], [[2.5, 1], 3.5])
SUM = runs(["1 2\n", "3\n"], ["5 5", "10"], ["0.5 1", "1.5"])
IN_ANY_ORDER = calls(
    [[3], [1, 2, 3]], checker="def check(given, output, expected): return sorted(output) == expected"
)
PASS = {"right", "right in a class", "right run", "right run with CRLF", "right and ends in order", "checked"}
PROGRAMS: list[tuple[str, CodeTests, str]] = [
    ("right", TESTS, ADD),
    ("right in a class", TESTS, "class Solution:\n  def f(self, a, b): return a + b"),
    ("wrong", TESTS, "def f(a, b): return 3"),
    ("raises", TESTS, "def f(a, b): return 1 // (a - 2)"),
    ("raises once", TESTS, "def f(a, b): return (a + b) if a + b else 1 // 0"),
    ("no function", TESTS, "x = 1"),
    ("no Python", TESTS, "def f(a, b) return a"),
    ("exits", TESTS, "import sys\ndef f(a, b): sys.exit(0)"),
    ("exits for good", TESTS, "import os\ndef f(a, b): return os._exit(0) if a < 0 else a + b"),
    ("hangs once", TESTS, "def f(a, b):\n  while a < 0: pass\n  return a + b"),
    ("allocates", TESTS, "def f(a, b): return len(bytearray(10**9))"),
    ("returns a set", TESTS, "def f(a, b): return {a + b}"),
    ("prints", TESTS, "def f(a, b): print(a + b)"),
    ("floods", TESTS, "def f(a, b): return 'x' * 200_000"),
    ("right run", SUM, SUMS),
    ("right run with CRLF", SUM, "print(sum(map(eval, input().split())), end=' \\r\\n')"),
    ("wrong run", SUM, "print(input())"),
    ("right and fails", SUM, f"{SUMS}\nraise SystemExit(1)"),
    ("right and ends in order", SUM, f"{SUMS}\nraise SystemExit(0)"),
    ("fails once", SUM, f"{SUMS.replace('eval', 'int')}"),
    ("prints nothing", SUM, "input()"),
    ("floods a run", SUM, "print('x' * 200_000)"),
    ("checked", IN_ANY_ORDER, "def f(n): return [3, 1, 2]"),
    ("checked and wrong", IN_ANY_ORDER, "def f(n): return [3, 1, 1]"),
]


@pytest.fixture(scope="module")
def sandboxes() -> Iterator[tuple[list[Sandbox], list[Sandbox]]]:
    """Ours and those on a server, for programs and for checkers."""
    with fusion() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "*")
        remote = SandboxSection(backend="sandbox_fusion", url=server.url)
        here, there = ([open_sandbox(section) for _ in range(2)] for section in (SandboxSection(), remote))
        yield here, there
        for sandbox in here + there:
            sandbox.close()


@pytest.mark.parametrize("credit", ["all", "share"])
@pytest.mark.parametrize(("name", "tests", "program"), PROGRAMS, ids=[given[0] for given in PROGRAMS])
def test_verdicts_are_those_of_the_local_sandbox(
    sandboxes: tuple[list[Sandbox], list[Sandbox]], credit: Any, name: str, tests: CodeTests, program: str
) -> None:
    judged = CodeSection(credit=credit, seconds=1.0, output_megabytes=0.1, patience=20.0)
    here, there = (CodeJudge(judged, *both).score(response(program), tests, "think_answer") for both in sandboxes)
    assert here.accuracy == (name in PASS)
    assert (there.accuracy, there.format_ok, there.credit) == (here.accuracy, here.format_ok, here.credit)
    # But for what stands in brackets, the reasons are the same too.
    assert there.reason.partition(" (")[0] == here.reason.partition(" (")[0]
