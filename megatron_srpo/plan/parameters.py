"""Parameters of a model, whole and on each pipeline stage's ranks.  No torch."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_srpo.recipe.model_config import ModelConfig
from megatron_srpo.recipe.model_folder import chunk_layers
from megatron_srpo.recipe.trainer import TrainerSection


@dataclass(frozen=True)
class RankParameters:
    """What one rank holds.

    dense: everything but the experts.  experts: those of its share.  in_8_bits: how many of both are matrices that
    are multiplied in 8 bits, 0 without fp8.
    """

    dense: int
    experts: int
    in_8_bits: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.dense + self.experts


def count_parameters(model: ModelConfig) -> int:
    """Parameters of the whole model; tied embeddings count once."""
    embedding = model.vocab_size * model.hidden_size
    outer = embedding * (1 if model.tie_word_embeddings else 2) + model.hidden_size
    layers = [model.like(layer) for layer in range(model.num_layers)]
    return outer + sum(layer_parameters(one, 1) + expert_parameters(one, 1) for one in layers)


def layer_parameters(model: ModelConfig, tensor_parallel: int) -> int:
    """Of a decoder layer, less its experts, on one tensor-parallel rank; norms are on every rank.

    All of the model's layers are of one kind (`ModelConfig.like`), here and in `expert_parameters`.
    """
    hidden, moe = model.hidden_size, model.moe
    split = _matrices(model)
    if model.qkv_bias:
        split += model.query_size + 2 * model.key_value_size
    whole = 2 * hidden + (2 * model.head_dim if model.qk_norm else 0)
    if moe is not None:
        gate = hidden if moe.shared_expert_intermediate_size and moe.shared_gate else 0
        bias = moe.experts if moe.router_bias else 0
        whole += moe.experts * hidden + bias + gate  # the router, and the shared expert's gate
    return split // tensor_parallel + whole


def expert_parameters(model: ModelConfig, expert_parallel: int) -> int:
    """Of a layer's experts on one expert-parallel rank."""
    if model.moe is None:
        return 0
    return model.moe.experts // expert_parallel * 3 * model.hidden_size * model.moe.intermediate_size


def stage_layers(model: ModelConfig, trainer: TrainerSection, stage: int) -> list[range]:
    """The layers of each chunk of a pipeline stage, by their numbers in the model."""
    chunks, start = [], 0
    for layers in chunk_layers(model, trainer):
        chunks.append(range(start, start + layers))
        start += layers
    return chunks[stage :: trainer.pipeline_parallel]


def is_in_8_bits(model: ModelConfig, trainer: TrainerSection, layer: int) -> bool:
    """Whether a layer's matrices are multiplied in 8 bits."""
    fp8 = trainer.fp8
    if fp8 is None:
        return False
    return fp8.first_layers_bf16 <= layer < model.num_layers - fp8.last_layers_bf16


def rank_parameters(model: ModelConfig, trainer: TrainerSection, stage: int) -> RankParameters:
    """Of a rank of pipeline stage `stage`; they are as many on all of its ranks."""
    size = trainer.tensor_parallel
    layers = [layer for chunk in stage_layers(model, trainer, stage) for layer in chunk]
    kinds = [model.like(layer) for layer in layers]
    dense = sum(layer_parameters(one, size) for one in kinds)
    of_experts = [expert_parameters(one, trainer.expert_parallel) for one in kinds]
    embedding = -(-model.vocab_size // size) * model.hidden_size  # rows are padded to equal shares
    first, last = stage == 0, stage == trainer.pipeline_parallel - 1
    if first:
        dense += embedding
    if last:
        dense += model.hidden_size
        # A tied output layer is the same tensor on one stage, and a copy of it on a stage of its own.
        if not (model.tie_word_embeddings and first):
            dense += embedding
    in_8_bits = sum(
        _matrices(one) // size + experts
        for one, experts, layer in zip(kinds, of_experts, layers, strict=True)
        if is_in_8_bits(model, trainer, layer)
    )
    return RankParameters(dense, sum(of_experts), in_8_bits)


def _matrices(model: ModelConfig) -> int:
    """Of a layer, what tensor parallelism splits, less biases."""
    hidden, moe = model.hidden_size, model.moe
    width = model.intermediate_size if moe is None else moe.shared_expert_intermediate_size or 0
    return hidden * (2 * model.query_size + 2 * model.key_value_size) + 3 * hidden * width
