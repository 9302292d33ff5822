"""Checks of the environment that the engines run in."""

from __future__ import annotations

from packaging.specifiers import SpecifierSet

from megatron_srpo.doctor.ask import Trouble
from megatron_srpo.doctor.facts import EngineFacts, Facts
from megatron_srpo.doctor.finding import BOTH, Finding, Status
from megatron_srpo.doctor.packages import fits
from megatron_srpo.recipe.schema import EngineSection

# Those whose HTTP API rollout/client.py speaks.
SUPPORTED = SpecifierSet(">=0.5.15,<=0.5.23")


def check_sglang(section: EngineSection, facts: EngineFacts | Trouble | None, *, asked: bool) -> Finding:
    """The engine's interpreter runs and has SGLang.

    Args:
        section: whose interpreter was asked.
        facts: its answer; none where no SGLang is needed.
        asked: whether a recipe asks for this interpreter; else it is the one that make setup makes.
    """
    if facts is None:
        return Finding("engine", "backend", "ok", f"{section.backend}, in the trainer's environment")
    advice = (
        "nothing can be sampled, only recorded steps replayed; run make setup, or set engine.python to another one"
    )
    status: Status = "error" if asked else "missing"
    if isinstance(facts, Trouble):
        found = f"{section.python}: {facts.text}"
        status = "error" if facts.started else status
        return Finding("engine", "interpreter", status, found, advice, BOTH, "no engine interpreter")
    where = f"Python {facts.python}, {section.python}"
    if facts.sglang is None:
        return Finding("engine", "SGLang", status, f"none in {where}", advice, BOTH, "no SGLang")
    found = f"{facts.sglang} in {where}"
    if fits(SUPPORTED, facts.sglang):
        return Finding("engine", "SGLang", "ok", found)
    advice = f"its API may be another one; versions that are known to work are {SUPPORTED}"
    return Finding("engine", "SGLang", "warning", found, advice)


def check_engine_torch(facts: Facts) -> Finding | None:
    """The engine's torch is one for the GPUs that there are."""
    if not isinstance(facts.engine, EngineFacts) or facts.engine.sglang is None:
        return None
    version = facts.engine.torch
    if version is None:
        advice = "SGLang cannot start without it; run make setup, or install torch beside sglang"
        return Finding("engine", "torch", "error", "none", advice, BOTH, "no torch beside SGLang")
    if is_cpu_build(version) and facts.gpu_count:
        advice = "engines run on the CPU although there are GPUs; give engine.python an environment for CUDA"
        return Finding("engine", "torch", "warning", version, advice, ("gpu",), "the engine's torch is for CPUs")
    return Finding("engine", "torch", "ok", version)


def is_cpu_build(version: str) -> bool:
    """Whether a version of torch says that it is built for CPUs only."""
    return version.endswith("+cpu")
