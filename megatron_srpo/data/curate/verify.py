"""Is the reference of a problem right?  Answers by reading them, tests by running programs."""

from __future__ import annotations

import json
import re
from dataclasses import replace

from megatron_srpo.data.code_tests import CodeTests, parse_tests
from megatron_srpo.data.curate.adapters.answers import bare, last_box
from megatron_srpo.data.curate.config import VerifySection
from megatron_srpo.data.curate.draft import Draft
from megatron_srpo.rewards.code import CodeJudge
from megatron_srpo.rewards.math.judge import answers_agree
from megatron_srpo.rewards.sandbox.choice import open_sandbox

Refusal = tuple[str, str]
"""The rule and the reason."""

OVERHEAD_SECONDS = 60.0  # of a row besides programs: starting sandboxes, reading, comparing
FINAL_ANSWER = re.compile(
    r"(?:^|\n)#### *(?P<marked>[^\n]+)|[Tt]he (?:final )?answer is:? *(?P<said>\$[^$\n]+\$|[^\s.,;]+)"
)
CHOICE = re.compile(r"(?:\\(?:text|textbf|mathrm|mathbf) *\{)? *\(?[A-H]\)?\.? *\}?(?:[).:, ].*)?", re.DOTALL)
# Programs that solve nothing; tests that one of them passes decide nothing.
TRIVIAL_STDIO: tuple[str, ...] = (
    "",
    "print()",
    *(f"print({value!r})" for value in (0, 1, -1, 2, "YES", "NO", "Yes", "No", "yes", "no", "True", "False")),
    "import sys\nsys.stdout.write(sys.stdin.read())",
    "print(input())",
)
VALUES: tuple[object, ...] = (None, 0, 1, -1, 2, True, False, "", [], {}, "YES", "NO")
TRIVIAL_CALL: tuple[str, ...] = (
    *map(repr, VALUES),
    "arguments[0] if arguments else None",
    "arguments[-1] if arguments else None",
    "len(arguments[0]) if arguments and hasattr(arguments[0], '__len__') else None",
)


def verify_math(draft: Draft, section: VerifySection) -> list[Refusal]:
    """What speaks against the reference answer of a mathematics problem.

    Args:
        draft: with an answer.
        section: how answers are compared.
    """
    tolerance = section.math.tolerance
    if not answers_agree(draft.answer, draft.answer, tolerance):
        return [("answer_unread", f"{draft.answer!r:.80} is not an answer that equals itself")]
    final = final_answer(draft.solution)
    if final is not None and CHOICE.fullmatch(final) and not CHOICE.fullmatch(draft.answer):
        return []  # the letter of a choice, of a question that has been made an open one
    if final is not None and not answers_agree(final, draft.answer, tolerance):
        return [("solution_disagrees", f"the solution says {final!r:.60}, the answer is {draft.answer!r:.60}")]
    return []


def final_answer(solution: str) -> str | None:
    """What a worked solution says is the answer; None where it does not say so in a form that is known."""
    boxed = last_box(solution)
    if boxed:
        return boxed
    said = [found["marked"] or found["said"] for found in FINAL_ANSWER.finditer(solution)]
    return bare(said[-1]).rstrip(".") or None if said else None


class CodeVerifier:
    """Runs reference programs and trivial ones against tests."""

    def __init__(self, section: VerifySection) -> None:
        """Open the sandboxes; raises SrpoError when this machine has none that is good enough."""
        self._section = section
        self._judge = CodeJudge(section.code, *(open_sandbox(section.sandbox) for _ in range(2)))

    def verify(self, draft: Draft) -> list[Refusal]:
        """What speaks against the tests of a code problem."""
        tests = parse_tests(draft.tests, "tests")
        if not draft.references and self._section.without_reference == "refuse":
            return [("reference_missing", "there is no reference program")]
        refusal = self._by_references(draft, tests) if draft.references else None
        if refusal is None:
            refusal = self._by_trivial_programs(tests)
        return [refusal] if refusal else []

    def _by_references(self, draft: Draft, tests: CodeTests) -> Refusal | None:
        """Some reference must pass, twice."""
        first = ""
        for program in draft.references[: self._section.max_references]:
            passed, reason = self._judge.passes(program, tests)
            if passed == len(tests.inputs):
                again, changed = self._judge.passes(program, tests)
                if again == passed:
                    return None
                return "tests_nondeterministic", f"a reference passes once and fails then: {changed}"
            first = first or reason
        unsure = self._differs_between_runs(draft.references[0], tests)
        if unsure is not None:
            return "tests_nondeterministic", f"the reference answers case {unsure} differently in two runs"
        return "reference_fails", f"no reference passes all {len(tests.inputs)} cases; the first: {first}"

    def _differs_between_runs(self, program: str, tests: CodeTests) -> int | None:
        """The first case, from 1, whose output is another one in a second run."""
        runs = [self._judge.outputs(program, tests) for _ in range(2)]
        for number, (one, other) in enumerate(zip(*runs, strict=False), 1):
            if one.status == other.status == "ok" and one.output != other.output:
                return number
        return None

    def _by_trivial_programs(self, tests: CodeTests) -> Refusal | None:
        """None of them may pass; a checker of the problem's is not asked, for it may trust its programs."""
        if tests.checker is not None:
            return None
        for program in trivial_programs(tests):
            if self._judge.passes(program, replace(tests))[0] == len(tests.inputs):
                shown = json.dumps(program.splitlines()[-1] if program else "")
                return "trivial_passes", f"a program that solves nothing passes all cases: {shown}"
        return None


def code_seconds(section: VerifySection) -> float:
    """The longest that a code problem may take, in seconds of wall clock."""
    runs = 2 * section.max_references + 2 + len(TRIVIAL_STDIO)
    return OVERHEAD_SECONDS + runs * section.code.program_seconds * section.code.patience


def trivial_programs(tests: CodeTests) -> list[str]:
    """Programs for these tests that do nothing of use."""
    if tests.kind == "stdio":
        return list(TRIVIAL_STDIO)
    return [f"def {tests.function}(*arguments):\n    return {value}" for value in TRIVIAL_CALL]
