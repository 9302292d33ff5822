"""Which HF tensors each Megatron parameter is made of, as a list of rules that follows from the model's config.

`{layer}` stands for the global number of a layer and `{expert}` for that of an expert.  Where Transformer
Engine's spec has another module than the local one (a norm fused into the linear behind it, all experts in one
grouped linear), the parameter has another name: both names are listed.  What distinguishes architectures is in
`recipe/architectures.py`; nothing here depends on the parallel layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from megatron_srpo.bridge.layouts import GateUp, Layout, Rows, Vocabulary, Whole, grouped_qkv
from megatron_srpo.recipe.architectures import ARCHITECTURES, ExpertKeys
from megatron_srpo.recipe.model_config import ModelConfig, MoEConfig

_LAYER, _HF_LAYER = "decoder.layers.{layer}.", "model.layers.{layer}."


@dataclass(frozen=True)
class Rule:
    """One line of a table: Megatron's names for a parameter, the HF names, and how they correspond.

    A rule that is not `exported` is only read: its HF tensor belongs to another rule.  `layers` are the numbers of
    the layers that have such a parameter; one that is outside layers counts as one of layer 0.  A parameter that
    `keeps_float32` has that type whatever the others have.
    """

    megatron: tuple[str, ...]
    hf: tuple[str, ...]
    layout: Layout
    exported: bool = True
    layers: range = range(1)
    keeps_float32: bool = False

    @property
    def of_expert(self) -> bool:
        """Whether there is such a parameter for every expert: split over expert-parallel ranks, whole on each."""
        return "{expert}" in self.hf[0]

    @property
    def of_layer(self) -> bool:
        """Whether the parameter lies in a layer."""
        return "{layer}" in self.hf[0]


def table_for(model: ModelConfig) -> tuple[Rule, ...]:
    """All rules of a model; every parameter and every HF tensor is in exactly one that is exported."""
    names, moe = ARCHITECTURES[model.architecture].experts, model.moe
    dense, every = range(model.dense_layers), range(model.num_layers)
    rules = [*_outer_rules(model), *_in(every, _attention_rules(model))]
    if dense:
        rules += _in(dense, _dense_rules())
    if moe is not None and names is not None:
        rules += _in(every[len(dense) :], _expert_rules(moe, names))
    return tuple(rules)


def _in(layers: range, rules: tuple[Rule, ...]) -> Iterator[Rule]:
    """The rules for certain layers."""
    return (replace(rule, layers=layers) for rule in rules)


def expand(rule: Rule, layer: int, expert: int = 0) -> tuple[str, ...]:
    """The HF names of a rule for a global layer and expert number."""
    return tuple(name.replace("{layer}", str(layer)).replace("{expert}", str(expert)) for name in rule.hf)


def hf_names(model: ModelConfig) -> set[str]:
    """Every HF tensor that a model's table speaks of."""
    return _names(table_for(model), model)


def float32_names(model: ModelConfig) -> set[str]:
    """Those of them that are float32 whatever type the others have."""
    return _names([rule for rule in table_for(model) if rule.keeps_float32], model)


def _names(rules: Sequence[Rule], model: ModelConfig) -> set[str]:
    """The HF tensors of rules."""
    experts = range(model.moe.experts) if model.moe is not None else range(1)
    return {
        name
        for rule in rules
        for layer in rule.layers
        for expert in (experts if rule.of_expert else range(1))
        for name in expand(rule, layer, expert)
    }


def _outer_rules(model: ModelConfig) -> tuple[Rule, ...]:
    """Embedding, last norm and output layer."""
    # Tied output weights are the embedding: Megatron keeps a copy of it on the last pipeline stage.
    tied = model.tie_word_embeddings
    output = "model.embed_tokens.weight" if tied else "lm_head.weight"
    vocabulary = Vocabulary(model.vocab_size)
    return (
        Rule(("embedding.word_embeddings.weight",), ("model.embed_tokens.weight",), vocabulary),
        Rule(("decoder.final_layernorm.weight",), ("model.norm.weight",), Whole()),
        Rule(("output_layer.weight",), (output,), vocabulary, exported=not tied),
    )


def _attention_rules(model: ModelConfig) -> tuple[Rule, ...]:
    """A layer's attention and its two norms."""
    attention, hf = _LAYER + "self_attention.", _HF_LAYER + "self_attn."
    qkv = tuple(hf + f"{part}_proj." for part in "qkv")
    rules = [
        Rule(
            (_LAYER + "input_layernorm.weight", attention + "linear_qkv.layer_norm_weight"),
            (_HF_LAYER + "input_layernorm.weight",),
            Whole(),
        ),
        Rule((attention + "linear_qkv.weight",), tuple(n + "weight" for n in qkv), grouped_qkv(model)),
        Rule((attention + "linear_proj.weight",), (hf + "o_proj.weight",), Rows()),
        Rule(
            (_LAYER + "pre_mlp_layernorm.weight", _LAYER + "mlp.linear_fc1.layer_norm_weight"),
            (_HF_LAYER + "post_attention_layernorm.weight",),
            Whole(),
        ),
    ]
    if model.qkv_bias:
        rules.append(Rule((attention + "linear_qkv.bias",), tuple(n + "bias" for n in qkv), grouped_qkv(model)))
    if model.qk_norm:
        for part in "qk":
            rules.append(Rule((attention + f"{part}_layernorm.weight",), (hf + f"{part}_norm.weight",), Whole()))
    return tuple(rules)


def _swiglu(megatron: str, hf: str, projections: tuple[str, str, str]) -> tuple[Rule, ...]:
    """The two linears of a SwiGLU, whose modules are called as given."""
    gate, up, down = (f"{hf}{name}.weight" for name in projections)
    return (
        Rule((megatron + "linear_fc1.weight",), (gate, up), GateUp()),
        Rule((megatron + "linear_fc2.weight",), (down,), Rows()),
    )


def _dense_rules() -> tuple[Rule, ...]:
    return _swiglu(_LAYER + "mlp.", _HF_LAYER + "mlp.", ("gate_proj", "up_proj", "down_proj"))


def _expert_rules(moe: MoEConfig, names: ExpertKeys) -> tuple[Rule, ...]:
    """Router, experts and shared expert of a layer."""
    mlp, hf = _LAYER + "mlp.", f"{_HF_LAYER}{names.block}."
    gate, up, down = (f"{hf}experts.{{expert}}.{name}.weight" for name in names.projections)
    one, grouped = mlp + "experts.local_experts.{expert}.linear_", mlp + "experts.linear_"
    rules = [
        Rule((mlp + "router.weight",), (hf + "gate.weight",), Whole()),
        Rule((one + "fc1.weight", grouped + "fc1.weight{expert}"), (gate, up), GateUp()),
        Rule((one + "fc2.weight", grouped + "fc2.weight{expert}"), (down,), Rows()),
    ]
    if names.bias is not None:
        bias = Rule((mlp + "router.expert_bias",), (f"{hf}gate.{names.bias}",), Whole(), keeps_float32=True)
        rules.append(bias)
    if moe.shared_expert_intermediate_size is not None:
        shared = hf + names.shared_block
        rules += _swiglu(mlp + "shared_experts.", shared + ".", names.projections)
        if moe.shared_gate:
            rules.append(Rule((mlp + "shared_experts.gate_weight",), (shared + "_gate.weight",), Whole()))
    return tuple(rules)
