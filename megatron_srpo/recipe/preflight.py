"""Everything that can be found wrong with a run before a single process starts.  No torch."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from megatron_srpo.data.problems import PromptEncoder
from megatron_srpo.data.sources import check_source, load_source
from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.data import DataSource
from megatron_srpo.recipe.model_config import ModelConfig, read_model_config
from megatron_srpo.recipe.model_folder import (
    check_engine_parallel,
    check_model_folder,
    check_parallel,
    check_tokenizer,
)
from megatron_srpo.recipe.reward import RewardSection
from megatron_srpo.recipe.schema import Recipe
from megatron_srpo.rewards.pool import check_workers
from megatron_srpo.rewards.sandbox.choice import describe_sandbox

# SGLang silently cuts a response so that prompt + response stays two tokens below context and cache.
ENGINE_RESERVE = 2


def preflight(recipe: Recipe, *, replay: Path | None = None, prompts: bool = True) -> ModelConfig:
    """Check model folder, tokenizer, data, parallel shapes, lengths and the engine's interpreter.

    Args:
        recipe: the run.
        replay: a run directory whose recorded steps are trained on; no engine is needed then.
        prompts: also read every problem and encode its prompt, which takes seconds for large files.

    Returns:
        What the model's config.json says.

    Raises:
        SrpoError: for the first thing found wrong.
    """
    model = check_model_folder(recipe.model.path)
    check_tokenizer(model)
    check_shapes(model, recipe)
    if replay is None:
        check_engine_parallel(model, recipe.engine)
        check_engine_python(recipe)
    else:
        check_replay(replay)
    programs = check_data(recipe, prompts=prompts)
    if replay is None and prompts:
        check_rewards(recipe.reward, programs)
    return model


def check_shapes(model: ModelConfig, recipe: Recipe) -> None:
    """The model divides over the trainer's ranks, and every stage's lengths fit.

    Raises:
        SrpoError: with the keys and their numbers.
    """
    check_parallel(model, recipe.trainer)
    for stage in recipe.curriculum.stages:
        here = recipe.at_stage(stage.name)
        try:
            check_lengths(model, here)
        except SrpoError as error:
            raise (error if here is recipe else SrpoError(f"stage {stage.name}: {error}")) from None


def check_lengths(model: ModelConfig, recipe: Recipe) -> None:
    """The longest possible sequence fits the model, the engine's cache and a microbatch.

    Raises:
        SrpoError: with the keys and their numbers.
    """
    rollout, longest = recipe.rollout, longest_sequence(recipe)
    buffer = recipe.algorithm.overlong_buffer
    check_engine_lengths(model, recipe)
    window = model.sliding_window
    if window is not None and longest > window:
        raise SrpoError(
            f"{_lengths(recipe)} is more than sliding_window {window} of {model.file}, and attention sees all "
            "tokens in the trainer; lower one of the two keys."
        )
    if recipe.algorithm.overlong == "soft_penalty" and buffer is not None and buffer > rollout.max_response_tokens:
        raise SrpoError(
            f"algorithm.overlong_buffer {buffer} is longer than rollout.max_response_tokens "
            f"{rollout.max_response_tokens}; the penalty grows over the last tokens before that limit: lower it."
        )
    if longest > recipe.trainer.max_tokens_per_microbatch:
        raise SrpoError(
            f"{_lengths(recipe)} is more than trainer.max_tokens_per_microbatch "
            f"{recipe.trainer.max_tokens_per_microbatch}, and a sample is never cut; raise it to {longest}."
        )
    samples = recipe.samples_per_step // recipe.trainer.updates_per_step
    if samples < recipe.data_parallel:
        raise SrpoError(
            f"an update has {samples} samples for {recipe.data_parallel} data-parallel ranks; lower "
            "trainer.updates_per_step or trainer.ranks, or raise rollout.prompts_per_step."
        )


def check_engine_lengths(model: ModelConfig, recipe: Recipe) -> None:
    """The longest possible sequence fits the model and the engine's cache.

    Raises:
        SrpoError: with the keys and their numbers.
    """
    lengths = _lengths(recipe)
    room = longest_sequence(recipe) + ENGINE_RESERVE
    if room > model.max_position_embeddings:
        raise SrpoError(
            f"{lengths} needs {room} positions ({ENGINE_RESERVE} are the engine's own), "
            f"but {model.file} says max_position_embeddings {model.max_position_embeddings}; "
            "lower one of the two keys."
        )
    cache = recipe.engine.max_total_tokens
    if cache is not None and room > cache:
        raise SrpoError(
            f"{lengths} needs {room} tokens of cache ({ENGINE_RESERVE} are the engine's own), "
            f"but engine.max_total_tokens is {cache}; raise it or lower one of the two keys."
        )


def _lengths(recipe: Recipe) -> str:
    """The longest sequence in words."""
    rollout = recipe.rollout
    return (
        f"rollout.max_prompt_tokens {rollout.max_prompt_tokens} + rollout.max_response_tokens "
        f"{rollout.max_response_tokens} = {longest_sequence(recipe)}"
    )


def check_grading(recipe: Recipe, *, engines: bool) -> ModelConfig:
    """What `srpo data grade` needs of a recipe.

    Args:
        recipe: its model, lengths and, where they are to be started, its engines are used.
        engines: whether they are; else only the model's configuration and tokenizer have to be here.

    Returns:
        What the model's config.json says.

    Raises:
        SrpoError: for the first thing found wrong.
    """
    model = check_model_folder(recipe.model.path) if engines else read_model_config(recipe.model.path)
    check_tokenizer(model)
    check_engine_lengths(model, recipe)
    if engines:
        check_engine_parallel(model, recipe.engine)
        check_engine_python(recipe)
    return model


def longest_sequence(recipe: Recipe) -> int:
    """Tokens of the longest sample that the recipe allows."""
    return recipe.rollout.max_prompt_tokens + recipe.rollout.max_response_tokens


def check_engine_python(recipe: Recipe) -> None:
    """The interpreter that starts SGLang is there and can be run.

    Raises:
        SrpoError: naming the key, the value and where it was looked for.
    """
    python = recipe.engine.python
    if recipe.engine.backend == "sglang" and not (python.is_file() and os.access(python, os.X_OK)):
        raise SrpoError(
            f"engine.python {python}: no interpreter there (looked for {python.absolute()}); "
            "run make setup, or give the python of an environment that has sglang."
        )


def check_replay(run: Path) -> None:
    """The run to replay has recorded steps.

    Raises:
        SrpoError: naming the folder.
    """
    if not any((run / "rollouts").glob("step-*.parquet")):
        folder = (run / "rollouts").absolute()
        raise SrpoError(f"--replay {run}: no recorded steps in {folder}; give the directory of a run.")


def check_data(recipe: Recipe, *, prompts: bool) -> bool:
    """Files and sets have what their filters need; with `prompts`, every chosen row and prompt is checked too.

    Returns:
        Whether there are programs to judge, as far as rows were read.

    Raises:
        SrpoError: naming the file, and the row or problem where there is one.
    """
    sources = all_sources(recipe)
    for source in sources:
        check_source(source)
    if not prompts:
        return False
    encoder = PromptEncoder.from_recipe(recipe)
    return any([check_prompts(recipe, source, encoder) for source in sources])  # all of them are checked


def all_sources(recipe: Recipe) -> list[DataSource]:
    """What is trained on, and what is held out."""
    return [*recipe.train_sources.values(), *recipe.data.heldout.values()]


def check_prompts(recipe: Recipe, source: DataSource, encoder: PromptEncoder) -> bool:
    """Every row of a source that its filters choose, and its prompt, is as the run needs it.

    Returns:
        Whether there are programs to judge.

    Raises:
        SrpoError: naming the source, and the row or problem.
    """
    problems = load_source(source)
    try:
        encoder.encode_all(problems)
    except SrpoError as error:
        raise SrpoError(f"{source}: {error}") from None
    if source in recipe.train_sources.values():
        check_min_pool(recipe, source, len(problems))
    return any(problem.tests is not None for problem in problems)


def check_rewards(reward: RewardSection, programs: bool) -> None:
    """What responses are judged by is to be had: the recipe's own functions, and a sandbox if it is needed.

    Raises:
        SrpoError: naming the function, or what the machine lacks.
    """
    if reward.functions or reward.judge is not None:
        asyncio.run(check_workers(reward))  # there, as workers import modules that have no place here
    if programs:
        describe_sandbox(reward.sandbox)


def check_min_pool(recipe: Recipe, source: DataSource, size: int) -> None:
    """A strategy that leaves prompts out can leave any out.

    Raises:
        SrpoError: when a source is too small for the recipe's min_pool.
    """
    section = recipe.curriculum
    least = section.min_pool
    if section.strategy in ("history", "predictive") and least is not None and least >= size:
        raise SrpoError(
            f"curriculum.min_pool {least} is not below the {size} problems of {source}, so every epoch would take "
            f"all of them, whatever strategy {section.strategy} chooses; lower it."
        )
