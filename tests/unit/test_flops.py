"""Operations of a model against written-out sums."""

from __future__ import annotations

from dataclasses import replace

from megatron_srpo.recipe.flops import model_flops
from megatron_srpo.recipe.model_config import MoEConfig
from tests.unit.plan.shapes import TINY

DENSE = replace(
    TINY,
    vocab_size=11,
    hidden_size=8,
    intermediate_size=20,
    num_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=3,
)


def test_dense() -> None:
    query, key, value, output = 8 * 12, 8 * 6, 8 * 6, 12 * 8
    gate = up = down = 8 * 20
    matrices = query + key + value + output + gate + up + down
    seen = 1 + 2 + 3 + 4 + 5
    scores = values = 4 * 3 * seen
    forward = 3 * (2 * 5 * matrices + 2 * (scores + values)) + 2 * 2 * 8 * 11
    assert model_flops(DENSE).forward(5, 2) == forward
    assert model_flops(DENSE).training(5, 2) == 3 * forward


def test_experts_that_a_token_visits() -> None:
    moe = MoEConfig(
        experts=16,
        experts_per_token=2,
        intermediate_size=5,
        shared_expert_intermediate_size=7,
        normalize_top_k=True,
        aux_loss_coefficient=0.0,
    )
    dense = replace(DENSE, intermediate_size=0)
    with_experts = replace(dense, moe=moe)
    router = 8 * 16
    difference = 2 * 3 * (3 * 8 * (2 * 5 + 7) + router)
    assert model_flops(with_experts).per_token - model_flops(dense).per_token == difference
    # One of the three layers without experts.
    mixed = replace(DENSE, moe=replace(moe, dense_layers=1))
    assert model_flops(mixed).per_token - model_flops(dense).per_token == 2 * 3 * 8 * 20 + difference / 3 * 2
