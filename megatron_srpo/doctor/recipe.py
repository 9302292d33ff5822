"""Checks of what a recipe asks of this machine's devices; its files are for files.py."""

from __future__ import annotations

from collections.abc import Iterator

from megatron_srpo.doctor.ask import Trouble
from megatron_srpo.doctor.engine import is_cpu_build
from megatron_srpo.doctor.facts import EngineFacts, Facts, Gpu, ImportFacts
from megatron_srpo.doctor.finding import Finding, Status
from megatron_srpo.doctor.machine import capability
from megatron_srpo.doctor.packages import INSTALL_GPU
from megatron_srpo.recipe.schema import Recipe
from megatron_srpo.rollout.engine_command import Device

NO_GPU = "set it to cpu, or run on a machine with GPUs"
BFLOAT16_SINCE = (8, 0)
# Compute capability that Transformer Engine's FP8 recipes need; scaling by blocks is for Hopper and newer.
FP8_SINCE = {"delayed": (8, 9), "tensorwise": (8, 9), "blockwise": (9, 0)}


def check_recipe(recipe: Recipe, facts: Facts) -> Iterator[Finding]:
    """Everything that a recipe asks of this machine."""
    yield check_trainer_device(recipe, facts)
    yield check_engine_device(recipe, facts)
    trains_on, samples_on = trainer_device(recipe, facts), engine_device(recipe, facts)
    fp8 = recipe.trainer.fp8
    if trains_on == "cpu" and fp8 is not None:
        advice = "only Transformer Engine on a GPU trains in FP8; set it to null, or run on a machine with GPUs"
        yield Finding("recipe", "trainer.fp8", "error", f"{fp8.recipe}, but ranks train on the CPU here", advice)
    if trains_on == "cuda" and facts.gpus:
        yield check_trainer_dtype(recipe, facts.gpus)
        if fp8 is not None:
            yield check_fp8(fp8.recipe, facts.gpus)
    if samples_on == "cuda" and facts.gpus:
        yield check_engine_dtype(recipe, facts.gpus)
    if facts.gpu_count and "cuda" in (trains_on, samples_on):
        yield check_gpu_count(recipe, facts)


def trainer_device(recipe: Recipe, facts: Facts) -> Device:
    """Where ranks train: `auto` asks torch."""
    if recipe.trainer.device == "auto":
        return "cuda" if facts.gpus else "cpu"
    return recipe.trainer.device


def engine_device(recipe: Recipe, facts: Facts) -> Device:
    """Where engines run; the deterministic one knows the CPU alone."""
    if recipe.engine.backend == "deterministic":
        return "cpu"
    return facts.automatic_engine_device if recipe.engine.device == "auto" else recipe.engine.device


def check_trainer_device(recipe: Recipe, facts: Facts) -> Finding:
    """Ranks that are to train on GPUs find them, and Transformer Engine beside them."""
    name, device = "trainer.device", trainer_device(recipe, facts)
    found = device if recipe.trainer.device != "auto" else f"auto, which is {device} here"
    if device == "cpu":
        return Finding("recipe", name, "ok", found)
    if not facts.gpus:
        return Finding("recipe", name, "error", f"{found}, but torch can use no GPU", NO_GPU)
    if not isinstance(facts.transformer_engine, ImportFacts):
        broken = isinstance(facts.transformer_engine, Trouble)
        found += f", but transformer-engine is {'broken' if broken else 'missing'}"
        return Finding("recipe", name, "error", found, f"{INSTALL_GPU}, or set it to cpu")
    return Finding("recipe", name, "ok", found)


def check_engine_device(recipe: Recipe, facts: Facts) -> Finding:
    """Engines that are to run on GPUs find them, and a torch for them."""
    name, device = "engine.device", engine_device(recipe, facts)
    found = device if recipe.engine.device == device else f"{recipe.engine.device}, which is {device} here"
    if device == "cpu":
        return Finding("recipe", name, "ok", found)
    if not facts.gpu_count:
        return Finding("recipe", name, "error", f"{found}, but no GPU can be seen", NO_GPU)
    torch = facts.engine.torch if isinstance(facts.engine, EngineFacts) else None
    if torch is not None and is_cpu_build(torch):
        advice = "set it to cpu, or engine.python to an environment for CUDA"
        return Finding("recipe", name, "error", f"{found}, but the engine's torch is {torch}", advice)
    return Finding("recipe", name, "ok", found)


def check_trainer_dtype(recipe: Recipe, gpus: tuple[Gpu, ...]) -> Finding:
    """The weakest GPU computes in the trainer's type."""
    advice = "Transformer Engine's attention kernels do not run there; take a newer GPU, or set it to float32"
    return _since(gpus, "trainer.dtype", recipe.trainer.dtype, advice, "error")


def check_engine_dtype(recipe: Recipe, gpus: tuple[Gpu, ...]) -> Finding:
    """The weakest GPU computes in the engines' type; SGLang takes float16 where it cannot take bfloat16."""
    advice = "SGLang takes float16 instead, whatever the trainer takes; set it to float16 or float32 to say so"
    return _since(gpus, "engine.dtype", recipe.engine.dtype, advice, "warning")


def _since(gpus: tuple[Gpu, ...], name: str, dtype: str, advice: str, status: Status) -> Finding:
    weakest = min(gpus, key=lambda gpu: gpu.capability)
    if dtype != "bfloat16" or weakest.capability >= BFLOAT16_SINCE:
        return Finding("recipe", name, "ok", dtype)
    found = f"bfloat16 on {weakest.name}, whose compute capability {capability(weakest)} is below 8.0"
    return Finding("recipe", name, status, found, advice)


def check_fp8(kind: str, gpus: tuple[Gpu, ...]) -> Finding:
    """The weakest GPU computes in the kind of FP8 that the recipe names."""
    weakest, needed = min(gpus, key=lambda gpu: gpu.capability), FP8_SINCE[kind]
    if weakest.capability >= needed:
        return Finding("recipe", "trainer.fp8", "ok", kind)
    found = f"{kind} on {weakest.name}, whose compute capability is {capability(weakest)}"
    advice = f"it needs {needed[0]}.{needed[1]} or newer; set trainer.fp8=null, or run on such a GPU"
    return Finding("recipe", "trainer.fp8", "error", found, advice)


def check_gpu_count(recipe: Recipe, facts: Facts) -> Finding:
    """Ranks and engines have a GPU each."""
    engine, ranks = recipe.engine, recipe.trainer.ranks
    parts, needed = [], 0
    if trainer_device(recipe, facts) == "cuda":
        parts, needed = [f"trainer.ranks {ranks}"], ranks
    if engine_device(recipe, facts) == "cuda":
        parts.append(f"engine.count {engine.count} x engine.tensor_parallel {engine.tensor_parallel}")
        needed += engine.count * engine.tensor_parallel
    found = f"{' + '.join(parts)} = {needed}, this machine has {facts.gpu_count}"
    if needed <= facts.gpu_count:
        return Finding("recipe", "GPUs", "ok", found)
    advice = (
        "ranks and engines share no GPU, and `srpo train` uses one machine; lower one of these keys, or take a "
        "larger machine"
    )
    return Finding("recipe", "GPUs", "error", found, advice)
