"""Bytes of GPU memory by what they are for: of a trainer rank, and of an engine.  No torch; all are estimates."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

from megatron_srpo.plan.activations import WIDTH, stage_activations
from megatron_srpo.plan.gpus import GIB, HEAD_ROW_BYTES, LOGITS_COPIES, OVERHEAD_GIB, Gpu
from megatron_srpo.plan.parameters import RankParameters, count_parameters, rank_parameters
from megatron_srpo.recipe.model_config import ModelConfig
from megatron_srpo.recipe.preflight import longest_sequence
from megatron_srpo.recipe.schema import Recipe
from megatron_srpo.recipe.trainer import TrainerSection

ADAM_BYTES = 8  # two float32 moments a parameter
MASTER_BYTES = 4  # a float32 copy of every parameter, when the model itself is bfloat16
GRADIENT_BYTES = 4  # gradients are summed in float32
# Of a matrix that Transformer Engine multiplies in 8 bits: its numbers by rows and once more by columns, because
# Hopper multiplies only along rows.  Both are kept from an update's first microbatch on, or are the weights
# themselves.
FP8_COPIES_BYTES = 2
FP8_ROWS_BYTES = 1


@dataclass(frozen=True)
class Memory:
    """Bytes of one trainer rank at their largest.

    reference: weights of the KL term's model.  overhead: what no tensor of the training holds.  The buffers of a
    weight exchange do not count: activations, which are larger, are not there then.  With
    `trainer.optimizer.offload` it is the fuller of two phases: gradients are computed without the optimizer's
    state, weights are updated without activations and logits.
    """

    weights: int
    reference: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    overhead: int

    @property
    def total(self) -> int:
        """All parts."""
        return sum(self.parts().values())

    @property
    def largest(self) -> tuple[str, int]:
        """The largest part: its name and bytes."""
        return max(self.parts().items(), key=lambda part: part[1])

    def parts(self) -> dict[str, int]:
        """The parts by name."""
        return {part.name: getattr(self, part.name) for part in fields(self)}


def weight_bytes(trainer: TrainerSection, parameters: RankParameters) -> int:
    """Of the policy's weights, and of what is kept of them in 8 bits."""
    wide = parameters.total - (parameters.in_8_bits if keeps_8_bits(trainer) else 0)
    return wide * WIDTH[trainer.dtype] + parameters.in_8_bits * FP8_COPIES_BYTES


def keeps_8_bits(trainer: TrainerSection) -> bool:
    """Whether matrices that are multiplied in 8 bits have no numbers in `dtype`."""
    return trainer.fp8 is not None and trainer.fp8.parameters


def gathered_bytes(trainer: TrainerSection, parameters: RankParameters) -> int:
    """Of all weights, as data-parallel ranks gather them behind an update."""
    narrow = parameters.in_8_bits if keeps_8_bits(trainer) else 0
    return (parameters.total - narrow) * WIDTH[trainer.dtype] + narrow * FP8_ROWS_BYTES


def optimizer_bytes(recipe: Recipe, parameters: RankParameters) -> int:
    """Master weights and moments: bytes of a rank's share.

    They are split over the ranks that hold the same parameters: the data x context ranks, and for experts the
    stage's ranks over `expert_parallel`.
    """
    trainer = recipe.trainer
    copies = recipe.data_parallel * trainer.context_parallel
    of_experts = trainer.tensor_parallel * copies // trainer.expert_parallel
    share = parameters.dense / copies + parameters.experts / of_experts
    return int(share * (ADAM_BYTES + (MASTER_BYTES if trainer.dtype != "float32" else 0)))


def host_bytes(recipe: Recipe, parameters: RankParameters) -> int:
    """Of a rank's optimizer, page-locked in the host's memory, which torch gives in powers of two.

    Saves have room of their own there.
    """
    if not recipe.trainer.optimizer.offload:
        return 0
    return int(2 ** math.ceil(math.log2(optimizer_bytes(recipe, parameters))))


def checkpoint_bytes(recipe: Recipe, parameters: int) -> int:
    """Of one checkpoint on disk: weights, and master weights and moments in float32."""
    return parameters * (WIDTH[recipe.trainer.dtype] + MASTER_BYTES + ADAM_BYTES)


def tokens_and_microbatches(recipe: Recipe) -> tuple[float, int]:
    """Of the longest samples that can be: tokens of a microbatch on a rank, microbatches of an update."""
    trainer, longest = recipe.trainer, longest_sequence(recipe)
    samples = math.ceil(recipe.samples_per_step / trainer.updates_per_step / recipe.data_parallel)
    limit = max(longest, trainer.max_tokens_per_microbatch)
    tokens = min(limit, samples * longest)
    microbatches = math.ceil(samples * longest / limit)
    if trainer.virtual_pipeline_parallel > 1:
        microbatches = math.ceil(microbatches / trainer.pipeline_parallel) * trainer.pipeline_parallel
    return tokens / trainer.context_parallel, microbatches


def rank_memory(recipe: Recipe, model: ModelConfig, stage: int, on_gpu: bool) -> Memory:
    """Of a rank of pipeline stage `stage`, all of whose ranks need as much.

    `on_gpu`: else only what has a fixed size is given, the CPU's layers keep other activations; and what is
    offloaded lies in the same memory, a second time during updates.
    """
    trainer = recipe.trainer
    parameters = rank_parameters(model, trainer, stage)
    tokens, microbatches = tokens_and_microbatches(recipe)
    activations = stage_activations(model, trainer, stage, tokens, microbatches) if on_gpu else 0
    last = on_gpu and stage == trainer.pipeline_parallel - 1
    memory = Memory(
        weights=weight_bytes(trainer, parameters),
        reference=_reference_bytes(recipe, parameters),
        gradients=parameters.total * GRADIENT_BYTES,
        optimizer=optimizer_bytes(recipe, parameters),
        activations=int(activations),
        logits=_logits_bytes(model, trainer, tokens) if last else 0,
        overhead=int(OVERHEAD_GIB * GIB) if on_gpu else 0,
    )
    if not trainer.optimizer.offload:
        return memory
    if not on_gpu:
        return replace(memory, optimizer=2 * memory.optimizer)
    phases = replace(memory, optimizer=0), replace(memory, activations=0, logits=0)
    return max(phases, key=lambda phase: phase.total)


def _reference_bytes(recipe: Recipe, parameters: RankParameters) -> int:
    """Of the KL term's model: the same layout, weights only.  It has no gradients, which alone read columns."""
    if not recipe.algorithm.kl_coefficient:
        return 0
    kept = gathered_bytes if keeps_8_bits(recipe.trainer) else weight_bytes
    return kept(recipe.trainer, parameters)


def _logits_bytes(model: ModelConfig, trainer: TrainerSection, tokens: float) -> int:
    """The last stage's block of logits, hidden rows of all tokens in float32, and the projection's gradient.

    Of this gradient autograd is given a placeholder: its sum is in Megatron's buffer.
    """
    wide = WIDTH[trainer.dtype]
    rows = tokens * model.hidden_size * HEAD_ROW_BYTES * wide / 2
    columns = model.vocab_size / trainer.tensor_parallel
    logits = LOGITS_COPIES * min(trainer.logits_megabytes * 2**20, 4 * tokens * columns)
    return int(rows + logits + columns * model.hidden_size * wide)


@dataclass(frozen=True)
class EngineMemory:
    """One GPU of an engine: bytes of weights and cache, tokens in the engine's cache.

    full_length_samples: how many of the longest samples the cache holds at one time.
    """

    weights: int
    cache: int
    cache_tokens: int
    full_length_samples: int


def engine_memory(recipe: Recipe, model: ModelConfig, gpu: Gpu) -> EngineMemory:
    """SGLang's static share of the memory: weights, and keys and values in what they leave.

    A key or value head is on every rank of an engine with more ranks than heads.
    """
    engine = recipe.engine
    weights = int(count_parameters(model) * engine_width(recipe) / engine.tensor_parallel)
    cache = max(0, int(gpu.memory_bytes * engine.mem_fraction_static) - weights)
    tokens = int(cache / cache_bytes(recipe, model))
    if engine.max_total_tokens is not None:
        tokens = min(tokens, engine.max_total_tokens)
    return EngineMemory(weights, cache, tokens, tokens // longest_sequence(recipe))


def engine_width(recipe: Recipe) -> int:
    """Bytes of a number in the engine."""
    return 4 if recipe.engine.dtype == "float32" else 2


def cache_bytes(recipe: Recipe, model: ModelConfig) -> float:
    """Keys and values of one token on one GPU of an engine."""
    heads = max(1.0, model.num_key_value_heads / recipe.engine.tensor_parallel)
    return 2 * model.num_layers * heads * model.head_dim * engine_width(recipe)
