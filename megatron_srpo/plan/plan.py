"""A recipe worked out against its model: processes, memory, time, and whether it fits.  No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megatron_srpo.plan.batch import BatchPlan, StagePlan, batch_plan, largest_stage, stage_plan
from megatron_srpo.plan.gpus import COMFORTABLE_SHARE, GPUS, Gpu
from megatron_srpo.plan.layouts import Layouts, rank_layouts, why_not
from megatron_srpo.plan.measured import Measured, measure
from megatron_srpo.plan.memory import (
    EngineMemory,
    Memory,
    checkpoint_bytes,
    engine_memory,
    host_bytes,
    rank_memory,
)
from megatron_srpo.plan.parameters import count_parameters, rank_parameters
from megatron_srpo.plan.rollout import RolloutTime, rollout_time
from megatron_srpo.plan.time import TrainingTime, training_time
from megatron_srpo.plan.workload import Workload, expected_workload
from megatron_srpo.recipe.model_config import ModelConfig
from megatron_srpo.recipe.preflight import ENGINE_RESERVE
from megatron_srpo.recipe.schema import Recipe

_SPLIT = "raise trainer.tensor_parallel, trainer.pipeline_parallel or trainer.ranks"
# What makes the largest part of a rank's memory smaller.
REMEDIES = {
    "activations": "lower trainer.max_tokens_per_microbatch, or set trainer.recompute or trainer.context_parallel",
    "logits": "lower trainer.logits_megabytes or trainer.max_tokens_per_microbatch",
}


@dataclass(frozen=True)
class Asked:
    """What to plan for.

    gpu: a key of `GPUS`; none: h100, or no GPU for a recipe that says trainer.device cpu.  response_tokens: mean
    length; none: assumed.  layouts: whether to try all layouts.  measured: a run directory to compare with.
    """

    gpu: str | None = None
    response_tokens: float | None = None
    layouts: bool = False
    measured: Path | None = None


@dataclass(frozen=True)
class RankPlan:
    """One trainer process: its place and what it holds; `host_bytes`: of its optimizer in the host's memory."""

    rank: int
    tensor: int
    context: int
    data: int
    pipeline: int
    expert: int
    parameters: int
    memory: Memory
    host_bytes: int


@dataclass(frozen=True)
class Plan:
    """A recipe worked out against its model.

    Memory and time are of the stage of the curriculum with the most response tokens.  gpu: none: on CPUs, for
    which neither activations nor times are planned.  engine: none: the engines are not on GPUs.  not_checked: what
    this machine lacks, in words.
    """

    recipe: Recipe
    model: ModelConfig
    gpu: Gpu | None
    parameters: int
    batch: BatchPlan
    stages: tuple[StagePlan, ...]
    ranks: tuple[RankPlan, ...]
    engine: EngineMemory | None
    workload: Workload
    training: TrainingTime | None
    rollout: RolloutTime | None
    layouts: Layouts | None
    measured: Measured | None
    not_checked: tuple[str, ...]

    @property
    def fullest(self) -> RankPlan:
        """The rank that needs most memory."""
        return max(self.ranks, key=lambda rank: rank.memory.total)

    @property
    def kinds(self) -> list[tuple[RankPlan, int]]:
        """The first rank of each pipeline stage, all of whose ranks are alike, and how many of them there are."""
        of_stage = len(self.ranks) // self.recipe.trainer.pipeline_parallel
        return [(rank, of_stage) for rank in self.ranks[::of_stage]]

    @property
    def used(self) -> float:
        """The share of its GPU that the fullest rank needs; 0 without GPUs."""
        return 0.0 if self.gpu is None else self.fullest.memory.total / self.gpu.memory_bytes

    @property
    def is_tight(self) -> bool:
        """Whether it fits with less left than an estimate should have."""
        return self.problem is None and self.used > COMFORTABLE_SHARE

    @property
    def problem(self) -> str | None:
        """Why it does not fit; none: it does, or there are no GPUs to fit on."""
        if self.gpu is None:
            return None
        if self.recipe.trainer.fp8 is not None and self.gpu.fp8_tflops is None:
            return "trainer.fp8 needs a GPU that multiplies in 8 bits; set it to null, or take a newer GPU"
        if self.used > 1:
            remedy = self._remedy(self.fullest.memory.largest[0])
            why = why_not(self.fullest.memory, self.gpu)
            return f"a trainer rank {why}; {remedy}; --layouts 10 tries all layouts"
        room = self.batch.longest_sequence + ENGINE_RESERVE
        if self.engine is not None and self.engine.cache_tokens < room:
            return (
                f"an engine's cache has room for {self.engine.cache_tokens} tokens, but a sample can have {room}; "
                "raise engine.mem_fraction_static or engine.tensor_parallel"
            )
        return None

    def _remedy(self, largest: str) -> str:
        """What to do about a rank of whose memory this is the largest part."""
        remedy = REMEDIES.get(largest, _SPLIT)
        if largest == "optimizer" and not self.recipe.trainer.optimizer.offload:
            return f"{remedy}, or set trainer.optimizer.offload to true"
        return remedy

    @property
    def gpus(self) -> int:
        """How many GPUs ranks and engines take; 0 on CPUs."""
        engine, ranks = self.recipe.engine, self.recipe.trainer.ranks
        if self.gpu is None:
            return 0
        return ranks + (engine.count * engine.tensor_parallel if self.engine is not None else 0)

    @property
    def step_seconds(self) -> float | None:
        """Of a step, one part after the other; none where a part is not planned."""
        if self.training is None or self.rollout is None:
            return None
        return self.training.total + self.rollout.sampling + self.rollout.exchange

    @property
    def checkpoint_bytes(self) -> int:
        """Of one checkpoint on disk."""
        return checkpoint_bytes(self.recipe, self.parameters)

    def as_json(self) -> dict[str, Any]:
        """The plan as plain values; sizes in bytes, times in seconds, and all of both estimates."""
        model = self.model
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "run_dir": str(self.recipe.directory),
            "model": {
                "architecture": model.architecture,
                "parameters": self.parameters,
                "layers": model.num_layers,
                "hidden_size": model.hidden_size,
                "vocab_size": model.vocab_size,
                "max_position_embeddings": model.max_position_embeddings,
            },
            "gpu": None if self.gpu is None else asdict(self.gpu),
            "fits": None if self.gpu is None else self.problem is None,
            "problem": self.problem,
            "gpus": self.gpus,
            "step_seconds": self.step_seconds,
            "checkpoint_bytes": self.checkpoint_bytes,
            "engines": self._engines_json(),
            "trainer": [asdict(rank) | {"memory": _memory_json(rank.memory)} for rank in self.ranks],
            "batch": asdict(self.batch),
            "stages": [asdict(stage) for stage in self.stages],
            "workload": {
                "tokens": self.workload.tokens,
                "response_tokens": self.workload.response_tokens,
                "samples": self.workload.samples,
            },
            "training": None if self.training is None else _with_total(self.training),
            "rollout": None if self.rollout is None else asdict(self.rollout),
            "layouts": None if self.layouts is None else _layouts_json(self.layouts),
            "measured": None if self.measured is None else asdict(self.measured),
            "not_checked": list(self.not_checked),
            "estimates": ["trainer.memory", "engines.memory", "workload", "training", "rollout", "layouts"],
        }

    def _engines_json(self) -> list[dict[str, Any]]:
        engine = self.recipe.engine
        memory = None if self.engine is None else asdict(self.engine)
        return [
            {
                "engine": number,
                "backend": engine.backend,
                "tensor_parallel": engine.tensor_parallel,
                "memory": memory,
            }
            for number in range(engine.count)
        ]


def make_plan(
    recipe: Recipe, model: ModelConfig, asked: Asked | None = None, not_checked: Sequence[str] = ()
) -> Plan:
    """Work out processes, batch arithmetic, memory and time.

    Args:
        recipe: a checked recipe.
        model: what its checks returned; the shapes are known to divide.
        asked: what to plan for.
        not_checked: what the checks could not.

    Raises:
        SrpoError: for a mean length above the limit, and a run directory that is none.
    """
    asked = asked or Asked()
    gpu = _gpu(recipe, asked.gpu)
    at = largest_stage(recipe)
    workload = expected_workload(at, asked.response_tokens)
    engine = engine_memory(at, model, gpu) if gpu is not None and _engines_on_gpus(recipe, asked) else None
    return Plan(
        recipe=recipe,
        model=model,
        gpu=gpu,
        parameters=count_parameters(model),
        batch=batch_plan(recipe),
        stages=tuple(stage_plan(recipe, stage) for stage in recipe.curriculum.stages),
        ranks=_ranks(at, model, on_gpu=gpu is not None),
        engine=engine,
        workload=workload,
        training=None if gpu is None else training_time(at, model, gpu, workload),
        rollout=None if gpu is None or engine is None else rollout_time(at, model, gpu, workload),
        layouts=rank_layouts(recipe, model, gpu, workload) if gpu is not None and asked.layouts else None,
        measured=None if asked.measured is None else measure(asked.measured, recipe, model, gpu, workload),
        not_checked=tuple(not_checked),
    )


def _gpu(recipe: Recipe, name: str | None) -> Gpu | None:
    """What the ranks run on: `auto` is planned for GPUs."""
    if name is None:
        return None if recipe.trainer.device == "cpu" else GPUS["h100"]
    return GPUS[name]


def _engines_on_gpus(recipe: Recipe, asked: Asked) -> bool:
    """Whether the engines are to be planned: a GPU that was asked for is one for them too."""
    return recipe.engine.backend == "sglang" and (asked.gpu is not None or recipe.engine.device != "cpu")


def _ranks(recipe: Recipe, model: ModelConfig, on_gpu: bool) -> tuple[RankPlan, ...]:
    """Coordinates in Megatron's order: tensor fastest, then context, data, pipeline."""
    trainer = recipe.trainer
    size, context = trainer.tensor_parallel, trainer.context_parallel
    of_stage = trainer.ranks // trainer.pipeline_parallel
    plans = []
    for stage in range(trainer.pipeline_parallel):
        parameters = rank_parameters(model, trainer, stage)
        memory = rank_memory(recipe, model, stage, on_gpu)
        plans += [
            RankPlan(
                rank=stage * of_stage + place,
                tensor=place % size,
                context=place // size % context,
                data=place // (size * context),
                pipeline=stage,
                expert=place % trainer.expert_parallel,
                parameters=parameters.total,
                memory=memory,
                host_bytes=host_bytes(recipe, parameters),
            )
            for place in range(of_stage)
        ]
    return tuple(plans)


def _with_total(time: TrainingTime) -> dict[str, Any]:
    return asdict(time) | {"total": time.total}


def _memory_json(memory: Memory) -> dict[str, int]:
    return memory.parts() | {"total": memory.total}


def _layouts_json(layouts: Layouts) -> dict[str, Any]:
    return {
        "own": asdict(layouts.own),
        "fitting": [
            {
                "layout": asdict(one.layout),
                "memory": _memory_json(one.memory),
                "training": _with_total(one.time),
                "is_tight": one.is_tight,
            }
            for one in layouts.fitting
        ],
        "excluded": [asdict(one) for one in layouts.excluded],
    }
