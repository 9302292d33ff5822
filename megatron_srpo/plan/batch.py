"""How a step divides, and the stages of a curriculum: arithmetic of the recipe alone.  No torch."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_srpo.recipe.curriculum import StageSection
from megatron_srpo.recipe.preflight import longest_sequence
from megatron_srpo.recipe.schema import Recipe


@dataclass(frozen=True)
class BatchPlan:
    """How a step divides; token numbers are upper bounds.

    max_tokens_drawn: of a step when a `dynamic` strategy draws as much as curriculum.dynamic.max_draws lets it.
    """

    prompts_per_step: int
    samples_per_prompt: int
    samples_per_step: int
    updates_per_step: int
    samples_per_update: int
    samples_per_update_and_data_rank: float
    longest_sequence: int
    max_tokens_per_microbatch: int
    max_tokens_per_step: int
    max_tokens_drawn: int
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


def batch_plan(recipe: Recipe) -> BatchPlan:
    """Of the recipe's own step; the bounds are over all stages."""
    rollout, trainer, samples = recipe.rollout, recipe.trainer, recipe.samples_per_step
    stages = stage_recipes(recipe)
    draws = recipe.curriculum.dynamic.max_draws if recipe.curriculum.strategy == "dynamic" else 1.0
    return BatchPlan(
        prompts_per_step=rollout.prompts_per_step,
        samples_per_prompt=rollout.samples_per_prompt,
        samples_per_step=samples,
        updates_per_step=trainer.updates_per_step,
        samples_per_update=samples // trainer.updates_per_step,
        samples_per_update_and_data_rank=samples / trainer.updates_per_step / recipe.data_parallel,
        longest_sequence=max(map(longest_sequence, stages)),
        max_tokens_per_microbatch=trainer.max_tokens_per_microbatch,
        max_tokens_per_step=max(at.samples_per_step * longest_sequence(at) for at in stages),
        max_tokens_drawn=max(int(at.samples_per_step * draws) * longest_sequence(at) for at in stages),
        steps=recipe.steps,
        updates=recipe.steps * trainer.updates_per_step,
    )


def stage_recipes(recipe: Recipe) -> list[Recipe]:
    """The recipe as it holds in each stage."""
    return [recipe.at_stage(stage.name) for stage in recipe.curriculum.stages]


def largest_stage(recipe: Recipe) -> Recipe:
    """The recipe as it holds in the stage whose steps can have the most response tokens, the first of such."""
    return max(stage_recipes(recipe), key=lambda at: at.samples_per_step * at.rollout.max_response_tokens)


def stage_plan(recipe: Recipe, stage: StageSection) -> StagePlan:
    """One stage of the recipe."""
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
