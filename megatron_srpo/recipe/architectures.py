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
    shared_size: the key of the shared expert's size; none: the architecture has no shared expert.
    block: name of the module in a layer that holds router and experts.
    projections: names of an expert's gate, up and down projection.
    """

    count: tuple[str, ...]
    size: tuple[str, ...] = ("moe_intermediate_size",)
    normalize: str | None = "norm_topk_prob"
    shared_size: str | None = None
    block: str = "mlp"
    projections: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Architecture:
    """One row; the defaults are those of Llama.

    name: as `architectures` of config.json says it.
    qkv_bias: whether query, key and value projections have biases.
    qk_norm: whether queries and keys are normalised, each head by itself.
    head_dim: the head size where config.json has no head_dim; none: hidden_size / num_attention_heads.
    rope_theta, rms_norm_eps: what holds where config.json has no such key.
    window: whether `sliding_window` limits attention: "never", "always", or if "use_sliding_window" is true.
    must_be: key -> the only value that is supported, which also holds where the key is missing.
    experts: none for a dense model.
    """

    name: str
    qkv_bias: bool = False
    qk_norm: bool = False
    head_dim: int | None = None
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    window: str = "never"
    must_be: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({"attention_bias": False}))
    experts: ExpertKeys | None = None


# Asked of every architecture.
COMMON_MUST_BE = MappingProxyType({"hidden_act": "silu", "mlp_bias": False, "attention_dropout": 0.0})
# Every layer has experts: layers without them would need another layer spec and table.
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
        )
    }
)
