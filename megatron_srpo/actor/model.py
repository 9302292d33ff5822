"""Megatron-Core's GPT from a Hugging Face config.

A rank holds one model for each of its virtual pipeline stages: functions here make and take lists of such chunks,
in model order, with one entry where there are no virtual stages.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from megatron_srpo.recipe.model_config import ModelConfig, MoEConfig
from megatron_srpo.recipe.model_folder import chunk_layers
from megatron_srpo.recipe.trainer import TrainerSection

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def _keep(weight: torch.Tensor) -> torch.Tensor:
    """The initialisation of a weight that will be loaded."""
    return weight


def transformer_config(model: ModelConfig, trainer: TrainerSection, platform: Platform) -> TransformerConfig:
    """Megatron's configuration of the model; dropout is 0 because the engine has none."""
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
        qk_layernorm=model.qk_norm,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        tensor_model_parallel_size=trainer.tensor_parallel,
        pipeline_model_parallel_size=trainer.pipeline_parallel,
        sequence_parallel=trainer.sequence_parallel,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        variable_seq_lengths=trainer.pipeline_parallel > 1,
        **_pipeline_arguments(model, trainer),
        **_moe_arguments(model.moe, trainer, platform),
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


def _moe_arguments(moe: MoEConfig | None, trainer: TrainerSection, platform: Platform) -> dict[str, Any]:
    """Experts: no token is dropped, and there is no load balancing loss."""
    # Megatron checks the dispatcher with variable lengths, experts or none.
    arguments: dict[str, Any] = {"moe_token_dispatcher_type": "alltoall"}
    if moe is None:
        return arguments
    return arguments | {
        "num_moe_experts": moe.experts,
        "moe_router_topk": moe.experts_per_token,
        "moe_ffn_hidden_size": moe.intermediate_size,
        "moe_shared_expert_intermediate_size": moe.shared_expert_intermediate_size,
        "moe_shared_expert_gate": moe.shared_expert_intermediate_size is not None,
        # Softmax over all experts and then the largest, or over the largest alone: these sum to 1.
        "moe_router_pre_softmax": not moe.normalize_top_k,
        "moe_router_dtype": "fp32",
        "moe_router_load_balancing_type": "none",
        "moe_aux_loss_coeff": 0.0,
        "moe_grouped_gemm": platform.layers == "transformer_engine",
        "expert_model_parallel_size": trainer.expert_parallel,
        "expert_tensor_parallel_size": 1,
    }


class PolicyModel(GPTModel):
    """Megatron's GPT that ends in hidden states: the log-probs are computed together with the projection.

    The last pipeline stage returns [tokens, 1, hidden], split over the tensor-parallel ranks under sequence
    parallelism.
    """

    def _postprocess(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return hidden_states

    @property
    def output_weight(self) -> torch.Tensor:
        """The last stage's output projection, [local vocabulary, hidden]; the embedding where the two are one."""
        weight: torch.Tensor | None = self.output_layer.weight
        return self.shared_embedding_or_output_weight() if weight is None else weight


def layer_spec(
    config: TransformerConfig, platform: Platform, chunk: int | None
) -> ModuleSpec | TransformerBlockSubmodules:
    """Transformer Engine's layers on CUDA, Megatron's local ones with our attention and norms elsewhere.

    `chunk` is the virtual stage, none without virtual stages.
    """
    experts = config.num_moe_experts
    if platform.layers == "transformer_engine":
        return get_gpt_layer_with_transformer_engine_spec(
            num_experts=experts, moe_grouped_gemm=config.moe_grouped_gemm, qk_layernorm=config.qk_layernorm
        )
    spec = get_gpt_layer_local_spec(num_experts=experts, qk_layernorm=config.qk_layernorm, normalization="RMSNorm")
    layer, attention = spec.submodules, spec.submodules.self_attention.submodules
    layer.input_layernorm = layer.pre_mlp_layernorm = RMSNorm
    attention.core_attention = PackedAttention
    if config.qk_layernorm:
        attention.q_layernorm = attention.k_layernorm = RMSNorm
    if experts is not None:
        # Checkpoints name a norm after the linear that Transformer Engine fuses it into, which it does not do
        # before experts.
        del layer.sharded_state_dict_keys_map["pre_mlp_layernorm."]
    return TransformerBlockSubmodules([spec] * get_num_layers_to_build(config, chunk), RMSNorm)


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


def build_model(model: ModelConfig, trainer: TrainerSection, platform: Platform) -> list[PolicyModel]:
    """This rank's chunks of the model on its device, weights not yet loaded."""
    config = transformer_config(model, trainer, platform)
    virtual = trainer.virtual_pipeline_parallel
    chunks = []
    for chunk in range(virtual) if virtual > 1 else (None,):
        stage = {"ignore_virtual": False, "vp_stage": chunk}
        gpt = PolicyModel(
            config,
            layer_spec(config, platform, chunk),
            vocab_size=padded_vocab_size(model.vocab_size, trainer.tensor_parallel),
            max_sequence_length=model.max_position_embeddings,
            pre_process=parallel_state.is_pipeline_first_stage(**stage),
            post_process=parallel_state.is_pipeline_last_stage(**stage),
            share_embeddings_and_output_weights=model.tie_word_embeddings,
            parallel_output=True,
            vp_stage=chunk,
            **_rope_arguments(model),
        )
        _mark_experts(gpt)
        chunks.append(gpt.to(platform.device))
    return chunks


def _mark_experts(gpt: GPTModel) -> None:
    """Let experts' gradients be summed over the ranks that hold the same experts, whatever the layout.

    Megatron marks them so only if expert_model_parallel_size is above 1.  Without the mark tensor-parallel ranks,
    which see different tokens, would each keep their own gradient of the experts that both hold; and a checkpoint
    could not be continued with another size, because only marked experts have an optimizer of their own.
    """
    for name, parameter in gpt.named_parameters():
        if ".mlp.experts." in name:
            parameter.allreduce = False  # type: ignore[attr-defined]


def wrap_for_training(chunks: Sequence[GPTModel]) -> list[DistributedDataParallel]:
    """Megatron's DDP with gradient buffers for the distributed optimizer; gradients are summed in float32."""
    config = chunks[0].config
    ddp_config = DistributedDataParallelConfig(use_distributed_optimizer=True, grad_reduce_in_fp32=True)
    config.finalize_model_grads_func = finalize_model_grads
    modules = [Float16Module(config, chunk) if config.bf16 else chunk for chunk in chunks]
    return [DistributedDataParallel(config, ddp_config, module) for module in modules]
