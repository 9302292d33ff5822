"""Does the program in a response pass its problem's tests?

The form of a response is judged as for mathematics, by the same code; the program is the last fenced block of
the answer.  It runs in a sandbox, which is told the inputs and nothing of what is expected.
"""

from __future__ import annotations

import json
import re
from contextlib import closing

from megatron_srpo.data.code_tests import CodeTests
from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.reward import AnswerFormat, CodeSection
from megatron_srpo.rewards.answers import extract, text_after_thinking
from megatron_srpo.rewards.compare import texts_agree, values_agree
from megatron_srpo.rewards.sandbox.jobs import CaseResult, Limits, Program, Results, Sandbox
from megatron_srpo.rewards.score import Score

OPENING = re.compile(r"([ \t]*)(`{3,})[^`]*")
CLOSING = re.compile(r"([ \t]*)(`{3,})[ \t\r]*")
MOST_INDENTED = 3  # spaces by which a closing fence may stand further right than its opening one, as in Markdown
MEGABYTE = 2**20


class CodeJudge:
    """Judges programs with two sandboxes: checkers know what is expected, so no program may share theirs."""

    def __init__(self, section: CodeSection, programs: Sandbox, checkers: Sandbox) -> None:
        self._section, self._programs, self._checkers = section, programs, checkers

    def score(self, response: str, tests: CodeTests, answer_format: AnswerFormat) -> Score:
        """Run the response's program against the tests; `extracted` is the program.

        Raises:
            SrpoError: when programs cannot be run at all, or the problem's checker fails.
        """
        program, format_ok, missing = extract_program(response, answer_format)
        if program is None:
            return Score(0, format_ok, None, missing)
        passed, reason = self.passes(program, tests)
        cases = len(tests.inputs)
        reason = f"{passed} of {cases} cases" if passed == cases else f"{passed} of {cases} cases, {reason}"
        credit = passed / cases if self._section.credit == "share" else None
        return Score(int(passed == cases), format_ok, program, reason, credit)

    def outputs(self, source: str, tests: CodeTests) -> list[CaseResult]:
        """What a program makes of every case, right or wrong."""
        program = Program(source, tests.kind, tests.inputs, tests.function, tests.language)
        return list(self._run(self._programs, program, stop=False))

    def passes(self, source: str, tests: CodeTests) -> tuple[int, str]:
        """How many cases pass, and why the first of the others does not; after it, none runs without need."""
        to_the_end = self._section.credit == "share"
        program = Program(source, tests.kind, tests.inputs, tests.function, tests.language)
        passed, reason = 0, ""
        with closing(self._run(self._programs, program, stop=not to_the_end)) as results:
            for number, result in enumerate(results):
                wrong = self._why_wrong(result, tests, number)
                if wrong is None:
                    passed += 1
                    continue
                reason = reason or f"case {number + 1}: {wrong}"
                if not to_the_end:
                    break
        return passed, reason

    def _why_wrong(self, result: CaseResult, tests: CodeTests, number: int) -> str | None:
        """Why a case does not pass; None when it does."""
        if result.status != "ok":
            return f"{result.status} ({result.note})" if result.note else result.status
        try:
            answer = result.output.decode()
        except UnicodeDecodeError:
            return "the output is no text"
        expected = tests.expected[number]
        if tests.checker is not None:
            right = self._check(tests, tests.inputs[number], answer, expected)
        elif tests.kind == "call":
            right = values_agree(answer, expected, tests.tolerance)
        else:
            right = texts_agree(answer, expected, tests.tolerance)
        return None if right else "wrong answer"

    def _check(self, tests: CodeTests, given: str, answer: str, expected: str) -> bool:
        """What the problem's own checker says; texts as they are, arguments and values as JSON has them."""
        texts = (given, answer, expected)
        try:
            arguments = [json.loads(text) for text in texts] if tests.kind == "call" else list(texts)
            given_to_checker = json.dumps(arguments)
        except (ValueError, RecursionError):
            return False  # the program's answer is no JSON, or nested too deeply
        assert tests.checker is not None
        checker = Program(tests.checker, "call", (given_to_checker,), "check", tests.language)
        (result,) = self._run(self._checkers, checker, stop=True)
        if result.status != "ok" or result.output not in (b"true", b"false"):
            what = result.note or result.output[:80].decode("utf-8", "replace") or result.status
            raise SrpoError(f"the problem's checker must return True or False; {result.status}: {what}")
        return result.output == b"true"

    def _run(self, sandbox: Sandbox, program: Program, *, stop: bool) -> Results:
        """The results of the cases; to close it stops the program."""
        section = self._section
        limits = Limits(
            section.seconds,
            section.program_seconds,
            section.patience,
            section.memory_megabytes * MEGABYTE,
            int(section.output_megabytes * MEGABYTE),
            stop,
        )
        yield from sandbox.run(program, limits)


def extract_program(response: str, answer_format: AnswerFormat) -> tuple[str | None, bool, str]:
    """The program, if there is one, whether the whole response has the right form, and why there is no program.

    With tags, the program is the last fenced block of the one answer, and the form is that of the tags.  Without
    (`boxed`; a program has no box) it is the last fenced block after the thinking, and the form is to have one.
    """
    if answer_format == "boxed":
        program = last_fenced_block(text_after_thinking(response))
        return program, program is not None, "no fenced block"
    found = extract(response, answer_format)
    if found.answer is None:
        return None, found.format_ok, found.reason
    # Not from `found.answer`: its first line, which may open the block, has lost its indentation.
    content = response.partition("<answer>")[2].partition("</answer>")[0]
    return last_fenced_block(content), found.format_ok, "no fenced block in the answer"


def last_fenced_block(text: str) -> str | None:
    """The content of the last block between lines of three or more backticks; one left open is none.

    A fence that is indented like code, as in the documentation of a function, belongs to the block.
    """
    found: str | None = None
    indent, fence, lines = "", "", list[str]()
    for line in text.split("\n"):
        opening = None if fence else OPENING.fullmatch(line)
        closing = CLOSING.fullmatch(line) if fence else None
        if opening:
            indent, fence, lines = *opening.groups(), []
        elif closing and len(closing[2]) >= len(fence) and len(closing[1]) <= len(indent) + MOST_INDENTED:
            found, fence = "\n".join(lines), ""
        elif fence:
            lines.append(line.removeprefix(indent))
    return found if found and found.strip() else None
