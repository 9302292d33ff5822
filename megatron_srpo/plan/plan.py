"""What a recipe will start and how much of everything: `srpo plan`.  No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from megatron_srpo.plan.batch import BatchPlan, StagePlan, batch_plan, stage_plan
from megatron_srpo.plan.memory import rank_memory
from megatron_srpo.plan.parameters import count_parameters, rank_parameters
from megatron_srpo.recipe.model_config import ModelConfig
from megatron_srpo.recipe.schema import Recipe


@dataclass(frozen=True)
class RankPlan:
    """One trainer process."""

    rank: int
    tensor: int
    data: int
    pipeline: int
    expert: int
    parameters: int
    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int


@dataclass(frozen=True)
class Plan:
    """A recipe worked out against its model."""

    recipe: Recipe
    model: ModelConfig
    parameters: int
    batch: BatchPlan
    stages: tuple[StagePlan, ...]
    ranks: tuple[RankPlan, ...]

    def as_json(self) -> dict[str, Any]:
        """The plan as plain values; bytes are estimates."""
        engine, model = self.recipe.engine, self.model
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
            "engines": [
                {"engine": number, "backend": engine.backend, "tensor_parallel": engine.tensor_parallel}
                for number in range(engine.count)
            ],
            "trainer": [asdict(rank) for rank in self.ranks],
            "batch": asdict(self.batch),
            "stages": [asdict(stage) for stage in self.stages],
            "estimates": ["weight_bytes", "gradient_bytes", "optimizer_bytes"],
        }


def make_plan(recipe: Recipe, model: ModelConfig) -> Plan:
    """Work out processes, batch arithmetic and rough memory.

    Args:
        recipe: a checked recipe.
        model: what `preflight` returned for it; the shapes are known to divide.
    """
    return Plan(
        recipe=recipe,
        model=model,
        parameters=count_parameters(model),
        batch=batch_plan(recipe),
        stages=tuple(stage_plan(recipe, stage) for stage in recipe.curriculum.stages),
        ranks=tuple(_rank(recipe, model, rank) for rank in range(recipe.trainer.ranks)),
    )


def _rank(recipe: Recipe, model: ModelConfig, rank: int) -> RankPlan:
    """Coordinates in Megatron's order (tensor fastest, then data, then pipeline) and rough memory."""
    trainer = recipe.trainer
    size, stages = trainer.tensor_parallel, trainer.pipeline_parallel
    stage_ranks = trainer.ranks // stages
    stage = rank // stage_ranks
    memory = rank_memory(recipe, model, stage, on_gpu=trainer.device != "cpu")
    return RankPlan(
        rank=rank,
        tensor=rank % size,
        data=rank // (size * trainer.context_parallel) % recipe.data_parallel,
        pipeline=stage,
        expert=rank % stage_ranks % trainer.expert_parallel,
        parameters=rank_parameters(model, trainer, stage).total,
        weight_bytes=memory.weights + memory.reference,
        gradient_bytes=memory.gradients,
        optimizer_bytes=memory.optimizer,
    )


def print_plan(plan: Plan, resolved: str, console: Console) -> None:
    """Write the plan as tables, after the resolved recipe.

    Args:
        plan: the plan.
        resolved: the resolved recipe as YAML.
        console: where to write.
    """
    console.print(resolved, markup=False, highlight=False)
    recipe, model = plan.recipe, plan.model
    console.print(
        f"{model.architecture}, {plan.parameters:,} parameters, {model.num_layers} layers; "
        f"run directory {recipe.directory}",
        markup=False,
        highlight=False,
    )
    batch = Table("batch", "value", title="Step (token numbers are upper bounds)")
    for name, value in asdict(plan.batch).items():
        batch.add_row(name, f"{value:,}")
    console.print(batch)
    stages = Table("stage", "mixture", "step", "response", "learning rate", "end")
    stages.title = f"Curriculum, strategy {recipe.curriculum.strategy}"
    for stage in plan.stages:
        stages.add_row(
            stage.stage,
            ", ".join(f"{source} {share:.0%}" for source, share in stage.mixture.items()),
            f"{stage.prompts_per_step} x {stage.samples_per_prompt}",
            f"{stage.max_response_tokens}",
            f"{stage.learning_rate:g}",
            stage.end,
        )
    console.print(stages)
    processes = Table("process", "place", "weights", "gradients", "optimizer", title="Processes (bytes estimated)")
    processes.add_row("controller", "1 process", "", "", "")
    for number in range(recipe.engine.count):
        processes.add_row(
            f"engine {number}", f"{recipe.engine.backend}, tp {recipe.engine.tensor_parallel}", "", "", ""
        )
    for rank in plan.ranks:
        processes.add_row(
            f"trainer rank {rank.rank}",
            f"tp {rank.tensor}, dp {rank.data}, pp {rank.pipeline}"
            + (f", ep {rank.expert}" if recipe.trainer.expert_parallel > 1 else ""),
            *(size(value) for value in (rank.weight_bytes, rank.gradient_bytes, rank.optimizer_bytes)),
        )
    console.print(processes)


def size(count: int) -> str:
    """Bytes for a reader: `1.5 GiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} TiB"
