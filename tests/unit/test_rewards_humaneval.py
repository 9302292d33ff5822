"""HumanEval through the code judge: what is right passes, what answers differently does not."""

from __future__ import annotations

import ast
import doctest
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from megatron_srpo.data.code_tests import parse_tests
from megatron_srpo.recipe.reward import CodeSection, SandboxSection
from megatron_srpo.rewards.code import CodeJudge
from megatron_srpo.rewards.sandbox.choice import open_sandbox
from megatron_srpo.rewards.score import Score
from tests.unit.programs import response

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
CHEATED = 12  # problems
Problem = dict[str, Any]
Judge = Callable[..., Score]


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    """What `humaneval.py` has found out, in a process of its own."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore::SyntaxWarning", "-m", "tests.unit.humaneval"],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONHASHSEED": "0"},  # as inside the sandbox: some answers are in the order of a set
        stdout=subprocess.PIPE,
        check=True,
        timeout=240,
    )
    found: list[Problem] = json.loads(ran.stdout)
    return found


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    """Judges a program by a problem's tests, behind the strongest walls."""
    sandboxes = [open_sandbox(SandboxSection()) for _ in range(2)]
    judges = {credit: CodeJudge(CodeSection(credit=credit), *sandboxes) for credit in ("all", "share")}

    def score(problem: Problem, program: str, credit: str = "all") -> Score:
        tests = parse_tests(json.dumps(problem["tests"]), problem["id"])
        return judges[credit].score(response(program), tests, "think_answer")

    yield score
    for sandbox in sandboxes:
        sandbox.close()


def test_all_problems_are_there_and_their_calls_are_recorded(problems: list[Problem]) -> None:
    assert [problem["id"] for problem in problems] == [f"HumanEval/{number}" for number in range(164)]
    assert sum(problem["calls"] for problem in problems) == 1534
    # One call has a dictionary with a number for a key, which JSON cannot write.
    assert {problem["id"]: problem["left_out"] for problem in problems if problem["left_out"]} == {
        "HumanEval/95": 1
    }
    assert all(problem["tests"]["cases"] for problem in problems)
    assert all(problem["canonical"]["passes"] for problem in problems)


def test_every_canonical_solution_passes(problems: list[Problem], judge: Judge) -> None:
    for problem in problems:
        cases = len(problem["tests"]["cases"])
        found = judge(problem, problem["canonical"]["program"])
        assert (found.accuracy, found.reason) == (1, f"{cases} of {cases} cases"), problem["id"]
        assert found.format_ok


def test_a_solution_with_its_values_changed_fails(problems: list[Problem], judge: Judge) -> None:
    for problem in problems:
        found = judge(problem, problem["wrapped"]["program"])
        assert found.reason == f"0 of {len(problem['tests']['cases'])} cases, case 1: wrong answer", problem["id"]
        assert problem["wrapped"]["answers"] == "different"


def test_changed_solutions_fail_when_they_answer_differently_and_only_then(
    problems: list[Problem], judge: Judge
) -> None:
    counted: Counter[tuple[str, int]] = Counter()
    for problem in problems:
        different = 0
        for mutant in problem["mutants"]:
            if mutant["answers"] == "none":
                continue  # it did not end outside either
            found = judge(problem, mutant["program"])
            counted[mutant["answers"], found.accuracy] += 1
            different += mutant["answers"] == "different"
            if mutant["answers"] != "near":  # by the tolerance right, by the kind wrong
                said = f"{problem['id']}: {found.reason}\n{mutant['program']}"
                assert found.accuracy == (mutant["answers"] == "same"), said
        assert different >= 2, problem["id"]
    assert counted["different", 0] >= 800
    assert counted["same", 1] >= 50


def cheated(problems: list[Problem]) -> Iterator[tuple[Problem, dict[str, Any]]]:
    """Problems with several examples in the prompt, and the examples: arguments, as a text, and value."""
    for problem in problems:
        examples = {}
        for example in doctest.DocTestParser().get_examples(problem["prompt"]):
            try:
                call = ast.parse(example.source, mode="eval").body
                assert isinstance(call, ast.Call) and ast.unparse(call.func) == problem["name"]
                arguments = tuple(ast.literal_eval(argument) for argument in call.args)
                examples[repr(arguments)] = ast.literal_eval(example.want.strip())
            except (AssertionError, ValueError, SyntaxError):
                continue
        if len(examples) >= 2:
            yield problem, examples


KNOWS_EXAMPLES = "def {name}(*given): return {examples}.get(repr(given))"
RIGHT = "space = {{}}\nexec({program!r}, space)\nright = space[{name!r}]\n"
CHEATS = {
    "ends in order": "import os\ndef {name}(*given): os._exit(0)",
    "ends at once": "raise SystemExit(0)",
    "says that it is equal": "class Any({base}):\n  __eq__ = lambda *_: True\n  __ne__ = lambda *_: False\n"
    "  __hash__ = None\ndef {name}(*given): return Any()",
    "prints": RIGHT + "def {name}(*given): print(right(*given))",
    "writes": RIGHT + "import json, os\ndef {name}(*given): os.write(1, json.dumps(right(*given)).encode())",
    "raises": RIGHT + "def {name}(*given): raise Exception(right(*given))",
    "returns the function": RIGHT + "def {name}(*given): return lambda: right(*given)",
    "returns what it was given": "def {name}(*given): return given",
    "looks for the answer": "import gc, sys\ndef {name}(*given): return [str(o) for o in gc.get_objects()][:99]",
    "leaves the tests out": "import builtins as b\nb.all = b.any = lambda *_: True\nb.len = lambda _: 0\n"
    "def {name}(*given): return None",
}


def test_programs_that_cheat_fail(problems: list[Problem], judge: Judge) -> None:
    chosen = list(cheated(problems))[:CHEATED]
    assert len(chosen) == CHEATED
    for problem, examples in chosen:
        base = type(problem["tests"]["cases"][0][1]).__name__
        names = {
            "name": problem["name"],
            "program": problem["canonical"]["program"],
            "examples": examples,
            "base": {"bool": "int", "NoneType": "object"}.get(base, base),
        }
        for cheat, form in CHEATS.items():
            program = form.format(**names)
            compile(program, cheat, "exec")
            found = judge(problem, program)
            assert found.accuracy == 0, f"{problem['id']} {cheat}: {found.reason}"


def test_knowing_the_prompts_examples_is_a_part_at_most(problems: list[Problem], judge: Judge) -> None:
    shares = []
    for problem, examples in list(cheated(problems))[:CHEATED]:
        program = KNOWS_EXAMPLES.format(name=problem["name"], examples=examples)
        assert judge(problem, program).accuracy == 0, problem["id"]
        shares.append(judge(problem, program, "share").credit)
    assert all(share is not None and share < 1 for share in shares)
    assert any(shares)  # some of the examples are among the tests
