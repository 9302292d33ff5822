"""Bytes of activations that a layer keeps for its backward pass, and of how many microbatches at a time.

arXiv 2205.05198 counts them for LayerNorm, GELU and attention as a matrix.  The table below does so for RMSNorm,
SwiGLU, grouped queries and flash attention in Transformer Engine's layers, which keep:

| term | bytes a token (w: 2 in bfloat16, e: 1 in fp8, else w) | split by |
|---|---|---|
| attention_norm_input | w h + 4: the residual stream, and the norm's factor | s |
| attention_norm_output | e h: the input of the query, key and value product | s |
| qk_norm_inputs | w (q + k) + 4 a number for each head, with such norms | t |
| qkv | w (q + 2 k): after the rotation | t |
| attention_output | w q: of the attention, and the same tensor for the product behind it; e q more in fp8 | t |
| log_sum_exp | 4 for each query head | t |
| mlp_norm_input | w h + 4 | s |
| mlp_norm_output | e h: the input of the gate and up product | s |
| expert_norm_output | w h: instead, the input of router and dispatcher | s |
| gate_up | 2 w f: the input of SwiGLU | t |
| product | e f: the input of the down product | t |
| router | 12 for each expert: logits, shares and chosen shares in float32 | s |
| expert_inputs | e n h: the dispatched tokens | s |
| expert_gate_up | 2 w n m + 4 n: and the chosen share that SwiGLU weighs with | s |
| expert_product | e n m | s |
| shared_gate_up | 2 w f of the shared expert, and its output w h where it is gated | t, s |
| shared_product | e f of the shared expert | t |

h: hidden size; q, k: widths of all query heads and of all key heads; f, m: intermediate size of the dense layer
and of an expert; n: experts that a token visits, times the imbalance where they are on several ranks; t:
tensor-parallel size; s: t under sequence parallelism, else 1.  Dropout is 0 and keeps nothing.  Context
parallelism divides the tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from megatron_srpo.plan.gpus import EXPERT_IMBALANCE
from megatron_srpo.plan.parameters import is_in_8_bits, stage_layers
from megatron_srpo.recipe.model_config import ModelConfig, MoEConfig
from megatron_srpo.recipe.trainer import TrainerSection

WIDTH = {"float32": 4, "bfloat16": 2}
LAYER_INPUT = "attention_norm_input"
_EXPERTS = frozenset({"router", "expert_inputs", "expert_gate_up", "expert_product", "shared_gate_up"})
# What selective recomputation does not keep.  Transformer Engine's dense layers have their norms inside the
# products, where Megatron-Core cannot recompute them by themselves; the norm before experts stands alone.
RECOMPUTED: Mapping[str, frozenset[str]] = {
    "core_attn": frozenset({"log_sum_exp"}),
    "mlp": frozenset({"mlp_norm_output", "gate_up", "product"}),
    "layernorm": frozenset({"expert_norm_output"}),
    "moe": _EXPERTS | {"shared_product"},
    "moe_act": frozenset({"expert_product"}),
}
_GRADIENTS = ("gate_up", "product", "expert_inputs", "expert_gate_up", "expert_product")


@dataclass(frozen=True)
class LayerActivations:
    """Bytes a token of a microbatch that one layer keeps, and that exist only while it is worked on."""

    kept: float
    working: float


def layer_terms(model: ModelConfig, trainer: TrainerSection, in_8_bits: bool = False) -> dict[str, float]:
    """The terms of the table, without any recomputation, for a model whose layers are of one kind."""
    wide = WIDTH[trainer.dtype]
    narrow = 1 if in_8_bits else wide
    hidden, query, key = model.hidden_size, model.query_size, model.key_value_size
    tensor = trainer.tensor_parallel
    sequence = tensor if trainer.sequence_parallel else 1
    terms = {
        LAYER_INPUT: (wide * hidden + 4) / sequence,
        "attention_norm_output": narrow * hidden / sequence,
        "qkv": wide * (query + 2 * key) / tensor,
        "attention_output": (wide + (1 if in_8_bits else 0)) * query / tensor,
        "log_sum_exp": 4 * model.num_attention_heads / tensor,
        "mlp_norm_input": (wide * hidden + 4) / sequence,
    }
    if model.qk_norm:
        heads = model.num_attention_heads + model.num_key_value_heads
        terms["qk_norm_inputs"] = (wide * (query + key) + 4 * heads) / tensor
    if model.moe is None:
        return terms | {
            "mlp_norm_output": narrow * hidden / sequence,
            "gate_up": 2 * wide * model.intermediate_size / tensor,
            "product": narrow * model.intermediate_size / tensor,
        }
    return terms | _expert_terms(model.moe, trainer, hidden, wide, narrow)


def _expert_terms(
    moe: MoEConfig, trainer: TrainerSection, hidden: int, wide: int, narrow: int
) -> dict[str, float]:
    """Of a layer with experts, what is behind the attention."""
    tensor = trainer.tensor_parallel
    sequence = tensor if trainer.sequence_parallel else 1
    visits = moe.experts_per_token / sequence * (EXPERT_IMBALANCE if trainer.expert_parallel > 1 else 1)
    terms = {
        "expert_norm_output": wide * hidden / sequence,
        "router": 12 * moe.experts / sequence,
        "expert_inputs": visits * narrow * hidden,
        "expert_gate_up": visits * (2 * wide * moe.intermediate_size + 4),
        "expert_product": visits * narrow * moe.intermediate_size,
    }
    shared = moe.shared_expert_intermediate_size
    if shared is None:
        return terms
    gated = wide * hidden / sequence if moe.shared_gate else 0.0
    return terms | {
        "shared_gate_up": 2 * wide * shared / tensor + gated,
        "shared_product": narrow * shared / tensor,
    }


def layer_activations(
    model: ModelConfig, trainer: TrainerSection, in_8_bits: bool, whole: bool
) -> LayerActivations:
    """Of one layer under the recipe's recomputation; `whole`: the layer is one that is recomputed whole.

    While a layer's backward pass runs there is again what had not been kept, the gradients of its widest
    activations, and under tensor parallelism the gathered rows and their gradient.
    """
    terms, recompute = layer_terms(model, trainer, in_8_bits), trainer.recompute
    everything = sum(terms.values())
    dropped = 0.0
    if recompute.granularity == "selective":
        names = frozenset[str]().union(*(RECOMPUTED[module] for module in recompute.modules))
        dropped = sum(value for name, value in terms.items() if name in names)
    if whole:
        dropped = everything - terms[LAYER_INPUT]
    gradients = sum(terms.get(name, 0.0) for name in _GRADIENTS)
    gathered = 2 * WIDTH[trainer.dtype] * model.hidden_size
    return LayerActivations(everything - dropped, dropped + gradients + gathered)


def in_flight(pipeline: int, virtual: int, stage: int, microbatches: int) -> tuple[int, ...]:
    """Of how many microbatches a stage holds activations at one time, for each of its chunks.

    1F1B holds as many as there are stages from this one on.  The interleaved schedule (arXiv 2104.04473) runs
    ahead by two for each stage behind this one and by a round of all stages for each further chunk; the forward
    passes go through the chunks in rounds of as many microbatches as there are stages.
    """
    if virtual == 1:
        return (min(microbatches, pipeline - stage),)
    ahead = 2 * (pipeline - stage - 1) + (virtual - 1) * pipeline + 1
    counts = [0] * virtual
    for step in range(min(ahead, microbatches * virtual)):
        counts[step // pipeline % virtual] += 1
    return tuple(counts)


def stage_activations(
    model: ModelConfig, trainer: TrainerSection, stage: int, tokens: float, microbatches: int
) -> float:
    """Bytes on a rank of a pipeline stage at their largest.

    Args:
        tokens: of a microbatch, on this rank.
        microbatches: of an update, on a data-parallel rank.
    """
    chunks = stage_layers(model, trainer, stage)
    held = in_flight(trainer.pipeline_parallel, trainer.virtual_pipeline_parallel, stage, microbatches)
    recompute = trainer.recompute
    kept = working = 0.0
    for layers, times in zip(chunks, held, strict=True):
        limit = len(layers) if recompute.layers is None else recompute.layers
        for place, layer in enumerate(layers):
            whole = recompute.granularity == "full" and place < limit
            of_layer = layer_activations(model.like(layer), trainer, is_in_8_bits(model, trainer, layer), whole)
            kept += times * of_layer.kept
            working = max(working, of_layer.working)
    return tokens * (kept + working)
