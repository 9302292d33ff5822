"""The architectures that can be trained: one row each, and the only place to add another.  No torch.

A row says how a Hugging Face class differs from the common decoder: pre-norm with RMSNorm, rotary positions,
grouped attention, SwiGLU.  Everything else follows from it: what `config.json` must and may not say
(`model_config.py`), the Megatron model (`actor/model.py`) and the weight table (`bridge/tables.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class ExpertKeys:
    """How a mixture of experts is described in config.json, and what its tensors are called.

    count, size: the keys of the number of experts and of one expert's intermediate size.  The first spelling that
        the config has counts.
    normalize: the key that says whether the chosen experts' weights are made to sum to 1; none: they always are.
    shared_size: the key of the shared expert's size.  shared_count: instead, the key of how many experts' size it
        has.  Neither: the architecture has no shared expert.
    shared_gate: whether a gate weighs the shared expert.
    dense_layers: the key of how many layers, the first ones, have no experts; none: all layers have some.
    bias: name of the router's tensor that is added to the scores for the choice alone.  A router that has one
        scores each expert by itself, with a sigmoid, instead of all together with a softmax.
    scaling: the key of a factor of the chosen experts' weights; none: 1.
    block: name of the module in a layer that holds router and experts; shared_block: of the shared expert in it.
    projections: names of an expert's gate, up and down projection.
    """

    count: tuple[str, ...]
    size: tuple[str, ...] = ("moe_intermediate_size",)
    normalize: str | None = "norm_topk_prob"
    shared_size: str | None = None
    shared_count: str | None = None
    shared_gate: bool = True
    dense_layers: str | None = None
    bias: str | None = None
    scaling: str | None = None
    block: str = "mlp"
    shared_block: str = "shared_expert"
    projections: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Architecture:
    """One row; the defaults are those of Llama.

    name: as `architectures` of config.json says it.
    qkv_bias: whether query, key and value projections have biases; a name: the key that says so.
    qk_norm: whether queries and keys are normalised, each head by itself; a name: the key that says so.
    head_dim: the head size where config.json has no head_dim; none: hidden_size / num_attention_heads.
    rope_theta, rms_norm_eps: what holds where config.json has no such key.
    rotary_share: likewise for `partial_rotary_factor`, the share of a head that is rotated; none: there is no such
        key, heads are rotated whole.
    window: whether `sliding_window` limits attention: "never", "always", or if "use_sliding_window" is true.
    must_be: key -> the only value that is supported, which also holds where the key is missing.
    experts: none for a dense model.
    extra_layers: the key of how many layers there are behind those of the model, which predict further tokens
        (MTP); their tensors are passed over.
    """

    name: str
    qkv_bias: bool | str = False
    qk_norm: bool | str = False
    head_dim: int | None = None
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    rotary_share: float | None = None
    window: str = "never"
    must_be: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({"attention_bias": False}))
    experts: ExpertKeys | None = None
    extra_layers: str | None = None


# Asked of every architecture.
COMMON_MUST_BE = MappingProxyType({"hidden_act": "silu", "mlp_bias": False, "attention_dropout": 0.0})
# Every layer has experts: those without them can only come first (`dense_layers`).
_EVERY_LAYER = MappingProxyType({"decoder_sparse_step": 1, "mlp_only_layers": []})

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        row.name: row
        for row in (
            Architecture("LlamaForCausalLM"),  # Llama 2 and 3
            Architecture("MistralForCausalLM", window="always"),
            Architecture("Qwen2ForCausalLM", qkv_bias=True, window="use_sliding_window", must_be={}),  # also 2.5
            Architecture("Qwen3ForCausalLM", qk_norm=True, head_dim=128, window="use_sliding_window"),
            Architecture(
                "MixtralForCausalLM",
                rope_theta=1e6,
                rms_norm_eps=1e-5,
                window="always",
                must_be={"attention_bias": False, "router_jitter_noise": 0.0},
                experts=ExpertKeys(
                    count=("num_local_experts",),
                    size=("intermediate_size",),
                    normalize=None,
                    block="block_sparse_moe",
                    projections=("w1", "w3", "w2"),
                ),
            ),
            Architecture(
                "Qwen2MoeForCausalLM",
                qkv_bias=True,
                window="use_sliding_window",
                must_be={**_EVERY_LAYER, "qkv_bias": True},
                experts=ExpertKeys(count=("num_experts",), shared_size="shared_expert_intermediate_size"),
            ),
            Architecture(
                "Qwen3MoeForCausalLM",
                qk_norm=True,
                window="use_sliding_window",
                must_be={**_EVERY_LAYER, "attention_bias": False},
                # transformers 5 writes the second spelling, published configs have the first.
                experts=ExpertKeys(count=("num_experts", "num_local_experts")),
            ),
            Architecture(
                "Glm4MoeForCausalLM",  # GLM-4.5, GLM-4.5-Air, GLM-4.6
                qkv_bias="attention_bias",
                qk_norm="use_qk_norm",
                rms_norm_eps=1e-5,
                rotary_share=0.5,
                # A choice among groups of experts first, and weights that do not sum to 1, Megatron has otherwise.
                must_be={"n_group": 1, "topk_group": 1, "norm_topk_prob": True},
                experts=ExpertKeys(
                    count=("n_routed_experts", "num_local_experts"),
                    normalize=None,
                    shared_count="n_shared_experts",
                    shared_gate=False,
                    dense_layers="first_k_dense_replace",
                    bias="e_score_correction_bias",
                    scaling="routed_scaling_factor",
                    shared_block="shared_experts",
                ),
                extra_layers="num_nextn_predict_layers",
            ),
        )
    }
)
