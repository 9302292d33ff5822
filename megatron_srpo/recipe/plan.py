"""What a recipe will start and how much of everything: `srpo plan`.  No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from megatron_srpo.recipe.curriculum import StageSection
from megatron_srpo.recipe.model_config import ModelConfig
from megatron_srpo.recipe.model_folder import chunk_layers
from megatron_srpo.recipe.preflight import longest_sequence
from megatron_srpo.recipe.schema import Recipe

WIDTH = {"float32": 4, "bfloat16": 2}
ADAM_BYTES = 8  # two float32 moments a parameter
MASTER_BYTES = 4  # a float32 copy of every parameter, when the model itself is bfloat16
GRADIENT_BYTES = 4  # gradients are summed in float32


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
class BatchPlan:
    """How a step divides; token numbers are upper bounds."""

    prompts_per_step: int
    samples_per_prompt: int
    samples_per_step: int
    updates_per_step: int
    samples_per_update: int
    samples_per_update_and_data_rank: float
    longest_sequence: int
    max_tokens_per_microbatch: int
    max_tokens_per_step: int
    steps: int
    updates: int


@dataclass(frozen=True)
class StagePlan:
    """One stage: shares of its sources, its step, and its end in words."""

    stage: str
    mixture: dict[str, float]
    prompts_per_step: int
    samples_per_prompt: int
    max_response_tokens: int
    learning_rate: float
    end: str


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
        batch=_batch(recipe),
        stages=tuple(_stage(recipe, stage) for stage in recipe.curriculum.stages),
        ranks=tuple(_rank(recipe, model, rank) for rank in range(recipe.trainer.ranks)),
    )


def count_parameters(model: ModelConfig) -> int:
    """Parameters of the whole model; tied embeddings count once."""
    embedding = model.vocab_size * model.hidden_size
    outer = embedding * (1 if model.tie_word_embeddings else 2) + model.hidden_size
    return outer + model.num_layers * (_layer_parameters(model, 1) + _expert_parameters(model, 1))


def _layer_parameters(model: ModelConfig, tensor_parallel: int) -> int:
    """Parameters of one decoder layer, less its experts, on one tensor-parallel rank; norms are on every rank."""
    hidden, moe = model.hidden_size, model.moe
    qkv = model.query_size + 2 * model.key_value_size
    width = model.intermediate_size if moe is None else moe.shared_expert_intermediate_size or 0
    split = hidden * (qkv + model.query_size) + 3 * hidden * width
    if model.qkv_bias:
        split += qkv
    whole = 2 * hidden + (2 * model.head_dim if model.qk_norm else 0)
    if moe is not None:
        whole += moe.experts * hidden + (hidden if width else 0)  # the router, and the shared expert's gate
    return split // tensor_parallel + whole


def _expert_parameters(model: ModelConfig, expert_parallel: int) -> int:
    """Parameters of one layer's experts on one expert-parallel rank."""
    if model.moe is None:
        return 0
    return model.moe.experts // expert_parallel * 3 * model.hidden_size * model.moe.intermediate_size


def _rank(recipe: Recipe, model: ModelConfig, rank: int) -> RankPlan:
    """Coordinates in Megatron's order (tensor fastest, then data, then pipeline) and rough memory."""
    trainer = recipe.trainer
    size, stages = trainer.tensor_parallel, trainer.pipeline_parallel
    stage_ranks = size * recipe.data_parallel
    stage = rank // stage_ranks
    layers = sum(chunk_layers(model, trainer)[stage::stages])
    experts = layers * _expert_parameters(model, trainer.expert_parallel)
    parameters = layers * _layer_parameters(model, size)
    embedding = -(-model.vocab_size // size) * model.hidden_size  # rows are padded to equal shares
    first, last = stage == 0, stage == stages - 1
    if first:
        parameters += embedding
    if last:
        parameters += model.hidden_size
        # A tied output layer is the same tensor on one stage, and a copy of it on a stage of its own.
        if not (model.tie_word_embeddings and first):
            parameters += embedding
    width = WIDTH[trainer.dtype]
    models = 2 if recipe.algorithm.kl_coefficient else 1  # the KL term's reference has weights only
    state = ADAM_BYTES + (MASTER_BYTES if trainer.dtype != "float32" else 0)
    # The optimizer's state is split over the ranks that hold the same parameters.
    shared = parameters / recipe.data_parallel + experts * trainer.expert_parallel / stage_ranks
    parameters += experts
    return RankPlan(
        rank=rank,
        tensor=rank % size,
        data=rank // size % recipe.data_parallel,
        pipeline=stage,
        expert=rank % stage_ranks % trainer.expert_parallel,
        parameters=parameters,
        weight_bytes=parameters * width * models,
        gradient_bytes=parameters * GRADIENT_BYTES,
        optimizer_bytes=int(shared * state),
    )


def _stage(recipe: Recipe, stage: StageSection) -> StagePlan:
    weights = recipe.mixture(stage)
    here = recipe.at_stage(stage.name)
    end = stage.end
    ends = [f"{end.steps} steps"] if end.steps else []
    ends += [f"{end.epochs} epochs"] if end.epochs else []
    if end.plateau is not None:
        ends.append(f"plateau of {end.plateau.metric} over {end.plateau.window} steps")
    return StagePlan(
        stage=stage.name,
        mixture={source: weight / sum(weights.values()) for source, weight in weights.items()},
        prompts_per_step=here.rollout.prompts_per_step,
        samples_per_prompt=here.rollout.samples_per_prompt,
        max_response_tokens=here.rollout.max_response_tokens,
        learning_rate=here.trainer.optimizer.learning_rate,
        end=" or ".join(ends) or "the run's",
    )


def _batch(recipe: Recipe) -> BatchPlan:
    rollout, trainer, samples = recipe.rollout, recipe.trainer, recipe.samples_per_step
    stages = [recipe.at_stage(stage.name) for stage in recipe.curriculum.stages]
    longest = max(longest_sequence(stage) for stage in stages)
    draws = recipe.curriculum.dynamic.max_draws if recipe.curriculum.strategy == "dynamic" else 1.0
    return BatchPlan(
        prompts_per_step=rollout.prompts_per_step,
        samples_per_prompt=rollout.samples_per_prompt,
        samples_per_step=samples,
        updates_per_step=trainer.updates_per_step,
        samples_per_update=samples // trainer.updates_per_step,
        samples_per_update_and_data_rank=samples / trainer.updates_per_step / recipe.data_parallel,
        longest_sequence=longest,
        max_tokens_per_microbatch=trainer.max_tokens_per_microbatch,
        max_tokens_per_step=max(int(s.samples_per_step * draws) * longest_sequence(s) for s in stages),
        steps=recipe.steps,
        updates=recipe.steps * trainer.updates_per_step,
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
