"""How long the engines sample for a step, and how long they wait for weights; estimates.  No torch.

A decoding step reads the weights and the cached keys and values of all running samples, and takes as long as that
or its operations, whichever is longer.  Samples run until the cache is full; then the last ones finish among fewer
and fewer others.  Prompts are not counted: those of a group are computed once.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron_srpo.plan import gpus
from megatron_srpo.plan.gpus import Gpu
from megatron_srpo.plan.memory import cache_bytes, engine_memory, engine_width
from megatron_srpo.plan.parameters import count_parameters, expert_parameters
from megatron_srpo.plan.time import link_speed, memory_speed, product_speed
from megatron_srpo.plan.workload import Workload
from megatron_srpo.recipe.flops import model_flops
from megatron_srpo.recipe.model_config import ModelConfig
from megatron_srpo.recipe.schema import Recipe


@dataclass(frozen=True)
class RolloutTime:
    """Seconds of sampling and of a weight exchange; `running`: samples that an engine runs at one time."""

    sampling: float
    running: float
    exchange: float


def rollout_time(recipe: Recipe, model: ModelConfig, gpu: Gpu, workload: Workload) -> RolloutTime:
    """Of one step of the workload; every prompt is drawn once, whatever a `dynamic` strategy draws besides."""
    engine, per_engine = recipe.engine, workload.samples / recipe.engine.count
    mean = sum(workload.responses) / len(workload.responses)
    # A long response is running for longer, so that one met at random is longer than the mean.
    context = workload.prompt + sum(r * r for r in workload.responses) / len(workload.responses) / mean / 2
    room = engine_memory(recipe, model, gpu).cache_tokens / context
    running = max(1.0, min(room, recipe.rollout.max_concurrent_requests / engine.count, per_engine))
    full = (per_engine - running) * mean / running
    seconds = full * decode_seconds(recipe, model, gpu, running, context)
    done = 0.0
    for index, length in enumerate(workload.responses):
        left = max(1.0, running * (1 - index / len(workload.responses)))
        seconds += (length - done) * decode_seconds(recipe, model, gpu, left, workload.prompt + length)
        done = length
    weights = count_parameters(model) * engine_width(recipe) / recipe.trainer.pipeline_parallel
    span = recipe.trainer.ranks + engine.count * engine.tensor_parallel
    return RolloutTime(seconds, running, max(gpus.EXCHANGE_SECONDS, weights / link_speed(gpu, span)))


def decode_seconds(recipe: Recipe, model: ModelConfig, gpu: Gpu, running: float, context: float) -> float:
    """Of one token for each of `running` samples of an engine, with `context` tokens before it."""
    size = recipe.engine.tensor_parallel
    layers = model.num_layers - model.dense_layers if model.moe is not None else 0
    weights = count_parameters(model) - layers * expert_parameters(model, 1) * _untouched(model, running)
    read = weights * engine_width(recipe) / size + running * context * cache_bytes(recipe, model)
    flops = model_flops(model)
    operations = running * (flops.per_token + flops.per_target + flops.per_pair * context) / size
    work = max(read / memory_speed(gpu), operations / product_speed(gpu, in_8_bits=False))
    return work + model.num_layers * gpus.DECODE_LAYER_SECONDS


def _untouched(model: ModelConfig, running: float) -> float:
    """Share of a layer's experts that none of the samples visits."""
    if model.moe is None:
        return 0.0
    return float((1 - model.moe.experts_per_token / model.moe.experts) ** running)
