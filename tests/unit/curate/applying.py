"""Rules applied to a draft, as the run does it."""

from __future__ import annotations

from megatron_srpo.data.curate.draft import Draft
from megatron_srpo.data.curate.rules import RULES, RuleSettings

SETTINGS = RuleSettings()
TESTS = '{"kind": "stdio", "cases": [["1 2", "3"], ["2 2", "4"]]}'


def repaired(draft: Draft, settings: RuleSettings = SETTINGS) -> tuple[Draft, set[str]]:
    """The draft after all repairs, and the names of those that did something."""
    names = set()
    for rule in RULES:
        if rule.repair is not None and draft.domain in rule.domains:
            done = rule.repair(draft, settings)
            if done is not None:
                assert done[0] != draft and done[1]
                draft = done[0]
                names.add(rule.name)
    return draft, names


def refusals(draft: Draft, settings: RuleSettings = SETTINGS) -> dict[str, str]:
    """By rule, why the repaired draft is refused."""
    draft, _ = repaired(draft, settings)
    found = {}
    for rule in RULES:
        if rule.check is not None and draft.domain in rule.domains:
            reason = rule.check(draft, settings)
            if reason is not None:
                assert reason
                found[rule.name] = reason
    return found


def math(prompt: str, answer: str = "42") -> Draft:
    return Draft("math", prompt, answer)


def code(prompt: str, tests: str = TESTS) -> Draft:
    return Draft("code", prompt, tests=tests)
