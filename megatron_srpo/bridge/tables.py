"""One declarative table an architecture: which HF tensors each Megatron parameter is made of.

To add an architecture, write its table and name it in `TABLES`.  `{layer}` stands for the global layer
number.  Where Transformer Engine's spec fuses a norm into the linear behind it, the parameter has another
name: both names are listed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from megatron_srpo.bridge.layouts import GateUp, Layout, Rows, Vocabulary, Whole, grouped_qkv
from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.model_config import ModelConfig


@dataclass(frozen=True)
class Rule:
    """One line of a table: Megatron's names for a parameter, the HF names, and how they correspond.

    A rule that is not `exported` is only read: its HF tensor belongs to another rule.
    """

    megatron: tuple[str, ...]
    hf: tuple[str, ...]
    layout: Layout
    exported: bool = True


def llama_like(model: ModelConfig) -> tuple[Rule, ...]:
    """Llama 2 and 3, Qwen2 and Qwen2.5: pre-norm, grouped attention, SwiGLU."""
    layer, hf = "decoder.layers.{layer}.", "model.layers.{layer}."
    attention, mlp = layer + "self_attention.", layer + "mlp."
    qkv = tuple(hf + f"self_attn.{part}_proj." for part in "qkv")
    rules = [
        Rule(
            ("embedding.word_embeddings.weight",),
            ("model.embed_tokens.weight",),
            Vocabulary(model.vocab_size),
        ),
        Rule(
            (layer + "input_layernorm.weight", attention + "linear_qkv.layer_norm_weight"),
            (hf + "input_layernorm.weight",),
            Whole(),
        ),
        Rule((attention + "linear_qkv.weight",), tuple(n + "weight" for n in qkv), grouped_qkv(model)),
        Rule((attention + "linear_proj.weight",), (hf + "self_attn.o_proj.weight",), Rows()),
        Rule(
            (layer + "pre_mlp_layernorm.weight", mlp + "linear_fc1.layer_norm_weight"),
            (hf + "post_attention_layernorm.weight",),
            Whole(),
        ),
        Rule((mlp + "linear_fc1.weight",), (hf + "mlp.gate_proj.weight", hf + "mlp.up_proj.weight"), GateUp()),
        Rule((mlp + "linear_fc2.weight",), (hf + "mlp.down_proj.weight",), Rows()),
        Rule(("decoder.final_layernorm.weight",), ("model.norm.weight",), Whole()),
    ]
    if model.qkv_bias:
        rules.append(Rule((attention + "linear_qkv.bias",), tuple(n + "bias" for n in qkv), grouped_qkv(model)))
    # Tied output weights are the embedding: Megatron keeps a copy of it on the last pipeline stage.
    tied = model.tie_word_embeddings
    output = "model.embed_tokens.weight" if tied else "lm_head.weight"
    rules.append(Rule(("output_layer.weight",), (output,), Vocabulary(model.vocab_size), exported=not tied))
    return tuple(rules)


TABLES: dict[str, Callable[[ModelConfig], tuple[Rule, ...]]] = {
    "LlamaForCausalLM": llama_like,
    "Qwen2ForCausalLM": llama_like,
}


def table_for(model: ModelConfig) -> tuple[Rule, ...]:
    """The architecture's rules; raises SrpoError when there is no table for it."""
    if model.architecture not in TABLES:
        raise SrpoError(
            f"{model.folder}/config.json: no weight table for architecture {model.architecture}; "
            f"there are tables for {', '.join(sorted(TABLES))}"
        )
    return TABLES[model.architecture](model)
