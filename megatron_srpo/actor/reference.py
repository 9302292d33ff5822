"""The frozen reference model of the KL term: the recipe's initial weights on the actor's parallel layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from megatron.core.models.gpt.gpt_model import GPTModel

from megatron_srpo.actor.model import build_model, in_16_bits
from megatron_srpo.bridge.quantized import forget_unrounded
from megatron_srpo.platform.select import Platform
from megatron_srpo.recipe.model_config import ModelConfig
from megatron_srpo.recipe.trainer import TrainerSection


def build_reference(
    model_config: ModelConfig,
    trainer: TrainerSection,
    platform: Platform,
    load: Callable[[Sequence[GPTModel], ModelConfig], None],
) -> list[torch.nn.Module]:
    """A second model with weights from `load`, without gradient buffers and optimizer.

    It is built with a configuration of its own: the actor's carries hooks that reduce gradients.  It is never
    part of a checkpoint, so that it stays the recipe's model in a run that goes on.
    """
    with torch.no_grad():  # weights in 8 bits then have no columns, which only gradients need
        chunks = build_model(model_config, trainer, platform)
    load(chunks, model_config)
    for chunk in chunks:
        forget_unrounded(chunk.parameters())
        chunk.requires_grad_(False).eval()
    return [in_16_bits(chunk) if chunk.config.bf16 else chunk for chunk in chunks]
