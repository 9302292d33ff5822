"""Megatron-Core's GPT from a Hugging Face config."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_srpo.actor.local_layers import PackedAttention, RMSNorm
from megatron_srpo.platform.select import Platform
from megatron_srpo.recipe.model_config import ModelConfig
from megatron_srpo.recipe.schema import TrainerSection

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def _keep(weight: torch.Tensor) -> torch.Tensor:
    """The initialisation of a weight that will be loaded."""
    return weight


def transformer_config(model: ModelConfig, trainer: TrainerSection, platform: Platform) -> TransformerConfig:
    """Megatron's configuration of a Qwen2 or Llama model; dropout is 0 because the engine has none."""
    dtype = DTYPES[trainer.dtype]
    fused = platform.is_cuda
    return TransformerConfig(
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
        hidden_dropout=0.0,
        attention_dropout=0.0,
        tensor_model_parallel_size=trainer.tensor_parallel,
        pipeline_model_parallel_size=trainer.pipeline_parallel,
        sequence_parallel=trainer.sequence_parallel,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        variable_seq_lengths=trainer.pipeline_parallel > 1,
        moe_token_dispatcher_type="alltoall",  # Megatron checks it with variable lengths, experts or none
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
        gradient_accumulation_fusion=False,
    )


def layer_spec(config: TransformerConfig, platform: Platform) -> ModuleSpec | TransformerBlockSubmodules:
    """Transformer Engine's layers on CUDA, Megatron's local ones with our attention and norm elsewhere."""
    if platform.layers == "transformer_engine":
        return get_gpt_layer_with_transformer_engine_spec()
    spec = get_gpt_layer_local_spec(normalization="RMSNorm")
    spec.submodules.input_layernorm = RMSNorm
    spec.submodules.pre_mlp_layernorm = RMSNorm
    spec.submodules.self_attention.submodules.core_attention = PackedAttention
    return TransformerBlockSubmodules([spec] * get_num_layers_to_build(config), RMSNorm)


def padded_vocab_size(vocab_size: int, tensor_parallel: int) -> int:
    """Vocabulary rounded up so that every tensor-parallel rank holds the same number of rows."""
    return -(-vocab_size // tensor_parallel) * tensor_parallel


def _rope_arguments(model: ModelConfig) -> dict[str, Any]:
    """GPTModel's rotary arguments."""
    arguments: dict[str, Any] = {"position_embedding_type": "rope", "rotary_base": model.rope_theta}
    scaling = model.rope_scaling
    if scaling is not None and scaling.kind == "llama3":
        arguments |= {"rope_scaling": True, "rope_scaling_factor": scaling.factor}
    elif scaling is not None:
        arguments |= {"seq_len_interpolation_factor": scaling.factor}
    return arguments


def build_model(model: ModelConfig, trainer: TrainerSection, platform: Platform) -> GPTModel:
    """This rank's part of the model on its device, weights not yet loaded."""
    config = transformer_config(model, trainer, platform)
    return GPTModel(
        config,
        layer_spec(config, platform),
        vocab_size=padded_vocab_size(model.vocab_size, trainer.tensor_parallel),
        max_sequence_length=model.max_position_embeddings,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        share_embeddings_and_output_weights=model.tie_word_embeddings,
        parallel_output=True,
        **_rope_arguments(model),
    ).to(platform.device)


def wrap_for_training(gpt: GPTModel) -> DistributedDataParallel:
    """Megatron's DDP with gradient buffers for the distributed optimizer; gradients are summed in float32."""
    config = gpt.config
    module = Float16Module(config, gpt) if config.bf16 else gpt
    ddp_config = DistributedDataParallelConfig(use_distributed_optimizer=True, grad_reduce_in_fp32=True)
    config.finalize_model_grads_func = finalize_model_grads
    return DistributedDataParallel(config, ddp_config, module)
