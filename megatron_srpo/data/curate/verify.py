"""Is the reference of a problem right?  Answers by reading them, tests by running programs."""

from __future__ import annotations

import json
import re

from megatron_srpo.data.code_tests import CodeTests, parse_tests
from megatron_srpo.data.curate.adapters.answers import all_boxes, bare
from megatron_srpo.data.curate.config import VerifySection
from megatron_srpo.data.curate.draft import Draft
from megatron_srpo.rewards.code import CodeJudge
from megatron_srpo.rewards.math.judge import answers_agree, can_be_reference
from megatron_srpo.rewards.sandbox.choice import open_sandbox

Refusal = tuple[str, str]
"""The rule and the reason."""

OVERHEAD_SECONDS = 60.0  # of a row besides programs: starting sandboxes, reading, comparing
MARKED = re.compile(r"(?:^|\n)#### *([^\n]+)\s*\Z")  # the last line; others are headings
SAID = re.compile(r"[Tt]he (?:final |correct )?answer is:?[\s*]*")
LONGEST_SAID = 1000  # characters that are looked at
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
MORE = re.compile(r"[\s,*]*(?:and|or|to)?\s*[$\\\d]")  # behind a formula: it was not all
SENTENCE_END = re.compile(r"[.;:,!?]?\**\s*(?:\n|\Z)|[.;:!?]\s|,\s+(?=[a-z]{2})")
PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
NUMBER = re.compile(r"[-+]?(?:\\?\$)?\d[\d,]*(?:\.\d+)?")
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
)


def verify_math(draft: Draft, section: VerifySection) -> list[Refusal]:
    """What speaks against the reference answer of a mathematics problem.

    Args:
        draft: with an answer.
        section: how answers are compared.
    """
    tolerance = section.math.tolerance
    if not can_be_reference(draft.answer, tolerance):
        return [("answer_unread", f"{draft.answer!r:.80} is not an answer that equals itself")]
    said = final_answers(draft.solution)
    # Either way round: only one of the two may have been worked out, as 1024 of 2^{10}.
    pairs = [pair for final in said for pair in ((final, draft.answer), (draft.answer, final))]
    if any(answers_agree(*pair, tolerance) for pair in pairs):
        return []
    if said and CHOICE.fullmatch(said[0]) and not CHOICE.fullmatch(draft.answer):
        return []  # the letter of a choice, of a question that has been made an open one
    if said:
        return [("solution_disagrees", f"the solution says {said[0]!r:.60}, the answer is {draft.answer!r:.60}")]
    return []


def final_answers(solution: str) -> tuple[str, ...]:
    """What a worked solution says is the answer, in the ways in which that can be read.

    None at all where it does not say so in a form that is known: to refuse a right problem is worse than to
    trust one.
    """
    boxes = [box for box in all_boxes(solution) if box]
    if boxes:
        return (boxes[-1],) if len(boxes) == 1 else (boxes[-1], ", ".join(boxes))
    marked = MARKED.search(solution)
    if marked:
        return _readings(marked[1])
    said = [found.end() for found in SAID.finditer(solution)]
    return _readings(solution[said[-1] :][:LONGEST_SAID]) if said else ()


def _readings(text: str) -> tuple[str, ...]:
    """The answer at the beginning of a text, which may go on."""
    formula = FORMULA.match(text)
    if formula:
        return () if MORE.match(text, formula.end()) else (bare(formula[0]),)
    end = SENTENCE_END.search(text)
    sentence = text[: end.start()].strip(" *") if end else text
    if " " not in sentence or not PROSE.search(sentence):
        # "5!" at the end may be a factorial, or an answer that somebody is glad of.
        factorial = (f"{sentence}!",) if end and end[0].startswith("!") else ()
        return (bare(sentence), *factorial) if sentence else ()
    number = NUMBER.match(sentence)
    return (bare(sentence), number[0].rstrip(",")) if number else ()


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
            if self._judge.passes(program, tests)[0] == len(tests.inputs):
                shown = json.dumps(program.splitlines()[-1] if program else "")
                return "trivial_passes", f"a program that solves nothing passes all cases: {shown}"
        if len(set(tests.expected)) == 1:
            return (
                "trivial_passes",
                f"a program that solves nothing passes: every case expects {tests.expected[0]!r:.40}",
            )
        return None


def code_seconds(draft: Draft, section: VerifySection) -> float:
    """The longest that a code problem with readable tests may take, in seconds of wall clock.

    A checker may take as long for each case as a program for all of them.
    """
    runs = 2 * section.max_references + 2 + len(TRIVIAL_STDIO)
    if "checker" in draft.tests and (tests := parse_tests(draft.tests, "tests")).checker is not None:
        runs *= 1 + len(tests.inputs)
    return OVERHEAD_SECONDS + runs * section.code.program_seconds * section.code.patience


def trivial_programs(tests: CodeTests) -> list[str]:
    """Programs for these tests that do nothing of use."""
    if tests.kind == "stdio":
        return list(TRIVIAL_STDIO)
    return [f"def {tests.function}(*arguments):\n    return {value}" for value in TRIVIAL_CALL]
