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
    get_gpt_decoder_block_spec,
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.enums import LayerType
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.utils import unwrap_model

from megatron_srpo.actor.experts import freeze_bias, kept_in_float32
from megatron_srpo.actor.local_layers import PackedAttention, RMSNorm
from megatron_srpo.actor.megatron_config import transformer_config
from megatron_srpo.platform.select import Platform
from megatron_srpo.recipe.model_config import ModelConfig
from megatron_srpo.recipe.trainer import TrainerSection


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
    experts, has_dense = config.num_moe_experts, isinstance(config.moe_layer_freq, list)
    if platform.layers == "transformer_engine":
        if has_dense:
            return get_gpt_decoder_block_spec(config, use_transformer_engine=True, vp_stage=chunk)
        return get_gpt_layer_with_transformer_engine_spec(
            num_experts=experts, moe_grouped_gemm=config.moe_grouped_gemm, qk_layernorm=config.qk_layernorm
        )
    kinds = [_local_layer(config, None), _local_layer(config, experts)]
    numbers = _layer_numbers(config, chunk)
    has_experts = [bool(config.moe_layer_freq[n]) if has_dense else experts is not None for n in numbers]
    return TransformerBlockSubmodules([kinds[one] for one in has_experts], RMSNorm)


def _layer_numbers(config: TransformerConfig, chunk: int | None) -> list[int]:
    """The numbers of a chunk's layers in the model, from 0."""
    layout = config.pipeline_model_parallel_layout
    if layout is None:
        return list(range(config.num_layers))
    return list(layout.get_layer_id_list(LayerType.decoder, vp_stage=chunk))


def _local_layer(config: TransformerConfig, experts: int | None) -> ModuleSpec:
    """Megatron's local layer with our attention and norms; `experts`: none for a dense one."""
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
    return spec


def padded_vocab_size(vocab_size: int, tensor_parallel: int) -> int:
    """Vocabulary rounded up so that every tensor-parallel rank holds the same number of rows."""
    return -(-vocab_size // tensor_parallel) * tensor_parallel


def _rope_arguments(model: ModelConfig) -> dict[str, Any]:
    """GPTModel's rotary arguments."""
    arguments: dict[str, Any] = {"position_embedding_type": "rope", "rotary_base": model.rope_theta}
    arguments["rotary_percent"] = model.rotary_share
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
    if trainer.experts.balancing != "bias":
        freeze_bias(chunks)
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


def in_16_bits(chunk: GPTModel) -> Float16Module:
    """The chunk with bfloat16 weights, wrapped; what its routers choose and count by stays float32."""
    with kept_in_float32(chunk):
        return Float16Module(chunk.config, chunk)


def wrap_for_training(chunks: Sequence[GPTModel], trainer: TrainerSection) -> list[DistributedDataParallel]:
    """Megatron's DDP with gradient buffers for the distributed optimizer; gradients are summed in float32."""
    config = chunks[0].config
    ddp_config = DistributedDataParallelConfig(
        use_distributed_optimizer=True,
        grad_reduce_in_fp32=True,
        overlap_grad_reduce=trainer.overlap_gradient_reduce,
        overlap_param_gather=trainer.overlap_parameter_gather,
        fp8_param_gather=trainer.fp8 is not None and trainer.fp8.parameters,
        bucket_size=trainer.bucket_parameters,
    )
    config.finalize_model_grads_func = finalize_model_grads
    modules = [in_16_bits(chunk) if config.bf16 else chunk for chunk in chunks]
    wrapped = [DistributedDataParallel(config, ddp_config, module) for module in modules]
    for module in wrapped:
        _fuse_gradient_accumulation(module)
    if trainer.overlap_gradient_reduce:
        no_sync = [module.no_sync for module in wrapped]  # until the last microbatch
        config.no_sync_func = no_sync if len(no_sync) > 1 else no_sync[0]
    return wrapped


def _fuse_gradient_accumulation(model: torch.nn.Module) -> None:
    """Let Transformer Engine's linears add their weights' gradients to Megatron's buffers themselves."""
    for module in model.modules():
        if hasattr(module, "fuse_wgrad_accumulation"):
            module.fuse_wgrad_accumulation = True


def output_weight(model: torch.nn.Module) -> torch.Tensor:
    """The output projection of a wrapped or bare last stage, complete.

    Overlapped gathers of parameters are waited for when a module is called, which the output layer never is.
    """
    weight: torch.Tensor = unwrap_model(model).output_weight
    if isinstance(model, DistributedDataParallel) and model.ddp_config.overlap_param_gather:
        model.param_to_bucket_group[weight].finish_param_sync()
    return weight
