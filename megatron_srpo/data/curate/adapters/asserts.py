"""Sets whose tests are statements of Python: HumanEval and MBPP.

The statements are read, and never run: `assert f(1, [2]) == 3` is a call with its arguments and its value.
Anything else is left out, as it would have to run beside the program that it judges.
"""

from __future__ import annotations

import ast
import warnings
from dataclasses import dataclass
from typing import Any

from megatron_srpo.data.curate.adapters.cases import Case, call_tests
from megatron_srpo.data.curate.adapters.functions import names, with_function
from megatron_srpo.data.curate.adapters.row import Row, is_unicode, kind_of, listing, notes, optional_text, text
from megatron_srpo.data.curate.draft import BadRow, Draft

LONGEST = 2**20  # characters of Python that are read as such
COMPLETE = "Write the program that begins as below, so that it does what is said there."


@dataclass(frozen=True)
class Call:
    """One statement that could be read."""

    function: str
    case: Case
    has_tuples: bool


def human_eval(row: Row) -> Draft:
    """HumanEval: the prompt is the beginning of a program, and the tests are in a function `check`."""
    begun, test, name = text(row, "prompt"), text(row, "test"), text(row, "entry_point").strip()
    solution = optional_text(row, "canonical_solution")
    statements = _asserts_of_check(test)
    # The parameter of `check` stands for the function.
    found = [_call(statement) for statement in statements if statement is not None]
    calls = [call for call in found if call is not None and call.function == "candidate"]
    tests, meta = _tests(name, calls, len(statements))
    if begun.strip() and not names(begun, name):
        raise BadRow(f"the prompt does not begin the function {name[:80]!r}.")
    prompt = with_function(COMPLETE if begun.strip() else "", name, begun) if name else begun
    return Draft(
        "code",
        prompt,
        tests=tests,
        references=(begun + solution,) if solution.strip() else (),
        meta=notes(row, {"id": "task_id"}) | meta,
    )


def mbpp(row: Row) -> Draft:
    """MBPP, and its sanitized form: a sentence, a program, and a list of statements."""
    problem = text(row, "text" if "text" in row else "prompt")
    code = optional_text(row, "code")
    if "test_list" not in row:
        text(row, "test_list")  # says that it is missing
    statements: list[ast.Assert] = []
    for name in ("test_list", "challenge_test_list"):
        for statement in listing(row.get(name), f"the column {name}"):
            if not isinstance(statement, str):
                raise BadRow(f"the column {name} must hold statements, found {kind_of(statement)}.")
            statements += [node for node in _parsed(statement).body if isinstance(node, ast.Assert)]
    calls = [call for call in map(_call, statements) if call is not None]
    function = calls[0].function if calls else ""
    calls = [call for call in calls if call.function == function]
    tests, meta = _tests(function, calls, len(statements))
    return Draft(
        "code",
        with_function(problem, function, _signature(code, function)) if function else problem,
        tests=tests,
        references=(code,) if code.strip() else (),
        meta=notes(row, {"id": "task_id"}) | meta,
    )


def _tests(function: str, calls: list[Call], statements: int) -> tuple[str, dict[str, Any]]:
    """Tests of the calls, and what to note of the statements that are none."""
    if not statements:
        return "", {}
    if not calls:
        raise BadRow(
            f"none of the {statements} statements compares a call of literal values with a literal value."
        )
    tests, meta = call_tests(function, [call.case for call in calls])
    left_out = meta.get("cases_left_out", 0) + statements - len(calls)
    meta = {"cases_left_out": left_out} if left_out else {}
    # JSON has no tuples: the program is given lists in their place, and may answer with either.
    return tests, meta | ({"tuples_as_lists": True} if any(call.has_tuples for call in calls) else {})


def _asserts_of_check(test: str) -> list[ast.Assert | None]:
    """The statements in the function `check`, whose parameter is `candidate`; None for each further inside."""
    for node in _parsed(test).body:
        if isinstance(node, ast.FunctionDef) and node.name == "check":
            direct = {id(inside) for inside in node.body}
            found = [inside for inside in ast.walk(node) if isinstance(inside, ast.Assert)]
            # `assert True` says nothing; what stands in a loop or below a condition is counted, and not used.
            found = [inside for inside in found if not isinstance(inside.test, ast.Constant)]
            return [inside if id(inside) in direct else None for inside in found]
    if test.strip():
        raise BadRow("the column test defines no function check.")
    return []


def _call(statement: ast.Assert) -> Call | None:
    """The call that a statement compares with a value; None where it does anything else."""
    match statement.test:
        case ast.Compare(
            left=ast.Call(func=ast.Name(id=function), args=arguments, keywords=[]),
            ops=[ast.Eq() | ast.Is()],
            comparators=[expected],
        ):
            try:
                given = [ast.literal_eval(argument) for argument in arguments]
                value = ast.literal_eval(expected)
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                return None
            return Call(function, (given, value), _has_tuples([*given, value]))
    return None


def _has_tuples(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_tuples, value.values()))
    return isinstance(value, tuple) or (isinstance(value, list) and any(map(_has_tuples, value)))


def _signature(code: str, function: str) -> str:
    """The first line of the function in a program: in which order it takes what."""
    try:
        for node in _parsed(code).body:
            if isinstance(node, ast.FunctionDef) and node.name == function:
                bare = ast.FunctionDef(function, node.args, [ast.Expr(ast.Constant(...))], [], node.returns)
                return ast.unparse(ast.fix_missing_locations(bare)).rpartition("\n")[0]
    except (BadRow, RecursionError):
        pass  # a program that cannot be read is refused later, by running it
    return ""


def _parsed(code: str) -> ast.Module:
    if len(code) > LONGEST or not is_unicode(code):
        raise BadRow(f"a test is too long to be read, or no Unicode: {len(code)} characters.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know
            return ast.parse(code)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise BadRow(f"a test is no Python ({error}).") from None
