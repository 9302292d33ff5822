"""Every recipe for GPUs that is shipped: it loads, is planned, fits, and its comments say what the plan says."""

from __future__ import annotations

import re

import pytest

from megatron_srpo.plan.checks import check_what_is_there
from megatron_srpo.plan.gpus import COMFORTABLE_SHARE, GIB
from megatron_srpo.plan.layouts import Fitting
from megatron_srpo.plan.plan import Asked, Plan, make_plan
from megatron_srpo.recipe.load import load_recipe
from tests.conftest import REPOSITORY
from tests.unit.plan.shapes import CONFIGS

RECIPES = REPOSITORY / "recipes"
MODELS = {
    "srpo_qwen2.5_32b": "qwen2.5-32b",
    "srpo_qwen2.5_32b_math": "qwen2.5-32b",
    "srpo_qwen2.5_32b_code": "qwen2.5-32b",
    "srpo_qwen2.5_32b_mixed": "qwen2.5-32b",
    "srpo_qwen2.5_32b_32nodes": "qwen2.5-32b",
    "srpo_qwen2.5_7b": "qwen2.5-7b",
    "grpo_qwen2.5_7b": "qwen2.5-7b",
    "dapo_qwen2.5_7b": "qwen2.5-7b",
    "srpo_qwen2.5_1.5b": "qwen2.5-1.5b",
    "srpo_qwen3_30b_a3b": "qwen3-30b-a3b",
}
GPUS_OF = {
    "srpo_qwen2.5_32b": (32, 32),
    "srpo_qwen2.5_32b_32nodes": (128, 128),
    "srpo_qwen2.5_7b": (4, 4),
    "srpo_qwen2.5_1.5b": (1, 1),
    "srpo_qwen3_30b_a3b": (16, 16),
}
named = pytest.mark.parametrize("name", MODELS)


def planned(name: str, asked: Asked | None = None) -> Plan:
    recipe = load_recipe(RECIPES / f"{name}.yaml", [f"model.path={CONFIGS / MODELS[name]}"])
    model, _ = check_what_is_there(recipe)
    return make_plan(recipe, model, asked)


def test_none_is_left_out() -> None:
    assert {file.stem for file in RECIPES.glob("*qwen*.yaml")} == set(MODELS)


@named
def test_it_fits_with_a_tenth_left(name: str) -> None:
    plan = planned(name)
    assert plan.recipe.name == name
    assert plan.problem is None
    assert plan.used <= COMFORTABLE_SHARE
    assert plan.engine is not None and plan.engine.full_length_samples >= 32
    assert plan.training is not None and 0.1 < plan.training.mfu < 0.6


@named
def test_its_comments_say_what_the_plan_says(name: str) -> None:
    text = " ".join((RECIPES / f"{name}.yaml").read_text(encoding="utf-8").replace("#", " ").split())
    plan = planned(name)
    assert plan.engine is not None
    said = re.findall(r"(\d+) of 79 GiB", text)
    assert said == [f"{plan.fullest.memory.total / GIB:.0f}"] * len(said)
    left = re.findall(r"(\d+)% of the memory is left", text)
    assert left == [f"{1 - plan.used:.0%}"[:-1]] * len(left)
    caches = re.findall(r"a cache for ([\d,]+) tokens, (\d+) of the longest", text)
    assert caches == [(f"{plan.engine.cache_tokens:,}", str(plan.engine.full_length_samples))] * len(caches)
    if name in GPUS_OF:
        assert said


@pytest.mark.parametrize("name", GPUS_OF)
def test_gpus_are_shared_out(name: str) -> None:
    recipe = planned(name).recipe
    assert (recipe.trainer.ranks, recipe.engine.count * recipe.engine.tensor_parallel) == GPUS_OF[name]


@pytest.mark.parametrize("name", ["srpo_qwen2.5_7b", "srpo_qwen3_30b_a3b"])
def test_its_layout_is_among_the_ranked(name: str) -> None:
    plan = planned(name, Asked(layouts=True))
    assert plan.layouts is not None
    own = next(one for one in plan.layouts.fitting if one.layout == plan.layouts.own)
    assert isinstance(own, Fitting)
    assert own.memory == plan.fullest.memory
    assert own.time == plan.training
    assert all(one.reason for one in plan.layouts.excluded)


def test_published_numbers_of_32b() -> None:
    recipe = planned("srpo_qwen2.5_32b").recipe
    assert (recipe.rollout.prompts_per_step, recipe.rollout.samples_per_prompt) == (256, 32)
    optimizer = recipe.trainer.optimizer
    assert (optimizer.learning_rate, optimizer.betas, optimizer.schedule) == (1e-6, (0.9, 0.95), "constant")
    assert (recipe.curriculum.strategy, recipe.algorithm.kl_coefficient) == ("history", 0.0)
    assert [set(stage.mixture) for stage in recipe.curriculum.stages] == [{"math"}, {"math", "code"}]


@pytest.mark.parametrize(
    ("name", "differs"),
    [
        ("grpo_qwen2.5_7b", {"name", "curriculum", "algorithm"}),
        ("dapo_qwen2.5_7b", {"name", "curriculum", "algorithm", "reward"}),
    ],
)
def test_twins_differ_in_the_method_alone(name: str, differs: set[str]) -> None:
    twin, srpo = (planned(of).recipe.model_dump() for of in (name, "srpo_qwen2.5_7b"))
    assert {key for key in twin if twin[key] != srpo[key]} == differs


def test_dapos_rewards_are_in_the_papers_proportion_to_its_length_penalty() -> None:
    """Right and wrong are 2 apart beside a penalty of at most 1; the others are as in the base."""
    twin, srpo = (planned(of).recipe.reward for of in ("dapo_qwen2.5_7b", "srpo_qwen2.5_7b"))
    assert twin.accuracy == 2.0
    for ours, base in ((twin.accuracy, srpo.accuracy), (twin.broken_format, srpo.broken_format)):
        assert ours == 2 * base
    assert twin.language.penalty == 2 * srpo.language.penalty
