"""Memory by part: against written-out sums, published sizes, and what must hold for every layout."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_srpo.plan.activations import in_flight, layer_terms, stage_activations
from megatron_srpo.plan.gpus import EXPERT_IMBALANCE, GIB, GPUS
from megatron_srpo.plan.memory import (
    engine_memory,
    host_bytes,
    optimizer_bytes,
    rank_memory,
    tokens_and_microbatches,
    weight_bytes,
)
from megatron_srpo.plan.parameters import count_parameters, rank_parameters, stage_layers
from megatron_srpo.recipe.flops import model_flops
from megatron_srpo.recipe.model_config import ModelConfig
from megatron_srpo.recipe.schema import AlgorithmSection, Recipe
from tests.unit.plan.shapes import DENSE_FIRST, EXPERTS, TINY, published, recipe


@pytest.mark.parametrize(
    ("name", "billions"),
    [("qwen2.5-32b", 32.764), ("qwen2.5-7b", 7.616), ("qwen2.5-1.5b", 1.544), ("qwen3-30b-a3b", 30.532)],
)
def test_parameters_are_the_published_ones(name: str, billions: float) -> None:
    assert round(count_parameters(published(name)) / 1e9, 3) == billions


def test_glm_4_5_air_is_106b_of_which_12b_are_active() -> None:
    model = published("glm-4.5-air")
    output = model.vocab_size * model.hidden_size  # of the two matrices of this size one is multiplied
    assert int(count_parameters(model) / 1e9) == 106
    assert int((model_flops(model).per_token / 2 + output) / 1e9) == 12


def test_every_part_of_a_tiny_dense_rank() -> None:
    at = recipe(tensor_parallel=2, sequence_parallel=True, pipeline_parallel=2, max_tokens_per_microbatch=256)
    attention = 16 * (32 + 2 * 16) + 32 * 16  # query, key and value; output
    layer = (attention + 32 + 2 * 16 + 3 * 16 * 24) // 2 + 2 * 16
    parameters = 4 * layer + 96 // 2 * 16 + 16  # the second of two stages: output projection and last norm
    memory = rank_memory(at, TINY, 1, on_gpu=True)
    assert memory.weights == 2 * parameters
    assert memory.gradients == 4 * parameters
    assert memory.optimizer == 12 * parameters // 2  # two data-parallel ranks
    assert memory.reference == 0
    norms = (2 * 16 + 4) / 2 + 2 * 16 / 2 + (2 * 16 + 4) / 2 + 2 * 16 / 2
    attended = (2 * (32 + 2 * 16) + 2 * 32 + 4 * 8) / 2
    feed_forward = (2 * 2 * 24 + 2 * 24) / 2
    working = feed_forward + 2 * 2 * 16
    # The last stage of 1F1B has one microbatch in flight.
    assert memory.activations == 256 * (4 * (norms + attended + feed_forward) + working)
    assert memory.logits == 256 * 16 * 12 + 3 * 4 * 256 * 96 // 2 + 2 * 96 // 2 * 16
    assert memory.overhead == 4 * GIB
    assert memory.total == sum(memory.parts().values())


def test_a_limit_on_logits_holds() -> None:
    at = recipe(logits_megabytes=0.01, max_tokens_per_microbatch=256)
    assert rank_memory(at, TINY, 0, on_gpu=True).logits == int(256 * 16 * 12 + 3 * 0.01 * 2**20 + 2 * 96 * 16)


def test_terms_of_experts() -> None:
    at = recipe(tensor_parallel=2, sequence_parallel=True, expert_parallel=4).trainer
    terms = layer_terms(EXPERTS, at)
    tokens = 2 / 2 * EXPERT_IMBALANCE
    assert terms["expert_inputs"] == tokens * 2 * 16
    assert terms["expert_gate_up"] == tokens * (2 * 2 * 12 + 4)
    assert terms["expert_product"] == tokens * 2 * 12
    assert terms["router"] == 12 * 16 / 2
    assert terms["qk_norm_inputs"] == (2 * (32 + 16) + 4 * 12) / 2
    alone = layer_terms(EXPERTS, recipe().trainer)
    assert alone["expert_inputs"] == 2 * 2 * 16  # all experts on one rank have all of its tokens


def test_layers_of_two_kinds_are_added_up() -> None:
    """Of two stages of four layers the first has three without experts."""
    at = recipe(pipeline_parallel=2).trainer
    every = replace(DENSE_FIRST, moe=replace(DENSE_FIRST.moe, dense_layers=0))  # type: ignore[type-var]
    none = replace(DENSE_FIRST, moe=None)
    for stage, dense in ((0, 3), (1, 0)):
        mixed, full, empty = (rank_parameters(model, at, stage) for model in (DENSE_FIRST, every, none))
        assert mixed.experts * 4 == full.experts * (4 - dense)
        assert (mixed.dense - full.dense) * 4 == (empty.dense - full.dense) * dense
        kept, most, least = (stage_activations(model, at, stage, 1.0, 1) for model in (DENSE_FIRST, every, none))
        # What is worked on at one time is that of the larger kind.
        of_layers = [sum(layer_terms(model, at).values()) for model in (every, none)]
        assert math.isclose(most - kept, dense * (of_layers[0] - of_layers[1]))
        assert kept > least


def test_fp8_narrows_inputs_of_products_and_layers_in_bf16_do_not() -> None:
    wide, narrow = (layer_terms(TINY, recipe().trainer, eight) for eight in (False, True))
    smaller = {name for name in wide if narrow[name] < wide[name]}
    assert smaller == {"attention_norm_output", "mlp_norm_output", "product"}
    assert narrow["attention_output"] == 3 * 32
    some = rank_parameters(TINY, recipe(fp8={"first_layers_bf16": 1, "last_layers_bf16": 2}).trainer, 0)
    every = rank_parameters(TINY, recipe(fp8={}).trainer, 0)
    assert some.in_8_bits * 8 == every.in_8_bits * 5
    assert rank_parameters(TINY, recipe().trainer, 0).in_8_bits == 0


def test_fp8_adds_two_copies_of_matrices() -> None:
    plain, with_copies = (
        weight_bytes(at.trainer, rank_parameters(TINY, at.trainer, 0)) for at in (recipe(), recipe(fp8={}))
    )
    assert with_copies - plain == 2 * 8 * (16 * (2 * 32 + 2 * 16) + 3 * 16 * 24)  # rows and columns, a byte each


def test_offload_takes_the_fuller_of_two_phases() -> None:
    def both(tokens: int, on_gpu: bool = True) -> list[Any]:
        at = [recipe(optimizer={"offload": o}, ranks=1, max_tokens_per_microbatch=tokens) for o in (False, True)]
        return [rank_memory(one, published("qwen2.5-1.5b"), 0, on_gpu) for one in at]

    plain, offload = both(1024)
    state = plain.optimizer
    assert state > plain.activations + plain.logits
    assert offload == replace(plain, activations=0, logits=0)
    plain, offload = both(100_000)
    assert state < plain.activations + plain.logits
    assert offload == replace(plain, optimizer=0)
    plain, offload = both(1024, on_gpu=False)
    assert offload == replace(plain, optimizer=2 * state), "a CPU rank's memory is the host's"


def test_offloaded_state_is_in_the_hosts_memory() -> None:
    parameters = rank_parameters(TINY, recipe().trainer, 0)
    with_offload = recipe(optimizer={"offload": True})
    state, locked = 12 * parameters.total // 8, host_bytes(with_offload, parameters)
    assert state <= locked < 2 * state and locked.bit_count() == 1, "torch locks powers of two"
    assert host_bytes(recipe(), parameters) == 0


def test_weights_in_8_bits_are_no_copies() -> None:
    """Rows and columns take as much as bfloat16 alone; of the reference there are only rows."""
    plain, kept = (recipe(fp8=fp8) for fp8 in (None, {"parameters": True}))
    eight = rank_parameters(TINY, kept.trainer, 0).in_8_bits
    first, second = (
        rank_memory(
            at.model_copy(update={"algorithm": AlgorithmSection(kl_coefficient=0.1)}), TINY, 0, on_gpu=True
        )
        for at in (plain, kept)
    )
    assert first.weights == second.weights == first.reference
    assert first.reference - second.reference == eight > 0


def test_context_parallelism_divides_tokens_and_shards_the_optimizer() -> None:
    one, two = recipe(), recipe(context_parallel=2)
    assert tokens_and_microbatches(two)[0] == tokens_and_microbatches(one)[0] / 2
    first, second = (rank_memory(at, TINY, 0, on_gpu=True) for at in (one, two))
    assert second.activations * 2 == first.activations
    assert second.optimizer == first.optimizer  # 8 x 1 ranks, or 4 x 2


def test_experts_are_sharded_over_the_ranks_that_hold_the_same() -> None:
    at = recipe(tensor_parallel=2, sequence_parallel=True, expert_parallel=4)
    parameters = rank_parameters(EXPERTS, at.trainer, 0)
    assert parameters.experts == 8 * 4 * 3 * 16 * 12
    assert optimizer_bytes(at, parameters) == 12 * (parameters.dense // 4 + parameters.experts // 2)


def test_a_step_smaller_than_a_microbatch_needs_no_more() -> None:
    small = recipe(rollout={"prompts_per_step": 2, "samples_per_prompt": 4}, max_tokens_per_microbatch=100_000)
    assert tokens_and_microbatches(small) == (256, 1)


@pytest.mark.parametrize(
    ("shape", "held"),
    [
        ((4, 1, 0, 9), (4,)),
        ((4, 1, 3, 9), (1,)),
        ((4, 1, 0, 2), (2,)),
        ((1, 1, 0, 5), (1,)),
        ((2, 2, 0, 8), (3, 2)),  # two forward passes to its own turn, two behind it, one in hand
        ((2, 2, 1, 8), (2, 1)),
        ((4, 2, 0, 8), (7, 4)),
        ((2, 2, 0, 2), (2, 2)),  # all that there are
    ],
)
def test_microbatches_in_flight(shape: tuple[int, int, int, int], held: tuple[int, ...]) -> None:
    assert in_flight(*shape) == held


def test_engines_cache() -> None:
    at, model = recipe(), published("qwen2.5-32b")
    engine = at.engine.model_copy(update={"tensor_parallel": 4, "mem_fraction_static": 0.8})
    memory = engine_memory(at.model_copy(update={"engine": engine}), model, GPUS["h100"])
    weights = 2 * count_parameters(model) // 4
    per_token = 2 * 64 * 2 * 128 * 2
    assert memory.weights == weights
    assert memory.cache_tokens == int((0.8 * 79 * GIB - weights) / per_token)
    assert memory.full_length_samples == memory.cache_tokens // 256
    # With more ranks than key-value heads every rank has one whole head.
    many = engine.model_copy(update={"tensor_parallel": 16})
    wide = engine_memory(at.model_copy(update={"engine": many}), model, GPUS["h100"])
    assert wide.cache_tokens == int((0.8 * 79 * GIB - weights // 4) / (2 * 64 * 128 * 2))
    limited = engine.model_copy(update={"max_total_tokens": 512})
    capped = engine_memory(at.model_copy(update={"engine": limited}), model, GPUS["h100"])
    assert (capped.cache_tokens, capped.full_length_samples) == (512, 2)


def memory_of(model: ModelConfig, **trainer: Any) -> list[Any]:
    at = recipe(**trainer)
    return [rank_memory(at, model, stage, on_gpu=True) for stage in range(at.trainer.pipeline_parallel)]


tensor = st.sampled_from([1, 2, 4])
pipeline = st.sampled_from([(1, 1), (2, 1), (2, 2), (4, 1), (4, 2)])


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, Any]:
    stages, virtual = draw(pipeline)
    size = draw(tensor)
    return {
        "ranks": 32,
        "tensor_parallel": size,
        "sequence_parallel": size > 1,
        "pipeline_parallel": stages,
        "virtual_pipeline_parallel": virtual,
        "context_parallel": draw(st.sampled_from([1, 2])),
    }


models = st.sampled_from([TINY, EXPERTS, DENSE_FIRST, replace(TINY, tie_word_embeddings=True)])


@given(models, layouts())
def test_more_tensor_parallelism_is_not_more_weights(model: ModelConfig, layout: dict[str, Any]) -> None:
    halved = layout | {"tensor_parallel": 1, "sequence_parallel": False}
    for less, more in zip(memory_of(model, **layout), memory_of(model, **halved), strict=True):
        assert less.weights <= more.weights
        assert less.gradients <= more.gradients


@given(
    models, layouts(), st.sets(st.sampled_from(["core_attn", "mlp", "layernorm", "moe", "moe_act"]), min_size=1)
)
def test_recomputing_more_keeps_less(model: ModelConfig, layout: dict[str, Any], modules: set[str]) -> None:
    kept = [
        memory_of(model, **layout, recompute=recompute)
        for recompute in (
            {"granularity": "full"},
            {"granularity": "selective", "modules": sorted(modules)},
            {"granularity": "none"},
        )
    ]
    for full, selective, nothing in zip(*kept, strict=True):
        assert full.activations <= selective.activations <= nothing.activations
        assert full.activations < nothing.activations


def test_full_recomputation_of_some_layers_is_in_between() -> None:
    sizes = [
        rank_memory(recipe(recompute=recompute), TINY, 0, on_gpu=True).activations
        for recompute in (
            {"granularity": "full"},
            {"granularity": "full", "layers": 3},
            {"granularity": "none"},
        )
    ]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 3


@given(models, layouts())
def test_ranks_hold_the_model_as_often_as_the_layout_says(model: ModelConfig, layout: dict[str, Any]) -> None:
    trainer = recipe(**layout).trainer
    stages = [rank_parameters(model, trainer, stage) for stage in range(trainer.pipeline_parallel)]
    # What tensor parallelism does not split is on all of its ranks; a tied embedding is on both outer stages.
    moe = model.moe
    norms = 2 * model.hidden_size + (2 * model.head_dim if model.qk_norm else 0)
    router = moe.experts * (model.hidden_size + moe.router_bias) if moe else 0
    routers = (model.num_layers - model.dense_layers) * router
    twice = (trainer.tensor_parallel - 1) * (model.num_layers * norms + routers + model.hidden_size)
    copies = model.vocab_size * model.hidden_size if model.tie_word_embeddings and len(stages) > 1 else 0
    held = sum(stage.dense * trainer.tensor_parallel + stage.experts for stage in stages)
    assert held == count_parameters(model) + twice + copies


@given(pipeline, st.integers(1, 40))
def test_no_stage_holds_more_than_the_one_before_it(shape: tuple[int, int], rounds: int) -> None:
    stages, virtual = shape
    microbatches = rounds * stages if virtual > 1 else rounds
    held = [sum(in_flight(stages, virtual, stage, microbatches)) for stage in range(stages)]
    assert held == sorted(held, reverse=True)
    assert all(1 <= count <= microbatches * virtual for count in held)


@given(layouts())
def test_activations_grow_with_tokens_alone(layout: dict[str, Any]) -> None:
    trainer = recipe(**layout).trainer
    one, three = (stage_activations(TINY, trainer, 0, tokens, 8) for tokens in (100.0, 300.0))
    assert math.isclose(three, 3 * one)


def test_chunks_of_a_stage_are_dealt_out_in_turns() -> None:
    trainer = recipe(pipeline_parallel=2, virtual_pipeline_parallel=2, pipeline_layers=[1, 2, 3, 2]).trainer
    assert [list(map(list, stage_layers(TINY, trainer, stage))) for stage in (0, 1)] == [
        [[0], [3, 4, 5]],
        [[1, 2], [6, 7]],
    ]


def test_a_reference_model_is_weights_once_more() -> None:
    at = recipe()
    with_kl: Recipe = at.model_copy(update={"algorithm": at.algorithm.model_copy(update={"kl_coefficient": 0.1})})
    memory = rank_memory(with_kl, TINY, 0, on_gpu=True)
    assert memory.reference == memory.weights == rank_memory(at, TINY, 0, on_gpu=True).weights
