"""Checks of a recipe's files: model, data, and the room that a run needs in memory and on disk."""

from __future__ import annotations

from collections.abc import Iterator

from megatron_srpo.doctor.facts import Facts, FileFacts, MachineFacts
from megatron_srpo.doctor.finding import Finding
from megatron_srpo.doctor.machine import size
from megatron_srpo.doctor.recipe import trainer_device
from megatron_srpo.plan.checks import ENGINE_PYTHON
from megatron_srpo.plan.memory import checkpoint_bytes, rank_memory
from megatron_srpo.plan.parameters import count_parameters
from megatron_srpo.recipe.model_config import ModelConfig
from megatron_srpo.recipe.schema import Recipe


def check_files(recipe: Recipe, files: FileFacts, facts: Facts) -> Iterator[Finding]:
    """What is wrong or missing, and whether what the model needs has room."""
    if files.wrong:
        yield Finding("recipe", "files", "error", files.wrong)
    for missing in files.missing:
        # The engine's own finding tells of its interpreter.
        if missing.what != ENGINE_PYTHON:
            advice = "a run cannot start without; fetch it, or name where it is in the recipe"
            yield Finding("recipe", missing.what, "error", missing.why, advice)
    if files.model is None:
        return
    if not files.missing:
        yield Finding("recipe", "files", "ok", "model and data are there")
    if trainer_device(recipe, facts) == "cpu":
        yield check_trainer_memory(recipe, files.model, facts.machine)
    yield check_checkpoints(recipe, files.model, files)


def check_trainer_memory(recipe: Recipe, model: ModelConfig, machine: MachineFacts) -> Finding:
    """What all ranks on the CPU hold of a fixed size, without activations and engines, goes into the memory."""
    stages = recipe.trainer.pipeline_parallel
    of_stages = (rank_memory(recipe, model, stage, on_gpu=False).total for stage in range(stages))
    needed = sum(of_stages) * recipe.trainer.ranks // stages
    found = f"ranks hold {size(needed)} and activations, this machine has {size(machine.memory)}"
    if needed <= machine.memory:
        return Finding("recipe", "memory", "ok", found)
    advice = "processes will be killed; take a smaller model or a larger machine"
    return Finding("recipe", "memory", "warning", found, advice)


def check_checkpoints(recipe: Recipe, model: ModelConfig, files: FileFacts) -> Finding:
    """The checkpoints that are kept go onto the disk of the run directory."""
    keep = recipe.checkpoint.keep
    needed = keep * checkpoint_bytes(recipe, count_parameters(model))
    found = f"{size(needed)} for checkpoint.keep {keep}, {size(files.free_disk)} free in {files.disk}"
    if needed <= files.free_disk:
        return Finding("recipe", "checkpoints", "ok", found)
    advice = "a run stops when a checkpoint finds no room; lower checkpoint.keep, or set run_dir to a larger disk"
    return Finding("recipe", "checkpoints", "warning", found, advice)
