"""Which sandbox a recipe gets."""

from __future__ import annotations

import os

from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.reward import SandboxSection
from megatron_srpo.rewards.sandbox.inside.walls import LEVELS
from megatron_srpo.rewards.sandbox.jobs import Sandbox
from megatron_srpo.rewards.sandbox.local import LocalSandbox, StartError
from megatron_srpo.rewards.sandbox.remote import RemoteSandbox

MEANING = {
    "namespaces": "own namespaces, system calls filtered, no files but the interpreter's",
    "landlock": "system calls filtered, no files but the interpreter's (Landlock); no namespaces on this machine",
    "seccomp": "system calls filtered, no file can be opened; neither namespaces nor Landlock on this machine",
    "remote": "on a SandboxFusion server, as isolated as that is",
}


def open_sandbox(section: SandboxSection) -> Sandbox:
    """A running sandbox: the recipe's remote one, or the strongest that this machine has.

    Raises:
        SrpoError: when there is none, or none as strong as `section.require`, with what is missing.
    """
    if section.backend == "sandbox_fusion":
        remote = RemoteSandbox(section)
        remote.start()
        return remote
    if section.python is not None and not os.access(section.python, os.X_OK):
        raise SrpoError(f"reward.sandbox.python: {section.python} cannot be run; name a Python interpreter.")
    refused: list[str] = []
    for level in LEVELS:
        sandbox = LocalSandbox(section, level)
        try:
            sandbox.start()
            return sandbox
        except StartError as error:
            refused.append(f"{level}: {error}")
        if level == section.require:
            break
    wanted = f"isolation by {section.require}" if section.require else "any isolation"
    raise SrpoError(
        f"reward.sandbox: programs cannot be run with {wanted} on this machine ({'; '.join(refused)}); "
        "run where it is allowed, set reward.sandbox.require to a weaker level, or use a remote sandbox "
        "(backend: sandbox_fusion)."
    )


def describe_sandbox(section: SandboxSection) -> tuple[str, str]:
    """The level of isolation that programs get, and what it means; raises SrpoError as `open_sandbox`."""
    sandbox = open_sandbox(section)
    sandbox.close()
    return sandbox.level, MEANING[sandbox.level]
