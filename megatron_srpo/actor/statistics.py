"""Token statistics of an update: summed over microbatches and ranks, then turned into metrics."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from megatron_srpo.actor.loss import SurrogateLoss, k3
from megatron_srpo.actor.parallel import Ranks

SUMS = (
    "tokens",
    "gradient_tokens",
    "loss_count",
    "loss",
    "log_prob",
    "entropy",
    "ratio",
    "clipped",
    "clipped_low",
    "clipped_high",
    "importance",
    "mismatch_abs",
    "mismatch_kl",
    "kl_rollout",
    "kl_reference",
)


@dataclass(frozen=True)
class TokenStatistics:
    """Sums over response tokens (float64, in the order of SUMS) and the largest mismatch."""

    sums: torch.Tensor
    largest: torch.Tensor


@dataclass(frozen=True)
class LogProbs:
    """Log-probs of a microbatch's response tokens, all [responses].

    present: the weights that are trained, now; old: the trainer's weights before the step's first update;
    engine: as the engine reported them; reference: the reference model's, or none without one.
    """

    present: torch.Tensor
    old: torch.Tensor
    engine: torch.Tensor
    reference: torch.Tensor | None


@torch.no_grad()
def token_statistics(
    loss: torch.Tensor,
    count: torch.Tensor,
    surrogate: SurrogateLoss,
    log_probs: LogProbs,
    advantages: torch.Tensor,
    entropy: torch.Tensor,
) -> TokenStatistics:
    """Statistics of one microbatch.

    loss: summed, scalar; count: what the sum over the update is divided by, scalar; advantages, entropy:
    [responses].  The mismatch is d = trainer's minus engine's log-prob of the same token under the weights
    that drew it; exp(d) - 1 - d estimates KL(engine || trainer) without bias and with little variance.
    `kl_rollout` is the same of the present weights: how far the updates have moved from the rollout policy.
    """
    engine, present = log_probs.engine.double(), log_probs.present.double()
    difference = log_probs.old.double() - engine
    zeros, ones = torch.zeros_like(difference), torch.ones_like(difference)
    reference = log_probs.reference
    columns = {
        "tokens": ones,
        "gradient_tokens": advantages != 0,
        "loss_count": count,
        "loss": loss,
        "log_prob": log_probs.old,
        "entropy": entropy,
        "ratio": surrogate.ratio,
        "clipped": surrogate.clipped,
        "clipped_low": surrogate.clipped_low,
        "clipped_high": surrogate.clipped_high,
        "importance": ones if surrogate.importance is None else surrogate.importance,
        "mismatch_abs": difference.abs(),
        "mismatch_kl": difference.exp() - 1 - difference,
        "kl_rollout": k3(engine, present),
        "kl_reference": zeros if reference is None else k3(present, reference.double()),
    }
    sums = torch.stack([columns[name].double().sum() for name in SUMS])
    largest = difference.abs().max() if len(difference) else difference.sum()
    return TokenStatistics(sums, largest)


def reduce_statistics(
    parts: list[TokenStatistics], ranks: Ranks, device: torch.device, with_reference: bool
) -> dict[str, float]:
    """Means over the tokens of all microbatches, data-parallel and context ranks, the same on every rank.

    Only the last pipeline stage has parts; it shares the result with the others.
    """
    sums = torch.zeros(len(SUMS), dtype=torch.float64, device=device)
    largest = torch.zeros(1, dtype=torch.float64, device=device)
    if parts:
        sums = torch.stack([part.sums for part in parts]).sum(dim=0)
        largest = torch.stack([part.largest for part in parts]).amax(dim=0, keepdim=True)
    data_group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    dist.all_reduce(sums, group=data_group)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=data_group)
    if ranks.pipeline_size > 1:
        last = parallel_state.get_pipeline_model_parallel_last_rank()
        group = parallel_state.get_pipeline_model_parallel_group()
        dist.broadcast(sums, src=last, group=group)
        dist.broadcast(largest, src=last, group=group)
    values = dict(zip(SUMS, sums.tolist(), strict=True))
    return metrics_of(values, with_reference) | {"mismatch_max": float(largest)}


def metrics_of(sums: dict[str, float], with_reference: bool) -> dict[str, float]:
    """Metrics of an update from its sums by the names of SUMS; `kl_reference` only where there is a reference."""
    means = {name: value / max(sums["tokens"], 1.0) for name, value in sums.items()}
    metrics = {
        "response_tokens": sums["tokens"],
        "gradient_tokens": sums["gradient_tokens"],
        "loss": sums["loss"] / max(sums["loss_count"], 1.0),
        "log_prob": means["log_prob"],
        "entropy": means["entropy"],
        "ratio": means["ratio"],
        "clip_fraction": means["clipped"],
        "clip_fraction_low": means["clipped_low"],
        "clip_fraction_high": means["clipped_high"],
        "importance_weight": means["importance"],
        "mismatch_mean": means["mismatch_abs"],
        "mismatch_kl": means["mismatch_kl"],
        "kl_rollout": means["kl_rollout"],
    }
    return metrics | ({"kl_reference": means["kl_reference"]} if with_reference else {})
