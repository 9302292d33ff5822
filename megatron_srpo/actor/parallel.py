"""Process groups of the trainer: torch.distributed and Megatron's parallelism of every kind.

Ranks count tensor fastest, then context, data, pipeline.  The tokens of a sequence are spread over context ranks,
which otherwise hold the same as data-parallel ones: Megatron sums gradients and shards the optimizer over both.  A
stage's ranks are also dealt out as expert x expert-data ranks, expert index fastest.  Experts are
never split by tensor parallelism (expert_tensor_parallel_size 1): they are small, and so expert parallelism may
reach over tensor-parallel ranks, which hold different tokens under sequence parallelism.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

from megatron_srpo.platform.select import Platform
from megatron_srpo.recipe.trainer import TrainerSection


@dataclass(frozen=True)
class Ranks:
    """This process's place: rank and size along each kind of parallelism.

    expert: which share of the experts this rank holds; expert_data: which copy of them.
    """

    tensor: int
    tensor_size: int
    pipeline: int
    pipeline_size: int
    context: int
    context_size: int
    data: int
    data_size: int
    expert: int
    expert_size: int
    expert_data: int

    @property
    def is_last_stage(self) -> bool:
        """Whether this rank holds the output layer and computes the loss."""
        return self.pipeline == self.pipeline_size - 1

    @property
    def leads_copies(self) -> bool:
        """Whether this rank speaks for all that hold the same, less experts (data and context ranks)."""
        return self.data == 0 and self.context == 0

    @property
    def leads_stage(self) -> bool:
        """Whether this rank speaks for its pipeline stage."""
        return self.tensor == 0 and self.leads_copies

    @property
    def leads_experts(self) -> bool:
        """Whether this rank speaks for the experts that it holds (the stage's leader does for the first share)."""
        return self.expert_data == 0


def initialize(trainer: TrainerSection, platform: Platform, seed: int) -> Ranks:
    """Join the default group (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) and make Megatron's groups."""
    if not dist.is_initialized():
        dist.init_process_group(platform.collectives, timeout=timedelta(seconds=trainer.timeout_seconds))
    parallel_state.initialize_model_parallel(
        trainer.tensor_parallel,
        trainer.pipeline_parallel,
        trainer.virtual_pipeline_parallel if trainer.virtual_pipeline_parallel > 1 else None,
        context_parallel_size=trainer.context_parallel,
        expert_model_parallel_size=trainer.expert_parallel,
        expert_tensor_parallel_size=1,
        distributed_timeout_minutes=max(1, round(trainer.timeout_seconds / 60)),
    )
    model_parallel_cuda_manual_seed(seed)
    return current_ranks()


def current_ranks() -> Ranks:
    """The ranks of this process in Megatron's groups."""
    return Ranks(
        tensor=parallel_state.get_tensor_model_parallel_rank(),
        tensor_size=parallel_state.get_tensor_model_parallel_world_size(),
        pipeline=parallel_state.get_pipeline_model_parallel_rank(),
        pipeline_size=parallel_state.get_pipeline_model_parallel_world_size(),
        context=parallel_state.get_context_parallel_rank(),
        context_size=parallel_state.get_context_parallel_world_size(),
        data=parallel_state.get_data_parallel_rank(),
        data_size=parallel_state.get_data_parallel_world_size(),
        expert=parallel_state.get_expert_model_parallel_rank(),
        expert_size=parallel_state.get_expert_model_parallel_world_size(),
        expert_data=parallel_state.get_expert_data_parallel_rank(),
    )


def shutdown() -> None:
    """Leave every group."""
    parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()
