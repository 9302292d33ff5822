"""All layouts of a recipe's ranks: which can be, which fit, and how fast each would be.  No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from pydantic import ValidationError

from megatron_srpo.errors import SrpoError
from megatron_srpo.plan.batch import largest_stage, stage_recipes
from megatron_srpo.plan.gpus import COMFORTABLE_SHARE, GIB, GPUS_PER_NODE, Gpu
from megatron_srpo.plan.memory import Memory, rank_memory
from megatron_srpo.plan.time import TrainingTime, training_time
from megatron_srpo.plan.workload import Workload
from megatron_srpo.recipe.model_config import ModelConfig
from megatron_srpo.recipe.model_folder import check_parallel
from megatron_srpo.recipe.preflight import check_lengths
from megatron_srpo.recipe.schema import Recipe
from megatron_srpo.recipe.trainer import RecomputeSection, TrainerSection

VIRTUAL = (1, 2, 4)
CONTEXT = (1, 2, 4, 8)
RECOMPUTE = ("none", "selective", "full")


@dataclass(frozen=True)
class Layout:
    """What the planner varies of the trainer's section."""

    tensor: int
    pipeline: int
    virtual: int
    context: int
    expert: int
    sequence_parallel: bool
    recompute: str

    def __str__(self) -> str:
        parts = [f"tp {self.tensor}" + (" sp" if self.sequence_parallel else ""), f"pp {self.pipeline}"]
        if self.virtual > 1:
            parts.append(f"vpp {self.virtual}")
        if self.context > 1:
            parts.append(f"cp {self.context}")
        if self.expert > 1:
            parts.append(f"ep {self.expert}")
        return ", ".join([*parts, f"recompute {self.recompute}"])


@dataclass(frozen=True)
class Fitting:
    """A layout that fits, by its fullest rank; `is_tight`: with less left than an estimate should have."""

    layout: Layout
    memory: Memory
    time: TrainingTime
    is_tight: bool


@dataclass(frozen=True)
class Excluded:
    """A layout that cannot be or does not fit, and why; `needs`: bytes of its fullest rank, if it can be."""

    layout: Layout
    reason: str
    needs: int | None


@dataclass(frozen=True)
class Layouts:
    """Those that fit, fastest first; the others, those that need least first and impossible ones last."""

    fitting: tuple[Fitting, ...]
    excluded: tuple[Excluded, ...]
    own: Layout


def rank_layouts(recipe: Recipe, model: ModelConfig, gpu: Gpu, workload: Workload) -> Layouts:
    """Try every layout of `trainer.ranks`; whatever else the recipe says stays as it is."""
    fitting, excluded = [], []
    for layout in candidates(recipe, model):
        tried = _try(recipe, model, gpu, layout)
        if isinstance(tried, Excluded):
            excluded.append(tried)
            continue
        at, memory = tried
        time = training_time(largest_stage(at), model, gpu, workload)
        is_tight = memory.total > COMFORTABLE_SHARE * gpu.memory_bytes
        fitting.append(Fitting(layout, memory, time, is_tight))
    fitting.sort(key=lambda one: (one.time.total, one.memory.total))
    excluded.sort(key=lambda one: (one.needs is None, one.needs or 0, one.reason))
    return Layouts(tuple(fitting), tuple(excluded), layout_of(recipe.trainer))


def layout_of(trainer: TrainerSection) -> Layout:
    """The recipe's own."""
    return Layout(
        trainer.tensor_parallel,
        trainer.pipeline_parallel,
        trainer.virtual_pipeline_parallel,
        trainer.context_parallel,
        trainer.expert_parallel,
        trainer.sequence_parallel,
        trainer.recompute.granularity,
    )


def candidates(recipe: Recipe, model: ModelConfig) -> Iterator[Layout]:
    """Layouts to try, the recipe's own first: tensor parallelism stays within a node."""
    own, ranks = layout_of(recipe.trainer), recipe.trainer.ranks
    yield own
    experts = 1 if model.moe is None else model.moe.experts
    stages = [size for size in range(1, min(ranks, model.num_layers) + 1) if ranks % size == 0]
    shares = [size for size in range(1, min(ranks, experts) + 1) if ranks % size == 0]
    for tensor, pipeline, virtual, context, expert, sequence, recompute in product(
        range(1, min(ranks, GPUS_PER_NODE) + 1), stages, VIRTUAL, CONTEXT, shares, (True, False), RECOMPUTE
    ):
        # What never makes sense is no candidate; what could but does not fit the numbers gets its reason.
        if (tensor == 1 and sequence) or (pipeline == 1 and virtual > 1) or tensor * pipeline * context > ranks:
            continue
        layout = Layout(tensor, pipeline, virtual, context, expert, sequence, recompute)
        if ranks % tensor and layout != Layout(tensor, 1, 1, 1, 1, False, "none"):
            continue
        if layout != own:
            yield layout


def _try(recipe: Recipe, model: ModelConfig, gpu: Gpu, layout: Layout) -> tuple[Recipe, Memory] | Excluded:
    """The recipe with the layout and the memory of its fullest rank, or why there is none."""
    ranks, size = recipe.trainer.ranks, layout.tensor * layout.pipeline * layout.context
    if ranks % size:
        return Excluded(layout, f"{_sizes(layout)} does not divide the {ranks} ranks", None)
    try:
        at = with_layout(recipe, model, layout)
        check_parallel(model, at.trainer)
        for stage in stage_recipes(at):
            check_lengths(model, stage)
    except SrpoError as error:
        return Excluded(layout, str(error), None)
    memory = fullest(at, model)
    if memory.total > gpu.memory_bytes:
        return Excluded(layout, why_not(memory, gpu), memory.total)
    return at, memory


def _sizes(layout: Layout) -> str:
    """The sizes that multiply, less those of 1."""
    keys = {"tensor": layout.tensor, "pipeline": layout.pipeline, "context": layout.context}
    return " x ".join(f"{key}_parallel {size}" for key, size in keys.items() if size > 1)


def fullest(recipe: Recipe, model: ModelConfig) -> Memory:
    """Memory of the trainer rank that needs most."""
    at = largest_stage(recipe)
    stages = range(recipe.trainer.pipeline_parallel)
    return max((rank_memory(at, model, stage, on_gpu=True) for stage in stages), key=lambda memory: memory.total)


def why_not(memory: Memory, gpu: Gpu) -> str:
    """Why a rank does not fit, with its largest part."""
    name, size = memory.largest
    return f"needs {memory.total / GIB:.1f} GiB of {gpu.memory_gib:g} GiB: {name} {size / GIB:.1f} GiB"


def with_layout(recipe: Recipe, model: ModelConfig, layout: Layout) -> Recipe:
    """The recipe with another layout of the same ranks.

    Raises:
        SrpoError: when the trainer's section refuses it.
    """
    own, trainer = layout_of(recipe.trainer), recipe.trainer
    if layout == own:
        return recipe
    same_chunks = (layout.pipeline, layout.virtual) == (own.pipeline, own.virtual)
    values: dict[str, Any] = trainer.model_dump() | {
        "tensor_parallel": layout.tensor,
        "pipeline_parallel": layout.pipeline,
        "virtual_pipeline_parallel": layout.virtual,
        "pipeline_layers": trainer.pipeline_layers if same_chunks else None,
        "context_parallel": layout.context,
        "expert_parallel": layout.expert,
        "data_parallel": None,
        "sequence_parallel": layout.sequence_parallel,
        "recompute": _recompute(trainer.recompute, model, layout.recompute),
    }
    try:
        section = TrainerSection.model_validate(values)
    except ValidationError as error:
        raise SrpoError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
    return recipe.model_copy(update={"trainer": section})


def _recompute(own: RecomputeSection, model: ModelConfig, granularity: str) -> dict[str, Any]:
    """The recipe's own section where it has this granularity, else that granularity's usual form."""
    if own.granularity == granularity:
        return own.model_dump()
    values: dict[str, Any] = {"granularity": granularity}
    if granularity == "selective":
        values["modules"] = ("mlp",) if model.moe is None else ("moe",)
    return values
