"""One row, from what a public set has to a problem or to the reasons why not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from megatron_srpo.data.curate.adapters import ADAPTERS, renamed
from megatron_srpo.data.curate.config import CurateConfig, SourceSection
from megatron_srpo.data.curate.contamination import EvaluationIndex
from megatron_srpo.data.curate.draft import BadRow, Draft
from megatron_srpo.data.curate.keys import Hashes, word_hashes, words
from megatron_srpo.data.curate.readers import Row
from megatron_srpo.data.curate.rules import RULES
from megatron_srpo.data.curate.rules.rule import RuleSettings
from megatron_srpo.data.curate.verify import CodeVerifier, code_seconds, verify_math
from megatron_srpo.errors import SrpoError

VERIFICATIONS = {
    "answer_unread": "The answer cannot be read, or does not verify against itself.",
    "solution_disagrees": "The worked solution has another final answer.",
    "reference_missing": "There is no reference program.",
    "reference_fails": "No reference program passes all tests.",
    "tests_nondeterministic": "Refuses tests that no program can pass for sure.",
    "trivial_passes": "A program that does nothing of use passes all tests.",
    "contaminated": "It is a problem of an evaluation set, or holds one.",
}
OF_THE_SET = {
    "conflict": "Another problem has the same text and another answer; both go.",
    "duplicate": "Nearly the same text, the same numbers and the same answer as a problem that is kept.",
}
RULE_NAMES = tuple(dict.fromkeys([*(rule.name for rule in RULES), *VERIFICATIONS, *OF_THE_SET]))


class NoSandboxError(Exception):
    """Programs cannot be run on this machine, whatever the row; the text says what is missing."""


@dataclass
class Outcome:
    """What became of a row."""

    draft: Draft | None = None
    """As the repairs have made it; None where no draft could be made of the row."""
    repairs: list[tuple[str, str]] = field(default_factory=list)
    """Rules that changed it, and what they did."""
    refusals: list[tuple[str, str]] = field(default_factory=list)
    """Rules that refused it, and why."""
    quarantined: str | None = None
    """Why it could not be handled."""
    words: list[str] = field(default_factory=list)
    hashes: Hashes | None = None
    """Of the words, for comparing with other problems; None unless it is kept."""

    @property
    def kept(self) -> bool:
        """Whether it goes into the set, as far as it alone can tell."""
        return self.draft is not None and not self.refusals and self.quarantined is None


class Processor:
    """Everything that is done with one row."""

    def __init__(self, config: CurateConfig, evaluation: EvaluationIndex) -> None:
        self._config, self._evaluation = config, evaluation
        rules = config.rules
        self._skip = frozenset(rules.skip)
        self._settings = RuleSettings(rules.multiple_choice, rules.languages)
        self._rules = [rule for rule in RULES if rule.name not in rules.skip]
        self._code: CodeVerifier | None = None

    def warm_up(self) -> None:
        """Load what the first row would load, so that it is there before workers are forked."""
        draft = Draft("math", "What is the number of ways to choose 2 of 7 things?", "21", r"It is $\boxed{21}$.")
        self.clean(draft)
        verify_math(draft, self._config.verify)
        verify_math(Draft("math", "", r"\sum_{k=1}^3 k"), self._config.verify)

    def clean_row(self, row: Mapping[str, Any] | str, source: SourceSection) -> Outcome:
        """Adapt and clean a row; exceptions of rules are the caller's.

        Args:
            row: its columns, or the line of a JSON lines file.
            source: where it comes from.
        """
        try:
            draft = ADAPTERS[source.adapter](renamed(columns_of(row), source.columns))
        except BadRow as error:
            return Outcome(quarantined=str(error))
        return self.clean(draft)

    def seconds(self, outcome: Outcome) -> float:
        """The longest that `verify` may take."""
        draft = outcome.draft
        assert draft is not None
        if draft.domain == "math":
            return 2 * self._config.verify.math.seconds
        return code_seconds(draft, self._config.verify)

    def clean(self, draft: Draft) -> Outcome:
        """All repairs, then all checks."""
        outcome = Outcome(draft)
        for rule in self._rules:
            if draft.domain not in rule.domains:
                continue
            if rule.repair is not None and (repaired := rule.repair(draft, self._settings)) is not None:
                draft, note = repaired
                outcome.repairs.append((rule.name, note))
            if rule.check is not None and (reason := rule.check(draft, self._settings)) is not None:
                outcome.refusals.append((rule.name, reason))
        outcome.draft = draft
        return outcome

    def verify(self, outcome: Outcome) -> None:
        """Compare a draft that no rule refused with evaluation sets, and its reference with itself."""
        draft = outcome.draft
        assert draft is not None
        outcome.words = words(draft.prompt)
        outcome.hashes = word_hashes(outcome.words)
        match = self._evaluation.match(outcome.words, outcome.hashes)
        if match is not None:
            found = [("contaminated", f"{match.share:.0%} of {match.problem}")]
        elif draft.domain == "math":
            found = verify_math(draft, self._config.verify)
        else:
            found = self._code_verifier().verify(draft)
        outcome.refusals += [refusal for refusal in found if refusal[0] not in self._skip]

    def _code_verifier(self) -> CodeVerifier:
        if self._code is None:
            try:
                self._code = CodeVerifier(self._config.verify)
            except SrpoError as error:
                raise NoSandboxError(str(error)) from None
        return self._code


def columns_of(row: Row) -> Mapping[str, Any]:
    """The columns of a row; raises BadRow for a line that is no JSON object, and for a row that is none."""
    if isinstance(row, BadRow):
        raise row
    if not isinstance(row, str):
        return row
    try:
        value = json.loads(row)
    except (ValueError, RecursionError) as error:
        raise BadRow(f"the line is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise BadRow(f"the line is a {type(value).__name__}, expected an object")
    return value
