"""Operations, lengths and seconds: written-out sums, and what must hold whatever the constants are."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_srpo.errors import SrpoError
from megatron_srpo.plan import gpus
from megatron_srpo.plan.gpus import GPUS, Gpu
from megatron_srpo.plan.parameters import rank_parameters
from megatron_srpo.plan.rollout import decode_seconds, rollout_time
from megatron_srpo.plan.time import TrainingTime, link_speed, product_speed, training_time
from megatron_srpo.plan.workload import Workload, expected_workload, response_lengths
from megatron_srpo.recipe.flops import model_flops
from tests.unit.plan.shapes import EXPERTS, TINY, published, recipe

H100 = GPUS["h100"]
LENGTHS = Workload(samples=512, prompt=16.0, responses=(20.0, 40.0))


def time_of(gpu: Gpu = H100, **trainer: Any) -> TrainingTime:
    return training_time(recipe(**trainer), TINY, gpu, LENGTHS)


def test_operations_of_a_step() -> None:
    flops = model_flops(TINY)
    by_hand = 256 * (flops.forward(36, 20) + flops.forward(56, 40))
    assert math.isclose(LENGTHS.forward_flops(flops), by_hand)
    assert math.isclose(time_of().model_flops, 3 * by_hand)


@given(st.floats(1, 1000), st.floats(0, 1))
def test_lengths_have_their_mean_and_limit(limit: float, share: float) -> None:
    mean = 1 + share * (limit - 1)
    lengths = response_lengths(mean, limit)
    assert math.isclose(sum(lengths) / len(lengths), mean, rel_tol=1e-6)
    assert list(lengths) == sorted(lengths)
    assert lengths[-1] <= limit


def test_the_mean_response_is_a_share_of_the_limit_or_said() -> None:
    at = recipe()
    assert math.isclose(expected_workload(at, None).response_tokens, 512 * 192 * gpus.RESPONSE_SHARE, rel_tol=1e-6)
    assert math.isclose(expected_workload(at, 100).response_tokens, 512 * 100, rel_tol=1e-6)
    for mean in (0, 193):
        with pytest.raises(SrpoError, match=rf"--response-tokens {mean} must be between 1 and .* 192"):
            expected_workload(at, mean)


def test_a_step_on_one_gpu_by_hand() -> None:
    at = recipe(ranks=1, max_tokens_per_microbatch=10_000)
    time = training_time(at, TINY, H100, LENGTHS)
    flops, tokens = model_flops(TINY), 512 * 46
    assert time.microbatches == math.ceil(tokens / (10_000 * gpus.PACKING_FILL)) == 3
    peak = H100.bf16_tflops * 1e12
    products = 3 * flops.per_token * tokens / (peak * gpus.GEMM_SHARE)
    attention = 3 * flops.per_pair * LENGTHS.pairs / (peak * gpus.ATTENTION_SHARE)
    norms = 2 * (2 * 16 + 4) + 2 * 2 * 16
    kept = norms + 2 * (32 + 32) + 2 * 32 + 4 * 8 + 3 * 2 * 24
    memory = H100.memory_gbps * 1e9 * gpus.MEMORY_SHARE
    moved = gpus.ELEMENTWISE_PASSES * 8 * kept * tokens / memory
    targets = 512 * 30
    head = 4 * flops.per_target * targets / (peak * gpus.GEMM_SHARE)
    logits = gpus.LOGITS_PASSES * 4 * targets * 96 / memory
    assert math.isclose(time.compute, products + attention + moved + head + logits)
    assert (time.communication, time.bubble, time.log_probs, time.recompute, time.gradients) == (0, 0, 0, 0, 0)
    assert math.isclose(time.mfu, time.model_flops / time.total / peak)
    assert math.isclose(time.tokens_per_second_and_gpu, tokens / time.total)


def test_the_bubble_is_the_stages_before_and_behind_over_the_chunks() -> None:
    once = time_of(pipeline_parallel=4, max_tokens_per_microbatch=256)
    twice = time_of(pipeline_parallel=4, virtual_pipeline_parallel=2, max_tokens_per_microbatch=256)
    for time, chunks in ((once, 1), (twice, 2)):
        work = time.compute + time.communication + time.recompute
        assert math.isclose(time.bubble / work, 3 / chunks / time.microbatches)
    assert twice.microbatches % 4 == 0


def test_more_updates_and_a_kl_term_are_passes_for_log_probs() -> None:
    one, two = time_of(), time_of(updates_per_step=2)
    assert one.log_probs == 0
    # Of the second update alone.  A third of a training pass and more: backward has collectives of its own.
    assert 0 < two.log_probs < (two.compute + two.communication) / 4
    at = recipe(updates_per_step=2)
    with_kl = at.model_copy(update={"algorithm": at.algorithm.model_copy(update={"kl_coefficient": 0.1})})
    assert math.isclose(training_time(with_kl, TINY, H100, LENGTHS).log_probs, 3 * two.log_probs)


def test_recomputation_costs_time_and_no_model_operations() -> None:
    nothing, mlp, full = (
        time_of(recompute={"granularity": granularity}) for granularity in ("none", "selective", "full")
    )
    assert nothing.recompute == 0 < mlp.recompute < full.recompute
    assert nothing.model_flops == full.model_flops
    assert nothing.mfu > mlp.mfu > full.mfu


def test_sums_over_nodes_cross_the_network_and_may_be_hidden() -> None:
    assert link_speed(H100, 8) / link_speed(H100, 9) == H100.nvlink_gbps / H100.network_gbps
    plain = time_of(ranks=16)
    reduced = time_of(ranks=16, overlap_gradient_reduce=True)
    both = time_of(ranks=16, overlap_gradient_reduce=True, overlap_parameter_gather=True)
    assert plain.gradients > reduced.gradients > both.gradients >= 0


def test_weights_in_8_bits_are_gathered_a_byte_each() -> None:
    """And not two: data-parallel ranks get what 15 others have of them."""
    wide, narrow = (time_of(ranks=16, fp8={"parameters": kept}).gradients for kept in (False, True))
    eight = rank_parameters(TINY, recipe(fp8={}).trainer, 0).in_8_bits
    assert math.isclose(wide - narrow, eight * 15 / 16 / link_speed(H100, 16), rel_tol=1e-6)


def test_8_bits_are_faster_where_the_gpu_has_them() -> None:
    assert product_speed(H100, True) > product_speed(H100, False)
    assert product_speed(GPUS["a100"], True) == product_speed(GPUS["a100"], False)
    assert time_of(fp8={}).compute < time_of().compute


def test_offloaded_state_goes_both_ways_in_every_update() -> None:
    shape = {"updates_per_step": 4, "pipeline_parallel": 2}
    plain, offload = time_of(**shape), time_of(**shape, optimizer={"offload": True})
    last = rank_parameters(TINY, recipe(**shape).trainer, 1)  # with the last norm, it has more than the first
    seconds = 4 * 2 * (12 * last.total // 4) / (63e9 * gpus.HOST_SHARE)
    assert math.isclose(offload.offload, seconds, rel_tol=1e-6) and plain.offload == 0
    assert math.isclose(offload.total, plain.total + seconds)


def test_experts_far_apart_take_longer() -> None:
    shape = {"ranks": 16, "tensor_parallel": 2, "sequence_parallel": True, "updates_per_step": 1}
    near, far = (
        training_time(recipe(**shape, expert_parallel=size), EXPERTS, H100, LENGTHS).communication
        for size in (2, 8)
    )
    assert near < far


def test_decoding_reads_weights_once_for_all_samples() -> None:
    at, model = recipe(), published("qwen2.5-7b")
    one, many = (decode_seconds(at, model, H100, running, 1000) for running in (1, 64))
    assert one < many < 2 * one
    idle = 28 * gpus.DECODE_LAYER_SECONDS
    cache = 64 * 1000 * 2 * 28 * 4 * 128 * 2
    weights = 2 * 7_615_616_512
    assert math.isclose(many - idle, (weights + cache) / (H100.memory_gbps * 1e9 * gpus.MEMORY_SHARE))


def test_a_weight_exchange_spans_all_gpus_of_the_engines_and_takes_a_moment() -> None:
    at, model = recipe(ranks=4), published("qwen2.5-32b")

    def seconds(count: int, size: int) -> float:
        engine = at.engine.model_copy(update={"count": count, "tensor_parallel": size})
        return rollout_time(at.model_copy(update={"engine": engine}), model, H100, LENGTHS).exchange

    assert math.isclose(seconds(2, 4) / seconds(1, 4), H100.nvlink_gbps / H100.network_gbps)
    assert seconds(1, 4) > gpus.EXCHANGE_SECONDS == rollout_time(at, TINY, H100, LENGTHS).exchange


def test_sampling_takes_as_long_as_its_longest_and_shorter_on_more_engines() -> None:
    at = recipe()
    one = rollout_time(at, TINY, H100, LENGTHS)
    assert one.running == min(512, at.rollout.max_concurrent_requests)
    assert one.sampling > 40 * decode_seconds(at, TINY, H100, 1, 0)
    more = at.model_copy(update={"engine": at.engine.model_copy(update={"count": 4})})
    four = rollout_time(more, TINY, H100, LENGTHS)
    assert four.running == 128
    assert four.sampling < one.sampling
