"""Megatron's distributed AdamW and its learning-rate schedule, from the recipe."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.fp8_utils import is_float8tensor, post_all_gather_processing
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from megatron_srpo.actor.megatron_config import DTYPES
from megatron_srpo.actor.shards import optimizers
from megatron_srpo.recipe.trainer import TrainerSection


def build_optimizer(trainer: TrainerSection, chunks: Sequence[DistributedDataParallel]) -> MegatronOptimizer:
    """Sharded over the data-parallel ranks; master weights and moments are float32."""
    section = trainer.optimizer
    config = OptimizerConfig(
        optimizer="adam",
        lr=section.learning_rate,
        min_lr=section.min_learning_rate,
        adam_beta1=section.betas[0],
        adam_beta2=section.betas[1],
        adam_eps=section.epsilon,
        weight_decay=section.weight_decay,
        clip_grad=section.clip_grad,
        bf16=trainer.dtype == "bfloat16",
        params_dtype=DTYPES[trainer.dtype],
        use_distributed_optimizer=True,
        overlap_param_gather=trainer.overlap_parameter_gather,
        fp8_recipe=trainer.fp8.recipe if trainer.fp8 is not None else None,
    )
    return get_megatron_optimizer(config, list(chunks))


@torch.no_grad()
def weights_from_masters(optimizer: MegatronOptimizer, model: Sequence[DistributedDataParallel]) -> None:
    """Round the master weights to the model's, as an update does; every rank calls it.

    So weights have the bits that an update would have given them, whatever a Hugging Face folder or a checkpoint
    has held in their place: how numbers are rounded to 8 bits depends on the scale of many.
    """
    for one in optimizers(optimizer):
        one._copy_main_params_to_model_params()
    gather_weights(model)


@torch.no_grad()
def gather_weights(model: Sequence[DistributedDataParallel]) -> None:
    """Have all weights on all data-parallel ranks, now; every rank calls it.

    Of a weight in 8 bits its rows are gathered.  Its columns, which gradients read, must be made of them: with
    `overlap_param_gather` Megatron does so behind gathers that overlap, but not behind this one.
    """
    for chunk in model:
        chunk.start_param_sync(force_sync=True)
        if not chunk.ddp_config.overlap_param_gather:
            continue
        quantized = [parameter for parameter in chunk.parameters() if is_float8tensor(parameter)]
        if quantized:
            post_all_gather_processing(quantized)


def build_scheduler(trainer: TrainerSection, optimizer: MegatronOptimizer) -> OptimizerParamScheduler:
    """Learning rate by optimizer update: linear warm-up, then the recipe's schedule.

    Step it before each update, so that the first update of a warm-up already has a rate above zero.
    """
    section = trainer.optimizer
    return OptimizerParamScheduler(
        optimizer,
        init_lr=0.0 if section.warmup_updates else section.learning_rate,
        max_lr=section.learning_rate,
        min_lr=section.min_learning_rate,
        lr_warmup_steps=section.warmup_updates,
        lr_decay_steps=section.decay_updates or section.warmup_updates + 1,
        lr_decay_style=section.schedule,
        start_wd=section.weight_decay,
        end_wd=section.weight_decay,
        wd_incr_steps=0,
        wd_incr_style="constant",
    )
