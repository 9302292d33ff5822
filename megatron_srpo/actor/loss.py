"""The token-level clipped surrogate of GRPO with decoupled clipping (arXiv 2402.03300, 2503.14476)."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class SurrogateLoss:
    """Sum over tokens, to be divided by the number of response tokens of the whole update.

    total: scalar with gradient; ratio: [tokens] new/old probability; clipped: [tokens] bool, where the
    clipped branch is the smaller one; importance: [tokens] weights, or none when the correction is off.
    """

    total: torch.Tensor
    ratio: torch.Tensor
    clipped: torch.Tensor
    importance: torch.Tensor | None


def surrogate_loss(
    log_probs: torch.Tensor,
    old_log_probs: torch.Tensor,
    engine_log_probs: torch.Tensor,
    advantages: torch.Tensor,
    clip_low: float,
    clip_high: float,
    importance_cap: float | None,
) -> SurrogateLoss:
    """-sum_t w_t min(r_t A_t, clip(r_t, 1 - clip_low, 1 + clip_high) A_t), with r = exp(new - old log-prob).

    All tensors are [tokens]; only `log_probs` carries a gradient.  With `importance_cap` C the weight is
    min(exp(old - engine log-prob), C), truncated importance sampling for tokens that the engine drew from
    slightly other probabilities than the trainer computes; without it w = 1.
    """
    ratio = torch.exp(log_probs - old_log_probs)
    unclipped = ratio * advantages
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    objective = torch.minimum(unclipped, bounded)
    importance = None
    if importance_cap is not None:
        importance = torch.exp(old_log_probs - engine_log_probs).clamp(max=importance_cap)
        objective = objective * importance
    return SurrogateLoss(-objective.sum(), ratio.detach(), (bounded < unclipped).detach(), importance)
