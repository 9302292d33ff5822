"""Recipes and models for tests of the plan; nothing on disk but config.json."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from megatron_srpo.recipe.model_config import ModelConfig, MoEConfig, read_model_config
from megatron_srpo.recipe.schema import Recipe
from tests.conftest import REPOSITORY

CONFIGS = REPOSITORY / "tests" / "data" / "configs"

TINY = ModelConfig(
    folder=Path("model"),
    architecture="Qwen2ForCausalLM",
    vocab_size=96,
    hidden_size=16,
    intermediate_size=24,
    num_layers=8,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=4,
    rms_norm_eps=1e-6,
    rope_theta=1e4,
    rope_scaling=None,
    rotary_share=1.0,
    tie_word_embeddings=False,
    qkv_bias=True,
    qk_norm=False,
    sliding_window=None,
    moe=None,
    extra_layers=0,
    max_position_embeddings=4096,
    dtype="bfloat16",
    eos_token_ids=(0,),
    raw={},
)
EXPERTS = replace(
    TINY,
    architecture="Qwen3MoeForCausalLM",
    qkv_bias=False,
    qk_norm=True,
    moe=MoEConfig(
        experts=16,
        experts_per_token=2,
        intermediate_size=12,
        shared_expert_intermediate_size=None,
        normalize_top_k=True,
        aux_loss_coefficient=0.0,
    ),
)
# As GLM-4.5: layers without experts first, a shared expert without a gate, a router with a bias.
assert EXPERTS.moe is not None
DENSE_FIRST = replace(
    EXPERTS,
    architecture="Glm4MoeForCausalLM",
    qkv_bias=True,
    moe=replace(
        EXPERTS.moe, shared_expert_intermediate_size=8, dense_layers=3, shared_gate=False, router_bias=True
    ),
)


def published(name: str) -> ModelConfig:
    """A model of tests/data/configs."""
    return read_model_config(CONFIGS / name)


def recipe(*, rollout: dict[str, Any] | None = None, **trainer: Any) -> Recipe:
    """A recipe for GPUs; `trainer` is laid over a section of eight ranks."""
    return Recipe.model_validate(
        {
            "name": "planned",
            "steps": 3,
            "model": {"path": "model"},
            "data": {"train": {"math": "train.parquet"}, "prompt_template": "{question}"},
            "engine": {"device": "cuda"},
            "rollout": {
                "prompts_per_step": 64,
                "samples_per_prompt": 8,
                "max_prompt_tokens": 64,
                "max_response_tokens": 192,
                **(rollout or {}),
            },
            "trainer": {"device": "cuda", "ranks": 8, "max_tokens_per_microbatch": 1024, **trainer},
        }
    )
