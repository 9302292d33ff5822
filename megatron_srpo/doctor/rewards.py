"""Check of the sandbox in which programs are judged."""

from __future__ import annotations

from megatron_srpo.doctor.ask import Trouble
from megatron_srpo.doctor.facts import SandboxFacts
from megatron_srpo.doctor.finding import Finding, Status
from megatron_srpo.recipe.reward import SandboxSection
from megatron_srpo.rewards.sandbox.inside.walls import LEVELS


def check_sandbox(section: SandboxSection, facts: SandboxFacts | Trouble) -> Finding:
    """Programs can be run, as isolated as the recipe asks; without, only code rewards are lost."""
    if isinstance(facts, Trouble):
        # A recipe may have no programs to judge; one that asks for a level of isolation has.
        status: Status = "warning" if section.require is None else "error"
        advice = "no code rewards; mathematics and the recipe's own functions do not need it"
        return Finding("rewards", "sandbox", status, facts.text, advice)
    found = f"{facts.level}: {facts.meaning}"
    if facts.level in LEVELS[1:]:
        advice = "enough to judge programs that use no threads; allow user namespaces for stronger isolation"
        return Finding("rewards", "sandbox", "warning", found, advice)
    return Finding("rewards", "sandbox", "ok", found)
