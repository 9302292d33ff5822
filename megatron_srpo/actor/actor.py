"""The policy on one rank, with all that trains it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from megatron_srpo.actor.batch import Packing
from megatron_srpo.actor.model import build_model, wrap_for_training
from megatron_srpo.actor.offload import Offload
from megatron_srpo.actor.optimizer import build_optimizer, build_scheduler, weights_from_masters
from megatron_srpo.actor.parallel import Ranks
from megatron_srpo.actor.reference import build_reference
from megatron_srpo.actor.replay import Replay
from megatron_srpo.bridge.quantized import forget_unrounded
from megatron_srpo.platform.select import Platform
from megatron_srpo.recipe.model_config import ModelConfig
from megatron_srpo.recipe.schema import Recipe
from megatron_srpo.rollout.routed_experts import routing_shape

# Transformer Engine scales blocks of 128 x 128 numbers; its other recipes want multiples of 16.
FP8_TOKENS = 128


@dataclass
class Actor:
    """The policy on this rank, with its optimizer; `version` counts the steps that it has been trained on.

    `chunks`, `model` (the same, wrapped for training) and `reference` have an entry for each virtual pipeline
    stage of this rank.  `reference` is the frozen model of the KL term, or none without one; it always chooses
    experts by itself, the policy's routers do as `replay` says, if there is one.  `offload` keeps the optimizer's
    state in the host's memory, or is none where it stays on the device.
    """

    recipe: Recipe
    model_config: ModelConfig
    ranks: Ranks
    platform: Platform
    chunks: list[GPTModel]
    model: list[DistributedDataParallel]
    optimizer: MegatronOptimizer
    scheduler: OptimizerParamScheduler
    reference: list[torch.nn.Module] | None = None
    replay: Replay | None = None
    offload: Offload | None = None
    version: int = field(default=0)

    @property
    def packing(self) -> Packing:
        """How this rank's tokens of a microbatch are laid out."""
        trainer, ranks = self.recipe.trainer, self.ranks
        multiple = ranks.tensor_size if trainer.sequence_parallel else 1
        if trainer.fp8 is not None:
            multiple *= FP8_TOKENS
        return Packing(multiple, ranks.context, ranks.context_size)

    def state_at_hand(self) -> contextlib.AbstractContextManager[None]:
        """Around everything that reads or writes the optimizer's state."""
        return contextlib.nullcontext() if self.offload is None else self.offload.at_hand()

    @property
    def microbatch_multiple(self) -> int:
        """What the number of microbatches must divide by: the interleaved schedule runs them in whole rounds."""
        return self.ranks.pipeline_size if len(self.chunks) > 1 else 1


def build_actor(
    recipe: Recipe,
    model_config: ModelConfig,
    ranks: Ranks,
    platform: Platform,
    load: Callable[[Sequence[GPTModel], ModelConfig], None],
) -> Actor:
    """Model with weights from `load`, gradient buffers and optimizer (whose master weights copy the loaded).

    With `algorithm.kl_coefficient` a frozen reference with the same weights is built as well.
    """
    chunks = build_model(model_config, recipe.trainer, platform)
    load(chunks, model_config)
    model = wrap_for_training(chunks, recipe.trainer)
    for chunk in model:
        chunk.train()
    optimizer = build_optimizer(recipe.trainer, model)
    forget_unrounded(parameter for chunk in chunks for parameter in chunk.parameters())
    weights_from_masters(optimizer, model)
    scheduler = build_scheduler(recipe.trainer, optimizer)
    reference = None
    if recipe.algorithm.kl_coefficient:
        reference = build_reference(model_config, recipe.trainer, platform, load)
    return Actor(
        recipe,
        model_config,
        ranks,
        platform,
        chunks,
        model,
        optimizer,
        scheduler,
        reference,
        replay=None if routing_shape(recipe, model_config) is None else Replay(chunks, ranks),
        offload=Offload(optimizer, platform.device) if recipe.trainer.optimizer.offload else None,
    )
