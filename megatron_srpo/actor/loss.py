"""The token losses of GRPO: clipped surrogate with decoupled clipping, KL with a reference, their sum.

Papers: arXiv 2402.03300 (GRPO), arXiv 2503.14476 (clip low and high apart, mean over tokens).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class SurrogateLoss:
    """The surrogate of one microbatch; all tensors are [tokens].

    per_token: loss with gradient; ratio: new/old probability; clipped: bool, where the clipped branch is the
    smaller one; clipped_low and clipped_high: bool, the parts of it with ratio below 1 - clip_low (negative
    advantage) and above 1 + clip_high (positive advantage); importance: weights, or none when the correction
    is off.
    """

    per_token: torch.Tensor
    ratio: torch.Tensor
    clipped: torch.Tensor
    clipped_low: torch.Tensor
    clipped_high: torch.Tensor
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
    """-w_t min(r_t A_t, clip(r_t, 1 - clip_low, 1 + clip_high) A_t), with r = exp(new - old log-prob).

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
    clipped = (bounded < unclipped).detach()
    low, high = clipped & (advantages < 0), clipped & (advantages > 0)
    return SurrogateLoss(-objective, ratio.detach(), clipped, low, high, importance)


def k3(log_probs: torch.Tensor, other_log_probs: torch.Tensor) -> torch.Tensor:
    """exp(d) - 1 - d with d = other - own log-prob of a token that the own policy drew (arXiv 2402.03300, eq. 4).

    Its mean over such tokens estimates KL(own || other) without bias; it is never negative.  All [tokens].
    """
    difference = other_log_probs - log_probs
    # exp(d) - 1 would lose the small differences between two alike policies to rounding.
    return torch.expm1(difference) - difference


def summed_loss(
    surrogate: torch.Tensor, kl: torch.Tensor | None, kl_coefficient: float, lengths: torch.Tensor | None
) -> torch.Tensor:
    """Sum over a microbatch of surrogate + kl_coefficient * kl, a scalar with gradient.

    surrogate, kl: [tokens], kl none without a reference model.  lengths: [tokens], the length of the response
    that each token belongs to, for the mean over samples of each sample's mean (divide the sum over the update
    by its samples; arXiv 2402.03300); none for the mean over tokens (divide by its tokens; arXiv 2503.14476).
    """
    per_token = surrogate if kl is None else surrogate + kl_coefficient * kl
    return (per_token if lengths is None else per_token / lengths).sum()
