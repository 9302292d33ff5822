"""What rules are called and what they do, for cards and tables."""

from __future__ import annotations

from megatron_srpo.data.curate.process import OF_THE_SET, RULE_NAMES, VERIFICATIONS
from megatron_srpo.data.curate.rules import RULES

NAMES = RULE_NAMES
"""All rules, in their order."""


def meanings() -> dict[str, str]:
    """One sentence for each rule; where a repair and a check share a name, both."""
    found: dict[str, str] = {}
    for rule in RULES:
        found[rule.name] = f"{found[rule.name]} {rule.meaning}" if rule.name in found else rule.meaning
    return {**VERIFICATIONS, **OF_THE_SET, **found}
