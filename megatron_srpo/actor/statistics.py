"""Token statistics of an update: summed over microbatches and ranks, then turned into metrics."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from megatron_srpo.actor.loss import SurrogateLoss
from megatron_srpo.actor.parallel import Ranks

SUMS = (
    "tokens",
    "loss",
    "log_prob",
    "entropy",
    "ratio",
    "clipped",
    "importance",
    "mismatch_abs",
    "mismatch_kl",
)


@dataclass(frozen=True)
class TokenStatistics:
    """Sums over response tokens (float64, in the order of SUMS) and the largest mismatch."""

    sums: torch.Tensor
    largest: torch.Tensor


@torch.no_grad()
def token_statistics(
    loss: SurrogateLoss, log_probs: torch.Tensor, engine_log_probs: torch.Tensor, entropy: torch.Tensor
) -> TokenStatistics:
    """Statistics of one microbatch; all tensors are [responses].

    The mismatch is d = trainer's minus engine's log-prob of the same token under the weights that drew it;
    exp(d) - 1 - d estimates KL(engine || trainer) without bias and with little variance.
    """
    difference = log_probs.double() - engine_log_probs.double()
    importance = loss.importance if loss.importance is not None else torch.ones_like(loss.ratio)
    columns = {
        "tokens": torch.ones_like(difference),
        "loss": loss.total.double(),
        "log_prob": log_probs,
        "entropy": entropy,
        "ratio": loss.ratio,
        "clipped": loss.clipped,
        "importance": importance,
        "mismatch_abs": difference.abs(),
        "mismatch_kl": difference.exp() - 1 - difference,
    }
    sums = torch.stack([columns[name].double().sum() for name in SUMS])
    largest = difference.abs().max() if len(difference) else difference.sum()
    return TokenStatistics(sums, largest)


def reduce_statistics(parts: list[TokenStatistics], ranks: Ranks, device: torch.device) -> dict[str, float]:
    """Means over the tokens of all microbatches and data-parallel ranks, the same on every rank.

    Only the last pipeline stage has parts; it shares the result with the others.
    """
    sums = torch.zeros(len(SUMS), dtype=torch.float64, device=device)
    largest = torch.zeros(1, dtype=torch.float64, device=device)
    if parts:
        sums = torch.stack([part.sums for part in parts]).sum(dim=0)
        largest = torch.stack([part.largest for part in parts]).amax(dim=0, keepdim=True)
    data_group = parallel_state.get_data_parallel_group()
    dist.all_reduce(sums, group=data_group)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=data_group)
    if ranks.pipeline_size > 1:
        last = parallel_state.get_pipeline_model_parallel_last_rank()
        group = parallel_state.get_pipeline_model_parallel_group()
        dist.broadcast(sums, src=last, group=group)
        dist.broadcast(largest, src=last, group=group)
    values = dict(zip(SUMS, sums.tolist(), strict=True))
    tokens = values.pop("tokens")
    means = {name: value / max(tokens, 1.0) for name, value in values.items()}
    return {
        "response_tokens": tokens,
        "loss": means["loss"],
        "log_prob": means["log_prob"],
        "entropy": means["entropy"],
        "ratio": means["ratio"],
        "clip_fraction": means["clipped"],
        "importance_weight": means["importance"],
        "mismatch_mean": means["mismatch_abs"],
        "mismatch_max": float(largest),
        "mismatch_kl": means["mismatch_kl"],
    }
