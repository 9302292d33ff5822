"""The examination: facts in, findings and a conclusion out."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import megatron_srpo
from megatron_srpo.doctor import engine, machine, packages, rewards, trainer
from megatron_srpo.doctor.facts import Facts
from megatron_srpo.doctor.files import check_files
from megatron_srpo.doctor.finding import Finding, Runs
from megatron_srpo.doctor.gather import gather, look_at_files
from megatron_srpo.doctor.recipe import check_recipe
from megatron_srpo.recipe.reward import SandboxSection
from megatron_srpo.recipe.schema import EngineSection, Recipe


@dataclass(frozen=True)
class Report:
    """All findings, in the order in which they are shown; `recipe` is its name, none where none was given."""

    findings: tuple[Finding, ...]
    recipe: str | None

    @property
    def errors(self) -> list[Finding]:
        """What makes the command end with exit code 2."""
        return [finding for finding in self.findings if finding.status == "error"]

    def reasons(self, runs: Runs) -> list[str]:
        """Why there can be no such runs; empty where there can be."""
        return [finding.reason for finding in self.findings if runs in finding.blocks]

    @property
    def conclusion(self) -> str:
        """One line: which runs are possible here, and what the others lack."""
        cpu, gpu = self.reasons("cpu"), self.reasons("gpu")
        if cpu:
            said = f"not ready: {', '.join(cpu)}"
        elif gpu:
            said = f"ready for CPU runs; not for GPUs: {', '.join(gpu)}"
        else:
            said = "ready for CPU runs and for GPUs"
        if self.recipe is None:
            return said
        names = ", ".join(finding.name for finding in self.errors)
        return (
            f"{said}; {self.recipe} cannot run here: {names}" if names else f"{said}; {self.recipe} can run here"
        )

    def as_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "version": megatron_srpo.__version__,
            "recipe": self.recipe,
            "findings": [asdict(finding) for finding in self.findings],
            "ready": {"cpu": not self.reasons("cpu"), "gpu": not self.reasons("gpu")},
            "conclusion": self.conclusion,
        }


def examine(recipe: Recipe | None) -> Report:
    """Look at this machine, and at what the recipe asks of it; takes as long as it takes to import torch."""
    system = machine.check_system(platform.system(), platform.release())
    name = None if recipe is None else recipe.name
    if system.status == "error":
        return Report((system,), name)
    of_engine = EngineSection() if recipe is None else recipe.engine
    sandbox = SandboxSection() if recipe is None else recipe.reward.sandbox
    facts = gather(of_engine, sandbox)
    files = () if recipe is None else check_files(recipe, look_at_files(recipe), facts)
    return Report((system, *findings(facts, recipe), *files), name)


def findings(facts: Facts, recipe: Recipe | None) -> Sequence[Finding]:
    """What the checks say of these facts, group by group."""
    return [
        *_machine(facts),
        *_trainer(facts),
        *_engine(facts, recipe),
        rewards.check_sandbox(SandboxSection() if recipe is None else recipe.reward.sandbox, facts.sandbox),
        *(check_recipe(recipe, facts) if recipe is not None else ()),
    ]


def _machine(facts: Facts) -> Iterator[Finding]:
    yield packages.check_python(facts.python, facts.packages)
    yield packages.check_dependencies(facts.packages)
    yield machine.check_cores(facts.machine)
    yield machine.check_memory(facts.machine)
    yield machine.check_disk(facts.machine)
    yield machine.check_shared_memory(facts.machine)
    yield machine.check_gpus(facts)


def _trainer(facts: Facts) -> Iterator[Finding]:
    found = (
        trainer.check_torch(facts.torch, facts.packages),
        trainer.check_nccl(facts.torch),
        trainer.check_cudnn(facts.torch, facts.packages),
        trainer.check_megatron(facts.packages),
        packages.check_trainer_dependencies(facts.packages),
        trainer.check_transformer_engine(facts),
        trainer.check_fused_gradients(facts),
        trainer.check_flash_attention(facts.packages),
    )
    yield from (finding for finding in found if finding is not None)


def _engine(facts: Facts, recipe: Recipe | None) -> Iterator[Finding]:
    section = EngineSection() if recipe is None else recipe.engine
    yield engine.check_sglang(section, facts.engine, asked=recipe is not None)
    torch = engine.check_engine_torch(facts)
    if torch is not None:
        yield torch
