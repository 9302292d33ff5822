"""Megatron-Core's configuration of a model: the recipe and a Hugging Face config in Megatron's words."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_srpo.errors import SrpoError, one_line
from megatron_srpo.platform.select import Platform
from megatron_srpo.recipe.model_config import ModelConfig
from megatron_srpo.recipe.model_folder import chunk_layers
from megatron_srpo.recipe.trainer import Fp8Section, RecomputeSection, TrainerSection

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def _keep(weight: torch.Tensor) -> torch.Tensor:
    """The initialisation of a weight that will be loaded."""
    return weight


def transformer_config(model: ModelConfig, trainer: TrainerSection, platform: Platform) -> TransformerConfig:
    """Megatron's configuration of the model; dropout is 0 because the engine has none.

    Raises:
        SrpoError: when the recipe asks for what only GPUs have and this rank has none.
    """
    _check_platform(trainer, platform)
    dtype = DTYPES[trainer.dtype]
    fused = platform.is_cuda
    return _build(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.intermediate_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.num_key_value_heads,
        kv_channels=model.head_dim,
        layernorm_epsilon=model.rms_norm_eps,
        normalization="RMSNorm",
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        add_qkv_bias=model.qkv_bias,
        qk_layernorm=model.qk_norm,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        tensor_model_parallel_size=trainer.tensor_parallel,
        pipeline_model_parallel_size=trainer.pipeline_parallel,
        context_parallel_size=trainer.context_parallel,
        sequence_parallel=trainer.sequence_parallel,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        variable_seq_lengths=trainer.pipeline_parallel > 1,
        **_pipeline_arguments(model, trainer),
        **_moe_arguments(model, trainer, platform),
        calculate_per_token_loss=True,
        # Every weight comes from a checkpoint, so random initialisation would be wasted work; but
        # `perform_initialization=False` would also leave out the marks by which the gradient norm knows
        # tensor-parallel parameters.
        init_method=_keep,
        output_layer_init_method=_keep,
        use_cpu_initialization=not platform.is_cuda,
        bias_activation_fusion=fused,
        bias_dropout_fusion=fused,
        apply_rope_fusion=fused,
        masked_softmax_fusion=False,
        persist_layer_norm=fused,
        # Transformer Engine's linears are told one by one (`fuse_gradient_accumulation`): Megatron's own output
        # layer would refuse without apex's kernel, which it needs no more.
        gradient_accumulation_fusion=False,
        **_recompute_arguments(trainer.recompute),
        **_fp8_arguments(trainer.fp8),
    )


def _build(**arguments: Any) -> TransformerConfig:
    """Megatron's own checks of what it is asked for, as a sentence."""
    try:
        return TransformerConfig(**arguments)
    except (ValueError, AssertionError) as error:
        raise SrpoError(
            f"trainer: Megatron-Core does not take this configuration ({one_line(error)}); change the keys that "
            "it names"
        ) from error


def _check_platform(trainer: TrainerSection, platform: Platform) -> None:
    """With `device: auto` it shows only here that there is no GPU."""
    recompute = trainer.recompute
    wanted = {
        "trainer.fp8": trainer.fp8 is not None,
        # Megatron asks Transformer Engine how to do it.
        "layernorm in trainer.recompute.modules": recompute.granularity == "selective"
        and "layernorm" in recompute.modules,
    }
    for key, value in wanted.items():
        if value and not platform.is_cuda:
            raise SrpoError(
                f"{key} needs GPUs, but trainer.device {trainer.device} is the CPU here; leave {key} out, or run "
                "on a machine with GPUs"
            )


def _pipeline_arguments(model: ModelConfig, trainer: TrainerSection) -> dict[str, Any]:
    """Which layers are in which chunk of which pipeline stage."""
    stages, virtual = trainer.pipeline_parallel, trainer.virtual_pipeline_parallel
    if stages == 1:
        return {}
    chunks = [["decoder"] * layers for layers in chunk_layers(model, trainer)]
    chunks[0].insert(0, "embedding")
    chunks[-1].append("loss")
    arguments: dict[str, Any] = {"pipeline_model_parallel_layout": chunks}
    if virtual > 1:
        # Without overlap both directions of two stages would share one batch of sends and receives, which are
        # matched by order alone: with two stages activations and gradients change places.
        arguments |= {"overlap_p2p_comm": True, "batch_p2p_comm": False}
    return arguments


def _moe_arguments(model: ModelConfig, trainer: TrainerSection, platform: Platform) -> dict[str, Any]:
    """Experts: no token is dropped."""
    moe, section = model.moe, trainer.experts
    # Megatron checks the dispatcher with variable lengths, experts or none.
    arguments: dict[str, Any] = {"moe_token_dispatcher_type": "alltoall"}
    if moe is None:
        return arguments
    return arguments | {
        "num_moe_experts": moe.experts,
        "moe_router_topk": moe.experts_per_token,
        "moe_ffn_hidden_size": moe.intermediate_size,
        "moe_shared_expert_intermediate_size": moe.shared_expert_intermediate_size,
        "moe_shared_expert_gate": moe.shared_expert_intermediate_size is not None and moe.shared_gate,
        **({"moe_layer_freq": _layers_with_experts(model)} if moe.dense_layers else {}),
        # Megatron makes the chosen scores of a sigmoid sum to 1, the only form that is supported.
        "moe_router_score_function": "sigmoid" if moe.router_bias else "softmax",
        "moe_router_enable_expert_bias": moe.router_bias,
        "moe_router_bias_update_rate": section.bias_update_rate,
        "moe_router_topk_scaling_factor": moe.scaling if moe.router_bias else None,
        # Softmax over all experts and then the largest, or over the largest alone: these sum to 1.
        "moe_router_pre_softmax": not moe.normalize_top_k,
        "moe_router_dtype": "fp32",
        "moe_router_load_balancing_type": "aux_loss" if section.balancing == "aux_loss" else "none",
        "moe_aux_loss_coeff": section.aux_loss_coefficient if section.balancing == "aux_loss" else 0.0,
        "moe_grouped_gemm": platform.layers == "transformer_engine",
        "expert_model_parallel_size": trainer.expert_parallel,
        "expert_tensor_parallel_size": 1,
    }


def _layers_with_experts(model: ModelConfig) -> list[int]:
    """1 for each layer with experts, 0 for one without."""
    return [int(layer >= model.dense_layers) for layer in range(model.num_layers)]


def _recompute_arguments(section: RecomputeSection) -> dict[str, Any]:
    """What the backward pass computes again."""
    if section.granularity == "none":
        return {}
    if section.granularity == "selective":
        return {"recompute_granularity": "selective", "recompute_modules": list(section.modules)}
    method, layers = ("uniform", 1) if section.layers is None else ("block", section.layers)
    return {"recompute_granularity": "full", "recompute_method": method, "recompute_num_layers": layers}


def _fp8_arguments(section: Fp8Section | None) -> dict[str, Any]:
    """Transformer Engine's 8-bit recipe."""
    if section is None:
        return {}
    first, last = section.first_layers_bf16, section.last_layers_bf16
    arguments: dict[str, Any] = {
        "fp8": section.format,
        "fp8_recipe": section.recipe,
        "fp8_param": section.parameters,
        "fp8_amax_history_len": section.amax_history,
        "fp8_amax_compute_algo": "max",
    }
    if first or last:
        arguments |= {
            "first_last_layers_bf16": True,
            "num_layers_at_start_in_bf16": first,
            "num_layers_at_end_in_bf16": last,
        }
    return arguments
